"""Deliveries that arrive at the same time are recorded by one INSERT, and each gets its own answer."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from psycopg import Connection

import pgonce
from pgonce.core import batcher as gathering
from pgonce.core import database as databases
from pgonce.webhooks import stripe
from pgonce.webhooks.inbox_writer import InboxWriter
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until


def body(nr: int) -> stripe.Body:
    return stripe.read(json.dumps({"id": f"evt_{nr}", "type": "pay", "quoted": 'a "b" \\ {c}, NULL'}).encode())


@pytest.mark.parametrize("at_once", [1, 2])
def test_clients_that_send_the_next_event_as_soon_as_they_are_answered_all_get_through(
    database: str, conn: Connection[Any], monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(gathering, "AT_ONCE", at_once)
    waiting = iter(range(200))

    async def record() -> None:
        async with await databases.open_async_pool(database, 4) as pool:
            writer = InboxWriter(pool)

            async def client() -> None:
                for nr in waiting:
                    assert await writer.record(body(nr), None) == "queued"

            # if the batcher's task used a done callback instead of `finally`, this would hang at the first batch
            async with asyncio.timeout(30), asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(client())

    asyncio.run(record())
    assert conn.execute("select count(*) from webhook_events").fetchone() == (200,)
    assert conn.execute("select distinct payload ->> 'quoted' from webhook_events").fetchall() == [
        ('a "b" \\ {c}, NULL',)
    ]


def record_beside(url: str, worker: Worker, bodies: list[stripe.Body], key: str | None = None) -> list[str]:
    async def main() -> list[str]:
        async with await databases.open_async_pool(url, 4) as pool:
            writer = InboxWriter(pool, worker=worker)
            return list(await asyncio.gather(*(writer.record(each, key) for each in bodies)))

    return asyncio.run(main())


def leased(conn: Connection[Any]) -> int:
    row = conn.execute("select count(*) from webhook_events where lease is not null").fetchone()
    assert row is not None
    return int(row[0])


def test_a_worker_that_stops_gives_back_what_was_handed_to_it(database: str, conn: Connection[Any]) -> None:
    worker = Worker(pgonce.App(), database).start()  # has no handlers
    worker.room = lambda: 100  # type: ignore[method-assign]
    assert record_beside(database, worker, [body(nr) for nr in range(5)]) == ["queued"] * 5
    assert leased(conn) == 5
    worker.stop()
    assert leased(conn) == 0
    found = conn.execute("select distinct attempts, next_attempt_at <= now() from webhook_events").fetchall()
    assert found == [(0, True)]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_is_handed_over_is_handled_once_and_its_duplicate_is_done(
    database: str, conn: Connection[Any], asynchronous: bool
) -> None:
    app = pgonce.App()
    conn.execute("create table effects (event text)")
    insert = "insert into effects values (%s)"

    async def later(event: pgonce.Event, tx: Any) -> None:
        assert event.attempts == 1
        assert event.payload["quoted"].startswith('a "b"')
        await tx.execute(insert, [event.id])

    def now(event: pgonce.Event, tx: Any) -> None:
        assert event.attempts == 1
        assert event.payload["quoted"].startswith('a "b"')
        tx.execute(insert, [event.id])

    app.webhook("pay")(later if asynchronous else now)
    with Worker(app, database) as worker:
        wait_until(lambda: worker.room() >= 40, "the lanes")
        assert record_beside(database, worker, [body(nr) for nr in range(30)]) == ["queued"] * 30
        done = "select count(*) = 30 from webhook_events where status = 'succeeded' and attempts = 1"
        wait_until(lambda: conn.execute(done.encode()).fetchone() == (True,), "all are handled")
        assert record_beside(database, worker, [body(3), body(3)]) == ["done", "done"]
    assert conn.execute("select count(*), count(distinct event) from effects").fetchone() == (30, 30)


def test_what_waits_for_its_object_is_left_to_a_claim(database: str, conn: Connection[Any]) -> None:
    worker = Worker(pgonce.App(), database).start()
    worker.room = lambda: 100  # type: ignore[method-assign]
    record_beside(database, worker, [body(nr) for nr in range(3)], key="sub_1")
    assert leased(conn) == 0
    worker.stop()


def test_nothing_is_handed_over_while_older_ones_wait_in_the_table(database: str, conn: Connection[Any]) -> None:
    handling, go_on = threading.Event(), threading.Event()
    app = pgonce.App()

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Any) -> None:
        handling.set()
        go_on.wait(20)

    asyncio.run(_record(database, [body(nr) for nr in range(100)]))
    with Worker(app, database, concurrency=1) as worker:
        assert handling.wait(20)
        assert worker.room() == 0
        assert record_beside(database, worker, [body(200)]) == ["queued"]
        assert conn.execute("select lease from webhook_events where stripe_event_id = 'evt_200'").fetchone() == (None,)
        go_on.set()


async def _record(url: str, bodies: list[stripe.Body]) -> None:
    async with await databases.open_async_pool(url, 4) as pool:
        writer = InboxWriter(pool)
        await asyncio.gather(*(writer.record(each, None) for each in bodies))


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
def test_what_was_handed_over_does_not_wait_behind_a_slow_handler(
    database: str, conn: Connection[Any], kind: str, later: bool
) -> None:
    app, begun, go = pgonce.App(), threading.Event(), threading.Event()

    @app.webhook("pay") if kind == "sync" else lambda function: function
    def pay(event: pgonce.Event, tx: Any) -> None:
        if event.id == "evt_0":
            begun.set()
            go.wait(60)

    @app.webhook("pay") if kind == "async" else lambda function: function
    async def pay_async(event: pgonce.Event, tx: Any) -> None:
        if event.id == "evt_0":
            begun.set()
            await asyncio.to_thread(go.wait, 60)

    with Worker(app, database, concurrency=1) as slow, Worker(app, database, concurrency=1, poll=0.05):
        try:
            wait_until(slow.room, "the first worker", 5)
            record_beside(database, slow, [body(0)])
            assert begun.wait(30)
            if later:
                wait_until(lambda: slow.room() == 0, "the worker to notice that it is busy", 5)
            record_beside(database, slow, [body(nr) for nr in range(1, 8)])
            handled = "select count(*) = 7 from webhook_events where status = 'succeeded' and attempts = 1"
            wait_until(lambda: conn.execute(handled.encode()).fetchone() == (True,), "the other worker", 20)
        finally:
            go.set()
