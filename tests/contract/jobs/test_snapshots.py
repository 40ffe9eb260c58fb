# ruff: noqa: PT012 -- a run is a block, and the expectations are inside it
"""Runs where transactions keep one snapshot, by the default of the pool, the role or the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel

from tests.conftest import wait_until
from tests.contract.callers import Async, Caller, Sync

Db = psycopg.Connection[Any]
WORLDS: dict[str, Callable[..., Caller]] = {"sync": Sync, "async": Async}
LEVELS = ["repeatable read", "serializable", "read committed"]


@pytest.fixture
def of_pool(database: str) -> Iterator[Callable[..., Caller]]:
    """Opens a synchronous or asynchronous caller on a database with the given default isolation level."""
    opened: list[Caller] = []

    def open_one(world: str, level: str, **options: Any) -> Caller:
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("create table if not exists effects (name text)")
            name = conn.info.dbname
            conn.execute(f"alter database {name} set default_transaction_isolation = '{level}'".encode())
        opened.append(WORLDS[world](database, **options))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def heartbeats(db: Db) -> int:
    query = (
        "select floor(extract(epoch from greatest(h.heartbeat_at, r.heartbeat_at) - r.started_at)"
        " / extract(epoch from r.run_window) * 3)::integer"
        " from cron_job_runs r left join pgonce_job_heartbeats h on h.run_id = r.id where r.status = 'running'"
    )
    return int(db.execute(query.encode()).fetchall()[0][0])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("world", WORLDS)
def test_a_transaction_that_is_longer_than_many_heartbeats_commits(
    of_pool: Callable[..., Caller], conn: Db, world: str, level: str
) -> None:
    with of_pool(world, level).run("job", window="900 ms") as run:
        assert run
        for number in range(1, 3):
            with run.transaction() as tx:
                tx.execute("insert into effects (name) values ('job')")
                wait_until(lambda n=number: [tx.execute("select 1")] and heartbeats(conn) >= 5 * n, "five heartbeats")  # type: ignore[misc]
            assert conn.execute("select start_job_run('job')").fetchall() == [(None,)], "it is alive"
    query = "select status, transactions from cron_job_runs where status <> 'skipped'"
    assert conn.execute(query.encode()).fetchall() == [("succeeded", 2)]
    assert conn.execute("select count(*) from effects").fetchall() == [(2,)]


@pytest.mark.parametrize("world", WORLDS)
def test_a_level_that_the_pool_sets_is_known_too(of_pool: Callable[..., Caller], conn: Db, world: str) -> None:
    caller = of_pool(world, "read committed")

    def configure(each: Any) -> None:
        each._isolation_level = IsolationLevel.SERIALIZABLE

    async def configure_async(each: Any) -> None:
        configure(each)

    if isinstance(caller, Sync):
        caller.pool._configure = configure
    elif isinstance(caller, Async):
        caller.pool._configure = configure_async
    conn.execute(
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    with caller.run("job", window="900 ms") as run, run.transaction() as tx:  # type: ignore[union-attr]
        assert list(tx.execute("show transaction_isolation")) == [("serializable",)]
        wait_until(lambda: [tx.execute("select 1")] and heartbeats(conn) >= 5, "five heartbeats")
    assert conn.execute("select status, transactions from cron_job_runs").fetchall() == [("succeeded", 1)]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("world", WORLDS)
def test_who_comes_second_gets_none_under_every_level(
    of_pool: Callable[..., Caller], conn: Db, world: str, level: str
) -> None:
    caller = of_pool(world, level)
    with caller.run("job") as run:
        assert run is not None
        for _ in range(5):
            with caller.run("job") as second:
                assert second is None
    assert conn.execute("select count(*) from cron_job_runs where status = 'skipped'").fetchall() == [(5,)]


def test_a_run_that_died_with_its_heartbeats_apart_is_taken_over(conn: Db) -> None:
    [[run]] = conn.execute("select start_job_run('job', p_window => '1 hour')").fetchall()
    conn.execute("select pgonce_keep_heartbeats_apart(%s)", [run])
    conn.execute("update cron_job_runs set heartbeat_at = heartbeat_at - interval '2 hours'")
    assert conn.execute("select start_job_run('job')").fetchall() == [(None,)], "its heartbeats are elsewhere"
    assert conn.execute("select pgonce_abandon_job_runs()").fetchall() == [(0,)]
    last = "to_char((select heartbeat_at from pgonce_job_heartbeats) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS')"
    shown = "run->>'heartbeat_at' = to_jsonb(h.heartbeat_at)#>>'{}', run->>'run_window'"
    conn.execute("set intervalstyle to 'iso_8601'")
    read = "from pgonce_job_heartbeats h, pgonce_get_job_run(h.run_id) run"
    found = conn.execute(f"select {shown} {read}".encode())
    assert found.fetchall() == [(True, "01:00:00")]
    conn.execute("update pgonce_job_heartbeats set heartbeat_at = heartbeat_at - interval '110 minutes'")
    [[when]] = conn.execute(f"select {last}".encode()).fetchall()
    [[silence]] = conn.execute("select reason from pgonce_list_job_runs(p_status => 'running')").fetchall()
    assert f"no sign of life since {when} UTC" in silence
    [[successor]] = conn.execute("select start_job_run('job')").fetchall()
    assert successor is not None
    closed = "select error_message from cron_job_runs where status = 'failed'"
    assert conn.execute(closed).fetchall() == [(f"abandoned: last sign of life {when} UTC, window 1 hour",)]
    conn.execute("select pgonce_keep_heartbeats_apart(%s)", [successor])
    assert conn.execute("select run_id from pgonce_job_heartbeats").fetchall() == [(successor,)], (
        "the dead one's is gone"
    )


# Commits that a failover has lost ------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS)
def test_a_run_whose_commits_were_lost_fails_and_is_due_again(
    of_pool: Callable[..., Caller], conn: Db, world: str
) -> None:
    caller = of_pool(world, "read committed")
    with pytest.raises(Exception, match="only 1 of its 2 transactions"), caller.run("job", retries=1) as run:
        assert run
        for _ in range(2):
            with run.transaction() as tx:
                tx.execute("insert into effects (name) values ('job')")
            run.processed()
        # the state of a standby that was promoted before it received the second one
        conn.execute("update cron_job_runs set transactions = 1, rows_processed = 1")
    query = "select status, rows_processed, error_message from cron_job_runs"
    [(status, processed, message)] = conn.execute(query.encode()).fetchall()
    assert (status, processed) == ("failed", 1)
    assert "it has lost commits in a failover" in message
    assert conn.execute("select count(*) from pgonce_job_retries").fetchall() == [(1,)]


def test_heartbeats_do_not_write_counts_of_lost_transactions(conn: Db) -> None:
    [[run]] = conn.execute("select start_job_run('job')").fetchall()
    report = "select pgonce_report_job_run(%s, 8, 0, p_transactions => %s)"
    assert conn.execute("select pgonce_fence_job_run(%s, 0, 1)", [run]).fetchall() == [(True,)]
    before = conn.execute("select heartbeat_at from cron_job_runs").fetchall()
    assert conn.execute(report.encode(), [run, 2]).fetchall() == [("running",)]
    query = "select rows_processed, heartbeat_at > %s from cron_job_runs"
    assert conn.execute(query.encode(), before[0]).fetchall() == [(1, True)], (
        "alive, and with the counts that are there"
    )
    assert conn.execute(report.encode(), [run, 1]).fetchall() == [("running",)]
    assert conn.execute(query.encode(), before[0]).fetchall() == [(8, True)]


@pytest.mark.parametrize("world", WORLDS)
def test_the_next_transaction_after_lost_commits_is_refused(
    of_pool: Callable[..., Caller], conn: Db, world: str
) -> None:
    caller = of_pool(world, "read committed")
    with pytest.raises(Exception, match="only 0 of its 1 transactions"), caller.run("job") as run:
        assert run
        with run.transaction() as tx:
            tx.execute("insert into effects (name) values ('first')")
        conn.execute("update cron_job_runs set transactions = 0")
        with run.transaction() as tx:
            tx.execute("insert into effects (name) values ('second')")
    assert conn.execute("select name from effects").fetchall() == [("first",)]


@pytest.mark.parametrize("world", WORLDS)
def test_a_run_whose_start_was_lost_says_so(of_pool: Callable[..., Caller], conn: Db, world: str) -> None:
    caller = of_pool(world, "read committed")
    with pytest.raises(Exception, match="not in the database any more"), caller.run("job"):
        conn.execute("delete from cron_job_runs")
