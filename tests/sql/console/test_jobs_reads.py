"""What the console reads of jobs and runs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

Connection = psycopg.Connection[Any]
DAY = datetime(2026, 11, 26, tzinfo=UTC)


@pytest.fixture
def conn(shared: Connection) -> Iterator[Connection]:
    """A transaction that is rolled back."""
    with shared.transaction(force_rollback=True):
        yield shared


def run(conn: Connection, job: str, at: datetime, took: timedelta | None = None, **columns: Any) -> UUID:
    """A run that began at ``at``; without ``took`` it is running."""
    ended = None if took is None else at + took
    row = {
        "id": uuid4(), "job_name": job, "started_at": at, "heartbeat_at": at, "completed_at": ended,
        "status": "running" if took is None else "succeeded", **columns,
    }  # fmt: skip
    names = ", ".join(row)
    conn.execute(f"insert into cron_job_runs ({names}) values ({', '.join(['%s'] * len(row))})", list(row.values()))
    return row["id"]


def marks(conn: Connection, job: str, key: str = "", places: int = 480) -> list[tuple[Any, ...]]:
    return conn.execute(
        "select kind, began_at - %s, ended_at - %s, runs from pgonce_console_job_marks(%s, %s, %s, %s, %s)",
        [DAY, DAY, [job], [key], DAY, DAY + timedelta(days=1), places],
    ).fetchall()


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


def test_names_come_in_order_from_all_sources_and_without_imports(conn: Connection) -> None:
    for job in ("b ran", "b ran", "seed_runner"):
        run(conn, job, DAY, hours(1))
    conn.execute("insert into pgonce_job_expectations (job_name, every) values ('c expected', '1 day')")
    conn.execute("insert into pgonce_job_pauses (job_name, reason) values ('a paused', 'x')")
    conn.execute(
        "insert into pgonce_job_schedules (job_name, cron, timezone, next_tick) "
        "values ('d %% planned', '', 'UTC', now())"
    )
    names = "select * from pgonce_console_job_names(%s, %s, %s)"
    found = [row[0] for row in conn.execute(names, ["", None, 10])]
    assert found == ["a paused", "b ran", "c expected", "d %% planned"]
    assert [row[0] for row in conn.execute(names, ["b ran", None, 1])] == ["c expected"]
    assert [row[0] for row in conn.execute(names, ["", "%", 10])] == ["d %% planned"]
    assert [row[0] for row in conn.execute(names, ["", "SEED", 10])] == ["seed_runner"]


def test_lanes_go_on_after_the_last_key_of_the_page_before(conn: Connection) -> None:
    for key in ("x", "y", "z"):
        run(conn, "job", DAY, hours(1), key=key)
    run(conn, "later", DAY, hours(1))
    lanes = "select job_name, key from pgonce_console_job_lanes(p_after_name => %s, p_after_key => %s, p_limit => 2)"
    first = conn.execute(lanes, [None, None]).fetchall()
    assert first == [("job", "x"), ("job", "y")]
    assert conn.execute(lanes, first[-1]).fetchall() == [("job", "z"), ("later", "")]


def test_a_key_that_is_named_is_a_lane_however_many_others_have_run_since(conn: Connection) -> None:
    run(conn, "job", DAY, hours(1), key="tenant 999")
    for number in range(120):
        run(conn, "job", DAY + timedelta(minutes=number + 1), hours(1), key=f"tenant {number:03}")
    named = "select key from pgonce_console_job_lanes(p_name => 'job', p_key => %s, p_limit => 100)"
    keys = [row[0] for row in conn.execute(named, ["tenant 999"])]
    assert keys == [*(f"tenant {number:03}" for number in range(20, 119)), "tenant 999"]
    assert conn.execute(named, ["nobody"]).fetchall() == conn.execute(named, [None]).fetchall()


def test_a_lane_has_its_last_run_that_was_not_skipped_and_no_duration_without_one(conn: Connection) -> None:
    last = run(conn, "job", DAY, hours(1), status="failed")
    run(conn, "job", DAY + hours(2), hours(0), status="skipped")
    conn.execute("insert into pgonce_job_expectations (job_name, every) values ('never', '1 day')")
    lanes = conn.execute("select run_id, status, duration_ms from pgonce_console_job_lanes()").fetchall()
    assert lanes[0][:2] == (last, "failed")
    assert lanes[1] == (None, None, None)


def test_marks_are_the_runs_and_those_of_one_place_are_one(conn: Connection) -> None:
    run(conn, "job", DAY + hours(1), hours(0.5))
    run(conn, "job", DAY + hours(3), hours(0.1), status="failed")
    for second in range(3):
        run(conn, "job", DAY + hours(5) + timedelta(seconds=second), timedelta(milliseconds=200))
    assert marks(conn, "job") == [
        ("succeeded", hours(1), hours(1.5), 1),
        ("failed", hours(3), hours(3.1), 1),
        ("succeeded", hours(5), hours(5) + timedelta(seconds=2.2), 3),
    ]


def test_the_runs_of_one_place_have_the_newest_id_of_their_kind(conn: Connection) -> None:
    blocker, newest = uuid4(), None
    for minute in range(3):
        newest = run(conn, "job", DAY + timedelta(minutes=minute), timedelta(seconds=30))
        run(conn, "job", DAY + timedelta(minutes=minute), timedelta(), key="other")
        run(conn, "job", DAY + timedelta(minutes=minute), timedelta(), status="skipped", blocked_by=blocker)
    last = run(conn, "job", DAY + timedelta(minutes=3), timedelta(), status="skipped", blocked_by=newest)
    found = conn.execute(
        "select kind, runs, run_id, blocked_by from pgonce_console_job_marks('{job}', '{\"\"}', %s, %s, 24)"
        " order by kind",
        [DAY, DAY + timedelta(days=1)],
    ).fetchall()
    assert found == [("skipped", 4, last, newest), ("succeeded", 3, newest, None)]


def test_the_lanes_with_most_marks_share_what_the_others_leave_and_no_run_is_lost(conn: Connection) -> None:
    for name, runs in {"busy": 300, "busier": 900}.items():
        conn.execute(
            "insert into cron_job_runs (job_name, status, started_at, heartbeat_at, completed_at)"
            " select %s, 'succeeded', s, s, s + interval '20 s'"
            " from generate_series(%s::timestamptz, %s::timestamptz, interval '24 hours' / %s) s",
            [name, DAY, DAY + hours(23.99), runs],
        )
    for hour in range(20):
        run(conn, "quiet", DAY + hours(hour), hours(0.1))
    found = conn.execute(
        "select job_name, count(*), sum(runs), min(began_at), max(ended_at) from pgonce_console_job_marks("
        "array['busy', 'quiet', 'busier'], array['', '', ''], %s, %s, 480, 120) group by job_name order by job_name",
        [DAY, DAY + hours(24)],
    ).fetchall()
    counts = {name: (marks, runs) for name, marks, runs, _, _ in found}
    assert counts == {"busy": (50, 300), "busier": (50, 900), "quiet": (20, 20)}
    assert found[0][3:] == (DAY, DAY + hours(24) - hours(24) / 900 + timedelta(seconds=20))


def test_starts_that_wait_for_the_run_at_work_are_a_mark_of_their_own(conn: Connection) -> None:
    now = conn.execute("select date_bin('1 day', now(), '2000-01-01Z')").fetchone()
    assert now is not None
    (day,) = now
    earlier = run(conn, "job", day, timedelta(seconds=30))
    run(conn, "job", day + timedelta(seconds=10), timedelta(), status="skipped", blocked_by=earlier)
    at_work = run(conn, "job", day + timedelta(seconds=40))
    for second in (50, 55):
        run(conn, "job", day + timedelta(seconds=second), timedelta(), status="skipped", blocked_by=at_work)
    found = conn.execute(
        "select blocked_by, runs from pgonce_console_job_marks('{job}', '{\"\"}', %s, %s, 24) where kind = 'skipped'"
        " order by runs",
        [day, day + hours(24)],
    ).fetchall()
    assert found == [(earlier, 1), (at_work, 2)]


def test_a_run_from_the_day_before_that_ends_today_is_shown(conn: Connection) -> None:
    run(conn, "job", DAY - hours(5), hours(1))
    run(conn, "job", DAY - hours(2), hours(3))
    assert marks(conn, "job") == [("succeeded", hours(-2), hours(1), 1)]


def test_two_runs_at_once_are_an_overlap_as_long_as_both_were_at_work(conn: Connection) -> None:
    run(conn, "job", DAY + hours(1), hours(1))
    run(conn, "job", DAY + hours(1.5), hours(2))
    run(conn, "job", DAY + hours(3.5), hours(1))  # begins when the one before ends
    assert [mark for mark in marks(conn, "job") if mark[0] == "overlap"] == [("overlap", hours(1.5), hours(2), 1)]


def test_a_skip_names_the_run_in_its_way_and_a_pause_is_no_missed_tick(conn: Connection) -> None:
    blocker = run(conn, "job", DAY + hours(1), hours(3))
    run(conn, "job", DAY + hours(2), hours(0), status="skipped", blocked_by=blocker)
    run(
        conn, "job", DAY + hours(6), hours(0), status="skipped", error_message="paused: x", scheduled_for=DAY + hours(6)
    )
    run(conn, "job", DAY + hours(8), hours(0), status="skipped", error_message="late", scheduled_for=DAY + hours(7))
    found = marks(conn, "job")
    assert [mark[:2] for mark in found] == [
        ("succeeded", hours(1)), ("skipped", hours(2)), ("paused", hours(6)), ("missed", hours(7)),
    ]  # fmt: skip
    row = conn.execute(
        "select blocked_by from pgonce_console_job_marks('{job}', array[''], %s, %s) where kind = 'skipped'",
        [DAY, DAY + hours(24)],
    ).fetchone()
    assert row == (blocker,)


def test_a_tick_that_began_after_its_grace_is_late(conn: Connection) -> None:
    conn.execute(
        "insert into pgonce_job_schedules (job_name, cron, timezone, next_tick, grace) "
        "values ('job', '0 6 * * *', 'UTC', '2040-01-01', '5 minutes')"
    )
    run(conn, "job", DAY + hours(6) + timedelta(minutes=11), hours(0.1), scheduled_for=DAY + hours(6))
    run(conn, "job", DAY + hours(8) + timedelta(minutes=4), hours(0.1), scheduled_for=DAY + hours(8))
    assert [mark[:2] for mark in marks(conn, "job") if mark[0] == "late"] == [("late", hours(6))]


def test_an_overdue_tick_is_missed(conn: Connection) -> None:
    conn.execute(
        "insert into pgonce_job_schedules (job_name, cron, timezone, next_tick) "
        "values ('job', '', 'UTC', clock_timestamp() - interval '1 hour')"
    )
    found = conn.execute(
        "select kind from pgonce_console_job_marks("
        "'{job}', array[''], now() - interval '1 day', now() + interval '1 day')"
    ).fetchall()
    assert found == [("missed",)]
    assert conn.execute("select kind, job_name from pgonce_console_job_troubles()").fetchall() == [("missed", "job")]


def test_troubles_are_what_no_success_has_followed(conn: Connection) -> None:
    now = datetime.now(UTC)
    run(conn, "mended", now - hours(2), hours(0.1), status="failed", error_message="ValueError: a")
    run(conn, "mended", now - hours(1), hours(0.1))
    failed = run(conn, "broken", now - hours(2), hours(0.1), status="failed", error_message="ValueError: b")
    run(conn, "seed_runner", now - hours(2), hours(0.1), status="failed", error_message="ValueError: c")
    dead = run(conn, "dead", now - hours(3))
    run(conn, "well", now)
    found = conn.execute("select kind, run_id, what from pgonce_console_job_troubles()").fetchall()
    assert [row[:2] for row in found] == [("failed", failed), ("running", dead)]
    assert "ValueError: b" in found[0][2]


def test_runs_of_one_moment_are_all_on_one_page_or_the_next(conn: Connection) -> None:
    ids = {run(conn, "job", DAY, hours(1)) for _ in range(7)}
    runs = "select started_at, id from pgonce_console_job_runs('job', p_before => %s, p_before_id => %s, p_limit => 3)"
    seen: list[Any] = []
    position: tuple[Any, Any] = (None, None)
    while page := conn.execute(runs, position).fetchall():
        seen += [row[1] for row in page]
        position = page[-1]
    assert len(seen) == 7
    assert set(seen) == ids


def test_the_filters_of_the_list_of_runs(conn: Connection) -> None:
    run(conn, "job", DAY, hours(1), key="a")
    failed = run(conn, "job", DAY + hours(1), hours(1), key="b", status="failed")
    run(conn, "job", DAY + hours(2), hours(0), key="b", status="skipped")
    ids = "select id from pgonce_console_job_runs('job', p_key => %s, p_status => %s, p_ran => %s)"
    assert conn.execute(ids, [None, "failed", False]).fetchall() == [(failed,)]
    assert conn.execute(ids, ["b", None, True]).fetchall() == [(failed,)]
    assert len(conn.execute(ids, [None, None, False]).fetchall()) == 3


def test_all_attempts_are_found_from_any_of_them(conn: Connection) -> None:
    first = run(conn, "job", DAY, hours(0.1), status="failed", retries=3)
    second = run(conn, "job", DAY + hours(1), hours(0.1), status="failed", retry_of=first, attempt=2, retries=3)
    third = run(conn, "job", DAY + hours(2), hours(0.1), retry_of=second, attempt=3)
    for each in (first, second, third):
        found = conn.execute("select id from pgonce_console_run_attempts(%s)", [each]).fetchall()
        assert found == [(first,), (second,), (third,)]


def test_a_run_knows_the_starts_that_it_blocks(conn: Connection) -> None:
    blocker = run(conn, "job", DAY, hours(3))
    skipped = [run(conn, "job", DAY + hours(n), hours(0), status="skipped", blocked_by=blocker) for n in (1, 2)]
    run(conn, "job", DAY + hours(2), hours(0), status="skipped", blocked_by=uuid4(), key="other")
    found = conn.execute("select id, total from pgonce_console_run_blocks(%s)", [blocker]).fetchall()
    assert found == [(skipped[1], 2), (skipped[0], 2)]


def test_a_run_has_its_last_heartbeat_wherever_it_is_kept(conn: Connection) -> None:
    apart = run(conn, "job", DAY)
    conn.execute("insert into pgonce_job_heartbeats values (%s, %s)", [apart, DAY + hours(1)])
    row = conn.execute("select heartbeat_at, dead_after, stop_seen from pgonce_console_run(%s)", [apart]).fetchone()
    assert row == (DAY + hours(1), DAY + hours(1.25), None)
    conn.execute("update cron_job_runs set stop_requested_at = %s where id = %s", [DAY + hours(0.5), apart])
    assert conn.execute("select stop_seen from pgonce_console_run(%s)", [apart]).fetchone() == (True,)


def test_of_two_containers_with_one_host_name_and_pid_no_release_is_named_if_they_differ(conn: Connection) -> None:
    """The containers of a machine that share its network have its host name, and each has a process 1."""
    begun = run(conn, "job", DAY, process="h:1")
    of = "select release, app from pgonce_console_run(%s)"
    found = []
    for started, seen, release in [(-9, 0, "1"), (-9, -8, "0"), (1, 2, "3"), (-5, 0, "1"), (-4, 0, "2")]:
        conn.execute(
            "insert into pgonce_processes (id, does, host, pid, version, app, release, started_at, last_seen_at)"
            " values (gen_random_uuid(), 'jobs', 'h', 1, '1', 'shop', %s, %s, %s)",
            [release, DAY + hours(started), DAY + hours(seen)],
        )
        found += conn.execute(of, [begun]).fetchall()
    assert found == [("1", "shop")] * 4 + [(None, None)]


def test_a_release_is_noted_when_its_first_process_starts(conn: Connection) -> None:
    register = (
        "select pgonce_register_process(gen_random_uuid(), 'jobs', 'h', 1, '1', p_app => 'shop', p_release => %s, "
        "p_jobs => '{job}')"
    )
    for release in ("1", "1", "2", "1"):
        conn.execute(register, [release])
    found = conn.execute("select release from pgonce_console_job_releases('job', now() - interval '1 day')").fetchall()
    assert found == [("1",), ("2",), ("1",)]
    assert conn.execute("select * from pgonce_console_job_releases('other', now())").fetchall() == []


def test_no_read_of_the_console_goes_through_all_runs(shared: Connection) -> None:
    """PostgreSQL counts the scans of the transaction, so the functions themselves are called."""
    with shared.transaction(force_rollback=True):
        shared.execute(
            "insert into cron_job_runs (job_name, status, started_at, completed_at, duration_ms) "
            "select 'job_' || n % 50, 'succeeded', now() - n * interval '10 minutes', now(), 1000 "
            "from generate_series(1, 20000) n"
        )
        shared.execute("analyze cron_job_runs")
        run_id = "(select id from cron_job_runs order by started_at desc limit 1)"
        for call in (
            "pgonce_console_job_lanes()", "pgonce_console_job_troubles()", "pgonce_console_job_names(p_find => 'b_7')",
            "pgonce_console_job_marks(array['job_1'], array[''], now() - interval '1 day', now())",
            "pgonce_console_job_runs('job_1')", "pgonce_console_job_runs('job_1', p_status => 'failed')",
            f"pgonce_console_run({run_id})", f"pgonce_console_run_blocks({run_id})", f"pgonce_diagnose_run({run_id})",
            f"pgonce_console_run_attempts({run_id})", "pgonce_console_job_expectations('job_1')",
            "pgonce_console_seed_runs('s')", "pgonce_console_seeds()",
        ):  # fmt: skip
            scans = "select seq_scan from pg_stat_xact_user_tables where relname = 'cron_job_runs'"
            before = shared.execute(scans).fetchone()
            shared.execute(f"select * from {call}".encode()).fetchall()
            assert shared.execute(scans).fetchone() == before, call


def test_the_first_page_says_of_each_job_what_job_ls_says(conn: Connection) -> None:
    now, minute = datetime.now(UTC), timedelta(minutes=1)
    hour = 60 * minute
    run(conn, "silent", now - 2 * hour)  # its window of 15 minutes is over
    run(conn, "alive", now - minute)
    for number in range(6):
        run(conn, "well", now - (number + 2) * hour, (number + 1) * minute, duration_ms=60_000 * (number + 1))
    run(conn, "bad", now - hour, minute, status="failed", error_message="Traceback\nValueError: no plan")
    run(conn, "paused", now - hour, minute)
    conn.execute("insert into pgonce_job_pauses (job_name, reason) values ('paused', 'a release')")
    for name in ("alive", "stopping"):
        run(conn, name, now - 2 * minute, key="eu", stop_requested_at=now if name == "stopping" else None)
    columns = (
        "job_name, key, run_id, status, started_at, usual_from_ms, usual_to_ms, next_tick, attempt, next_retry_at,"
        " stopping, progress_done, progress_total, process, blocks, paused, reason"
    )
    listed, shown = (
        conn.execute(f"select {columns} from {function} order by job_name, key".encode()).fetchall()
        for function in ("pgonce_list_jobs()", "pgonce_console_urgent_jobs(100)")
    )
    assert shown == listed
    assert {row[0]: row[-1] is not None for row in shown if not row[1]} == {
        "silent": True, "alive": False, "well": False, "bad": True, "paused": False,
    }  # fmt: skip


def test_the_next_tick_of_a_paused_job_is_after_its_pause(conn: Connection) -> None:
    now, hour = datetime.now(UTC), timedelta(hours=1)
    pauses = {"for ever": None, "a while": now + 1.5 * hour, "long": now + 9 * hour, "lately": now - hour}
    for name in ("runs", *pauses):
        run(conn, name, now - hour, timedelta(minutes=1))
        conn.execute(
            "insert into pgonce_job_schedules (job_name, cron, timezone, next_tick, upcoming)"
            " values (%s, '0 * * * *', 'UTC', %s, %s)",
            [name, now + hour, [now + 2 * hour, now + 3 * hour]],
        )
    for name, until in pauses.items():
        conn.execute(
            "insert into pgonce_job_pauses (job_name, reason, paused_until) values (%s, 'x', %s)", [name, until]
        )
    expected = {"runs": now + hour, "for ever": None, "a while": now + 2 * hour, "long": None, "lately": now + hour}
    for reads in (
        "select job_name, next_tick from pgonce_list_jobs()",
        "select job_name, next_tick from pgonce_console_urgent_jobs(100)",
        "select d.job_name, d.next_tick from cron_job_runs r cross join lateral pgonce_console_run(r.id) d",
    ):
        assert dict(conn.execute(reads.encode()).fetchall()) == expected, reads
