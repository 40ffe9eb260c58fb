"""The HTTP side of the inbox: POST /webhooks/stripe, as an ASGI app."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from psycopg import Connection
from psycopg_pool import ConnectionPool
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pgonce import database
from pgonce._sync.webhooks import Webhooks
from pgonce.app import App
from pgonce.errors import (
    DatabaseUnavailable,
    EventBusy,
    InvalidPayload,
    PayloadTooLarge,
    SchemaError,
    SignatureError,
)
from pgonce.protocol import stripe

MAX_BODY = 1_000_000
"""Bytes. Real events over 52 kB have been seen; nothing that Stripe documents comes near a megabyte."""

log = logging.getLogger("pgonce")


def status_of(error: Exception) -> int:
    """The HTTP status that makes Stripe do the right thing: 4xx what will never fit, 409 and 5xx what a retry mends."""
    if isinstance(error, PayloadTooLarge):
        return 413
    if isinstance(error, SignatureError | InvalidPayload):
        return 400
    if isinstance(error, EventBusy):
        return 409
    if isinstance(error, DatabaseUnavailable | SchemaError):
        return 503
    return 500


async def read_limited(request: Request, limit: int) -> bytes:
    """The body, given up on as soon as it is larger than ``limit`` bytes.

    Raises:
        PayloadTooLarge: it is; by its Content-Length, or while it streams in.
    """
    too_large = PayloadTooLarge(f"the body is over the limit of {limit:,} bytes")
    if (
        request.headers.get("content-length", "0").strip().isdecimal()
        and int(request.headers.get("content-length", "0")) > limit
    ):
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def receiver(
    app: App, *, url: str, secrets: Sequence[str], schema: str = "public", max_body: int = MAX_BODY, threads: int = 16
) -> Starlette:
    """An ASGI app that handles each delivery before it answers.

    Args:
        app: the handlers.
        url: the database.
        secrets: the endpoint's secrets (``whsec_...``).
        schema: where ``pgonce migrate`` put the tables.
        max_body: bytes; a larger body gets 413.
        threads: how many handlers run at once, each on its own connection.
    """
    pool: ConnectionPool[Connection[Any]] | None = None

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        nonlocal pool
        pool = database.open_pool(url, threads)
        with pool:
            yield

    async def stripe_webhook(request: Request) -> Response:
        assert pool is not None  # noqa: S101 -- the lifespan has opened it
        webhooks = Webhooks(pool, schema=schema)
        try:
            body = await read_limited(request, max_body)
            stripe.verify(body, request.headers.get("stripe-signature"), secrets)
            event = stripe.read(body)
            outcome = await run_in_threadpool(webhooks.handle, event, app.handle)
        except Exception as error:  # noqa: BLE001 -- every failure becomes an answer
            status = status_of(error)
            expected = status != 500
            log.warning("%s %s", status, error if expected else f"a handler raised {type(error).__name__}")
            reason = str(error) if expected else "a handler failed; its traceback is in webhook_events.error_message"
            return JSONResponse({"error": reason}, status)
        return JSONResponse({"event": event.id, "outcome": outcome})

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[Route("/webhooks/stripe", stripe_webhook, methods=["POST"]), Route("/healthz", healthz)],
        lifespan=lifespan,
    )
