"""A handler's own database error is its failure, also if it is one that a lost connection raises, too."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg import AsyncConnection, Connection

import pgonce
from pgonce.core import database as databases
from pgonce.webhooks import stripe
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.contract.webhooks.handler_kinds import KINDS, register
from tests.contract.webhooks.test_worker import Effects, Queue, app, effects, put, status

__all__ = ["app", "effects", "put"]

OTHERS = ["evt_1", "evt_2", "evt_3", "evt_4"]


async def is_cancelled_async(tx: AsyncConnection[Any]) -> None:
    await tx.execute("set local statement_timeout = '10ms'")
    await tx.execute("select pg_sleep(10)")


def is_cancelled(tx: Any) -> Any:
    if isinstance(tx, AsyncConnection):
        return is_cancelled_async(tx)
    tx.execute("set local statement_timeout = '10ms'")
    return tx.execute("select pg_sleep(10)")


def another_database_is_down(_: object) -> None:
    psycopg.connect("postgresql://127.0.0.1:1/none")


def another_pool_is_empty(_: object) -> None:
    raise psycopg_pool.PoolTimeout("no connection")


def pgonce_elsewhere_has_no_database(_: object) -> None:
    raise pgonce.DatabaseUnavailable("no connection")


def another_server_stops(_: object) -> None:
    raise psycopg.errors.AdminShutdown("terminating connection due to administrator command")


ERRORS = [
    is_cancelled,
    another_database_is_down,
    another_pool_is_empty,
    pgonce_elsewhere_has_no_database,
    another_server_stops,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fails", ERRORS)
def test_the_attempt_has_failed_and_the_others_are_handled(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    fails: Callable[[Any], Any],
    kind: str,
) -> None:
    register(app, database, kind, lambda event, tx: fails(tx) if event.id == "evt_0" else None)
    put("pay", "evt_0", *OTHERS)
    with Worker(app, database, poll=0.05, concurrency=1):
        wait_until(lambda: sorted(effects()) == OTHERS, "the others, before the lease of a batch has run out", 20)
        wait_until(lambda: status(conn, "evt_0")["status"] == "failed", "the failure", 20)
    assert [status(conn, name)["attempts"] for name in ("evt_0", *OTHERS)] == [1] * 5


def another_run_is_lost(_: object) -> None:
    raise pgonce.LeaseLost("another run")


@pytest.mark.parametrize("fails", [*ERRORS, another_run_is_lost])
def test_where_it_is_handled_at_once_the_next_delivery_is_the_retry(
    database: str, conn: Connection[Any], fails: Callable[[Any], Any]
) -> None:
    body = stripe.read(b'{"id": "evt_0", "type": "pay"}')

    async def fail(_: pgonce.Event, tx: AsyncConnection[Any]) -> None:
        if inspect.isawaitable(work := fails(tx)):
            await work

    async def receive() -> None:
        async with await databases.open_async_pool(database, 1) as pool:
            await pgonce.AsyncWebhooks(pool).handle(body, fail)

    with databases.open_pool(database, 1) as pool:
        webhooks = pgonce.Webhooks(pool)
        with pytest.raises((psycopg.Error, pgonce.PgonceError)):
            webhooks.handle(body, lambda _, tx: fails(tx))
        assert status(conn, "evt_0")["status"] == "failed"
        with pytest.raises((psycopg.Error, pgonce.PgonceError)):
            asyncio.run(receive())
        assert status(conn, "evt_0")["status"] == "failed"
        assert webhooks.handle(body, lambda _, tx: tx.execute("select 1")) == "succeeded"


OF_HANDLERS = [
    pgonce.SignatureError, pgonce.InvalidPayload, pgonce.PayloadTooLarge, pgonce.EventBusy, pgonce.DatabaseUnavailable,
    pgonce.SchemaError, pgonce.InvalidArgument, psycopg.OperationalError, psycopg.errors.DiskFull, ValueError,
]  # fmt: skip


def test_an_endpoint_answers_500_whatever_a_handler_raises_and_tells_the_hook(
    app: pgonce.App, database: str, conn: Connection[Any]
) -> None:
    seen: list[type] = []
    app.on_error = lambda error, _event: seen.append(type(error))

    @app.webhook("pay")
    def pay(event: pgonce.Event, _: Any) -> None:
        raise OF_HANDLERS[int(event.id)]("card 4242 of another delivery")

    endpoint = pgonce.Endpoint(app, secrets="whsec_test", url=database)
    try:
        for number in range(len(OF_HANDLERS)):
            body = b'{"id": "%d", "type": "pay"}' % number
            answer = endpoint.handle(body, {"Stripe-Signature": stripe.sign(body, "whsec_test")})
            assert (answer.status, b"4242" in answer.body) == (500, False)
            assert status(conn, str(number))["status"] == "failed"
    finally:
        endpoint._pool().close()
    assert seen == OF_HANDLERS
