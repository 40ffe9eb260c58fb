"""The rows that statistics of jobs read, with many runs of many jobs. Plans are tested, not times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import _new_database
from tests.debian_server import debian_server

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module", params=["of the suite", "Debian's 15"])
def many_runs(request: pytest.FixtureRequest, server: str, template: str) -> Iterator[Connection]:
    """60,000 runs of 200 jobs over half a year."""
    server_ = _new_database(server, template) if request.param == "of the suite" else debian_server()
    with server_ as url, psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            "insert into cron_job_runs"
            " (job_name, status, started_at, heartbeat_at, completed_at, duration_ms, scheduled_for)"
            " select 'job_' || n % 200,"
            " case n / 200 % 50 when 0 then 'failed' when 1 then 'skipped' else 'succeeded' end,"
            " at, at, at + interval '20 s', n % 60000, at"
            " from generate_series(1, 60000) n, lateral (select now() - n * interval '4 minutes' as at) a"
        )
        conn.execute("vacuum analyze cron_job_runs")
        yield conn


def rows_read(conn: Connection, query: str) -> int:
    """How many rows of cron_job_runs the query reads, from indexes and the table; fails if it scans the whole table."""
    counters = (
        "select t.seq_scan, t.idx_tup_fetch, (select sum(pg_stat_get_xact_tuples_returned(i.indexrelid))"
        " from pg_index i where i.indrelid = t.relid) from pg_stat_xact_user_tables t where relname = 'cron_job_runs'"
    )
    with conn.transaction():
        conn.execute("set local max_parallel_workers_per_gather = 0")  # what other processes read is counted later
        before = conn.execute(counters.encode()).fetchone()
        conn.execute(query.encode())
        after = conn.execute(counters.encode()).fetchone()
    assert before is not None
    assert after is not None
    assert after[0] == before[0], "it reads the whole table"
    return int(after[1] - before[1] + after[2] - before[2])


def test_the_figures_of_one_job_read_the_runs_of_that_job_in_the_two_periods(many_runs: Connection) -> None:
    for _ in range(7):  # from the sixth on a plan without its arguments would be taken
        # one run every 800 minutes, and their entries in the index
        assert rows_read(many_runs, "select * from pgonce_job_timing('job_7', '30 days')") < 2 * 4 * 30 * 24 * 60 / 800


def test_the_figures_of_all_jobs_read_the_runs_of_the_two_periods(many_runs: Connection) -> None:
    assert rows_read(many_runs, "select * from pgonce_job_timing(null, '7 days')") < 2 * 4 * 7 * 24 * 60 / 4


def test_with_totals_the_figures_read_the_ends_of_the_periods_only(many_runs: Connection) -> None:
    with many_runs.transaction(force_rollback=True):
        while many_runs.execute("select pgonce_count_job_day()").fetchone() == (True,):
            pass
        # at most four days of single runs, and for each job its last run and its last failure
        most = 2 * (4 * 24 * 60 / 4 + 2 * 200)
        assert rows_read(many_runs, "select * from pgonce_job_timing(null, '30 days')") < most
        assert rows_read(many_runs, "select * from pgonce_job_timing('job_7', '30 days')") < 100
        assert rows_read(many_runs, "select * from pgonce_find_job_overlaps('60 days')") < most


def test_no_list_of_jobs_is_compiled(many_runs: Connection) -> None:
    """Compiling such a query (jit, on by default before PostgreSQL 18) took 5 to 10 s, and running it 0.5 s."""
    compiled = many_runs.execute(
        "select p.proname from pg_proc p where p.proretset and p.provolatile = 's' and p.prolang <> 12"
        " and obj_description(p.oid, 'pg_proc') like 'pgonce: %' and p.proname ~ 'job|console_run|process'"
        " and not 'jit=off' = any (coalesce(p.proconfig, '{}')) order by 1"
    ).fetchall()
    assert compiled == []


def test_what_was_missed_reads_the_last_day_and_one_run_of_each_schedule(many_runs: Connection) -> None:
    many_runs.execute(
        "insert into pgonce_job_schedules (job_name, cron, timezone, next_tick)"
        " select 'job_' || n, '* * * * *', 'UTC', now() from generate_series(0, 199) n on conflict do nothing"
    )
    many_runs.execute("select pgonce_expect_job('job_' || n, '1 day') from generate_series(0, 199) n")
    many_runs.execute("analyze pgonce_job_schedules, pgonce_job_expectations")
    assert rows_read(many_runs, "select * from pgonce_job_missed") < 2 * (24 * 60 / 4 + 3 * 200)

    names = "array(select 'job_' || n from generate_series(0, 199) n)"
    assert rows_read(many_runs, f"select * from pgonce_read_job_schedules({names})") <= 200


def test_for_all_expected_keys_of_a_job_its_runs_are_read_once(many_runs: Connection) -> None:
    with many_runs.transaction(force_rollback=True):
        many_runs.execute(
            "insert into cron_job_runs (job_name, key, status, started_at)"
            " select 'tenants', 'k' || n % 50, 'succeeded', now() - n * interval '1 s' from generate_series(1, 5000) n"
        )
        many_runs.execute(
            "select pgonce_expect_job('tenants', '1 minute', '1 s', 'k' || n) from generate_series(0, 199) n"
        )
        many_runs.execute("update pgonce_job_expectations set since = now() - interval '1 day'")
        missed = "select count(*) from pgonce_job_missed where reason like '%never run'"
        assert many_runs.execute(missed).fetchone() == (150,)
        assert rows_read(many_runs, missed) < 8 * 5000
    many_runs.execute("vacuum cron_job_runs")  # the other tests would read what was rolled back


def test_the_list_of_jobs_reads_some_runs_of_each(many_runs: Connection) -> None:
    assert rows_read(many_runs, "select * from pgonce_list_jobs()") < 2 * 200 * 60 + 2000


def test_overlaps_read_the_runs_of_the_period_and_of_the_day_before_it(many_runs: Connection) -> None:
    assert rows_read(many_runs, "select * from pgonce_job_overlaps") < 2 * 8 * 24 * 60 / 4 + 200
