"""What code of the user's keeps of a connection that pgonce lent it does not work in a later transaction."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, Connection
from psycopg.rows import dict_row

import pgonce
from pgonce import Jobs
from pgonce.core import database as databases
from pgonce.webhooks import stripe
from tests.contract.webhooks.test_worker import Effects, Queue, app, effects, put, status, work, write

__all__ = ["app", "effects", "put"]

ENDED = "lent to a handler or a transaction that has ended"
STOLEN = "insert into effects (event) values ('stolen')"
Use = Callable[[Any], Any]
KEPT: dict[str, tuple[Use, Use]] = {
    "connection": (lambda tx: tx, lambda kept: kept.execute(STOLEN)),
    "cursor": (lambda tx: tx.cursor(), lambda kept: kept.execute(STOLEN)),
    "executemany": (lambda tx: tx.cursor(), lambda kept: kept.executemany(STOLEN, [()])),
    "transaction": (lambda tx: tx.transaction(), lambda kept: kept.__enter__()),
    "commit": (lambda tx: tx, lambda kept: kept.commit()),
}
SENDS = list(KEPT)


def refused(use: Use, kept: Any) -> None:
    with pytest.raises(psycopg.InterfaceError, match=ENDED):
        use(kept)


@pytest.mark.parametrize("kind", ["each", "batch"])
@pytest.mark.parametrize("what", SENDS)
def test_a_later_handler_cannot_use_it(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, what: str, kind: str
) -> None:
    keep, use = KEPT[what]
    kept: list[Any] = []
    before: list[int] = []

    def pay(events: list[pgonce.Event], tx: Connection[Any]) -> None:
        for event in events:
            write(tx, event)
        if kept:
            before.append(len(kept))
            refused(use, kept[0])
        kept.append(keep(tx))

    if kind == "batch":
        app.webhook_batch("pay")(pay)
        app.webhook_batch("refund")(pay)
        put("refund", "evt_0")
    else:
        app.webhook("pay")(lambda event, tx: pay([event], tx))
    put("pay", "evt_1", "evt_2")
    work(app, database, conn, concurrency=1)
    assert before
    assert sorted(effects())[-2:] == ["evt_1", "evt_2"]


@pytest.mark.parametrize("kind", ["worker", "batch", "inline", "job"])
def test_nothing_is_committed_without_a_statement_that_was_not_awaited(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, kind: str
) -> None:
    async def pay(_event: Any, tx: AsyncConnection[Any]) -> None:
        await asyncio.gather(*(tx.execute("insert into effects (event) values ('awaited')") for _ in range(3)))
        tx.execute("insert into effects (event) values ('forgotten')")  # type: ignore[unused-coroutine]

    async def deliver() -> None:
        async with await databases.open_async_pool(database, 2) as pool:
            if kind == "inline":
                await pgonce.AsyncWebhooks(pool).handle(stripe.read(b'{"id": "evt_1", "type": "pay"}'), pay)
            async with pgonce.AsyncJobs(pool).run("pay") as run:
                assert run is not None
                async with run.transaction() as tx:
                    await pay(None, tx)

    if kind in {"inline", "job"}:
        with pytest.raises(pgonce.PgonceError, match="without await"):
            asyncio.run(deliver())
    else:
        (app.webhook if kind == "worker" else app.webhook_batch)("pay")(pay)
        put("pay", "evt_1")
        work(app, database, conn)
        error = conn.execute("select error_message from webhook_events").fetchone()
        assert "without await" in str(error)
    assert effects() == []


def test_a_statement_whose_task_was_cancelled_before_it_began_is_no_error(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("pay")
    async def pay(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
        task = asyncio.create_task(tx.execute(STOLEN))
        task.cancel()
        await asyncio.wait({task})
        await tx.execute("insert into effects (event) values (%s)", [event.id])

    put("pay", "evt_1")
    work(app, database, conn)
    assert effects() == ["evt_1"]


def test_an_asynchronous_one_neither(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    kept: list[Any] = []
    said: list[str] = []

    @app.webhook("pay")
    async def pay(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
        await tx.execute("insert into effects (event) values (%s)", [event.id])
        for each in kept:
            with pytest.raises(psycopg.InterfaceError, match=ENDED):
                await each.execute(STOLEN)
            said.append(event.id)
        kept.extend([tx, tx.cursor()])

    put("pay", "evt_0", "evt_1")
    work(app, database, conn, concurrency=1)
    assert sorted(effects()) == ["evt_0", "evt_1"]
    assert len(said) == 2


def test_a_failed_handler_keeps_nothing_either(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    kept: list[Connection[Any]] = []

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        if kept:
            kept[0].execute(STOLEN)
        kept.append(tx)
        raise ValueError("the first one")

    put("pay", "evt_0", "evt_1")
    work(app, database, conn, concurrency=1)
    assert effects() == []
    messages = sorted(str(status(conn, event)["error_message"]).splitlines()[-1] for event in ("evt_0", "evt_1"))
    assert ENDED in messages[1], "and that fails the event which used it, not the worker"


def test_a_callback_after_the_commit_cannot_use_it(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    called: list[str] = []

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)

        def later() -> None:
            refused(lambda kept: kept.execute(STOLEN), tx)
            called.append(event.id)

        event.after_commit(later)

    put("pay", "evt_0", "evt_1")
    work(app, database, conn, concurrency=1)
    assert sorted(called) == sorted(effects()) == ["evt_0", "evt_1"]


def test_nor_what_a_route_or_a_run_has_kept(database: str, conn: Connection[Any], effects: Effects) -> None:
    kept: list[Any] = []
    with databases.open_pool(database, 1) as pool:
        body = json.dumps({"id": "evt_0", "type": "pay", "object": "event"}).encode()
        webhooks = pgonce.Webhooks(pool, secrets="whsec_test")
        webhooks.receive(body, stripe.sign(body, "whsec_test"), lambda _event, tx: kept.append(tx))
        with Jobs(pool).run("letters") as run:
            assert run is not None
            with run.connection() as reading:
                kept.append(reading)
            with run.transaction() as tx:
                kept.append(tx)
            with run.transaction() as tx:
                tx.execute("insert into effects (event) values ('of the run')")
                for each in kept:
                    refused(lambda old: old.execute(STOLEN), each)
    assert effects() == ["of the run"]


def test_the_lent_object_is_a_whole_connection_while_the_handler_runs(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    found: list[Any] = []
    notices: list[str | None] = []

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        found.append((isinstance(tx, Connection), tx.row_factory is dict_row, tx.info.dbname != "", tx.closed))
        tx.add_notice_handler(lambda said: notices.append(said.message_primary))
        tx.execute("do $$ begin raise notice 'hello'; end $$")
        tx.row_factory = dict_row
        tx.adapters.register_loader("int8", psycopg.types.string.TextLoader)
        found.append(tx.execute("select 1::int8 as n").fetchone())
        with tx.cursor().copy("copy effects (event) from stdin") as copy:
            copy.write_row([event.id])
        with tx.pipeline(), tx.transaction():
            tx.execute("select 1")
        for query in ("commit", "rollback"):
            with pytest.raises(psycopg.ProgrammingError):
                getattr(tx, query)()

    put("pay", "evt_0", "evt_1")
    work(app, database, conn, concurrency=1)
    assert sorted(effects()) == ["evt_0", "evt_1"]
    assert found == [(True, False, True, False), {"n": "1"}] * 2
    assert notices == ["hello"] * 2
