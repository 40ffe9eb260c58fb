"""1,000,000 runs of 1,000 jobs for bench.console, and the pages that show them.

One of the jobs runs every minute, the others a few times a day, over half a year. Of 100 runs one failed and one was
skipped; five are at work. There are 200 imports, each with its last 60 batches and its resumes. What operators
have done and were told is there, too: 100,000 rows of audit, 4,000 alerts, and 20 replays of 1,000 events.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import psycopg

Connection = psycopg.Connection[Any]
Pages = dict[str, Callable[[], str]]
"""A name for each page, and what makes its address."""
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

OPERATORS = """
insert into pgonce_audit (at, actor, source, action, noun, object, reason)
select now() - n * interval '3 minutes', 'user ' || n % 30, 'console',
  (array['replay', 'pause', 'resume', 'stop', 'login'])[1 + n % 5], 'job', 'job_' || n % 1000, 'because ' || n
from generate_series(1, 100000) n;
insert into pgonce_alerts (channel, kind, subject, dedupe_key, message, detail, created_at, delivered_at)
select 'channel ' || c, k.kind, 'job_' || n % 1000, 'key ' || n, 'job_' || n % 1000 || ' needs you',
  jsonb_build_object('job_name', 'job_' || n % 1000, 'seed_name', 'import_' || n % 200, 'event_type', 'rare.1'),
  now() - n * interval '7 minutes', case when n % 9 > 0 then now() end
from generate_series(1, 2000) n, generate_series(1, 2) c,
  lateral (select (array['run_failed','did_not_run','dead_webhook','import_failed','ran_long'])[1 + n % 5] as kind) k;
insert into pgonce_replays (status, who, filter, plan, started_at)
select 'done', 'ops', '{}', '{"events": 1000}', now() from generate_series(1, 20);
insert into pgonce_replay_items (replay_id, position, event_id, stripe_event_id, seen_status, state)
select r.id, n, gen_random_uuid(), 'evt_' || md5(n::text), 'dead', 'succeeded'
from pgonce_replays r, generate_series(1, 1000) n;
"""
"""Of 4,000 alerts on two channels, a fifth each has another kind of cause, which may still be there."""


@contextmanager
def without_indexes(conn: Connection, table: str) -> Iterator[None]:
    """Build the table's keys and indexes after it was filled: that is several times as fast."""
    keys = conn.execute(
        "select quote_ident(conname), pg_get_constraintdef(oid) from pg_constraint"
        " where conrelid = %s::regclass and contype in ('p', 'u')",
        [table],
    ).fetchall()
    for name, _ in keys:
        conn.execute(f"alter table {table} drop constraint {name}".encode())
    found = conn.execute(
        "select indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index where indrelid = %s::regclass",
        [table],
    ).fetchall()
    for name, _ in found:
        conn.execute(f"drop index {name}".encode())
    yield
    for name, definition in keys:
        conn.execute(f"alter table {table} add constraint {name} {definition}".encode())
    for _, definition in found:
        conn.execute(definition.encode())


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


def fill_operators(conn: Connection) -> None:
    """What operators have done and were told."""
    conn.execute(OPERATORS.encode())
    conn.execute("vacuum analyze")


def run_pages(conn: Connection) -> Pages:
    """A name for each page, and what makes its address: another job or run at each request."""

    def ids(where: str) -> list[str]:
        found = conn.execute(f"select id::text from cron_job_runs where {where} limit 200".encode()).fetchall()
        return [row[0] for row in found]

    running, failed = ids("status = 'running'"), ids("status = 'failed' and job_name <> 'seed_runner'")
    day = conn.execute("select (now() - interval '90 days')::date").fetchone()
    later = quote(datetime.now(UTC).isoformat())
    replay = conn.execute("select max(id) from pgonce_replays").fetchone()

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
        "later imports": lambda: f"/imports?before={later}&before_name=import_1",
        "alerts": lambda: "/alerts",
        "audit": lambda: "/audit",
        "audit of one person": lambda: "/audit?actor=user+7",
        "audit of one object": lambda: f"/audit?object={job()}",
        "replays": lambda: "/webhooks/replays",
        "a replay": lambda: f"/webhooks/replay?id={replay and replay[0]}",
        "the first page": lambda: "/",
        "its data": lambda: "/now.json",
    }
