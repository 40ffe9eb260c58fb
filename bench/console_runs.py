"""1,000,000 runs of 1,000 jobs for bench.console, and the pages that show them: python -m bench.console_runs [--runs N]

One of the jobs runs every minute, the others a few times a day, over half a year. Of 100 runs one failed and one was
skipped; five are at work. There are 200 imports, each with its last 60 batches and its resumes.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Any

import psycopg

from bench.console import Pages, report, without_indexes
from bench.server import new_database

Connection = psycopg.Connection[Any]
JOBS = 1000
BUSY = 0.1
"""The share of the job that runs every minute."""

RUNS = """
insert into cron_job_runs (id, job_name, status, started_at, heartbeat_at, completed_at, duration_ms, rows_processed,
  scheduled_for, process, error_message, blocked_by)
select gen_random_uuid(), j.name, s.status, t.at, t.at, t.at + d.ms * interval '1 ms', d.ms, d.ms / 10, t.at,
  'worker-' || n %% 8 || ':' || 4000 + n %% 8, case s.status when 'failed' then 'ValueError: no price' when 'skipped'
  then 'overlap: run … has been running' end, case when s.status = 'skipped' then gen_random_uuid() end
from generate_series(%(first)s::int, %(last)s::int) n
cross join lateral (select case when n <= %(busy)s then 'every_minute' else 'job_' || n %% %(jobs)s end as name) j
cross join lateral (select now() - case when n <= %(busy)s then n * interval '1 minute'
  else (n - %(busy)s) * interval '180 days' / %(others)s end as at) t
cross join lateral (select (20000 + n::bigint * 7919 %% 10000)::int as ms) d
cross join lateral (select case n %% 100 when 7 then 'failed' when 8 then 'skipped' else 'succeeded' end as status) s
"""
REST = """
insert into cron_job_runs (job_name, process, progress_done, progress_total, progress_at)
select 'job_' || n, 'worker-1:4001', 5, 10, now() from generate_series(1, 5) n;
insert into pgonce_job_schedules (job_name, cron, timezone, next_tick, upcoming)
select 'job_' || n, '0 * * * *', 'UTC', now() + interval '1 hour', array[now() + interval '2 hours']
from generate_series(0, 999) n;
insert into pgonce_job_expectations (job_name, every) select 'job_' || n, '1 day' from generate_series(0, 99) n;
insert into seed_checkpoints (seed_name, rows_seen, rows_inserted, rows_total, batch, status)
select 'import_' || n, 500000, 500000, 1000000, 100, 'in_progress' from generate_series(1, 200) n;
insert into pgonce_seed_batches (seed_name, slot, batch, rows, committed_at)
select 'import_' || i, n %% 60, n, 1000, now() - (100 - n) * interval '1 s'
from generate_series(1, 200) i, generate_series(41, 100) n;
insert into cron_job_runs (job_name, key, status, completed_at, scope)
select 'seed_runner', 'import_' || i, 'failed', now(), '{"from_row": 1000}'
from generate_series(1, 200) i, generate_series(1, 3) n;
insert into pgonce_seed_rejects (seed_name, row_number, error, reason)
select 'import_1', n, 'x', 'reason ' || n %% 7 from generate_series(1, 10000) n;
""".replace("%%", "%")


def fill_runs(conn: Connection, runs: int) -> None:
    """The runs, and what else these pages show."""
    busy = round(runs * BUSY)
    conn.execute("set session_replication_role = replica")  # the trigger closes runs that have expired: there are none
    conn.execute("set maintenance_work_mem = '1GB'")
    conn.execute("set synchronous_commit = off")
    with without_indexes(conn, "cron_job_runs"):
        for first in range(1, runs + 1, 250_000):
            last = min(first + 249_999, runs)
            given = {"first": first, "last": last, "busy": busy, "others": runs - busy, "jobs": JOBS - 1}
            conn.execute(RUNS.encode(), given)
    conn.execute(REST.encode())
    conn.execute("vacuum analyze")


def run_pages(conn: Connection) -> Pages:
    """A name for each page, and what makes its address: another job or run at each request."""

    def ids(where: str) -> list[str]:
        found = conn.execute(f"select id::text from cron_job_runs where {where} limit 200".encode()).fetchall()
        return [row[0] for row in found]

    running, failed = ids("status = 'running'"), ids("status = 'failed' and job_name <> 'seed_runner'")
    day = conn.execute("select (now() - interval '90 days')::date").fetchone()

    def job() -> str:
        return f"job_{random.randrange(JOBS - 1)}"

    def one_of(found: list[str]) -> Callable[[], str]:
        return lambda: f"/run?id={random.choice(found)}"

    return {
        "jobs, today": lambda: "/jobs",
        "jobs, 7 days": lambda: "/jobs?days=7",
        "jobs, a day of the past": lambda: f"/jobs?day={day and day[0]}",
        "jobs, a later page": lambda: f"/jobs?after={job()}&after_key=",
        "jobs, by name": lambda: "/jobs?find=b_77",
        "jobs, the busy one": lambda: "/jobs?find=every&days=7",
        "a job": lambda: f"/job?name={job()}",
        "a busy job": lambda: "/job?name=every_minute",
        "its runs": lambda: "/job/runs?name=every_minute",
        "its failed runs": lambda: "/job/runs?name=every_minute&status=failed",
        "a run at work": one_of(running),
        "a run that failed": one_of(failed),
        "imports": lambda: "/imports",
        "an import": lambda: f"/import?name=import_{random.randrange(2, 201)}",
        "10,000 rejected rows": lambda: "/import?name=import_1",
        "rows of one reason": lambda: "/import/rejects?name=import_1&like=1",
        "the first page": lambda: "/",
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.console_runs")
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--url", help="an empty, migrated database; the default is a new one of the embedded server")
    parser.add_argument("--filled", action="store_true", help="the database of --url is filled already")
    arguments = parser.parse_args()
    if arguments.url:
        run(arguments.url, arguments.runs, filled=arguments.filled)
    else:
        with new_database() as url:
            run(url, arguments.runs, filled=False)


def run(url: str, runs: int, *, filled: bool) -> None:
    """Fill the tables and print a line for each page."""
    with psycopg.connect(url, autocommit=True) as conn:
        if not filled:
            began = time.monotonic()
            fill_runs(conn, runs)
            print(f"{runs:,} runs in {time.monotonic() - began:.0f} s", flush=True)
        report(conn, url, run_pages(conn), f"{runs:,} runs")


if __name__ == "__main__":
    main()
