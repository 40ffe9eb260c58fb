"""The cost of a tick, and of waiting for it."""

from __future__ import annotations

import resource
import time
from datetime import UTC, datetime, timedelta

import psycopg

import pgonce
from bench.server import new_database
from pgonce.jobs.scheduler import Scheduler


def nothing(_: pgonce.Run) -> None:
    """A job."""


def tick_delay(count: int) -> float:
    """Seconds from a tick to the start of its last run, of ``count`` jobs that are all due in the same minute."""
    app = pgonce.App()
    for number in range(count):
        app.job(f"job_{number}", cron="* * * * *")(nothing)
    with new_database() as url, psycopg.connect(url, autocommit=True) as conn:
        with Scheduler(app, url):
            while conn.execute("select count(*) from cron_job_runs").fetchone() != (count,):
                time.sleep(0.2)
        row = conn.execute(
            "select extract(epoch from max(started_at - scheduled_for))::float from cron_job_runs"
        ).fetchone()
        assert row is not None
        return float(row[0])


def idle_load(count: int, seconds: float) -> float:
    """Percent of a core that a scheduler with ``count`` jobs uses while none is due."""
    app = pgonce.App()
    later = datetime.now(UTC) + timedelta(hours=6)
    for number in range(count):
        app.job(f"job_{number}", cron=f"{number % 60} {later.hour} * * *")(nothing)
    with new_database() as url, Scheduler(app, url):
        time.sleep(1)
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        time.sleep(seconds)
        after, elapsed = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - started
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return used / elapsed * 100
