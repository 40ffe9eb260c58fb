"""A process that stops asks its runs to end: what is at work ends, and what is done stays done."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import Connection

import pgonce
from pgonce.core import database as databases
from pgonce.core import event_loop
from pgonce.core.concurrency import isolated
from pgonce.jobs.executor import Execution, Executor
from pgonce.jobs.registry import Job
from tests.conftest import wait_until
from tests.contract.callers import spawn


class _Executor(Executor):
    def start(self, job: Job, **options: Any) -> Execution | None:
        """In a context of its own: the run ends in another thread, and its ids would stay in this one's."""
        return isolated(lambda: super(_Executor, self).start(job, **options))


@pytest.fixture
def executor(database: str) -> Iterator[Executor]:
    with databases.open_pool(database, 2) as pool:
        yield _Executor(pool, database, "public", closing=pool)


def test_a_stop_after_an_async_job_has_returned_leaves_its_success(
    executor: Executor, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    app = pgonce.App()
    gate = threading.Event()

    @app.job("report")
    async def report(run: pgonce.AsyncRun) -> None:
        await asyncio.to_thread(gate.wait)

    execution = executor.start(app.get_job("report"))
    assert execution is not None
    with conn.transaction():
        conn.execute("select from cron_job_runs for update")
        gate.set()
        finished = spawn(executor.finish, execution)
        waiting = "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        wait_until(lambda: conn.execute(waiting).rowcount == 1, "its end waits for the row")
        executor.request_stop("worker stopped")
        event_loop.background().run(asyncio.sleep(0))  # the loop has handled the request
    finished.result(60)
    assert conn.execute("select status, error_message from cron_job_runs").fetchall() == [("succeeded", None)]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_an_async_job_that_is_stopped_at_work_is_due_again_and_no_failure_of_the_code(
    executor: Executor, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    app = pgonce.App()

    @app.job("report")
    async def report(run: pgonce.AsyncRun) -> None:
        await asyncio.Event().wait()

    execution = executor.start(app.get_job("report"))
    assert execution is not None
    finished = spawn(executor.finish, execution)
    executor.request_stop("worker stopped")
    finished.result(60)
    assert conn.execute("select status, error_message from cron_job_runs").fetchall() == [("failed", "worker stopped")]
    due = "select count(*) from pgonce_job_retries where due_at <= clock_timestamp()"
    assert conn.execute(due).fetchall() == [(1,)]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def leave(how: object) -> None:
    if isinstance(how, Exception):
        raise how
    if how is not None:
        sys.exit(how)  # type: ignore[arg-type]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("how", "code"), [(None, 0), (0, 0), (3, 3), ("no paper", 1), (ValueError("of the child"), 1)], ids=str
)
def test_a_forked_child_that_leaves_its_job_ends_and_its_parent_goes_on(
    executor: Executor, conn: Connection, caplog: pytest.LogCaptureFixture, asynchronous: bool, how: object, code: int
) -> None:
    app = pgonce.App()
    ended: list[int] = []

    def fork() -> bool:
        child = os.fork()
        if child == 0:
            return True

        def has_ended() -> bool:
            pid, status = os.waitpid(child, os.WNOHANG)
            ended.extend([os.waitstatus_to_exitcode(status)] * bool(pid))
            return bool(pid)

        wait_until(has_ended, "the child ends")
        return False

    def forks(run: pgonce.Run) -> Any:
        return leave(how) if fork() else None

    async def forks_async(run: pgonce.AsyncRun) -> Any:
        return leave(how) if fork() else None

    app.job("report")(forks_async if asynchronous else forks)
    execution = executor.start(app.get_job("report"))
    assert execution is not None
    spawn(executor.finish, execution).result(90)
    assert ended == [code]
    assert conn.execute("select status, error_message from cron_job_runs").fetchall() == [("succeeded", None)]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_whatever_a_job_raises_is_its_failure(
    executor: Executor, conn: Connection, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    app = pgonce.App()

    @app.job("report")
    def report(run: pgonce.Run) -> None:
        raise error

    execution = executor.start(app.get_job("report"))
    assert execution is not None
    spawn(executor.finish, execution).result(60)
    assert conn.execute("select status from cron_job_runs").fetchall() == [("failed",)]
    assert f"job report failed: {type(error).__name__}" in caplog.text
