"""Connections that were cut while they were idle in the pool are noticed before the first statement is sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from pgonce.cli.exec import exec_
from pgonce.core import database
from pgonce.errors import DatabaseUnavailable
from pgonce.jobs.executor import Executor
from pgonce.jobs.guard import Guard
from pgonce.jobs.guard_async import AsyncGuard
from tests.conftest import wait_until
from tests.contract.callers import Async, Caller, Sync, spawn

Db = psycopg.Connection[Any]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for guard in (Guard, AsyncGuard):
        monkeypatch.setattr(guard.__init__, "__defaults__", ((0.0, 0.1),))


def terminate_all(db: Db) -> None:
    others = "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    ended = db.execute(f"select pg_terminate_backend(pid, 10000) {others}".encode()).fetchall()
    assert ended
    assert set(ended) == {(True,)}


CHECKED: dict[str, Callable[[str], Caller]] = {
    "sync": lambda url: Sync(url, size=3),
    "async": lambda url: Async(url, size=3),
}


def lose_a_start(network: Any, caller: Any, name: str, *, answer: bool, **options: Any) -> None:
    """Cut the network when the start of a run passes it: its answer, or the start itself. It comes back after that."""
    caller.pool.timeout = 0.2
    with caller.run(f"{name} before"):
        pass
    lost = network.hold(b"start_job_run", answer=answer)
    cutting = threading.Thread(target=lambda: (lost.wait(), network.down()))
    cutting.start()
    with pytest.raises(DatabaseUnavailable), caller.run(name, **options):
        pytest.fail("its start was not answered")
    cutting.join()
    network.up()
    caller.pool.timeout = 20


@pytest.mark.parametrize("check", [False, True], ids=["no check", "check"])
@pytest.mark.parametrize("kind", CHECKED)
def test_the_first_start_after_an_idle_connection_was_cut_is_a_run(
    module_database: str, db: Db, name: str, kind: str, check: bool
) -> None:
    caller = CHECKED[kind](module_database)
    if check:
        caller.pool._check = (AsyncConnectionPool if kind == "async" else ConnectionPool).check_connection  # type: ignore[attr-defined]
    with caller.run(name):
        pass
    for _ in range(3):
        terminate_all(db)
        with caller.run(name) as run:
            assert run is not None
            terminate_all(db)
            with run.transaction() as tx:
                tx.execute("insert into effects (name) values (%s)", [name])
    caller.close()
    query = "select status, count(*) from cron_job_runs where job_name = %s group by 1"
    assert db.execute(query, [name]).fetchall() == [("succeeded", 4)]
    assert db.execute("select count(*) from effects where name = %s", [name]).fetchall() == [(3,)]


@pytest.mark.parametrize("kind", CHECKED)
def test_connections_that_a_proxy_has_cut_are_noticed_too(network: Any, db: Db, name: str, kind: str) -> None:
    caller = CHECKED[kind](network.url)
    with caller.run(name):
        network.cut()
    network.cut()
    wait_until(lambda: db.execute("select true").fetchone(), "the server is there")
    with caller.run(name) as run:
        assert run is not None
    caller.close()
    assert db.execute("select count(*) from cron_job_runs where job_name = %s", [name]).fetchall() == [(2,)]


@pytest.mark.parametrize("kind", CHECKED)
@pytest.mark.parametrize("answer", [False, True], ids=["the start was lost", "its answer was lost"])
@pytest.mark.parametrize(
    "options", [{}, {"retries": 1}, {"slots": 1}, {"scheduled_for": datetime(2026, 1, 1, tzinfo=UTC)}], ids=str
)
def test_a_start_that_was_not_answered_is_sent_again_and_is_one_run(
    network: Any, db: Db, name: str, kind: str, options: dict[str, Any], answer: bool
) -> None:
    caller = CHECKED[kind](network.url)
    with caller.run(f"{name} before"):
        pass
    lost = network.hold(b"start_job_run", answer=answer)
    cutting = threading.Thread(target=lambda: (lost.wait(), network.cut()))
    cutting.start()
    with caller.run(name, **options) as run:
        assert run is not None
        cutting.join()
    caller.close()
    query = "select id, status from cron_job_runs where job_name = %s"
    assert db.execute(query, [name]).fetchall() == [(run.id, "succeeded")]


@pytest.mark.parametrize("kind", CHECKED)
@pytest.mark.parametrize(
    ("options", "other_object"), [({}, False), ({"retries": 1}, True), ({"slots": 1}, False)], ids=str
)
def test_the_start_after_one_whose_answer_was_lost_is_a_run(
    network: Any, db: Db, name: str, kind: str, options: dict[str, Any], other_object: bool
) -> None:
    """The run that nobody had been told of blocked the job for its window."""
    caller = CHECKED[kind](network.url)
    lose_a_start(network, caller, name, answer=True, **options)
    if other_object:  # as in a route that makes one for each request
        caller.close()
        caller = CHECKED[kind](network.url)
    with caller.run(name, **options) as run:
        assert run is not None
        with caller.run(name, **options) as second:
            assert second is None
    caller.close()
    query = "select status, error_message like '%%nothing was run' from cron_job_runs where job_name = %s"
    found = db.execute(f"{query} order by started_at".encode(), [name]).fetchall()
    assert found[:2] == [("failed", True), ("succeeded", None)]


def test_a_command_asks_longer_for_a_start_that_was_not_answered(
    network: Any, db: Db, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process ends, so nothing would close the run, which blocked the job for its window."""
    monkeypatch.setattr(Guard.__init__, "__defaults__", ((),))
    monkeypatch.setattr(database, "TIMEOUT", 0.5)
    lost = network.hold(b"start_job_run", answer=True)

    def cut() -> None:
        lost.wait()
        network.down()
        wait_until(lambda: network.refused >= 4, "several attempts")
        network.up()

    spawn(cut)
    with pytest.raises(SystemExit) as ended:
        exec_.main(["--database-url", network.url, name, "true"], standalone_mode=False)
    assert ended.value.code == 0
    found = db.execute("select status from cron_job_runs where job_name = %s", [name]).fetchall()
    assert found == [("succeeded",)]


def test_a_worker_does_not_wait_for_the_lock_of_a_run_whose_start_was_not_answered(
    network: Any, db: Db, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as a forgotten session held the row, its thread of upkeep would start no retry and move no schedule."""
    monkeypatch.setattr(database, "LOCK_TIMEOUT", "100ms")
    caller = Sync(network.url, size=3)
    lose_a_start(network, caller, name, answer=True)
    executor = Executor(caller.pool, network.url, "public", caller.pool)
    running = "select status from cron_job_runs where job_name = %s"
    with db.transaction():
        assert db.execute(f"{running} for update".encode(), [name]).fetchall() == [("running",)]
        with pytest.raises(psycopg.errors.LockNotAvailable):
            executor.close_lost_starts()
    executor.close_lost_starts()
    assert db.execute(running, [name]).fetchall() == [("failed",)]
    caller.close()


def test_a_run_that_is_at_work_in_this_process_is_not_taken_for_one_whose_answer_was_lost(
    network: Any, module_database: str, db: Db, name: str
) -> None:
    caller, own = Sync(network.url, size=3), Sync(module_database, size=3)
    lose_a_start(network, caller, name, answer=False)
    with own.run(name) as run, caller.run(name) as second:
        assert run is not None
        assert second is None
    own.close()
    caller.close()
    query = "select status from cron_job_runs where job_name = %s order by started_at"
    assert db.execute(query, [name]).fetchall() == [("succeeded",), ("skipped",)]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("scope", ({"batch": 1}, {"batch": 2})),
        ("scheduled_for", tuple(datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2))),
    ],
)
def test_a_start_for_something_else_is_a_run_of_its_own_after_a_lost_one(
    network: Any, db: Db, name: str, column: str, values: tuple[Any, Any]
) -> None:
    caller = Sync(network.url)
    lose_a_start(network, caller, name, answer=True, **{column: values[0]})
    with caller.run(name, **{column: values[1]}) as run:
        assert run is not None
    caller.close()
    query = f"select {column}, status from cron_job_runs where job_name = %s order by started_at"
    assert db.execute(query.encode(), [name]).fetchall() == [(values[0], "failed"), (values[1], "succeeded")]
