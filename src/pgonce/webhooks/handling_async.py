"""Calls a handler, in a span that links to the receipt of its event. Log lines meanwhile have the event's id."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection

from pgonce.core.callables import ensure_awaitable
from pgonce.core.concurrency_async import isolated
from pgonce.core.connection_reset_async import lent
from pgonce.core.execute_async import Pool, call, execute
from pgonce.core.forked_child import ends_forked_child
from pgonce.core.hanging import HANGS, answered_within
from pgonce.core.telemetry import is_traced, working
from pgonce.errors import PgonceError, summary
from pgonce.webhooks.calls import Event, deciding
from pgonce.webhooks.calls_receive import count_refused_deliveries, get_webhook_trace, store_webhook_trace
from pgonce.webhooks.refusals import RefusalCounter
from pgonce.webhooks.registry import Handler
from pgonce.webhooks.stripe import Body

log = logging.getLogger("pgonce")


def ids_of(event: Event | Body) -> Mapping[str, str]:
    """What log lines about the event name."""
    return {"event_id": event.id, "event_type": event.type}


def _attributes(event: Event) -> Mapping[str, str | int]:
    return {
        "messaging.system": "pgonce",
        "messaging.operation.type": "process",
        "messaging.message.id": event.id,
        "pgonce.attempt": event.attempts,
    }


async def call_handlers(conn: AsyncConnection[Any], event: Event, handlers: Sequence[Handler], schema: str) -> None:
    """Call the handlers of one event, in their order, in its transaction."""
    traced = is_traced()  # asked once: it takes as long as all else that surrounds a handler
    link = await execute(conn, get_webhook_trace(event.id), schema) if traced else None
    attributes = _attributes(event) if traced else None

    async def call_each() -> None:
        async with lent(conn) as tx:
            for handler in handlers:
                with ends_forked_child():
                    await ensure_awaitable(handler.function(event, tx))

    with (
        working(f"process {event.type}", "consumer", ids_of(event), attributes, link=link, traced=traced),
        deciding(),
    ):
        await isolated(call_each)


async def call_batch_handler(conn: AsyncConnection[Any], events: Sequence[Event], handler: Handler) -> None:
    """Call a handler with a list of events."""
    attributes: dict[str, str | int] = {"messaging.system": "pgonce", "messaging.batch.message_count": len(events)}

    async def call_it() -> None:
        async with lent(conn) as tx:
            with ends_forked_child():
                await ensure_awaitable(handler.function(list(events), tx))  # a list that it may empty

    with working(f"process {handler.pattern}", "consumer", {}, attributes), deciding():
        await isolated(call_it)


async def call_own_handler(pool: Pool, event: Event, handler: Handler, schema: str) -> None:
    """Call a handler that opens its own transaction."""
    link = await call(pool, get_webhook_trace(event.id), schema) if is_traced() else None

    async def call_it() -> None:
        with ends_forked_child():
            await ensure_awaitable(handler.function(event))

    with working(f"process {event.type}", "consumer", ids_of(event), _attributes(event), link=link), deciding():
        await isolated(call_it)


async def write_counts(
    counter: RefusalCounter,
    connect: Callable[[], AbstractAsyncContextManager[AsyncConnection[Any]]],
    schema: str,
    every: float | None = None,
) -> None:
    """Write the counts, if the last time was ``every`` seconds ago. What cannot be written is kept until then."""
    if counts := counter.take(every):
        try:
            async with connect() as conn:
                with answered_within(HANGS, conn):
                    await execute(conn, count_refused_deliveries(counts), schema)
        except (PgonceError, psycopg.Error) as error:
            counter.put_back(counts)
            log.warning("the counts of refused deliveries could not be written: %s", summary(error))


@asynccontextmanager
async def receiving(pool: Pool | None, event: Body, schema: str) -> AsyncIterator[None]:
    """Record a delivery. If it is traced, its span is stored, so that each attempt can link to it."""
    with working(f"receive {event.type}", "producer", ids_of(event)) as work:
        if work.traceparent and pool is not None:
            with suppress(PgonceError, psycopg.Error):  # an error here must not stop the delivery
                await call(pool, store_webhook_trace(event.id, work.traceparent), schema)
        yield
