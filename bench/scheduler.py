"""The cost of a tick, of waiting for it, and of the figures of many runs."""

from __future__ import annotations

import resource
import statistics
import time
from datetime import UTC, datetime, timedelta

import psutil
import psycopg

import pgonce
from bench.console_runs import fill_runs
from bench.server import new_database
from pgonce.core.execute import execute
from pgonce.jobs import calls_stats
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


def figures(runs: int, rounds: int = 20) -> tuple[float, float]:
    """Wall time and CPU time of the database, in ms, of what `job stats` shows of the last 30 days of so many runs.

    The workers have counted the days that have passed, as they do every hour.
    """
    took = []
    with new_database() as url, psycopg.connect(url, autocommit=True) as conn:
        fill_runs(conn, runs)
        while execute(conn, calls_stats.count_job_day(), "public"):
            pass
        wanted = calls_stats.job_timing(None, timedelta(days=30))
        backend = psutil.Process(conn.info.backend_pid)
        execute(conn, wanted, "public")
        before = sum(backend.cpu_times()[:2])
        for _ in range(rounds):
            began = time.perf_counter()
            execute(conn, wanted, "public")
            took.append((time.perf_counter() - began) * 1000)
        return statistics.median(took), (sum(backend.cpu_times()[:2]) - before) * 1000 / rounds
