"""Jobs are operated while a scheduler runs: requests, schedules in the database, pauses, slots, expectations."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

import pgonce
from pgonce import AsyncJobs, Jobs
from pgonce.core import database as pools
from pgonce.errors import InvalidArgument
from pgonce.jobs import calls_console_operate, calls_operate
from pgonce.jobs.cron import Cron
from tests.conftest import wait_until
from tests.edge.jobs.conftest import Simulation, nothing, ticks, utc

Connection = psycopg.Connection[Any]


def test_a_request_is_carried_out_by_one_of_the_workers_that_have_the_job_with_its_key_and_scope(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    seen: list[Any] = []
    app, other = pgonce.App(), pgonce.App()

    @app.job("letters", key="k")
    def letters(run: pgonce.Run) -> None:
        seen.append((run.key, dict(run.scope), run.scheduled_for))

    other.job("unrelated")(nothing)
    simulation = simulate("2026-01-01 00:00:10")
    simulation.start(app, database, 2)
    simulation.start(other, database)
    simulation.rest()
    conn.execute("select pgonce_request_job_run('letters', '{\"user\": 1}'), pgonce_request_job_run('nobody_has_it')")
    simulation.run_until("2026-01-01 00:00:50")
    assert seen == [("k", {"user": 1}, None)]
    found = "select job_name, run_id is not null, answered_at is not null from pgonce_job_requests order by 1"
    assert conn.execute(found.encode()).fetchall() == [("letters", True, True), ("nobody_has_it", False, False)]


def test_a_schedule_that_an_operator_writes_is_gone_by_until_it_is_deleted_and_no_start_overwrites_it(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    seen: list[Any] = []
    app = pgonce.App()

    @app.job("j", cron="30 * * * *")
    def j(run: pgonce.Run) -> None:
        seen.append((run.key, dict(run.scope)))

    write = (
        "select pgonce_schedule_job('j', %s, %s, 'UTC', '2026-01-01 00:01+00', '{}', '5 minutes', 'none', '{\"a\": 1}')"
    )
    simulation = simulate("2026-01-01 00:00:10")
    simulation.start(app, database)
    simulation.rest()
    conn.execute(write, ["eu", "@every 1 minute"])
    conn.execute(write, ["", "*/2 * * * *"])
    conn.execute(write, ["wrong", "no such thing"])
    simulation.run_until("2026-01-01 00:01:50")
    simulation.start(app, database)
    simulation.run_until("2026-01-01 00:02:50")
    found = [(name, f"{tick:%H:%M}") for name, _, tick in ticks(conn, "status = 'succeeded'")]
    assert found == [("j", "00:01"), ("j", "00:02"), ("j", "00:02")]
    assert sorted(seen) == [("", {"a": 1}), ("eu", {"a": 1}), ("eu", {"a": 1})]
    conn.execute("select pgonce_unschedule_job('j', key) from pgonce_job_schedules")
    simulation.run_until("2026-01-01 00:03:30")
    before = ticks(conn)
    simulation.run_until("2026-01-01 00:10:10")
    assert ticks(conn) == before, "within half a minute"
    simulation.run_until("2026-01-01 00:30:10")
    assert ticks(conn)[-1] == ("j", "succeeded", utc("2026-01-01 00:30")), "its own schedule is registered again"


OFF = """
import datetime, sys
right, off = datetime.datetime, datetime.timedelta(days=int(sys.argv.pop(1)))

class Off(right):
    now = classmethod(lambda cls, zone=None: right.now(zone) + off)

datetime.datetime = Off
from pgonce.cli import main
main()
"""


@pytest.mark.parametrize("days", [-1, 1])
def test_an_operator_whose_clock_is_wrong_schedules_and_pauses_by_the_databases(
    database: str, conn: Connection, days: int
) -> None:
    for command in (["schedule", "j", "--every", "1 h"], ["pause", "j", "--reason", "why", "--until", "2 h"]):
        ours = [sys.executable, "-c", OFF, str(days), "job", *command, "--database-url", database]
        subprocess.run(ours, check=True, stdout=subprocess.PIPE)
    [(tick, end)] = conn.execute(
        "select next_tick - now(), paused_until - now() from pgonce_job_schedules natural join pgonce_job_pauses"
    ).fetchall()
    assert timedelta() <= tick + timedelta(minutes=5) <= timedelta(hours=1, minutes=5)
    assert timedelta(hours=1) < end <= timedelta(hours=2)


def test_the_ticks_of_a_paused_job_are_skipped_with_the_reason_and_run_again_after_it(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    app = pgonce.App()
    app.job("j", cron="* * * * *")(nothing)
    simulation = simulate("2026-01-01 00:00:10")
    simulation.start(app, database)
    conn.execute("select pgonce_pause_job('j', 'the partner is down')")
    simulation.run_until("2026-01-01 00:02:10")
    conn.execute("select pgonce_resume_job('j')")
    simulation.run_until("2026-01-01 00:03:10")
    assert [status for _, status, _ in ticks(conn)] == ["skipped", "skipped", "succeeded"]
    reasons = conn.execute("select distinct error_message from cron_job_runs where status = 'skipped'").fetchall()
    assert reasons == [("paused: the partner is down",)]


def test_a_tick_of_a_paused_job_that_no_worker_was_there_for_is_not_missed(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    app = pgonce.App()
    app.job("j", cron="0 * * * *")(nothing)
    before, after = simulate("2026-01-01 00:00:10"), simulate("2026-01-01 02:30:00")
    before.start(app, database)
    conn.execute("select pgonce_pause_job('j', 'maintenance')")
    before.stop()
    after.start(app, database)
    after.run_until("2026-01-01 02:30:20")
    assert ticks(conn) == [("j", "skipped", utc("2026-01-01 02:00"))]
    assert conn.execute("select error_message from cron_job_runs").fetchall() == [("paused: maintenance",)]
    assert missed(conn) == []


def test_a_retry_has_the_tick_of_its_first_attempt_also_of_an_asynchronous_job(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    seen: list[Any] = []
    app = pgonce.App()

    @app.job("sync", cron="1 0 * * *", retries=2, backoff="1 ms")
    def sync(run: pgonce.Run) -> None:
        seen.append(("sync", run.scheduled_for))
        if [name for name, _ in seen].count("sync") < 3:
            raise ValueError

    @app.job("asynchronous", cron="1 0 * * *", retries=1, backoff="1 ms")
    async def asynchronous(run: pgonce.AsyncRun) -> None:
        seen.append(("asynchronous", run.scheduled_for))
        if [name for name, _ in seen].count("asynchronous") < 2:
            raise ValueError

    simulation = simulate("2026-01-01 00:00:50")
    simulation.start(app, database)
    simulation.run_until("2026-01-01 00:02:00")
    tick = utc("2026-01-01 00:01")
    assert sorted(seen) == [("asynchronous", tick)] * 2 + [("sync", tick)] * 3


def test_so_many_runs_of_a_job_with_slots_are_at_work_at_once_and_no_more(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    app = pgonce.App()
    end = threading.Event()

    @app.job("j", cron="* * * * *", slots=2)
    def j(run: pgonce.Run) -> None:
        assert end.wait(60)

    simulation = simulate("2026-01-01 00:00:50")
    simulation.start(app, database, 2)
    for minute in (1, 2, 3):
        simulation.rest(busy=True)
        simulation.jump_to(f"2026-01-01 00:0{minute}:00")
        wait_until(lambda minute=minute: len(ticks(conn)) == minute, "the tick")  # type: ignore[misc]
    assert [status for _, status, _ in ticks(conn)] == ["running", "running", "skipped"]
    end.set()
    simulation.rest()
    assert [status for _, status, _ in ticks(conn)] == ["succeeded", "succeeded", "skipped"]


def test_an_interval_of_any_length_ticks_at_the_same_moments_on_every_machine(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    app = pgonce.App()
    app.job("seconds", every="20 s", grace="5 s")(nothing)
    app.job("long", every=timedelta(minutes=7))(nothing)
    simulation = simulate("2026-01-01 00:00:10")
    simulation.start(app, database)
    simulation.run_until("2026-01-01 00:00:30")
    simulation.start(app, database)
    simulation.run_until("2026-01-01 00:08:05")
    found = [tick for _, status, tick in ticks(conn, "job_name = 'seconds'") if status == "succeeded"]
    assert found == [utc("2026-01-01 00:00:20") + n * timedelta(seconds=20) for n in range(24)]
    [(_, _, tick)] = ticks(conn, "job_name = 'long'")
    assert (tick - datetime(2000, 1, 3, tzinfo=UTC)) % timedelta(minutes=7) == timedelta()


def missed(conn: Connection) -> list[Any]:
    return conn.execute("select job_name, key, reason from pgonce_job_missed order by 1, 2").fetchall()


def older(conn: Connection, interval: str) -> None:
    move = "started_at = started_at - %(by)s::interval, completed_at = completed_at - %(by)s::interval"
    conn.execute(f"update cron_job_runs set {move}".encode(), {"by": interval})
    conn.execute("update pgonce_job_expectations set since = since - %s::interval", [interval])


def test_a_job_that_did_not_run_as_often_as_the_guard_promised_is_missed_whoever_starts_it(
    database: str, conn: Connection
) -> None:
    with pools.open_pool(database, 2) as pool:
        jobs = Jobs(pool)
        for _ in range(2):
            with jobs.run("nightly", expect_every="1 day", expect_grace="1 hour") as run:
                assert run is not None
    older(conn, "1 day 59 minutes")
    assert missed(conn) == []
    older(conn, "2 minutes")
    [(name, _, reason)] = missed(conn)
    assert name == "nightly"
    assert reason.startswith("it should run every 1 day; its last run succeeded at ")
    conn.execute("select start_job_run('nightly')")  # pg_cron, supabase-js, another language
    assert missed(conn) == []
    older(conn, "26 hours")
    assert "its last run has been running since" in missed(conn)[0][2]
    conn.execute("select pgonce_forget_job_expectation('nightly')")
    assert missed(conn) == []


def test_the_promise_of_an_asynchronous_guard_and_of_a_registered_job_is_kept_in_the_table(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    async def main() -> None:
        async with await pools.open_async_pool(database, 2) as pool:

            @AsyncJobs(pool).job("asynchronous", expect_every="2 hours")
            async def work(run: pgonce.AsyncRun) -> None:
                pass

            await work()

    asyncio.run(main())
    app = pgonce.App()
    app.job("registered", key="k", expect_every="3 hours", expect_grace="1 minute")(nothing)
    simulate("2026-01-01 00:00:10").start(app, database)
    found = conn.execute("select job_name, key, every, grace from pgonce_job_expectations order by 1").fetchall()
    assert found == [
        ("asynchronous", "", timedelta(hours=2), timedelta(minutes=5)),
        ("registered", "k", timedelta(hours=3), timedelta(minutes=1)),
    ]


def test_a_job_that_never_ran_is_missed_and_one_that_goes_on_not_running_is_said_once_a_day(conn: Connection) -> None:
    conn.execute("select pgonce_expect_job('hourly', '1 hour', '10 minutes')")
    older(conn, "1 hour 5 minutes")
    assert missed(conn) == []
    older(conn, "6 minutes")
    assert [reason for _, _, reason in missed(conn)] == ["it should run every 1 hour; it has never run"]
    when = "select scheduled_for - (select since from pgonce_job_expectations) from pgonce_job_missed"
    assert conn.execute(when.encode()).fetchall() == [(timedelta(hours=1),)]
    older(conn, "23 hours")
    assert conn.execute(when.encode()).fetchall() == [(timedelta(hours=1),)], "the same alert"
    older(conn, "2 hours")
    assert conn.execute(when.encode()).fetchall() == [(timedelta(hours=25),)], "a day later, another one"


def test_the_end_of_a_pause_breaks_no_promise(conn: Connection) -> None:
    conn.execute("select pgonce_expect_job('j', '1 day', '5 minutes')")
    conn.execute("select complete_job_run(start_job_run('j'))")
    conn.execute("select pgonce_pause_job('j', 'the printer is broken')")
    older(conn, "3 days")
    conn.execute("select start_job_run('j')")
    conn.execute("select pgonce_resume_job('j')")
    assert missed(conn) == [], "its next start is not due yet"
    older(conn, "1 day 6 minutes")
    [(_, _, reason)] = missed(conn)
    assert reason.endswith(", was refused: paused: the printer is broken")


def test_an_earlier_run_breaks_no_promise_that_is_new_or_has_changed(conn: Connection) -> None:
    """A deploy that made a daily job hourly raised an alert at once."""
    conn.execute("select complete_job_run(start_job_run('j'))")
    conn.execute("select pgonce_expect_job('j', '1 day', '5 minutes')")
    older(conn, "20 hours")
    conn.execute("select pgonce_expect_job('j', '1 hour', '5 minutes')")
    assert missed(conn) == []
    conn.execute("select pgonce_expect_job('j', null, p_within => '1 hour')")
    conn.execute("select pgonce_expect_job('j', '1 hour', '1 minute')")
    older(conn, "62 minutes")
    assert len(missed(conn)) == 1, "neither the grace nor the time of a run is the promise"


def test_the_end_of_a_pause_breaks_no_promise_if_nothing_has_tried_to_start_meanwhile(conn: Connection) -> None:
    """A suspended CronJob of Kubernetes, for example."""
    conn.execute("select pgonce_expect_job('j', '1 day', '5 minutes')")
    for end in (
        "select pgonce_resume_job('j')",
        "update pgonce_job_pauses set paused_until = now() - interval '1 minute'",
    ):
        conn.execute("select pgonce_pause_job('j', 'the printer is broken')")
        older(conn, "3 days")
        conn.execute(end)
        assert missed(conn) == []
        conn.execute("delete from pgonce_job_pauses")
        older(conn, "1 day 6 minutes")
        assert len(missed(conn)) == 1


def test_a_promise_of_months_is_of_calendar_months(conn: Connection) -> None:
    conn.execute("select pgonce_expect_job('j', '6 months', '5 minutes')")
    conn.execute("update pgonce_job_expectations set since = '2000-01-01'")
    conn.execute("select complete_job_run(start_job_run('j'))")
    began = "update cron_job_runs set started_at = now() - make_interval(hours => %s * 24 + 1)"
    conn.execute(began.encode(), [180])  # six months of 30 days, and less than any six of the calendar
    assert missed(conn) == []
    conn.execute(began.encode(), [184])
    assert [row[:2] for row in missed(conn)] == [("j", "")]


def test_the_last_run_of_an_expected_key_is_found_in_any_slot_and_however_old(conn: Connection) -> None:
    for key in ("", "slots", "never", "paused", "blocked", "old"):
        conn.execute("select pgonce_expect_job('j', '1 hour', '1 minute', %s)", [key])
    conn.execute("update pgonce_job_expectations set since = now() - interval '3 days'")
    blocker = conn.execute("select gen_random_uuid()").fetchone() or ()
    for key, status, age, error, blocked_by in [
        ("slots#2", "succeeded", "30 min", None, None),
        ("paused", "skipped", "10 min", "paused: x", None),
        ("blocked", "skipped", "10 min", "overlap", *blocker),
        ("old", "failed", "50 hours", "x", None),
        ("old", "skipped", "1 min", "missed", None),
    ]:  # fmt: skip
        conn.execute(
            "insert into cron_job_runs (job_name, key, status, started_at, completed_at, error_message, blocked_by)"
            " values ('j', %s, %s, now() - %s::interval, now(), %s, %s)",
            [key, status, age, error, blocked_by],
        )
    found = {key: reason for _, key, reason in missed(conn)}
    assert sorted(found) == ["blocked", "never", "old"]
    assert found["never"].endswith("it has never run")
    assert "its last run failed at" in found["old"]


def test_a_run_in_a_slot_of_a_key_keeps_the_promise_for_the_key(conn: Connection) -> None:
    conn.execute("select pgonce_expect_job('j', '1 hour', '5 minutes', 'k')")
    older(conn, "2 hours")
    for other in ("other#1", "k#x", "k#", "kk#1"):
        conn.execute("select start_job_run('j', p_key => %s)", [other])
    assert len(missed(conn)) == 1
    conn.execute("select pgonce_start_job_run_in_slot(2, 'j', p_key => 'k')")
    assert missed(conn) == []


def test_a_promise_is_broken_at_the_same_moment_in_every_time_zone(conn: Connection) -> None:
    # the alerts of two workers are one alert only if they agree on the moment
    conn.execute("select pgonce_expect_job('j', '1 day', '5 minutes')")
    conn.execute("update pgonce_job_expectations set since = '2026-10-31 12:00Z'")  # New York: the day has 25 hours
    found = set()
    for zone in ("UTC", "America/New_York", "Australia/Lord_Howe"):
        conn.execute("select set_config('timezone', %s, false)", [zone])
        found |= set(conn.execute("select scheduled_for from pgonce_job_missed").fetchall())
    [(moment,)] = found
    assert (moment - datetime(2026, 10, 31, 12, tzinfo=UTC)) % timedelta(days=1) == timedelta()


def test_a_broken_promise_is_alerted(conn: Connection) -> None:
    conn.execute("select pgonce_expect_job('hourly', '1 hour', '10 minutes')")
    older(conn, "2 hours")
    found = conn.execute("select kind, subject from pgonce_find_alerts(now() - interval '1 day', '{}')").fetchall()
    assert found == [("did_not_run", "hourly")]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cron": "@daily", "every": "1 day"}, "not both"),
        ({"cron": "@reboot"}, 'cron "@reboot" is not known: write five fields or @hourly, @daily'),
        ({"every": "0.5 s"}, "at least a second"),
        ({"every": "soon"}, "not a length of time"),
        ({"slots": 0}, "a whole number of at least 1"),
        ({"slots": 1001}, "at most 1,000"),
        ({"expect_every": "-1 s"}, "expect_every of job j"),
        ({"key": "k" * 2500}, "the job name and the key have 2,501 bytes, and may have 2,500 together"),
    ],
)
def test_what_cannot_be_registered_is_refused_in_one_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        pgonce.App().job("j", **options)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "call",
    [
        "pgonce_expect_job(%(name)s, '1 day', p_key => %(key)s)",
        "pgonce_request_job_run(%(name)s, p_key => %(key)s)",
        "pgonce_schedule_job(%(name)s, %(key)s, '* * * * *', 'UTC', now(), '{}', '5 min', 'none', '{}')",
        "pgonce_pause_job(%(name)s || %(key)s, 'why')",
    ],
)
def test_what_no_run_could_be_named_is_refused_to_an_operator_too(conn: Connection, call: str) -> None:
    # digits that do not repeat: PostgreSQL compresses what it puts in an index
    digits = "".join(row[0] for row in conn.execute("select md5(n::text) from generate_series(1, 100) n"))
    with conn.transaction(force_rollback=True):
        conn.execute(f"select {call}".encode(), {"name": digits[:1000], "key": digits[:1500]})
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="2,501 bytes, and may have 2,500 together"):
        conn.execute(f"select {call}".encode(), {"name": digits[:1001], "key": digits[:1500]})
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="must not be empty"):
        conn.execute(f"select {call}".encode(), {"name": "", "key": ""})


def test_a_scope_that_json_cannot_hold_is_refused_where_it_is(conn: Connection) -> None:
    for make in (
        lambda scope: calls_console_operate.request_job_run(UUID(int=0), "job", None, scope),
        lambda scope: calls_operate.schedule_job(
            "job", "", Cron("@daily"), datetime(2026, 1, 1, tzinfo=UTC), timedelta(1), "none", scope
        ),
    ):
        with pytest.raises(InvalidArgument, match=r"scope\['share'\] is nan, and JSON has no number for it"):
            make({"share": float("nan")})
        make({"id": UUID(int=1)})
