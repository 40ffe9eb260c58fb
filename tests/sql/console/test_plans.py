"""The rows that the first page and the frame of each page read, with many rows. Plans are tested, not times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import _new_database
from tests.debian_server import debian_server

Connection = psycopg.Connection[Any]
FILL = """
set local session_replication_role = replica;
insert into webhook_events (stripe_event_id, event_type, status, queued, lease, lease_expires_at, next_attempt_at,
  received_at, processed_at, failure)
select 'evt_' || n, 'x', s.status, true, null, null, case when s.status = 'processing' then at end, at, at,
  case when s.status = 'failed' then 'KeyError at x.py:1' end
from generate_series(1, 60000) n, lateral (select now() - n * interval '1 minute' as at) a,
  lateral (select case n % 500 when 0 then 'failed' when 1 then 'processing' else 'succeeded' end as status) s;
insert into cron_job_runs (job_name, status, started_at, heartbeat_at, completed_at, duration_ms, scheduled_for)
select 'job_' || n % 200, case n / 200 % 50 when 0 then 'failed' when 1 then 'skipped' else 'succeeded' end, at, at, at,
  n, at from generate_series(1, 60000) n, lateral (select now() - n * interval '4 minutes' as at) a;
insert into cron_job_runs (job_name, key) select 'seed_runner', 'import_' || n from generate_series(1, 3) n;
insert into seed_checkpoints (seed_name, status, last_updated_at)
select 'import_' || n, case when n <= 100 then 'in_progress' else 'complete' end, now() - n * interval '1 hour'
from generate_series(1, 2000) n;
insert into pgonce_seed_batches (seed_name, slot, batch, rows)
select 'import_' || i, n, n, 9 from generate_series(1, 100) i, generate_series(0, 59) n;
insert into pgonce_alerts (channel, kind, subject, dedupe_key, message, detail, created_at)
select 'c', 'import_failed', 'import_' || n, 'key ' || n, '', jsonb_build_object('seed_name', 'import_' || n),
  now() - n * interval '1 minute' from generate_series(1, 3000) n;
"""
TABLES = ("webhook_events", "cron_job_runs", "seed_checkpoints", "pgonce_seed_batches", "pgonce_alerts")
WEEK = (
    "array(select 'job_' || n from generate_series(1, 20) n), array_fill(''::text, array[20]),"
    " now() - interval '7 days', now()"
)
# call: how many rows of each of these tables it may read, counted in the index and in the table
BOUNDS: dict[str, tuple[int, ...]] = {
    # the last 1,000 events now and a week ago; the dead letters and those that wait; the runs of a day, the last 3,000
    "pgonce_console_facts()": (2 * (2000 + 1000), 2 * (360 + 3000 + 100), 0, 0, 0),
    # once more in the index, for the hour in which the bound lies
    "pgonce_console_hours()": (3 * 1440 + 10, 0, 0, 0, 0),
    "pgonce_console_hours(100)": (3 * 220, 0, 0, 0, 0),
    # of each of 20 jobs its last run, and the last 50
    "pgonce_console_urgent_jobs()": (0, 2 * (3000 + 20 * (5 + 50)) + 100, 0, 0, 0),
    "pgonce_console_missed_ticks()": (0, 2 * 400, 0, 0, 0),
    "pgonce_console_stuck_imports()": (0, 20, 2000, 3 * 2 * 60, 0),
    "pgonce_console_stuck_imports('import_7')": (0, 20, 2, 2 * 60, 0),
    "pgonce_console_seeds(p_limit => 10, p_open => true)": (0, 20, 2000, 10 * 2 * 60, 0),
    # the newest 100 alerts, and the import of each
    "pgonce_console_shell()": (2 * 300, 200 * 10, 2000 + 200, 2 * 103 * 2 * 60, 2 * 400),
    "pgonce_console_webhook_counts(100)": (2 * 1000, 0, 0, 0, 0),
    # a lookup for each of 201 names
    "pgonce_console_job_names(p_find => 'zzz')": (0, 2 * 201, 0, 0, 0),
    # the 12 or 13 runs of each in a week and the 50 before it; each once more as the newest of its place
    f"pgonce_console_job_marks({WEEK})": (0, 2 * 20 * (13 + 50) + 2 * 20 * 13 * 2 + 20, 0, 0, 0),
    # the newest 5,000 runs once, and the last runs of the 20 that are told
    "pgonce_console_job_troubles()": (0, 2 * 5000 + 2 * 360 + 20 * 2 * 110, 0, 0, 0),
}


@pytest.fixture(scope="module", params=["of the suite", "Debian's 15"])
def many_rows(request: pytest.FixtureRequest, server: str, template: str) -> Iterator[Connection]:
    """60,000 events, 60,000 runs of 200 jobs, 2,000 imports and 3,000 alerts."""
    server_ = _new_database(server, template) if request.param == "of the suite" else debian_server()
    with server_ as url, psycopg.connect(url, autocommit=True) as conn:
        with conn.transaction():
            conn.execute(FILL.encode())
        conn.execute("vacuum analyze")
        yield conn


def rows_read(conn: Connection, call: str) -> dict[str, int]:
    """How many rows of each table the call reads; -1: it reads a large table from end to end."""
    counters = """
      select t.relname, t.seq_scan, t.seq_tup_read + coalesce(t.idx_tup_fetch, 0)
             + coalesce((select sum(pg_stat_get_xact_tuples_returned(i.indexrelid)) from pg_index i
                         where i.indrelid = t.relid), 0)
      from pg_stat_xact_user_tables t where t.relname = any (%s)"""
    with conn.transaction():
        conn.execute("set local max_parallel_workers_per_gather = 0")  # what other processes read is counted later
        before = {name: (scans, rows) for name, scans, rows in conn.execute(counters, [list(TABLES)]).fetchall()}
        conn.execute(f"select * from {call}".encode()).fetchall()
        after = {name: (scans, rows) for name, scans, rows in conn.execute(counters, [list(TABLES)]).fetchall()}
    large = {"webhook_events", "cron_job_runs"}
    return {
        name: -1 if name in large and after[name][0] > before[name][0] else int(after[name][1] - before[name][1])
        for name in TABLES
    }


# One test for all calls: each process that gets a test of this file fills the tables again.
def test_what_the_first_page_reads_does_not_grow_with_the_tables(many_rows: Connection) -> None:
    for call, bounds in BOUNDS.items():
        for _ in range(6):  # from the sixth call on a plan without its arguments would be taken
            many_rows.execute(f"select * from {call}".encode()).fetchall()
        found = rows_read(many_rows, call)
        assert -1 not in found.values(), (call, found)
        most = dict(zip(TABLES, bounds, strict=True))
        assert {name: rows for name, rows in found.items() if rows > most[name]} == {}, call


def test_among_many_that_wait_only_a_part_is_looked_at(many_rows: Connection) -> None:
    with many_rows.transaction(force_rollback=True):
        many_rows.execute("set local session_replication_role = replica")
        many_rows.execute(
            "update webhook_events set status = 'processing', next_attempt_at = received_at where id in"
            " (select id from webhook_events order by received_at desc limit 5000)"
        )
        counts = dict(many_rows.execute("select * from pgonce_console_webhook_counts(100)").fetchall())
        assert (counts["waiting"], counts["processing"], counts["failed"]) == (101, None, None)
        assert rows_read(many_rows, "pgonce_console_webhook_counts(100)")["webhook_events"] < 2 * 1000


def test_of_a_busy_day_the_newest_runs_are_read_once(many_rows: Connection) -> None:
    with many_rows.transaction(force_rollback=True):
        many_rows.execute("set local session_replication_role = replica")
        many_rows.execute(
            "update cron_job_runs set started_at = now() - (now() - started_at) / 100"
            " where id in (select id from cron_job_runs order by started_at desc limit 20000)"
        )
        # the newest 5,000; and pgonce_job_missed looks for ticks that were given up among those of the day
        most = 2 * 5000 + 2 * 20000 + 5000
        assert rows_read(many_rows, "pgonce_console_job_troubles()")["cron_job_runs"] < most
