"""A process that stops asks its runs to end: what is at work ends, and what is done stays done."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator

import pytest
from psycopg import Connection

import pgonce
from pgonce.core import database as databases
from pgonce.core import event_loop
from pgonce.jobs.executor import Executor
from tests.conftest import wait_until
from tests.contract.callers import spawn


@pytest.fixture
def executor(database: str) -> Iterator[Executor]:
    with databases.open_pool(database, 2) as pool:
        yield Executor(pool, database, "public", closing=pool)


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
