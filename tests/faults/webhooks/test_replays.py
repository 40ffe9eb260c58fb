"""No effect happens twice when replays, retries, workers and redeliveries work at the same time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from click.testing import CliRunner
from psycopg import Connection

import pgonce
from pgonce.cli import main as command
from pgonce.core import database as databases
from pgonce.core.execute import call
from pgonce.webhooks import calls, stripe
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until

EVENTS = 1000
RETRY = """
update webhook_events set next_attempt_at = clock_timestamp() where id in (
  select id from webhook_events where status = 'failed' limit 50 for update skip locked)
"""


@contextmanager
def over_and_over(*actions: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Repeat each action in a thread of its own until the end of the block."""
    ended, errors = threading.Event(), list[BaseException]()

    def repeat(action: Callable[[], object]) -> None:
        while not ended.wait(0.01):
            try:
                action()
            except BaseException as error:  # noqa: BLE001 -- the test looks at it
                errors.append(error)
                return

    threads = [threading.Thread(target=repeat, args=[action]) for action in actions]
    for thread in threads:
        thread.start()
    try:
        yield errors
    finally:
        ended.set()
        for thread in threads:
            thread.join(60)


def test_after_an_outage_replays_retries_and_redeliveries_at_once_make_one_effect_for_each_event(
    database: str, conn: Connection[Any]
) -> None:
    conn.execute("create table effects (event text)")
    outage = threading.Event()
    outage.set()
    app = pgonce.App()

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        if outage.is_set() or (event.attempts == 1 and event.id.endswith("7")):
            raise OSError("the outage")
        tx.execute("insert into effects values (%s)", [event.id])

    bodies = [stripe.read(json.dumps({"id": f"evt_{nr}", "type": "pay"}).encode()) for nr in range(EVENTS)]

    def replay() -> None:
        done = CliRunner().invoke(command, ["webhook", "replay", "--failed", "--database-url", database])
        assert done.exit_code == 0, done.output

    def retry() -> None:
        with psycopg.connect(database, autocommit=True) as other:
            other.execute(RETRY)

    with databases.open_pool(database, 2) as pool:

        def redeliver() -> None:
            for start in range(0, EVENTS, 100):
                call(pool, calls.queue_webhooks(bodies[start : start + 100]), "public")

        redeliver()
        with Worker(app, database, poll=0.05), Worker(app, database, poll=0.05):
            failed = "select count(*) filter (where error_message is not null) = %s from webhook_events"
            wait_until(lambda: (conn.execute(failed, [EVENTS]).fetchone() or [0])[0], "all to fail once", 60)
            with over_and_over(replay, replay, retry, redeliver) as errors:
                outage.clear()
                done = "select count(*) = %s from webhook_events where status = 'succeeded'"
                wait_until(lambda: (conn.execute(done, [EVENTS]).fetchone() or [0])[0], "all to succeed", 90)
    assert errors == []
    assert conn.execute("select count(*), count(distinct event) from effects").fetchone() == (EVENTS, EVENTS)
