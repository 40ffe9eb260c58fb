"""A connection that a handler has used where a delivery arrives is put back as new, unless the pool is the user's."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from psycopg import AsyncConnection, Connection
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader
from psycopg_pool import ConnectionPool

import pgonce
from pgonce.core import database as databases
from pgonce.errors import DatabaseUnavailable
from pgonce.webhooks import stripe
from tests.contract.webhooks.test_one_transaction_each import LEFT, STATE
from tests.contract.webhooks.test_worker import Effects, app, effects, write

__all__ = ["app", "effects"]


def delivery(number: int) -> bytes:
    return json.dumps({"id": f"evt_{number}", "type": "pay", "object": "event"}).encode()


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_nothing_that_a_handler_leaves_reaches_the_next_delivery_of_an_endpoint(
    app: pgonce.App, database: str, conn: Connection[Any], effects: Effects, left: str
) -> None:
    conn.execute("create schema tenant; grant all on effects to service_role")
    found: list[Any] = []

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        found.append(tx.execute(STATE).fetchone())
        tx.execute("insert into public.effects (event) values (%s)", [event.id])
        tx.row_factory = dict_row
        tx.adapters.register_loader("text", TextLoader)
        for statement in left.split("; "):
            tx.execute(statement.encode())
        if event.id == "evt_1":
            raise ValueError("a failure leaves nothing, too")

    endpoint = pgonce.Endpoint(app, secrets="whsec_test", url=database)
    bodies = [delivery(number) for number in range(4)]
    answers = [endpoint.handle(body, {"Stripe-Signature": stripe.sign(body, "whsec_test")}).status for body in bodies]
    assert endpoint._opened is not None
    endpoint._opened.close()
    assert answers == [200, 500, 200, 200]
    assert effects() == ["evt_0", "evt_2", "evt_3"]
    assert len({(*row[:9], row[9] or "") for row in found}) == 1


def test_an_asynchronous_pool_of_pgonce_is_put_back_too(database: str, effects: Effects) -> None:
    found: list[Any] = []

    async def handler(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
        found.append(await (await tx.execute("select current_user::text, current_setting('search_path')")).fetchone())
        await tx.execute("insert into effects (event) values (%s)", [event.id])
        await tx.execute("set role pg_monitor")
        tx.row_factory = dict_row

    async def deliver() -> None:
        async with await databases.open_async_pool(database, 1) as pool:
            webhooks = pgonce.AsyncWebhooks(pool)
            for number in range(3):
                assert await webhooks.handle(stripe.read(delivery(number)), handler) == "succeeded"

    asyncio.run(deliver())
    assert len(effects()) == 3
    assert len(set(found)) == 1


def test_threads_that_begin_together_share_one_pool(
    app: pgonce.App, database: str, conn: Connection[Any], effects: Effects, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.webhook("pay")(lambda event, tx: write(tx, event))
    endpoint = pgonce.Endpoint(app, secrets="whsec_test", url=database)
    open_pool, opened, all_there = databases.open_pool, [], threading.Barrier(6)

    def open_together(url: str) -> Any:
        all_there.wait(20)
        opened.append(open_pool(url))
        return opened[-1]

    def deliver(number: int) -> int:
        body = delivery(number)
        return endpoint.handle(body, {"Stripe-Signature": stripe.sign(body, "whsec_test")}).status

    monkeypatch.setattr(databases, "open_pool", open_together)
    with ThreadPoolExecutor(6) as threads:
        assert [*threads.map(deliver, range(6))] == [200] * 6
    assert len(effects()) == 6
    [left] = [pool for pool in opened if not pool.closed]
    assert left is endpoint._opened
    left.close()


def test_a_users_pool_keeps_what_it_was_configured_with(database: str, conn: Connection[Any]) -> None:
    conn.execute("create schema tenant")
    found: list[Any] = []

    def configure(conn: Connection[Any]) -> None:
        conn.execute("set search_path = tenant, public")
        conn.commit()

    with ConnectionPool(database, min_size=1, max_size=1, configure=configure, open=True) as pool:
        webhooks = pgonce.Webhooks(pool)
        for number in range(2):
            webhooks.handle(
                stripe.read(delivery(number)),
                lambda _event, tx: found.append(tx.execute("select current_setting('search_path')").fetchone()),
            )
    assert found == [("tenant, public",)] * 2


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_pool_of_read_only_connections_is_refused_before_anything_is_claimed(
    database: str, conn: Connection[Any], autocommit: bool
) -> None:
    def configure(conn: Connection[Any]) -> None:
        conn.read_only = True

    options = {"autocommit": autocommit}
    with ConnectionPool(database, min_size=1, max_size=1, kwargs=options, configure=configure, open=True) as pool:
        for _ in range(2):  # the connection was given back
            with pytest.raises(DatabaseUnavailable, match="connections have read_only set"):
                pgonce.Webhooks(pool).handle(stripe.read(delivery(1)), lambda _event, _tx: None)
    assert conn.execute("select from webhook_events").rowcount == 0
