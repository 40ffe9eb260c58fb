"""Schedulers on a real database, with a clock that the test moves: every tick runs once, even if schedulers die."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgonce
from pgonce.alerts.alerts import Alerts
from pgonce.core.service import Service
from pgonce.jobs.cron import Cron
from pgonce.jobs.scheduler import Scheduler
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.edge.jobs.conftest import Simulation, nothing, ticks, utc
from tests.faults.proxy import proxy
from tests.forked import PGONCE, Forked

Connection = psycopg.Connection[Any]


def two_days_ago(time: str) -> str:
    return f"{datetime.now(UTC) - timedelta(days=2):%Y-%m-%d} {time}"


# Six minutes around the change of the clocks. Each expression with a fixed hour, and all times at which it must run.
CHANGES = {
    "New York, back to winter": (
        "America/New_York", "2026-11-01 05:57", "2026-11-01 06:03",
        {"58 1 * * *": ["05:58"], "2 1 * * *": [], "0 2 * * *": []},
    ),
    "New York, on to summer": (
        "America/New_York", "2026-03-08 06:57", "2026-03-08 07:03",
        {"58 1 * * *": ["06:58"], "30 2 * * *": ["07:00"], "0,15,30 2 * * *": ["07:00"], "2 3 * * *": ["07:02"]},
    ),
    "London, back to winter": (
        "Europe/London", "2026-10-25 00:57", "2026-10-25 01:03",
        {"58 1 * * *": ["00:58"], "2 1 * * *": [], "0 2 * * *": []},
    ),
    "London, on to summer": (
        "Europe/London", "2026-03-29 00:57", "2026-03-29 01:03",
        {"58 0 * * *": ["00:58"], "30 1 * * *": ["01:00"], "2 2 * * *": ["01:02"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "jobs"), list(zip(CHANGES, (50, 10, 10, 10), strict=True)))
def test_eight_schedulers_run_each_tick_of_many_jobs_once_over_a_change_of_the_clocks(
    database: str, conn: Connection, simulate: Callable[[str], Simulation], change: str, jobs: int
) -> None:
    zone, start, end, fixed = CHANGES[change]
    app = pgonce.App()
    for number in range(jobs):
        app.job(f"minutely_{number}", cron="* * * * *", timezone=zone)(nothing)
    for expression in fixed:
        app.job(expression, cron=expression, timezone=zone)(nothing)
    simulation = simulate(start)
    simulation.start(app, database, 8)
    simulation.run_until(end)
    simulation.stop()
    expected = {(f"minutely_{n}", utc(start) + timedelta(minutes=m)): 1 for n in range(jobs) for m in range(1, 7)}
    expected |= {(name, utc(f"{start[:10]} {time}")): 1 for name, times in fixed.items() for time in times}
    assert Counter((name, tick) for name, _, tick in ticks(conn)) == expected
    assert {status for _, status, _ in ticks(conn)} == {"succeeded"}
    assert conn.execute("select count(*) from pgonce_job_overlaps").fetchone() == (0,)


@pytest.mark.parametrize(
    ("catch_up", "run", "given_up"),
    [
        ("none", ["03:30"], ["03:29"]),
        ("last", ["03:30"], ["03:29"]),
        ("all", ["03:26", "03:27", "03:28", "03:29", "03:30"], ["03:25"]),
    ],
)
@pytest.mark.parametrize("slots", [None, 1])
def test_ticks_of_a_night_without_schedulers_are_caught_up_as_the_job_says_by_two_at_once(
    database: str, conn: Connection, simulate: Callable[[str], Simulation], catch_up: Any, run: list[str],
    given_up: list[str], slots: int | None,
) -> None:  # fmt: skip
    order: list[object] = []
    app = pgonce.App()

    @app.job("j", cron="* * * * *", catch_up=catch_up, catch_up_window="4 min 30 s", grace="1 minute", slots=slots)
    def j(run: pgonce.Run) -> None:
        order.append(run.id)

    simulation = simulate("2026-01-01 00:00:30")
    simulation.start(app, database)
    simulation.run_until("2026-01-01 00:01:30")
    simulation.stop()
    simulation.now = utc("2026-01-01 03:30:10")
    simulation.start(app, database, 2)
    simulation.rest()
    found = ticks(conn, "scheduled_for > '2026-01-01 00:01+00'")
    assert [f"{tick:%H:%M}" for _, status, tick in found if status == "succeeded"] == run
    assert [f"{tick:%H:%M}" for _, status, tick in found if status == "skipped"] == given_up
    rows = conn.execute("select id from cron_job_runs where status = 'succeeded' order by scheduled_for").fetchall()
    assert [row[0] for row in rows] == order, "in order, one at a time"


def test_ticks_to_catch_up_wait_for_a_slot(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    app = pgonce.App()
    app.job("j", cron="* * * * *", catch_up="all", slots=1)(nothing)
    simulation = simulate("2026-01-01 00:00:30")
    simulation.start(app, database)
    simulation.run_until("2026-01-01 00:01:30")
    simulation.stop()
    simulation.now = utc("2026-01-01 00:04:10")
    with pgonce.database.open_pool(database) as pool, pgonce.Jobs(pool).run("j", slots=1):
        simulation.start(app, database)
        looks: set[object] = set()

        def looked_again() -> bool:
            asked = (
                "select query_start from pg_stat_activity where query like '%pgonce_list_job_runs%'"
                " and datname = current_database() and pid <> pg_backend_pid()"
            )
            looks.update(conn.execute(asked.encode()).fetchall())
            return len(looks) > 1 or conn.execute("select from cron_job_runs where status = 'skipped'").rowcount > 0

        wait_until(looked_again, "the scheduler looks twice whether a slot is free, or starts")
    simulation.rest()
    assert [(status, f"{tick:%H:%M}") for _, status, tick in ticks(conn, "scheduled_for is not null")] == [
        ("succeeded", f"00:0{minute}") for minute in range(1, 5)
    ]


def test_a_machine_that_was_suspended_over_a_tick_runs_it_when_it_wakes_within_its_grace(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    app = pgonce.App()
    app.job("early", cron="0 6 * * *", grace="5 minutes")(nothing)
    app.job("late", cron="0 5 * * *", grace="5 minutes")(nothing)
    simulation = simulate("2026-01-01 04:00")
    simulation.start(app, database)
    simulation.rest()
    simulation.jump_to("2026-01-01 06:04")
    simulation.rest()
    assert [(name, status) for name, status, _ in ticks(conn)] == [("late", "skipped"), ("early", "succeeded")]


def test_a_tick_that_nobody_runs_is_in_job_missed_after_its_grace_though_every_scheduler_is_dead(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    first = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(days=1, minutes=20)
    app = pgonce.App()
    app.job("daily", cron=f"{first:%M %H} * * *", grace="10 minutes")(nothing)
    app.job("far", cron=f"{first:%M %H} 1 {(first.month + 1) % 12 + 1} *")(nothing)
    missed = "select job_name, scheduled_for, missed_at from pgonce_job_missed"
    simulation = simulate((first - timedelta(seconds=20)).replace(tzinfo=None).isoformat())
    simulation.start(app, database)
    simulation.run_until((first + timedelta(seconds=20)).replace(tzinfo=None).isoformat())
    assert ticks(conn) == [("daily", "succeeded", first)]
    simulation.stop()
    [(name, tick, since)] = conn.execute(missed).fetchall()
    assert (name, tick, since - tick) == ("daily", first + timedelta(days=1), timedelta(minutes=10))
    later = (
        "update pgonce_job_schedules set next_tick = clock_timestamp() - interval '9 minutes' where job_name = 'daily'"
    )
    conn.execute(later)
    assert conn.execute(missed).fetchall() == []
    conn.execute(
        "select start_job_run('daily', p_scheduled_for => next_tick) from pgonce_job_schedules where job_name = 'daily'"
    )
    conn.execute("update pgonce_job_schedules set grace = '1 minute' where job_name = 'daily'")
    assert conn.execute(missed).fetchall() == [], "it has a run"


def test_a_job_that_the_app_no_longer_has_is_not_missed(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    old, new = pgonce.App(), pgonce.App()
    old.job("gone", cron="0 3 * * *")(nothing)
    for app in (old, new):
        app.job("kept", cron="0 3 * * *")(nothing)
    simulation = simulate(two_days_ago("04:00"))
    for app in (old, new):
        simulation.start(app, database)
        simulation.rest()
        simulation.stop()
    assert conn.execute("select job_name from pgonce_job_missed").fetchall() == [("kept",)]


def test_a_service_that_is_down_is_missed_though_another_one_on_its_database_starts_and_catches_up(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    billing, reports, letters = pgonce.App(), pgonce.App(), pgonce.App()
    billing.job("billing", cron="0 3 * * *", catch_up="last")(nothing)
    reports.job("report", cron="0 3 * * *")(nothing)
    for name in ("letters", "report"):
        letters.job(name, cron="0 3 * * *")(nothing)
    simulation = simulate(two_days_ago("04:00"))
    for app in (billing, reports, letters, reports):
        simulation.start(app, database)
        simulation.rest()
        simulation.stop()
    assert conn.execute("select job_name from pgonce_job_missed order by 1").fetchall() == [("billing",), ("report",)]
    [(tick,)] = conn.execute("select next_tick from pgonce_job_schedules where job_name = 'billing'").fetchall()
    simulation.now = tick.astimezone(UTC) + timedelta(hours=10)
    simulation.start(billing, database)
    simulation.rest()
    assert ticks(conn) == [("billing", "succeeded", tick)]


def test_the_first_tick_that_a_job_ever_has_is_caught_up_too(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    app = pgonce.App()
    app.job("j", cron="0 3 * * *", catch_up="last")(nothing)
    simulation = simulate("2026-01-01 02:00")
    simulation.start(app, database)
    simulation.stop()
    simulation.now = utc("2026-01-01 04:00")
    simulation.start(app, database)
    simulation.rest()
    assert ticks(conn) == [("j", "succeeded", utc("2026-01-01 03:00"))]


def test_a_missed_tick_is_said_for_a_month(conn: Connection) -> None:
    conn.execute(
        "insert into pgonce_job_schedules (job_name, cron, timezone, next_tick, grace)"
        " select days::text, '0 3 * * *', 'UTC', now() - days * interval '1 day', '1 minute'"
        " from unnest(array[1, 29, 31]) days"
    )
    assert conn.execute("select job_name from pgonce_job_missed order by 1").fetchall() == [("1",), ("29",)]


def test_a_run_whose_process_died_is_closed_by_the_sweep_and_retried_with_its_scope_until_it_succeeds(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    app = pgonce.App()
    seen = []

    @app.job("j", retries=9)
    def j(run: pgonce.Run) -> None:
        seen.append(dict(run.scope))
        if len(seen) < 3:
            raise ValueError("not yet")

    conn.execute("select start_job_run('j', '{\"batch\": 3}', p_retries => 9, p_backoff => '1 ms')")
    conn.execute("update cron_job_runs set heartbeat_at = heartbeat_at - interval '1 hour'")
    simulation = simulate("2026-01-01 00:00")
    simulation.start(app, database, 3)
    simulation.run_until("2026-01-01 00:02")
    assert seen == [{"batch": 3}] * 3
    rows = conn.execute(
        "select r.attempt, r.status, p.attempt from cron_job_runs r left join cron_job_runs p on p.id = r.retry_of"
        " order by r.attempt"
    ).fetchall()
    assert rows == [(1, "failed", None), (2, "failed", 1), (3, "failed", 2), (4, "succeeded", 3)]
    assert conn.execute("select count(*) from pgonce_job_retries").fetchone() == (0,)


def test_asynchronous_jobs_run_and_a_failing_one_stops_nobody(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    app = pgonce.App()

    @app.job("fine", cron="* * * * *")
    async def fine(run: pgonce.AsyncRun) -> None:
        async with run.transaction() as tx:
            await tx.execute("select 1")
        run.processed(2)

    @app.job("broken", cron="* * * * *")
    def broken(run: pgonce.Run) -> None:
        raise ValueError("broken")

    simulation = simulate("2026-01-01 00:00")
    simulation.start(app, database)
    simulation.run_until("2026-01-01 00:02")
    found = conn.execute("select job_name, status, rows_processed from cron_job_runs order by 1").fetchall()
    assert found == [("broken", "failed", 0)] * 2 + [("fine", "succeeded", 2)] * 2


def test_a_tick_that_comes_while_the_database_is_away_runs_when_it_is_back(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    app = pgonce.App()
    app.job("j", cron="5 0 * * *")(nothing)
    with proxy(database) as network:
        simulation = simulate("2026-01-01 00:04:50")
        simulation.start(app, network.url)
        simulation.rest()
        network.down()
        simulation.run_until("2026-01-01 00:05:10")
        assert ticks(conn) == []
        network.up()
        simulation.run_until("2026-01-01 00:06:00")
        assert ticks(conn) == [("j", "succeeded", utc("2026-01-01 00:05"))]
        simulation.stop()


@pytest.mark.parametrize(
    ("catch_up", "run", "given_up"),
    [("none", ["00:03"], ["00:02"]), ("last", ["00:03"], ["00:02"]), ("all", ["00:01", "00:02", "00:03"], [])],
)
def test_ticks_of_an_outage_are_caught_up_as_the_job_says_and_later_ones_run(
    database: str, conn: Connection, simulate: Callable[[str], Simulation], monkeypatch: pytest.MonkeyPatch,
    catch_up: Any, run: list[str], given_up: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(
        "pgonce.core.database.TIMEOUT", 1
    )  # seconds until a connection that is not to be had is given up
    app = pgonce.App()
    app.job("j", cron="* * * * *", catch_up=catch_up)(nothing)
    with proxy(database) as network:
        simulation = simulate("2026-01-01 00:00:30")
        simulation.start(app, network.url)
        simulation.rest()
        network.down()
        simulation.run_until("2026-01-01 00:03:10")
        assert ticks(conn) == []
        network.up()
        simulation.run_until("2026-01-01 00:03:50")
        found = ticks(conn)
        assert [f"{tick:%H:%M}" for _, status, tick in found if status == "succeeded"] == run
        assert [f"{tick:%H:%M}" for _, status, tick in found if status == "skipped"] == given_up
        simulation.run_until("2026-01-01 00:04:10")
        assert ticks(conn)[len(found) :] == [("j", "succeeded", utc("2026-01-01 00:04"))]
        simulation.stop()


def test_ticks_that_wait_for_a_thread_are_caught_up_as_the_job_says_when_one_is_free(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    app = pgonce.App()
    begun, end = threading.Event(), threading.Event()

    @app.job("long", cron="1 0 * * *")
    def long(run: pgonce.Run) -> None:
        begun.set()
        assert end.wait(60)

    app.job("patient", cron="2-9 0 * * *", grace="30 s")(nothing)
    app.job("late", cron="2 0 * * *", grace="30 s")(nothing)
    app.job("every", cron="2-9 0 * * *", grace="30 s", catch_up="all")(nothing)
    simulation = simulate("2026-01-01 00:00:30")
    simulation.start(app, database, concurrency=1)
    simulation.rest()
    simulation.jump_to("2026-01-01 00:01:00")
    assert begun.wait(20)
    for minute in (2, 3, 4):
        simulation.rest(busy=True)
        simulation.jump_to(f"2026-01-01 00:0{minute}:10")
    simulation.rest(busy=True)
    end.set()
    simulation.rest()
    found = [(name, status, f"{tick:%H:%M}") for name, status, tick in ticks(conn, "job_name <> 'long'")]
    assert sorted(found) == [
        ("every", "succeeded", "00:02"), ("every", "succeeded", "00:03"), ("every", "succeeded", "00:04"),
        ("late", "skipped", "00:02"),
        ("patient", "skipped", "00:03"), ("patient", "succeeded", "00:04"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "repair"),
    [
        ("alter table pgonce_job_pauses rename to away", "alter table away rename to pgonce_job_pauses"),
        ("alter table cron_job_runs rename to away", "alter table away rename to cron_job_runs"),
    ],
    ids=["a table is away", "the schema is another one"],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_tick_that_cannot_be_started_is_tried_again_whatever_is_wrong(
    database: str, conn: Connection, simulate: Callable[[str], Simulation], caplog: pytest.LogCaptureFixture,
    asynchronous: bool, fault: str, repair: str,
) -> None:  # fmt: skip
    app = pgonce.App()

    async def nothing_async(run: pgonce.AsyncRun) -> None:
        pass

    app.job("j", cron="5 0 * * *")(nothing_async if asynchronous else nothing)

    def alter(statement: str) -> None:
        conn.execute(statement.format(conn.info.dbname).encode())
        # the settings of a database apply to new connections only
        conn.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )

    simulation = simulate("2026-01-01 00:04:50")
    simulation.start(app, database)
    simulation.rest()
    alter(fault)
    simulation.run_until("2026-01-01 00:05:20")
    assert "job j could not be started" in caplog.text
    alter(repair)
    assert ticks(conn) == []
    simulation.run_until("2026-01-01 00:05:40")
    assert ticks(conn) == [("j", "succeeded", utc("2026-01-01 00:05"))]


@pytest.mark.parametrize(
    ("asynchronous", "slots", "cron"),
    [*((kind, slots, "5 0 * * *") for kind in (False, True) for slots in (None, 1)), (False, None, None)],
)
def test_a_run_whose_start_the_database_could_not_confirm_is_run(
    database: str, conn: Connection, simulate: Callable[[str], Simulation], asynchronous: bool, slots: int | None,
    cron: str | None,
) -> None:  # fmt: skip
    """It blocked the job for its window, and the tick was taken for one that had been run.

    A run that the application has started in the same process is left alone.
    """
    app = pgonce.App()

    async def nothing_async(run: pgonce.AsyncRun) -> None:
        pass

    app.job("j", cron=cron, slots=slots)(nothing_async if asynchronous else nothing)
    key = "#1" if slots else ""
    with (
        proxy(database) as network,
        pgonce.database.open_pool(database) as pool,
        pgonce.Jobs(pool).run("j", key="own"),
    ):
        simulation = simulate("2026-01-01 00:04:50")
        simulation.start(app, network.url)
        simulation.rest()
        started = network.hold(b"start_job_run" if cron else b"start_requested_job_run", answer=True)
        if cron is None:
            conn.execute("select pgonce_request_job_run('j')")

        def cut() -> None:
            started.wait()
            network.cut()

        cutting = threading.Thread(target=cut)
        cutting.start()
        simulation.run_until("2026-01-01 00:06:00")
        cutting.join()
        simulation.stop()
    query = (
        "select key, status, retry_of is not null, error_message like '%nothing was run'"
        " from cron_job_runs order by 1, 3"
    )
    assert conn.execute(query.encode()).fetchall() == [
        (key, "succeeded", False, None), ("own", "succeeded", False, None),
    ]  # fmt: skip


def test_after_a_failover_one_round_of_upkeep_finds_all_connections_that_it_has_cut(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    app = pgonce.App()
    together = threading.Barrier(4)

    def meet(run: pgonce.Run) -> None:
        with run.connection():
            together.wait(20)

    for number in range(4):
        app.job(f"job_{number}", cron="0 0 * * *")(meet)
    app.job("later", cron="1 0 * * *")(nothing)
    simulation = simulate("2025-12-31 23:59:50")
    simulation.start(app, database)
    simulation.run_until("2026-01-01 00:00:50")
    cut = conn.execute(
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    ).fetchall()
    assert len(cut) >= 4
    simulation.run_until("2026-01-01 00:01:20")
    assert ticks(conn, "job_name = 'later'") == [("later", "succeeded", utc("2026-01-01 00:01"))]


def test_a_tick_is_run_though_no_thread_can_be_started_in_its_time(
    database: str, conn: Connection, simulate: Callable[[str], Simulation], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = pgonce.App()
    app.job("j", cron="* * * * *")(nothing)
    simulation = simulate("2026-01-01 00:00:30")
    simulation.start(app, database)
    simulation.rest()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as refusing:
        refusing.setattr(threading.Thread, "start", refuse)
        simulation.run_until("2026-01-01 00:01:10")
    simulation.run_until("2026-01-01 00:02:10")
    assert [status for _, status, _ in ticks(conn)] == ["succeeded"] * 2


@pytest.mark.parametrize("service", [Scheduler, Worker, Alerts])
def test_a_service_of_which_a_thread_is_refused_leaves_none_at_work(
    database: str, monkeypatch: pytest.MonkeyPatch, service: Callable[..., Service]
) -> None:
    start, refused = threading.Thread.start, {"pgonce upkeep", "pgonce worker 1", "pgonce alerts"}

    def refuse(thread: threading.Thread) -> None:
        if thread.name in refused:
            raise RuntimeError("can't start new thread")
        start(thread)

    app = pgonce.App()
    app.webhook("a")(lambda _, tx: tx)
    before = {*threading.enumerate()}
    with monkeypatch.context() as refusing:
        refusing.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            (service(database) if service is Alerts else service(app, database)).start()
    assert [thread.name for thread in {*threading.enumerate()} - before if thread.name != "pgonce alarm"] == []


def test_a_psql_that_holds_the_schedules_stops_no_tick_and_no_worker_that_starts(
    database: str, conn: Connection, simulate: Callable[[str], Simulation], session: Callable[..., Connection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("pgonce.core.database.LOCK_TIMEOUT", "100ms")
    app = pgonce.App()
    app.job("j", cron="* * * * *")(nothing)
    simulation = simulate("2026-01-01 00:00:30")
    simulation.start(app, database)
    simulation.rest()
    planned = "select to_char(next_tick at time zone 'UTC', 'HH24:MI') from pgonce_job_schedules"
    with session() as psql, psql.transaction():
        psql.execute("select from pgonce_job_schedules for update")
        simulation.start(app, database)
        simulation.run_until("2026-01-01 00:02:10")
        assert ticks(conn) == [("j", "succeeded", utc(f"2026-01-01 00:0{minute}")) for minute in (1, 2)]
        assert conn.execute(planned).fetchall() == [("00:01",)]
    simulation.run_until("2026-01-01 00:02:40")
    assert conn.execute(planned).fetchall() == [("00:03",)], "what could not be written was not forgotten"


def test_a_server_that_hangs_in_the_upkeep_stops_no_tick_and_the_upkeep_only_for_a_while(
    database: str, conn: Connection, simulate: Callable[[str], Simulation], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    app = pgonce.App()
    app.job("j", cron="* * * * *")(nothing)
    with proxy(database) as network:
        simulation = simulate("2026-01-01 00:00:30")
        simulation.start(app, network.url)
        simulation.rest()
        first, second = network.hold(b"pgonce_abandon_job_runs"), network.hold(b"pgonce_due_job_retries")
        simulation.jump_to("2026-01-01 00:00:50")
        first.wait()
        simulation.jump_to("2026-01-01 00:01:00")
        wait_until(lambda: len(ticks(conn, "status = 'succeeded'")) == 1, "the tick")
        monkeypatch.setattr("pgonce.core.database.ANSWER_WITHIN", 0.1)
        first.release()
        second.wait()
        simulation.rest()
        assert "the database has not answered pgonce_due_job_retries" in caplog.text
        second.release()
        monkeypatch.undo()
        simulation.run_until("2026-01-01 00:02:20")
        assert ticks(conn) == [("j", "succeeded", utc(f"2026-01-01 00:0{minute}")) for minute in (1, 2)]
        simulation.stop()


def test_when_the_database_s_clock_is_set_ahead_and_back_every_tick_of_the_time_that_comes_again_runs_once(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    app = pgonce.App()
    app.job("j", cron="* * * * *")(nothing)
    app.job("daily", cron="0 12 * * *")(nothing)
    simulation = simulate("2026-01-01 00:00:30")
    simulation.start(app, database)
    simulation.rest()
    for moment in ("2026-01-01 12:00:10", "2026-01-01 11:59:10"):
        simulation.jump_to(moment)
        simulation.rest()
    simulation.run_until("2026-01-01 12:01:10")
    found = [(name, f"{tick:%H:%M}") for name, status, tick in ticks(conn, "status = 'succeeded'")]
    assert sorted(found) == [("daily", "12:00"), ("j", "12:00"), ("j", "12:01")]
    simulation.jump_to("2026-01-01 06:00:10")
    simulation.rest()
    simulation.run_until("2026-01-01 06:02:10")
    again = [f"{tick:%H:%M}" for _, _, tick in ticks(conn, "scheduled_for < '2026-01-01 07:00+00'")]
    assert again == ["06:01", "06:02"]


def test_a_look_that_fails_stops_no_other_one(
    database: str, conn: Connection, simulate: Callable[[str], Simulation], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    app = pgonce.App()
    app.job("j", cron="* * * * *")(nothing)
    simulation = simulate("2026-01-01 00:00:30")
    simulation.start(app, database)
    simulation.rest()
    with monkeypatch.context() as failing:
        failing.setattr(Cron, "after", lambda *_: 1 / 0)
        simulation.run_until("2026-01-01 00:01:10")
    assert "ZeroDivisionError" in caplog.text
    simulation.run_until("2026-01-01 00:03:10")
    assert [f"{tick:%H:%M}" for _, _, tick in ticks(conn, "status = 'succeeded'")][-2:] == ["00:02", "00:03"]


def test_a_worker_whose_scheduler_dies_ends_with_an_error(database: str, tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(
        "import pgonce\n"
        "from pgonce.jobs.tick_queue import TickQueue\n"
        "def die(*_):\n    raise SystemExit('no more')\n"
        "TickQueue.due = die\n"
        "app = pgonce.App()\n"
    )
    command: list[str | Path] = [PGONCE, "worker", "--app", "dying", "--database-url", database]
    worker = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert worker.returncode == 1
    assert "the scheduler has died: SystemExit('no more')" in worker.stderr


def test_a_worker_without_handlers_sweeps_and_ends_on_sigterm(database: str, conn: Connection, tmp_path: Path) -> None:
    (tmp_path / "only_jobs.py").write_text("import pgonce\napp = pgonce.App()\n")
    conn.execute("select start_job_run('dead', p_window => '1 ms')")
    command: list[str | Path] = [PGONCE, "worker", "--app", "only_jobs", "--database-url", database]
    with Forked(command, cwd=tmp_path, stderr=subprocess.PIPE) as worker:
        try:
            assert worker.stderr is not None
            swept = "1 runs had shown no sign of life for their window: closed as failed\n"
            # the sweep runs in another thread, so either may print first
            printed = {"worker started\n", swept}
            while printed:
                line = worker.stderr.readline()
                assert line, "the worker has ended"
                printed.discard(line)
            closed = "select status, error_message from cron_job_runs where status = 'failed'"
            [(_, message)] = wait_until(lambda: conn.execute(closed.encode()).fetchall(), "the sweep")
            assert message.startswith("abandoned: last sign of life")
        finally:
            worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
