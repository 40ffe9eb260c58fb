"""The stored history of an event, and erasing a customer's events."""

from __future__ import annotations

import json
from typing import Any

import psycopg
from psycopg import Connection

import pgonce
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.contract.webhooks.test_worker import Effects, Queue, app, effects, put, status, work, write
from tests.edge.command import pgonce as command

__all__ = ["app", "effects", "put"]

HISTORY = (
    "select what, attempt, split_part(error, E'\\n', 1), worker is not null from pgonce_webhook_attempts order by id"
)


def test_failed_attempts_lost_ones_and_replays_are_kept_and_a_success_writes_nothing(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)
        if event.id == "evt_1" and not conn.execute("select 1 from released").fetchone():
            raise KeyError("discounts")

    conn.execute("create table released (id int)")
    put("pay", "evt_1", "evt_good")
    conn.execute("select pgonce_claim_webhooks(1)")  # by a process that dies
    conn.execute("update webhook_events set lease_expires_at = now() where lease is not null")
    with Worker(app, database, poll=0.05):
        wait_until(lambda: status(conn, "evt_1")["status"] == "failed", "an attempt")
        wait_until(lambda: effects() == ["evt_good"], "the good one")
    put("pay", "evt_1", "evt_good")  # Stripe sends them again: of a failed one that is the retry
    with Worker(app, database, poll=0.05):
        wait_until(lambda: len(conn.execute(HISTORY).fetchall()) == 3, "another attempt")
    conn.execute("insert into released default values")
    assert command(database, "webhook", "replay", "evt_1", "--because", "mended")[0] == 0
    work(app, database, conn)
    found = [row[:2] for row in conn.execute(HISTORY).fetchall()]
    assert found == [("lost", 1), ("failed", 2), ("failed", 3), ("replayed", 3)]
    assert status(conn, "evt_1")["deliveries"] == status(conn, "evt_good")["deliveries"] == 2
    code, out, _ = command(database, "webhook", "show", "evt_1")
    assert code == 0
    life = [line for line in out.splitlines() if line[4:5] == ":" and line[7:8] == ":"]
    assert [line[12:].split("  ")[0].split(" after ")[0] for line in life] == [
        "delivered, recorded; delivered once more",
        "attempt 1 was lost",
        "attempt 2 failed",
        "attempt 3 failed",
        "replayed",
        "succeeded",
    ]
    assert "KeyError: 'discounts'" in life[2]
    assert "mended" in life[4]
    assert len(json.loads(command(database, "webhook", "show", "evt_1", "--json")[1])["history"]) == 4
    conn.execute("update webhook_events set received_at = now() - interval '91 days'")
    assert conn.execute("select purge_webhook_events()").fetchone() == (2,)
    assert conn.execute(HISTORY).fetchall() == []


def test_erasing_a_customer_removes_what_its_ended_events_hold_and_keeps_their_identity(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        if event.id == "evt_dead":
            raise ValueError("the secret of cus_1")
        write(tx, event)

    def about(customer: str) -> dict[str, Any]:
        return {"data": {"object": {"id": "in_1", "object": "invoice", "customer": customer, "email": "secret"}}}

    put("pay", "evt_done", "evt_dead", **about("cus_1"))
    put("pay", "evt_other", **about("cus_2"))
    work(app, database, conn, max_attempts=1)
    # as of a client without tracebacks: the group of the failure, and the alert, have the text
    conn.execute("update webhook_events set error_message = 'secret' where stripe_event_id = 'evt_dead'")
    assert conn.execute("select pgonce_collect_alerts('{channel}')").fetchone() == (1,)
    put("pay", "evt_waiting", **about("cus_1"))
    assert command(database, "webhook", "erase", "--customer", "cus_1")[:2] == (
        0,
        "2 events would be erased: pass --yes\n",
    )
    assert "secret" in str(status(conn, "evt_done")["payload"])
    with psycopg.connect(database) as other:
        other.execute("select from webhook_events where stripe_event_id = 'evt_done' for update")
        code, out, err = command(database, "webhook", "erase", "--customer", "cus_1", "--yes")
    assert (code, out) == (0, "1 events erased\n")
    assert err.startswith("2 are not handled yet, or locked")
    code, out, err = command(database, "webhook", "erase", "--customer", "cus_1", "--yes")
    assert (code, out) == (0, "1 events erased\n")
    assert err.startswith("1 are not handled yet, or locked")
    for event_id in ("evt_done", "evt_dead"):
        row = status(conn, event_id)
        assert row["payload"] == {"id": event_id, "type": "pay", "object": "event", "erased": True}
        assert "secret" not in str(row)
        assert row["customer_id"] is None
    for other_places in (HISTORY, "select * from pgonce_alerts"):
        assert "secret" not in str(conn.execute(other_places).fetchall())
    assert "secret" in str(status(conn, "evt_other")["payload"])
    put("pay", "evt_done", "evt_dead", **about("cus_1"))  # a redelivery is known, and is not handled again
    assert command(database, "webhook", "replay", "evt_done", "evt_dead")[1] == "0 of 2 queued again\n"
    assert conn.execute("select pgonce_replay_webhook('evt_done')").fetchone() == (False,)
    work(app, database, conn, max_attempts=1)
    assert sorted(effects()) == ["evt_done", "evt_other", "evt_waiting"]
    assert (status(conn, "evt_dead")["status"], status(conn, "evt_dead")["ignored_reason"]) == ("ignored", "erased")


def test_of_a_database_error_the_message_is_shown_and_not_its_context(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue
) -> None:
    @app.webhook("pay")
    def pay(_: pgonce.Event, tx: Connection[Any]) -> None:
        tx.execute("do $$ begin raise 'no such price' using hint = 'add it'; end $$")

    put("pay", "evt_1")
    with Worker(app, database, poll=0.05):
        wait_until(lambda: status(conn, "evt_1")["status"] == "failed", "the attempt")
    _, out, _ = command(database, "webhook", "show", "evt_1")
    assert "CONTEXT" not in out
    [attempt] = [line for line in out.splitlines() if "attempt 1 failed" in line]
    assert "psycopg.errors.RaiseException: no such price" in attempt
    assert "  psycopg.errors.RaiseException: no such price" in out.splitlines()
