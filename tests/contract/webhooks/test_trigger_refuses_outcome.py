"""A trigger of the user's that refuses an event's failure, or its handler's decision, stops none of the others."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import Connection

import pgonce
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.contract.webhooks.handler_kinds import KINDS, register
from tests.contract.webhooks.test_worker import Effects, Queue, app, effects, put, status, work, write

__all__ = ["app", "effects", "put"]

OTHERS = ["evt_1", "evt_2", "evt_3", "evt_4"]
FUNCTION = """create function keep() returns trigger language plpgsql as
$$ begin if new.stripe_event_id = 'evt_0' and {} then {} end if; return new; end $$;"""
BEFORE = "create trigger keep before update on webhook_events for each row execute function keep()"
DEFERRED = """create constraint trigger keep after update on webhook_events deferrable initially deferred
for each row execute function keep()"""
REFUSES = {
    "raises": ("raise 'kept as it is';", BEFORE),
    "deferred": ("raise 'kept as it is';", DEFERRED),
    "no row": ("return null;", BEFORE),
}


def fail_first(event: pgonce.Event, _tx: object) -> None:
    if event.id == "evt_0":
        raise ValueError("this is why")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("refuses", REFUSES)
def test_the_history_has_both_errors_and_the_others_are_handled(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, refuses: str, kind: str
) -> None:
    does, trigger = REFUSES[refuses]
    register(app, database, kind, fail_first)
    put("pay", "evt_0", *OTHERS)
    conn.execute((FUNCTION.format("new.status = 'failed'", does) + trigger).encode())
    history = "select attempt, error from pgonce_webhook_attempts"
    with Worker(app, database, poll=0.05, concurrency=1):
        wait_until(lambda: (sorted(effects()), conn.execute(history.encode()).rowcount) == (OTHERS, 1), "all others")
    [(attempt, error)] = conn.execute(history.encode()).fetchall()
    assert attempt == 1
    assert "ValueError: this is why" in error
    assert "the database refuses to have this failure written" in error
    assert status(conn, "evt_0")["status"] == "processing", "its lease runs out"
    for name in OTHERS:
        assert status(conn, name)["attempts"] == 1


@pytest.mark.parametrize("kind", ["ordered", "ordered plain"])
def test_an_order_key_that_is_refused_is_a_failure_of_its_event_alone(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, kind: str
) -> None:
    if kind == "ordered":
        register(app, database, kind)
    else:
        app.webhook("pay", ordered=True)(lambda event, tx: write(tx, event))
    for name in ("evt_0", *OTHERS):  # as a client without the app: no keys
        put("pay", name, ordered=False, data={"object": {"id": name}})
    conn.execute((FUNCTION.format("new.order_key is not null", "raise 'kept as it is';") + BEFORE).encode())
    work(app, database, conn, concurrency=1)
    assert sorted(effects()) == OTHERS
    found = status(conn, "evt_0")
    assert (found["status"], "kept as it is" in found["error_message"]) == ("failed", True)


@pytest.mark.parametrize("decision", ["ignore", "retry"])
@pytest.mark.parametrize("refuses", REFUSES)
def test_a_decision_that_is_refused_is_a_failure(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, refuses: str, decision: str
) -> None:
    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        if event.id == "evt_0":
            event.ignore("not paid") if decision == "ignore" else event.retry("1 second")
        write(tx, event)

    does, trigger = REFUSES[refuses]
    decided = "new.status = 'ignored'" if decision == "ignore" else "new.status = 'processing' and new.lease is null"
    put("pay", "evt_0", *OTHERS)
    conn.execute((FUNCTION.format(decided, does) + trigger).encode())
    work(app, database, conn, concurrency=1)
    assert sorted(effects()) == OTHERS
    failed = status(conn, "evt_0")
    assert (failed["status"], failed["attempts"]) == ("failed", 1)
    assert ("look at the trigger keep" if refuses == "no row" else "kept as it is") in failed["error_message"]
