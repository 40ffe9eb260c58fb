"""A worker executes the replays that were started, whoever started them."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

import pgonce
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.contract.webhooks.test_worker import Effects, Queue, app, effects, put, status, write

__all__ = ["app", "effects", "put"]


def test_a_replay_is_queued_in_steps_and_ends_when_each_event_has_an_outcome(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        if event.id == "evt_7" or not conn.execute("select 1 from released").fetchone():
            raise KeyError("discounts")
        write(tx, event)

    conn.execute("create table released (id int)")
    events = [f"evt_{n}" for n in range(9)]
    put("pay", *events)
    dead = "select count(*) = 9 from webhook_events where status = 'failed' and next_attempt_at is null"
    with Worker(app, database, poll=0.05, max_attempts=1):
        wait_until(lambda: (conn.execute(dead).fetchone() or [0])[0], "the dead letters")
        conn.execute("insert into released default values")
        plan = "select pgonce_plan_replay('{\"state\": \"dead\"}', 'ann', 'mended', p_at_once => 2)"
        replay = (conn.execute(plan.encode()).fetchone() or [0])[0]
        assert effects() == []
        conn.execute("select pgonce_start_replay(%s)", [replay])
        ended = "select status = 'done' from pgonce_replays"
        wait_until(lambda: (conn.execute(ended.encode()).fetchone() or [0])[0], "the end of the replay")
    assert sorted(effects()) == sorted({*events} - {"evt_7"})
    assert status(conn, "evt_7")["status"] == "failed"
    counts = "select counts from pgonce_console_replays()"
    assert conn.execute(counts.encode()).fetchone() == ({"succeeded": 8, "failed": 1},)
