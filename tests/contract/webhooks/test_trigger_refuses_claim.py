"""A trigger or constraint of the user's that refuses to have one event claimed costs that event, and stops no other."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from psycopg import Connection

import pgonce
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.contract.webhooks.handler_kinds import register
from tests.contract.webhooks.test_worker import Effects, Queue, app, effects, put, status, work

__all__ = ["app", "effects", "put"]

OTHERS = ["evt_1", "evt_2", "evt_3", "evt_4"]
FUNCTION = """create function archive() returns trigger language plpgsql as
$$ begin if new.stripe_event_id = 'evt_0' and {} then {} end if; return new; end $$;"""
CLAIMED = "new.status = 'processing' and new.lease is not null"
BEFORE = "create trigger archive before update on webhook_events for each row execute function archive()"
AFTER = BEFORE.replace("before", "after")
DEFERRED = """create constraint trigger archive after update on webhook_events deferrable initially deferred
for each row execute function archive()"""
FAILS = {
    "before": FUNCTION.format(CLAIMED, "raise 'not archived';") + BEFORE,
    "after": FUNCTION.format(CLAIMED, "raise 'not archived';") + AFTER,
    "deferred": FUNCTION.format(CLAIMED, "raise 'not archived';") + DEFERRED,
    "missing table": FUNCTION.format(CLAIMED, "insert into no_such_table values (1);") + AFTER,
    "division": FUNCTION.format(CLAIMED, "perform 1 / 0;") + AFTER,
    "check": "alter table webhook_events add check (stripe_event_id <> 'evt_0' or attempts = 0 or status = 'failed')",
    "no row": FUNCTION.format(CLAIMED, "return null;") + BEFORE,
}
UNWRITABLE = {
    "every update": FUNCTION.format("true", "raise 'not archived';") + AFTER,
    "no row": FUNCTION.format("true", "return null;") + BEFORE,
}


@pytest.mark.parametrize("kind", ["plain", "batch", "async", "ordered"])
@pytest.mark.parametrize("fails", FAILS)
def test_the_event_that_a_trigger_refuses_to_claim_fails_and_the_others_are_handled(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, fails: str, kind: str
) -> None:
    register(app, database, kind)
    put("pay", "evt_0", *OTHERS)
    conn.execute(FAILS[fails].encode())
    work(app, database, conn, concurrency=1)
    assert sorted(effects()) == OTHERS
    failed = status(conn, "evt_0")
    assert (failed["status"], failed["attempts"], failed["next_attempt_at"] is None) == ("failed", 1, False)
    assert "the database refuses to claim this event" in failed["error_message"]
    assert [row[0] for row in conn.execute("select what from pgonce_webhook_attempts").fetchall()] == ["failed"]


@pytest.mark.parametrize("fails", UNWRITABLE)
def test_a_row_that_cannot_be_written_is_left_for_five_minutes(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, fails: str
) -> None:
    register(app, database, "plain")
    put("pay", "evt_0", *OTHERS)
    conn.execute(UNWRITABLE[fails].encode())
    aside = "select error, expires_at - clock_timestamp() from pgonce_webhook_attempts, pgonce_webhook_leases"
    with Worker(app, database, poll=0.05, concurrency=1):
        wait_until(lambda: sorted(effects()) == OTHERS, "the others to be handled")
        wait_until(lambda: bool(conn.execute(aside).fetchall()), "the event to be set aside")
    left = status(conn, "evt_0")
    assert (left["status"], left["attempts"]) == ("processing", 0)
    [(error, remaining)] = conn.execute(aside).fetchall()
    assert "the database refuses to claim this event" in error
    assert timedelta(minutes=4) < remaining <= timedelta(minutes=5)

    conn.execute("drop trigger archive on webhook_events")
    conn.execute("update pgonce_webhook_leases set expires_at = clock_timestamp()")
    work(app, database, conn, concurrency=1)
    assert sorted(effects()) == ["evt_0", *OTHERS]


def test_an_event_whose_processes_died_is_claimed_alone_then_too(conn: Connection[Any], put: Queue) -> None:
    put("pay", "evt_0", *OTHERS)
    conn.execute(
        "update webhook_events set lease = gen_random_uuid(), attempts = 1, lease_expires_at = clock_timestamp()"
        " where stripe_event_id in ('evt_1', 'evt_3')"
    )
    conn.execute(FAILS["before"].encode())
    claims = [
        [row[0] for row in conn.execute("select stripe_event_id from pgonce_claim_webhooks_singly()").fetchall()]
        for _ in range(4)
    ]
    assert claims == [["evt_1"], ["evt_2"], ["evt_3"], ["evt_4"]]


def test_an_error_that_is_not_the_events_is_raised(conn: Connection[Any], put: Queue) -> None:
    put("pay", "evt_0")
    conn.execute(FUNCTION.format("true", "raise lock_not_available;").encode() + BEFORE.encode())
    with pytest.raises(Exception, match="lock_not_available"):
        conn.execute("select from pgonce_claim_webhooks_singly()")
