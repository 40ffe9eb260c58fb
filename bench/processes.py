"""Events handled per second by many worker processes on one database: they must not hinder each other."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg

import pgonce
from bench.server import new_database
from bench.webhook_peers import EFFECTS
from pgonce.cli.serve import freeze_garbage
from pgonce.webhooks.worker import Worker

START = """
create table started (process integer);
-- not due yet: how long Python takes to start is not what is measured, and 32 processes start slower than eight
update webhook_events set next_attempt_at = 'infinity';
"""
BEGIN = "update webhook_events set next_attempt_at = clock_timestamp()"


def drain(processes: int, count: int, fill: Callable[[str, int], None], *, by_hand: bool = False) -> float:
    """So many processes handle ``count`` events that are all recorded.

    Args:
        processes: workers, each with four transactions at once.
        count: how many events.
        fill: records them.
        by_hand: instead of workers, processes with the three statements and nothing else. How much slower more of
            them are is what the machine and PostgreSQL cost.
    """
    with new_database() as url, psycopg.connect(url, autocommit=True) as conn, ExitStack() as stack:
        conn.execute(EFFECTS)
        fill(url, count)
        conn.execute(START.encode())
        conn.execute("vacuum analyze webhook_events")
        command = [sys.executable, "-m", "bench.processes", url, *(["by hand"] if by_hand else [])]
        for _ in range(processes):
            process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE)
            stack.callback(process.wait)
            assert process.stdin is not None
            stack.callback(process.stdin.close)  # which ends it
        while conn.execute("select count(*) from started").fetchone() != (processes,):
            time.sleep(0.05)
        conn.execute(BEGIN)
        began = time.perf_counter()
        waiting = "select exists (select from webhook_events where next_attempt_at is not null)"
        while conn.execute(waiting).fetchone() == (True,):
            time.sleep(0.02)
        return count / (time.perf_counter() - began)


def main() -> None:
    """One process."""
    url = sys.argv[1]
    if sys.argv[2:]:
        handle_by_hand(url)
        return
    app = pgonce.App()

    @app.webhook("customer.subscription.*")
    def handle(event: pgonce.Event, tx: psycopg.Connection[Any]) -> None:
        tx.execute("insert into effects (event) values (%s)", [event.id])

    freeze_garbage()
    with Worker(app, url, concurrency=4, poll=0.2), psycopg.connect(url, autocommit=True) as conn:
        conn.execute("insert into started values (1)")
        sys.stdin.read()


CLAIM = """
select stripe_event_id from webhook_events where next_attempt_at <= clock_timestamp()
order by next_attempt_at limit 1 for update skip locked
"""
MARK = "update webhook_events set status = 'succeeded', next_attempt_at = null where stripe_event_id = %s"


def handle_by_hand(url: str) -> None:
    """Claim one event, insert the effect, mark the event, commit; again until the standard input is closed."""
    closed = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        closed.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    with psycopg.connect(url, prepare_threshold=0) as conn:
        conn.execute("insert into started values (1)")
        conn.commit()
        while not closed.is_set():
            found = conn.execute(CLAIM).fetchone()
            if found is not None:
                conn.execute("insert into effects (event) values (%s)", found)
                conn.execute(MARK, found)
            conn.commit()
            if found is None:
                closed.wait(0.2)


if __name__ == "__main__":
    main()
