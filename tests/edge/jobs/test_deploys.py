"""Schedulers are deployed, stopped and killed: a retired job stays retired, and every lost tick is recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import pgonce
from pgonce.core.interval import interval
from pgonce.jobs.scheduler import Scheduler
from tests.edge.jobs.conftest import Simulation, nothing, ticks, utc

Connection = psycopg.Connection[Any]


def release(*jobs: str, cron: str = "* * * * *", name: str = "shop:app") -> pgonce.App:
    app = pgonce.App()
    app.name = name
    for job in jobs:
        app.job(job, cron=cron)(nothing)
    return app


def start(simulation: Simulation, app: pgonce.App, database: str) -> Scheduler:
    simulation.start(app, database)
    simulation.rest()
    return simulation.schedulers[-1]


def stop(simulation: Simulation, scheduler: Scheduler) -> None:
    """Stop one scheduler cleanly; the others continue."""
    simulation.schedulers.remove(scheduler)
    scheduler.stop()


def kill(conn: Connection, simulation: Simulation, scheduler: Scheduler) -> None:
    """What the database sees of kill -9: no goodbye, and no heartbeats from then on."""
    process = scheduler._process.id
    silent = "update pgonce_processes set id = gen_random_uuid(), last_seen_at = now() - interval '61 s' where id = %s"
    conn.execute(silent, [process])
    write_nothing(scheduler)
    stop(simulation, scheduler)


def write_nothing(scheduler: Scheduler) -> None:
    setattr(scheduler._store, "write", lambda _: None)  # noqa: B010


def scheduled(conn: Connection) -> list[str]:
    return [name for (name,) in conn.execute("select job_name from pgonce_job_schedules order by 1").fetchall()]


def test_what_a_new_release_retired_is_not_written_back_by_an_old_process_that_still_runs(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    simulation = simulate("2026-01-01 00:00:10")
    old = start(simulation, release("kept", "removed"), database)
    assert scheduled(conn) == ["kept", "removed"]
    start(simulation, release("kept"), database)
    assert scheduled(conn) == ["kept"]
    simulation.run_until("2026-01-01 00:02:40")
    assert scheduled(conn) == ["kept"], "the survivor has fired and written its ticks"
    assert {name for name, *_ in ticks(conn)} == {"kept"}, "it does not fire the job, which may have a new name"
    stop(simulation, old)
    assert scheduled(conn) == ["kept"]
    simulation.run_until("2026-01-01 00:03:10")
    assert ("kept", "succeeded", utc("2026-01-01 00:03")) in ticks(conn)


def test_an_old_process_that_was_suspended_for_a_day_does_not_take_the_place_of_the_new_release(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    simulation = simulate("2026-01-01 00:00:10")
    old = start(simulation, release("kept", "removed"), database)
    start(simulation, release("kept"), database)
    conn.execute("delete from pgonce_processes where id = %s", [old._process.id])
    simulation.run_until("2026-01-01 00:01:10")
    assert {name for name, *_ in ticks(conn)} == {"kept"}, "before it has registered again"
    old._process._next = 0.0
    simulation.run_until("2026-01-01 00:02:40")
    counts = "select (select count(*) from pgonce_live_processes), (select count(*) from pgonce_job_releases)"
    assert conn.execute(counts).fetchall() == [(2, 2)]
    assert scheduled(conn) == ["kept"]
    assert {name for name, *_ in ticks(conn)} == {"kept"}


def test_an_old_process_that_starts_again_in_the_middle_of_a_rollout_leaves_nothing_behind_at_its_stop(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    simulation = simulate("2026-01-01 00:00:10")
    start(simulation, release("kept"), database)
    old = start(simulation, release("kept", "removed"), database)
    another = start(simulation, release("kept", "removed"), database)
    assert scheduled(conn) == ["kept", "removed"], "it was the newest start"
    stop(simulation, old)
    assert scheduled(conn) == ["kept", "removed"], "another process has it"
    stop(simulation, another)
    assert scheduled(conn) == ["kept"]


def test_a_rollback_to_a_release_that_starts_again_or_was_never_stopped_restores_its_jobs(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    simulation = simulate("2026-01-01 00:00:10")
    start(simulation, release("kept", "removed"), database)
    new = start(simulation, release("kept"), database)
    assert scheduled(conn) == ["kept"]
    stop(simulation, new)
    simulation.run_until("2026-01-01 00:00:50")
    assert scheduled(conn) == ["kept", "removed"], "the process that was never stopped is the newest live start"
    simulation.run_until("2026-01-01 00:01:10")
    assert ("removed", "succeeded", utc("2026-01-01 00:01")) in ticks(conn), "and it fires the job again"
    start(simulation, release("kept"), database)
    assert scheduled(conn) == ["kept"]
    start(simulation, release("kept", "removed"), database)
    assert scheduled(conn) == ["kept", "removed"]


@pytest.mark.parametrize(
    "new",
    [{"report": {}}, {"report": {"cron": "* * * * *", "key": "eu"}}, {"report": {}, "other": {"cron": "* * * * *"}}],
    ids=["no schedule is left", "another key", "another job has the only schedule"],
)
def test_a_schedule_that_a_release_took_from_its_job_does_not_fire(
    database: str, conn: Connection, simulate: Callable[[str], Simulation], new: dict[str, dict[str, Any]]
) -> None:
    simulation = simulate("2026-01-01 00:00:10")
    start(simulation, release("report"), database)
    app = release()
    for job, options in new.items():
        app.job(job, **options)(nothing)
    start(simulation, app, database)
    expected = [(job, options.get("key", "")) for job, options in new.items() if options]
    assert conn.execute("select job_name, key from pgonce_job_schedules").fetchall() == expected
    simulation.run_until("2026-01-01 00:02:10")
    fired = conn.execute("select distinct job_name, key from cron_job_runs").fetchall()
    assert fired == expected


def test_when_the_new_release_dies_the_old_process_takes_its_place_and_a_death_of_all_is_missed(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    simulation = simulate((datetime.now(UTC) - timedelta(days=2)).replace(tzinfo=None).isoformat())
    old = start(simulation, release("kept", "removed", cron="0 3 * * *"), database)
    new = start(simulation, release("kept", cron="0 3 * * *"), database)
    kill(conn, simulation, new)
    simulation.run_until((simulation.now + timedelta(seconds=40)).replace(tzinfo=None).isoformat())
    assert scheduled(conn) == ["kept", "removed"]
    kill(conn, simulation, old)
    missed = conn.execute("select job_name from pgonce_job_missed order by 1").fetchall()
    assert missed == [("kept",), ("removed",)]
    start(simulation, release("kept", cron="0 3 * * *"), database)
    assert scheduled(conn) == ["kept"], "the next start of the app forgets what it does not have"


def test_a_process_goes_by_the_schedule_of_a_newer_start_and_not_by_its_own(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    simulation = simulate("2026-01-01 00:00:10")
    start(simulation, release("j", cron="* * * * *"), database)
    simulation.run_until("2026-01-01 00:01:10")
    start(simulation, release("j", cron="*/5 * * * *"), database)
    simulation.run_until("2026-01-01 00:01:40")
    simulation.run_until("2026-01-01 00:10:10")
    found = [f"{tick:%H:%M}" for _, _, tick in ticks(conn)]
    assert found == ["00:01", "00:05", "00:10"]


def test_a_tick_that_a_newer_start_has_moved_does_not_fire_at_its_old_time_either(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    simulation = simulate("2026-01-01 00:00:50")
    start(simulation, release("j", "same", cron="* * * * *"), database)
    new = release("j", cron="2 0 * * *")
    new.job("same", cron="* * * * *")(nothing)
    start(simulation, new, database)
    simulation.run_until("2026-01-01 00:01:02")  # before the older process reads the schedules again
    assert ticks(conn) == [("same", "succeeded", utc("2026-01-01 00:01"))]
    simulation.run_until("2026-01-01 00:02:02")
    assert sorted(name for name, *_ in ticks(conn)) == ["j", "same", "same"]


def expecting(*jobs: str, kept: str = "1 day") -> pgonce.App:
    app = release("kept")
    for job in jobs:
        app.job(job, expect_every="1 hour", expect_grace="1 minute")(nothing)
    app.jobs["kept"] = replace(app.jobs["kept"], expect_every=interval(kept))
    return app


def test_what_a_new_release_expects_no_more_raises_no_alert_for_ever(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    expected = "select job_name, key, every, within from pgonce_job_expectations order by 1, 2"
    hour, day = timedelta(hours=1), timedelta(days=1)
    simulation = simulate("2026-01-01 00:00:10")
    start(simulation, expecting("removed", "limited", "by_hand"), database)
    conn.execute("select pgonce_expect_job('limited', null, p_within => '5 minutes')")
    conn.execute("select pgonce_expect_job('by_hand', '2 hours')")
    conn.execute("select pgonce_expect_job('cron', '1 hour')")
    start(simulation, release("another", name="other:app"), database)
    start(simulation, release("stranger"), database)
    assert len(conn.execute(expected).fetchall()) == 5, "another app of the name has no job in common"
    start(simulation, expecting(kept="2 days"), database)
    assert conn.execute(expected).fetchall() == [
        ("by_hand", "", 2 * hour, None),
        ("cron", "", hour, None),
        ("kept", "", 2 * day, None),
        ("limited", "", None, timedelta(minutes=5)),
    ]


def test_what_is_expected_is_written_later_if_somebody_s_psql_holds_the_schedules(
    database: str, conn: Connection, simulate: Callable[[str], Simulation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgonce.core.database.LOCK_TIMEOUT", "10ms")
    simulation = simulate("2026-01-01 00:00:10")
    with conn.transaction():
        conn.execute("lock table pgonce_job_schedules in share mode")
        simulation.start(expecting(), database)
    simulation.run_until("2026-01-01 00:01:00")
    assert conn.execute("select job_name from pgonce_job_expectations").fetchall() == [("kept",)]


def test_a_process_whose_job_a_newer_start_does_not_have_says_once_that_it_does_not_start_it(
    database: str, conn: Connection, simulate: Callable[[str], Simulation], caplog: pytest.LogCaptureFixture
) -> None:
    """As of two services that both have `--app main:app` and a job of one name: nothing else is silent for ever."""
    simulation = simulate("2026-01-01 00:00:10")
    start(simulation, release("cleanup", "letters"), database)
    start(simulation, release("cleanup", "orders"), database)
    simulation.run_until("2026-01-01 00:05:10")
    said = [each.getMessage() for each in caplog.records if "newer start of the app shop:app" in each.getMessage()]
    assert [each.split(":")[0] for each in said] == ["job letters"]


@pytest.mark.parametrize("name", ["reports:app", ""], ids=["another name", "no name"])
def test_another_app_and_one_of_the_same_name_without_a_common_job_keep_their_schedules(
    database: str, conn: Connection, simulate: Callable[[str], Simulation], name: str
) -> None:
    simulation = simulate("2026-01-01 00:00:10")
    first = start(simulation, release("common" if name else "a", "only_here"), database)
    second = start(simulation, release("common" if name else "b", name=name), database)
    simulation.run_until("2026-01-01 00:01:40")
    assert "only_here" in scheduled(conn)
    stop(simulation, first)
    stop(simulation, second)
    assert "only_here" in scheduled(conn), "its service is down: what it misses is told"


def test_a_schedule_that_somebody_deleted_is_registered_again(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    simulation = simulate("2026-01-01 00:00:10")
    start(simulation, release("j"), database)
    conn.execute("delete from pgonce_job_schedules")
    simulation.run_until("2026-01-01 00:00:40")
    assert scheduled(conn) == ["j"]


@pytest.mark.parametrize("fired", [0, 1, 2, 3])
def test_a_tick_is_missed_though_every_scheduler_dies_before_it_has_written_what_comes_next(
    database: str, conn: Connection, simulate: Callable[[str], Simulation], fired: int
) -> None:
    first = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=30)
    simulation = simulate((first - timedelta(seconds=20)).replace(tzinfo=None).isoformat())
    scheduler = start(simulation, release("j"), database)
    write_nothing(scheduler)
    end = first + timedelta(minutes=fired - 1, seconds=5)
    simulation.run_until(end.replace(tzinfo=None).isoformat())
    assert len(ticks(conn)) == fired
    kill(conn, simulation, scheduler)
    found = conn.execute("select scheduled_for, missed_at from pgonce_job_missed").fetchall()
    assert found == [(first + timedelta(minutes=fired), first + timedelta(minutes=fired + 5))]


@pytest.mark.parametrize(("before", "after"), [(None, 2), (2, None), (None, 1), (1, None), (3, 1), (1, 3)])
def test_while_the_number_of_slots_changes_each_tick_fires_once(
    database: str,
    conn: Connection,
    simulate: Callable[[str], Simulation],
    caplog: pytest.LogCaptureFixture,
    before: int | None,
    after: int | None,
) -> None:
    releases = []
    for slots in (before, after):
        releases.append(release())
        releases[-1].job("j", cron="* * * * *", slots=slots)(nothing)
    simulation = simulate("2026-01-01 00:00:10")
    old = start(simulation, releases[0], database)
    simulation.run_until("2026-01-01 00:01:10")
    start(simulation, releases[1], database)
    simulation.run_until("2026-01-01 00:06:10")
    stop(simulation, old)
    simulation.run_until("2026-01-01 00:08:50")
    assert [(status, tick) for _, status, tick in ticks(conn)] == [
        ("succeeded", utc(f"2026-01-01 00:0{minute}")) for minute in range(1, 9)
    ]
    assert conn.execute("select * from pgonce_job_missed").fetchall() == []
    assert "forgotten" not in caplog.text


def test_a_tick_whose_row_a_failover_has_forgotten_fires_again_in_a_scheduler_that_went_on(
    database: str, conn: Connection, simulate: Callable[[str], Simulation]
) -> None:
    app = pgonce.App()
    app.job("daily", cron="1 0 * * *")(nothing)
    app.job("late", cron="1 0 * * *", grace="20 s")(nothing)
    simulation = simulate("2026-01-01 00:00:10")
    start(simulation, app, database)
    before = "create table before as select job_name, key, next_tick, upcoming from pgonce_job_schedules"
    conn.execute(before.encode())
    simulation.run_until("2026-01-01 00:01:20")
    assert len(ticks(conn, "status = 'succeeded'")) == 2
    conn.execute("delete from cron_job_runs")
    conn.execute(
        "update pgonce_job_schedules s set next_tick = b.next_tick, upcoming = b.upcoming from before b"
        " where b.job_name = s.job_name"
    )
    simulation.run_until("2026-01-01 00:01:50")
    tick = utc("2026-01-01 00:01")
    assert sorted(ticks(conn)) == [("daily", "succeeded", tick), ("late", "skipped", tick)], "or it is late"
