"""Whatever text a key function returns: its events are handled, and two keys are never taken for one."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import Connection

import pgonce
from pgonce.webhooks import stripe
from pgonce.webhooks.inbox_writer import order_key
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.contract.webhooks.test_worker import Effects, Queue, app, effects, put, status, work, write

__all__ = ["app", "effects", "put"]

KEYS: dict[str, tuple[Any, Any]] = {
    "empty": ("", "a"),
    "NUL": ("a\0", "a\ufffd"),
    "half of a pair": ("\ud800", "\ud801"),
    "long": ("x" * 10_000, "x" * 9_999 + "y"),
    "long, with NUL": ("\0" * 300, "\0" * 301),
    "numbers": (0, 0.0),
    "no text": ((), False),
}


@pytest.mark.parametrize("by_receiver", [True, False])
@pytest.mark.parametrize(("one", "other"), KEYS.values(), ids=KEYS)
def test_events_of_any_key_are_handled(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    one: Any,
    other: Any,
    by_receiver: bool,
) -> None:
    keys = {"evt_1": one, "evt_2": other, "evt_3": one}
    app.webhook("pay", coalesce=True, key=lambda event: keys[event.id])(lambda event, tx: write(tx, event))
    put("pay", *keys, ordered=by_receiver)
    work(app, database, conn, concurrency=1)
    stored = conn.execute("select order_key from webhook_events order by stripe_event_id").fetchall()
    assert stored[0] != stored[1]
    assert "evt_2" in effects()
    if by_receiver:  # otherwise each gets its key when it is claimed
        assert sorted(effects()) == ["evt_1", "evt_2"]
        assert stored[0] == stored[2]


@pytest.mark.parametrize("by_receiver", [True, False])
def test_a_key_that_is_no_result_fails_its_event(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, by_receiver: bool
) -> None:
    async def key(event: pgonce.Event) -> str:
        return event.id

    app.webhook("pay", ordered=True, key=lambda event: key(event))(lambda event, tx: write(tx, event))  # type: ignore[arg-type,return-value]  # noqa: PLW0108
    if by_receiver:
        body = stripe.read(b'{"id": "evt_1", "type": "pay"}')
        assert order_key(app, body) is None
    put("pay", "evt_1", ordered=False)
    work(app, database, conn)
    assert effects() == []
    assert "make it plain" in status(conn, "evt_1")["error_message"]


def test_an_event_that_waits_behind_coalesced_ones_of_its_object_is_due_at_once(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    """The first one pulls the next one forward, and then coalesces it: nobody else would pull the last one."""
    app.webhook("sub.updated", coalesce=True)(lambda event, tx: write(tx, event))
    app.webhook("sub.deleted", ordered=True)(lambda event, tx: write(tx, event))
    for name in ("evt_1", "evt_2", "evt_3"):
        put("sub.updated", name, data={"object": {"id": "x"}})
    put("sub.deleted", "evt_4", data={"object": {"id": "x"}})
    [(claimed, lease)] = conn.execute("select id, lease from pgonce_claim_webhooks()").fetchall()
    conn.execute("select pgonce_release_webhooks(array[%s], array[%s])", [claimed, lease])
    assert effects() == []
    with Worker(app, database, concurrency=1):
        wait_until(lambda: len(effects()) == 2, "the last one, before the 30 s of its postponement are over", 20)
    assert effects() == ["evt_1", "evt_4"]


def test_an_event_that_waits_for_a_time_its_handler_asked_for_does_not_become_due_with_its_object(
    app: pgonce.App, conn: Connection[Any], put: Queue
) -> None:
    app.webhook("pay", ordered=True)(lambda event, tx: write(tx, event))
    for event in ("evt_1", "evt_2"):
        put("pay", event, data={"object": {"id": "x"}})
    for end in ("complete_webhook(id, lease)", "pgonce_postpone_webhook(id, lease, '6 hours')"):
        assert conn.execute(f"select {end} from pgonce_claim_webhooks()".encode()).fetchall() == [(True,)]
    conn.execute("select pgonce_replay_webhook('evt_1')")
    assert conn.execute("select complete_webhook(id, lease) from pgonce_claim_webhooks()").fetchall() == [(True,)]
    later = "select next_attempt_at > now() + interval '5 hours' from webhook_events where stripe_event_id = 'evt_2'"
    assert conn.execute(later).fetchall() == [(True,)]
    assert conn.execute("select pgonce_replay_webhook('evt_2')").fetchone() == (True,)  # `webhook show` names this
    assert conn.execute("select stripe_event_id from pgonce_claim_webhooks()").fetchall() == [("evt_2",)]
