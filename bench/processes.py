"""Events handled per second by many worker processes on one database: they must not hinder each other."""

from __future__ import annotations

import subprocess
import sys
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

START = "create table started (process integer); create table begin (now boolean)"


def drain(processes: int, count: int, fill: Callable[[str, int], None]) -> float:
    """So many processes, each with four transactions at once, handle ``count`` events that are all recorded."""
    with new_database() as url, psycopg.connect(url, autocommit=True) as conn, ExitStack() as stack:
        conn.execute(EFFECTS)
        conn.execute(START.encode())
        fill(url, count)
        conn.execute("vacuum analyze webhook_events")
        command = [sys.executable, "-m", "bench.processes", url]
        for _ in range(processes):
            process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE)
            stack.callback(process.wait)
            assert process.stdin is not None
            stack.callback(process.stdin.close)  # which ends it
        while conn.execute("select count(*) from started").fetchone() != (processes,):
            time.sleep(0.05)
        conn.execute("insert into begin values (true)")
        began = time.perf_counter()
        waiting = "select exists (select from webhook_events where next_attempt_at is not null)"
        while conn.execute(waiting).fetchone() == (True,):
            time.sleep(0.02)
        return count / (time.perf_counter() - began)


def main() -> None:
    """One process."""
    app = pgonce.App()

    @app.webhook("customer.subscription.*")
    def handle(event: pgonce.Event, tx: psycopg.Connection[Any]) -> None:
        tx.execute("insert into effects (event) values (%s)", [event.id])

    url = sys.argv[1]
    freeze_garbage()
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("insert into started values (1)")
        while conn.execute("select exists (select from begin)").fetchone() == (False,):
            time.sleep(0.02)
    with Worker(app, url, concurrency=4, poll=0.2):
        sys.stdin.read()


if __name__ == "__main__":
    main()
