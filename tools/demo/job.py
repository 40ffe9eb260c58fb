"""Part 2: one job, started many times at the same moment by separate processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from tools.demo.children import Child, Children, until
from tools.demo.database import connect, value
from tools.demo.report import Jobs
from tools.demo.screen import Screen

JOB = "stats_cache"
SKIPPED = 75
"""The exit code of a run that was skipped."""

OVERLAPS = """
select count(*)
from cron_job_runs a
join cron_job_runs b on b.job_name = a.job_name and b.key = a.key and b.id > a.id
where a.job_name = %s and a.status <> 'skipped' and b.status <> 'skipped'
  and tstzrange(a.started_at, a.completed_at) && tstzrange(b.started_at, b.completed_at)
"""
"""Pairs of runs of one job and the same key that were at work at the same time; what has no end is still at work."""


def run(children: Children, database_url: str, starts: int, screen: Screen) -> Jobs:
    """Start the job ``starts`` times at the same moment, and let no run end before all the others have tried.

    Two table locks do this, and the job itself is not changed. The lock on the table of runs delays all starts until
    every process is waiting. The lock on the table that the job writes to delays the end of its run.
    """
    begun = screen.seconds
    screen.heading(f"2. Jobs: `{JOB}` started {starts} times at once, each in a process of its own")
    with (
        connect(database_url) as observer,
        connect(database_url, autocommit=False) as gate,
        connect(database_url, autocommit=False) as work,
    ):
        gate.execute("lock table cron_job_runs in access exclusive mode")
        work.execute("lock table stats_cache in share mode")
        started = [children.start("job", "run", JOB) for _ in range(starts)]
        with screen.bar("processes waiting", starts) as at_gate:
            until(lambda: _gathered(observer, started, at_gate), f"all {starts} processes are waiting to start")
        screen.say(f"{starts} processes wait for a lock on cron_job_runs; releasing it")
        gate.rollback()
        until(
            lambda: _waiting(observer, "stats_cache") + _ended(started) >= starts,
            "each process has got the run or was skipped",
        )
        screen.say(f"{_waiting(observer, 'stats_cache')} at work on the job, {_ended(started)} have ended meanwhile")
        work.rollback()
        for child in started:
            if child.wait() not in {0, SKIPPED}:
                raise child.failed()
        codes = [child.exit_code for child in started]
        screen.say(f"exit codes: {codes.count(0)} × 0 (done), {codes.count(SKIPPED)} × {SKIPPED} (skipped)")
        of_job = f"select count(*) from cron_job_runs where job_name = '{JOB}' and status"
        return Jobs(
            starts=starts,
            runs=value(observer, f"{of_job} <> 'skipped'"),
            succeeded=value(observer, f"{of_job} = 'succeeded'"),
            skipped=value(observer, f"{of_job} = 'skipped'"),
            overlaps=value(observer, OVERLAPS, JOB),
            seconds=screen.seconds - begun,
        )


def _gathered(observer: psycopg.Connection[Any], started: Sequence[Child], at_gate: Callable[[int], None]) -> bool:
    for child in started:
        if child.exit_code is not None:
            raise child.failed()
    waiting = _waiting(observer, "cron_job_runs")
    at_gate(waiting)
    return waiting >= len(started)


def _ended(started: Sequence[Child]) -> int:
    return sum(child.exit_code is not None for child in started)


def _waiting(observer: psycopg.Connection[Any], table: str) -> int:
    """How many sessions wait for a lock on ``table``."""
    return int(value(observer, f"select count(*) from pg_locks where relation = '{table}'::regclass and not granted"))
