"""The interleavings of cron_job_runs, forced with real sessions.

Overlap, takeover, fence, the COPY of a dead process.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg import errors
from psycopg.pq import ExecStatus

from tests.conftest import wait_until
from tests.sql.race import IMPATIENT, Connection, Open, together, value, waiting

TICK = "2026-01-01 06:00+00"


@pytest.fixture
def database(swept_database: str) -> str:
    """One database for the module, emptied after each test."""
    return swept_database


def start(conn: Connection, job: str = "j", **more: Any) -> UUID | None:
    names = "".join(f", p_{name} => %({name})s" for name in more)
    row = conn.execute(f"select start_job_run(%(job)s{names})".encode(), {"job": job, **more}).fetchone()
    assert row
    return row[0]


def expire(conn: Connection) -> None:
    conn.execute(
        "update cron_job_runs set heartbeat_at = clock_timestamp() - interval '1 hour' where status = 'running'"
    )


def beat(conn: Connection, run: UUID | None) -> bool:
    return bool(value(conn, "select beat_job_run(%s)", run))


def statuses(conn: Connection) -> dict[str, int]:
    return dict(conn.execute("select status, count(*) from cron_job_runs group by 1").fetchall())


def blockers(conn: Connection) -> list[UUID]:
    found = conn.execute("select distinct blocked_by from cron_job_runs where status = 'skipped'").fetchall()
    return [row[0] for row in found]


@pytest.fixture
def effects(conn: Connection) -> Connection:
    """A business table that a run writes to; returns the session that reads it."""
    conn.execute("create table effects (by text)")
    return conn


def test_of_200_sessions_that_start_one_job_exactly_one_runs_it(conn: Connection, session: Open) -> None:
    runs = together([session() for _ in range(200)], start)
    winners = [run for run in runs if run]
    assert len(winners) == 1
    assert statuses(conn) == {"running": 1, "skipped": 199}
    assert blockers(conn) == winners


def test_of_24_sessions_that_take_over_a_dead_run_exactly_one_does(conn: Connection, session: Open) -> None:
    sessions = [session() for _ in range(24)]
    dead = start(conn)
    for takeover in range(1, 6):
        expire(conn)
        winners = [run for run in together(sessions, start) if run]
        assert len(winners) == 1
        assert statuses(conn) == {"running": 1, "failed": takeover, "skipped": 23}
        assert blockers(conn) == winners, "every loser names the winner, none the dead run"
        closed = "select status, left(error_message, 11) from cron_job_runs where id = %s"
        assert conn.execute(closed, [dead]).fetchone() == ("failed", "abandoned: ")
        dead = winners[0]
        conn.execute("delete from cron_job_runs where status = 'skipped'")


def test_plain_inserts_and_starts_at_once_leave_one_running_run(conn: Connection, session: Open) -> None:
    def insert(other: Connection) -> UUID | None:
        if other.info.backend_pid % 2:
            return start(other)
        with suppress(errors.UniqueViolation):
            return value(other, "insert into cron_job_runs (job_name) values ('j') returning id")
        return None

    sessions = [session() for _ in range(16)]
    for _ in range(5):
        assert len([run for run in together(sessions, insert) if run]) == 1
        assert statuses(conn)["running"] == 1
        expire(conn)


@pytest.mark.parametrize("expired", [False, True])
def test_a_start_does_not_wait_for_the_holders_open_transaction(session: Open, conn: Connection, expired: bool) -> None:
    holder = start(conn)
    if expired:
        expire(conn)
    with conn.transaction():
        assert beat(conn, holder)
        assert start(session(options=IMPATIENT)) is None, "locked means live, whatever the committed heartbeat says"
    assert blockers(conn) == [holder]
    assert statuses(conn) == {"running": 1, "skipped": 1}


def test_a_plain_insert_does_not_take_over_what_is_locked(session: Open, conn: Connection) -> None:
    holder, newcomer = session(autocommit=False), session()
    run = start(conn)
    expire(conn)
    assert beat(holder, run)
    insert = "insert into cron_job_runs (job_name) values ('j')"
    with waiting(conn, newcomer, lambda: newcomer.execute(insert)) as refused:  # as every INSERT waits for its index
        holder.commit()
    assert isinstance(refused.exception(), errors.UniqueViolation)
    assert statuses(conn) == {"running": 1}


def test_a_start_waits_for_an_uncommitted_start_and_then_names_it(session: Open, conn: Connection) -> None:
    first, second = session(autocommit=False), session()
    winner = start(first)
    with waiting(conn, second, lambda: start(second)) as loser:
        first.commit()
    assert loser.result() is None
    assert blockers(conn) == [winner]


def test_a_start_runs_when_the_uncommitted_start_before_it_is_rolled_back(session: Open, conn: Connection) -> None:
    first, second = session(autocommit=False), session()
    start(first)
    with waiting(conn, second, lambda: start(second)) as run:
        first.rollback()
    assert run.result() is not None
    assert statuses(conn) == {"running": 1}


@pytest.mark.parametrize("tick", [None, TICK])
@pytest.mark.parametrize("call", ["start_job_run(", "pgonce_start_job_run_in_slot(2, "])
@pytest.mark.parametrize("scheduled", [False, True], ids=["", "a job with slots"])
def test_a_start_that_is_sent_again_waits_for_the_first_one_and_is_the_same_run(
    session: Open, conn: Connection, call: str, tick: str | None, scheduled: bool
) -> None:
    conn.execute("delete from pgonce_job_schedules")
    if scheduled:
        conn.execute(
            "insert into pgonce_job_schedules (job_name, cron, timezone, next_tick, slots)"
            " values ('j', '* * * * *', 'UTC', now(), 2)"
        )
    first, second, wanted = session(autocommit=False), session(), uuid4()
    query = f"select {call}'j', p_scheduled_for => %s, p_run_id => %s)"
    assert value(first, query, tick, wanted) == wanted
    with waiting(conn, second, lambda: value(second, query, tick, wanted)) as again:
        first.commit()
    assert again.result() == wanted
    assert statuses(conn) == {"running": 1}


@pytest.mark.parametrize("overlap", [False, True])
def test_a_tick_fires_once_on_twenty_machines(session: Open, conn: Connection, overlap: bool) -> None:
    holder = start(conn) if overlap else None
    runs = together([session() for _ in range(20)], lambda other: start(other, scheduled_for=TICK))
    fired = conn.execute("select status, id, blocked_by from cron_job_runs where scheduled_for = %s", [TICK]).fetchall()
    winners = [run for run in runs if run]
    assert len(fired) == 1
    assert fired[0] == (("skipped", fired[0][1], holder) if overlap else ("running", winners[0], None))
    assert value(conn, "select count(*) from cron_job_runs") == 1 + overlap, "nothing else is written"


@pytest.mark.parametrize("end", ["complete_job_run(%s)", "fail_job_run(%s, 'why')"])
def test_a_tick_that_has_run_does_not_fire_again(conn: Connection, end: str) -> None:
    run = start(conn, scheduled_for=TICK)
    value(conn, f"select {end}", run)
    assert start(conn, scheduled_for=TICK) is None
    assert value(conn, "select count(*) from cron_job_runs") == 1
    assert start(conn, scheduled_for="2026-01-02 06:00+00") is not None
    assert start(conn, key="other", scheduled_for=TICK) is not None


def test_the_holders_window_decides_not_the_newcomers(session: Open, conn: Connection) -> None:
    holder = start(conn, window="2 hours")
    expire(conn)  # one hour without a sign of life
    assert start(conn, window="1 second") is None
    with pytest.raises(errors.UniqueViolation):
        conn.execute("insert into cron_job_runs (job_name, run_window) values ('j', '1 second')")
    assert beat(conn, holder)
    conn.execute(
        "update cron_job_runs set heartbeat_at = clock_timestamp() - interval '3 hours' where id = %s", [holder]
    )
    assert start(conn, window="10 years") is not None


def test_a_plain_insert_takes_over_only_a_dead_run(conn: Connection) -> None:
    dead = value(conn, "insert into cron_job_runs (job_name) values ('j') returning id")
    with pytest.raises(errors.UniqueViolation):
        conn.execute("insert into cron_job_runs (job_name) values ('j')")
    conn.execute("insert into cron_job_runs (job_name) values ('another')")
    conn.execute("insert into cron_job_runs (job_name, key) values ('j', 'another')")
    expire(conn)
    conn.execute("insert into cron_job_runs (job_name) values ('j')")
    assert value(conn, "select array_agg(id) from cron_job_runs where status = 'failed'") == [dead]


def test_what_a_zombie_wrote_is_not_committed_after_a_takeover(session: Open, effects: Connection) -> None:
    zombie = session(autocommit=False)
    old = start(effects)
    zombie.execute("insert into effects values ('zombie')")
    expire(effects)
    new = start(effects)
    assert new
    assert beat(zombie, old) is False
    zombie.rollback()
    assert value(effects, "select count(*) from effects") == 0
    assert beat(effects, new)


def test_a_fence_that_came_first_keeps_the_takeover_away(session: Open, effects: Connection) -> None:
    holder = session(autocommit=False)
    run = start(effects)
    holder.execute("insert into effects values ('holder')")
    expire(effects)
    assert beat(holder, run)
    assert start(session(options=IMPATIENT)) is None
    holder.commit()
    assert start(effects) is None
    assert value(effects, "select by from effects") == "holder"
    assert blockers(effects) == [run]


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("verb", ["beat_job_run(%s)", "complete_job_run(%s)", "fail_job_run(%s, 'why')"])
def test_a_fence_waits_for_a_takeover_in_progress_and_obeys_it(
    session: Open, effects: Connection, verb: str, commits: bool
) -> None:
    zombie, successor = session(autocommit=False), session(autocommit=False)
    old = start(effects)
    zombie.execute("insert into effects values ('zombie')")
    expire(effects)
    assert start(successor)
    with waiting(effects, zombie, lambda: value(zombie, f"select {verb}", old)) as fence:
        successor.commit() if commits else successor.rollback()
    assert fence.result() is not commits


def copy_in_progress(conn: Connection) -> None:
    conn.execute("begin")
    conn.pgconn.exec_(b"copy effects from stdin")
    conn.pgconn.put_copy_data(b"a row of the middle\n")


def test_a_takeover_ends_the_copy_of_the_dead_and_only_that(session: Open, effects: Connection) -> None:
    old, others = start(effects), start(effects, "another")
    dead = session(application_name=f"pgonce {old}")
    bystanders = [
        session(application_name=f"pgonce {others}"),
        session(application_name=f"pgonce {old} and more"),
        session(application_name="pgonce"),
        session(),
    ]
    for each in (dead, *bystanders):
        copy_in_progress(each)
    alive = "select array_agg(pid) from pg_stat_activity where pid = any(%s)"
    pids = [each.info.backend_pid for each in (dead, *bystanders)]
    effects.execute("update cron_job_runs set heartbeat_at = now() - interval '1 hour' where id = %s", [old])
    assert start(effects)
    wait_until(lambda: dead.info.backend_pid not in value(effects, alive, pids), "the dead run's backend is gone")
    assert sorted(value(effects, alive, pids)) == sorted(pids[1:])
    for each in bystanders:
        each.pgconn.put_copy_end()
        result = each.pgconn.get_result()
        assert result
        assert result.status == ExecStatus.COMMAND_OK
    dead.close()
    assert value(effects, "select count(*) from effects") == 0, "none of it was committed"


def test_a_takeover_leaves_the_sessions_of_other_roles_alone(session: Open, effects: Connection) -> None:
    # a service role may not terminate a superuser's session; the attempt would make the takeover fail
    old = start(effects)
    theirs = session(application_name=f"pgonce {old}")
    copy_in_progress(theirs)
    expire(effects)
    effects.execute("set role service_role")
    assert start(effects)
    effects.execute("reset role")
    assert value(effects, "select count(*) from pg_stat_activity where pid = %s", theirs.info.backend_pid) == 1


def test_an_end_that_is_repeated_after_a_lost_answer_is_true_again(conn: Connection) -> None:
    run = start(conn)
    for _ in range(2):
        assert value(conn, "select complete_job_run(%s, 5, 1)", run) is True
    run = start(conn)
    for _ in range(2):
        assert value(conn, "select fail_job_run(%s, 'why')", run) is True
    counts = "select rows_processed, rows_skipped from cron_job_runs where status = 'succeeded'"
    assert conn.execute(counts).fetchone() == (5, 1)


def test_a_run_is_timed_by_the_databases_clock_not_by_its_transactions(conn: Connection) -> None:
    with conn.transaction():
        began = value(conn, "select clock_timestamp()")
        run = start(conn)
        value(conn, "select complete_job_run(%s)", run)
    row = conn.execute("select started_at, heartbeat_at, completed_at, duration_ms from cron_job_runs").fetchone()
    assert row
    started, heartbeat, completed, duration = row
    assert began <= started <= heartbeat <= completed
    assert duration == pytest.approx((completed - started).total_seconds() * 1000, abs=5)
