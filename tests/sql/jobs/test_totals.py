"""The running totals behind the figures of jobs: with them each figure is still what the rows say."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.conftest import _new_database

Connection = psycopg.Connection[Any]

OVERLAPS = """
update cron_job_runs r
set completed_at = r.started_at
      + case k.n % 3 when 0 then interval '20 s' when 1 then interval '5 hours' else interval '3 days' end,
    worked_until = case k.n % 3 when 0 then r.started_at + interval '26 hours' end
from (select id, row_number() over (order by started_at) as n from cron_job_runs where status = 'failed') k
where k.id = r.id and k.n % 500 < 3
"""
"""Some runs have ended long after the next ones started, or their process worked on for a day."""
PERIODS = ("2 days", "7 days 3 hours", "20 days 90 minutes", "30 days", "31 days", "45 days 7 hours")
OLD_RUNS = """
insert into cron_job_runs (job_name, status, started_at, completed_at, duration_ms)
select 'job_4', 'succeeded', now() - interval '10 days', now(), 5000 from generate_series(1, 50)
"""
ROUNDED = {"p50_ms", "p95_ms", "p99_ms", "max_ms", "previous_p50_ms", "trend"}


@pytest.fixture(scope="module")
def filled(server: str, template: str) -> Iterator[Connection]:
    """27,000 runs of 20 jobs in 75 days, four minutes apart; some are written by hand, without a duration."""
    with _new_database(server, template) as url, psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            "insert into cron_job_runs (job_name, key, status, started_at, heartbeat_at, completed_at, duration_ms,"
            " rows_processed, error_message)"
            " select 'job_' || n % 20, n % 3,"
            " case n / 20 % 9 when 0 then 'failed' when 1 then 'skipped' else 'succeeded' end,"
            " at, at, at + interval '20 s', case when n % 50 <> 7 then n::bigint * 7919 % 60000 end, n % 100,"
            " case n / 20 % 9 when 0 then 'ValueError: no ' || n end"
            " from generate_series(1, 27000) n,"
            " lateral (select now() - interval '150 seconds' - n * interval '4 minutes' as at) a"
        )
        count(conn)
        yield conn


@pytest.fixture
def counted(filled: Connection) -> Iterator[Connection]:
    """The same runs for each test, with their totals, which take a second of CPU time."""
    with filled.transaction(force_rollback=True):
        yield filled


@pytest.fixture
def runs(counted: Connection) -> Connection:
    """The same runs without totals."""
    counted.execute("delete from pgonce_job_days")
    return counted


def count(conn: Connection) -> None:
    """What workers do."""
    while conn.execute("select pgonce_count_job_day()").fetchone() == (True,):
        pass


def days(conn: Connection) -> int:
    found = conn.execute("select count(*) from pgonce_job_days").fetchone()
    assert found is not None
    return int(found[0])


def figures(conn: Connection, period: str) -> dict[str, dict[str, Any]]:
    found = conn.execute("select * from pgonce_job_timing(null, %s)", [period])
    names = [column.name for column in found.description or ()]
    return {row[0]: dict(zip(names, row, strict=True)) for row in found}


def check(conn: Connection) -> None:
    """With totals and without them the figures are the same."""
    for period in PERIODS:
        with_totals = figures(conn, period)
        with conn.transaction(force_rollback=True):
            conn.execute("delete from pgonce_job_days")
            expected = figures(conn, period)
        assert with_totals.keys() == expected.keys(), period
        for job, row in expected.items():
            exact = {name: value for name, value in row.items() if name not in ROUNDED}
            assert {name: with_totals[job][name] for name in exact} == exact, period
            for name in ROUNDED - {"trend"}:
                found, wanted = with_totals[job][name], row[name]
                assert found == wanted or abs(found - wanted) <= wanted * 0.022 + 1, (period, name, found, wanted)


def test_the_figures_with_totals_are_those_of_the_rows(counted: Connection) -> None:
    assert days(counted) == 63  # the midnights of 62 days
    check(counted)


def test_the_overlaps_with_totals_are_those_of_the_rows(runs: Connection) -> None:
    runs.execute(OVERLAPS.encode())
    runs.execute("select start_job_run('job_3', p_key => '1', p_window => '60 days')")
    runs.execute("update cron_job_runs set started_at = now() - interval '20 days' where status = 'running'")

    def overlaps(period: str) -> set[tuple[Any, ...]]:
        found = runs.execute("select * from pgonce_find_job_overlaps(%s)", [period]).fetchall()
        assert len(set(found)) == len(found)
        return set(found)

    expected = {period: overlaps(period) for period in PERIODS}
    count(runs)
    looked_at = "select count(overlapping), count(nullif(overlapping, '{}')) from pgonce_job_days"
    [(all_days, with_overlaps)] = runs.execute(looked_at).fetchall()
    assert all_days == 62
    assert 10 < with_overlaps < 50
    assert {period: overlaps(period) for period in PERIODS} == expected
    assert {fenced for *_, fenced in expected["45 days 7 hours"]} == {True, False}


def test_a_process_that_notices_days_later_that_its_run_was_closed_is_an_overlap(counted: Connection) -> None:
    """Between the end of its run and that moment the next runs had started, and their days had been counted."""
    count(counted)
    [(run_id,)] = counted.execute(
        "update cron_job_runs set completed_at = started_at + interval '1 s' where id = (select id from cron_job_runs"
        " where status = 'failed' and started_at < now() - interval '5 days' order by started_at desc limit 1)"
        " returning id"
    ).fetchall()
    assert counted.execute("select * from pgonce_find_job_overlaps('30 days')").fetchall() == []
    counted.execute("select pgonce_note_lost_job_run(%s)", [run_id])
    in_counted_days = (
        "select * from pgonce_find_job_overlaps('30 days')"
        " where started_at < date_trunc('day', now() - interval '1 hour', 'UTC')"
    )
    found = counted.execute(in_counted_days.encode()).fetchall()
    counted.execute("delete from pgonce_job_days")
    assert set(found) == set(counted.execute(in_counted_days.encode()).fetchall())
    assert len(found) > 10
    assert {fenced for *_, fenced in found} == {True}


def test_each_total_ends_at_a_midnight_of_utc_in_any_time_zone(runs: Connection) -> None:
    """A day of the session's time zone that has 23 hours led to a total of runs that had not started yet."""
    summer = datetime.now(UTC) - timedelta(days=10)
    runs.execute(f"set local timezone = 'AAA5BBB,J{summer.timetuple().tm_yday}/0,J1/0'".encode())
    count(runs)
    off = "select count(*) from pgonce_job_days where until <> date_bin('24 hours', until, '2000-01-01 00:00Z')"
    assert runs.execute(off).fetchone() == (0,)
    check(runs)


def test_a_run_that_ends_on_a_later_day_is_counted_once(runs: Connection) -> None:
    """It ends before its day is counted, or afterwards; after that, the next midnight comes, or it has not come yet."""
    insert = (
        "insert into cron_job_runs (job_name, key, started_at, heartbeat_at, run_window)"
        " select 'long', n, at, at, '60 days'"
        " from generate_series(1, 40) n, lateral (select now() - n * interval '25 hours' as at) a"
    )
    end = (
        "update cron_job_runs set status = %s, completed_at = now(), duration_ms = 90000000, rows_processed = 3"
        " where job_name = 'long' and key::integer %% 4 = %s"
    )
    runs.execute(insert)
    count(runs)
    check(runs)  # all are still running
    runs.execute("delete from pgonce_job_days where until > now() - interval '12 days'")  # as it was then
    runs.execute(end, ["succeeded", 1])
    runs.execute(end, ["failed", 2])
    check(runs)
    count(runs)
    check(runs)
    runs.execute(end, ["succeeded", 3])
    check(runs)


@pytest.mark.parametrize(
    "change",
    [
        "delete from cron_job_runs where job_name = 'job_3'",
        "delete from cron_job_runs where started_at between now() - interval '30 days' and now() - interval '29 days'",
        "delete from cron_job_runs where started_at < now() - interval '40 days'",
        "select purge_job_runs('20 days', 100000)",
        "select purge_job_runs('65 days', 100000)",
        OLD_RUNS,
    ],
)
def test_rows_that_are_deleted_or_written_afterwards_change_the_figures(counted: Connection, change: str) -> None:
    counted.execute(change.encode())
    check(counted)
    count(counted)
    assert days(counted) == 63
    check(counted)


def test_old_runs_that_are_purged_leave_the_totals_as_they_are(counted: Connection) -> None:
    counted.execute("select purge_job_runs('65 days', 100000)")
    assert days(counted) == 63


def test_truncate_deletes_the_totals(counted: Connection) -> None:
    counted.execute("truncate cron_job_runs")
    assert figures(counted, "30 days") == {}
    assert days(counted) == 0


def test_a_day_that_has_passed_is_added_and_the_oldest_goes(counted: Connection) -> None:
    counted.execute("delete from pgonce_job_days where until > now() - interval '3 days'")
    # as if the rest had been written ten days earlier
    counted.execute(
        "insert into pgonce_job_days select until - interval '10 days' from pgonce_job_days order by 1 limit 10"
    )
    count(counted)
    assert days(counted) == 63
    check(counted)


def test_a_job_that_has_not_run_in_all_these_days_has_no_totals(runs: Connection) -> None:
    runs.execute("delete from cron_job_runs where job_name = 'job_5' and started_at < now() - interval '20 days'")
    count(runs)
    assert (runs.execute("select count(*) from pgonce_job_totals where job_name = 'job_5'").fetchone() or [0])[0] > 15
    with runs.transaction(force_rollback=True):
        runs.execute("delete from pgonce_job_days where until < now() - interval '10 days'")
        runs.execute("update pgonce_job_totals set succeeded = 1, failed = 1, skipped = 1 where job_name = 'job_5'")
        runs.execute("delete from pgonce_job_days where until > now() - interval '2 days'")
        runs.execute("delete from cron_job_runs where job_name = 'job_5'")
        count(runs)
        assert runs.execute("select from pgonce_job_totals where job_name = 'job_5'").fetchone() is None


def test_with_few_runs_there_are_no_totals_and_each_duration_is_exact(runs: Connection) -> None:
    runs.execute("delete from cron_job_runs where started_at < now() - interval '50 days'")
    count(runs)
    assert days(runs) == 0


def test_with_very_many_jobs_there_are_no_totals(runs: Connection) -> None:
    runs.execute("update cron_job_runs set job_name = 'user_' || md5(id::text)")
    for _ in range(3):
        count(runs)
    assert days(runs) <= 1
    assert runs.execute("select from pgonce_job_totals").fetchone() is None
    assert len(figures(runs, "30 days")) > 5000


def test_two_workers_do_not_count_the_same_day(filled: Connection) -> None:
    filled.execute("delete from pgonce_job_days where until > now() - interval '3 days'")
    other_session = psycopg.connect(filled.info.dsn, autocommit=True)
    with filled.transaction(force_rollback=True), other_session as other:
        assert filled.execute("select pgonce_count_job_day()").fetchone() == (True,)
        assert other.execute("select pgonce_count_job_day()").fetchone() == (False,)
    count(filled)


def test_a_role_that_may_only_write_runs_may_delete_and_write_old_ones(counted: Connection) -> None:
    counted.execute("create role writes_runs")
    counted.execute("grant select, insert, update, delete on cron_job_runs to writes_runs")
    counted.execute("set local role writes_runs")
    assert counted.execute("delete from cron_job_runs where job_name = 'job_3'").rowcount > 0
    assert counted.execute(OLD_RUNS).rowcount == 50
