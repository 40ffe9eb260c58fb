"""One event loop for all async handlers and async jobs of a process, for the life of the process."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import Connection

import pgonce
from pgonce.core import event_loop
from pgonce.core.event_loop import EventLoop
from pgonce.jobs.scheduler import Scheduler
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until


def queue(conn: Connection[Any], *ids: str) -> None:
    bodies = [json.dumps({"id": each, "type": "pay"}) for each in ids]
    conn.execute("select pgonce_queue_webhooks(%s, %s, %s)", [list(ids), ["pay"] * len(ids), bodies])


def test_workers_and_every_run_of_a_job_share_one_loop(database: str, conn: Connection[Any]) -> None:
    app = pgonce.App()
    loops: list[asyncio.AbstractEventLoop] = []

    @app.webhook("pay")
    async def pay(event: pgonce.Event, tx: Any) -> None:
        loops.append(asyncio.get_running_loop())

    @app.job("tick", cron="* * * * *", catch_up="all", catch_up_window="1 hour")
    async def tick(run: pgonce.AsyncRun) -> None:
        loops.append(asyncio.get_running_loop())

    since = datetime.now(UTC) - timedelta(minutes=4)
    insert = "insert into pgonce_job_schedules (job_name, cron, timezone, next_tick) values ('tick', %s, 'UTC', %s)"
    conn.execute(insert, ["* * * * *", since])
    for number in range(2):
        with Worker(app, database):
            queue(conn, f"evt_{number}")
            wait_until(lambda: len(loops) > number, "the event is handled")  # noqa: B023
    with Scheduler(app, database):
        wait_until(lambda: len(loops) >= 4, "two ticks have run")
    assert len(set(loops)) == 1
    assert not loops[0].is_closed()


def test_a_worker_handles_in_the_loop_that_it_is_given(database: str, conn: Connection[Any]) -> None:
    app = pgonce.App()
    found: list[asyncio.AbstractEventLoop] = []
    handled = threading.Event()

    @app.webhook("pay")
    async def pay(event: pgonce.Event, tx: Any) -> None:
        found.append(asyncio.get_running_loop())
        handled.set()

    async def main() -> None:
        worker = Worker(app, database, loop=EventLoop.running())
        await asyncio.to_thread(worker.start)
        queue(conn, "evt_1")
        assert await asyncio.to_thread(handled.wait, 20)
        assert found == [asyncio.get_running_loop()]
        assert await asyncio.to_thread(worker.stop, 20)

    asyncio.run(main())


def test_a_coroutine_that_calls_sys_exit_ends_neither_the_loop_nor_its_neighbours() -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async def task_leaves() -> None:
        asyncio.get_running_loop().create_task(leave())
        await asyncio.sleep(0)

    loop = event_loop.background()
    with pytest.raises(RuntimeError, match="SystemExit"):
        loop.run(leave())
    neighbour = loop.submit(asyncio.sleep(0.05, "done"))
    loop.submit(task_leaves())
    assert neighbour.result(20) == "done"


def test_plain_code_in_the_loop_is_refused_to_wait_for_it() -> None:
    loop = event_loop.background()

    async def wait() -> None:
        with pytest.raises(RuntimeError, match="call it in a thread"):
            loop.run(asyncio.sleep(0))

    loop.run(wait())


def test_a_handler_that_blocks_the_loop_is_named_with_its_line(
    database: str, conn: Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    app = pgonce.App()
    go_on = threading.Event()

    @app.webhook("pay")
    async def blocks(event: pgonce.Event, tx: Any) -> None:
        go_on.wait(30)

    with caplog.at_level(logging.WARNING, "pgonce"), Worker(app, database):
        queue(conn, "evt_1")
        wait_until(lambda: "blocks the event loop" in caplog.text, "the warning")
        go_on.set()
    assert "tests.contract.test_event_loop.test_a_handler" in caplog.text
    assert "blocks (test_event_loop.py:" in caplog.text


def test_a_handler_that_awaits_is_not_called_blocking(
    database: str, conn: Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    app = pgonce.App()
    handled = threading.Event()

    @app.webhook("pay")
    async def waits(event: pgonce.Event, tx: Any) -> None:
        await asyncio.sleep(2 * event_loop.BLOCKED + 0.5)
        handled.set()

    with caplog.at_level(logging.WARNING, "pgonce"), Worker(app, database):
        queue(conn, "evt_1")
        assert handled.wait(30)
    assert "blocks" not in caplog.text
