"""Handlers of every kind that do the same, so that one test states a rule for all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import AsyncConnection, Connection

import pgonce
from tests.contract.webhooks.test_worker import write

KINDS = ["plain", "async", "batch", "own"]


def register(
    app: pgonce.App, database: str, kind: str, before: Callable[[pgonce.Event, Any], Any] = lambda _event, _tx: None
) -> None:
    """Register a handler for events of type "pay". It calls ``before(event, connection)`` and writes the effect.

    An asynchronous handler passes its asynchronous connection, and awaits what ``before`` returns. ``kind``: of KINDS,
    or "ordered", which is asynchronous and handles the events of one object in order.
    """

    def handle(event: pgonce.Event, tx: Connection[Any]) -> None:
        before(event, tx)
        write(tx, event)

    if kind == "plain":
        app.webhook("pay")(handle)
    elif kind == "batch":

        @app.webhook_batch("pay")
        def pay_all(events: list[pgonce.Event], tx: Connection[Any]) -> None:
            for event in events:
                handle(event, tx)

    elif kind == "own":

        @app.webhook("pay", transaction="own")
        def pay(event: pgonce.Event) -> None:
            with psycopg.connect(database) as conn:
                handle(event, conn)
                event.complete(conn)

    else:

        @app.webhook("pay", ordered=kind == "ordered")
        async def pay_async(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
            if inspect.isawaitable(work := before(event, tx)):
                await work
            await tx.execute("insert into effects (event) values (%s)", [event.id])
