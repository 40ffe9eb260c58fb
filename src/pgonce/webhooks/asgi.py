"""The HTTP side of the inbox: an ASGI app that verifies, records and answers; a worker handles what it recorded.

An ASGI app by hand, because it has one hot route, and needs none of a framework's routing and request objects there
(docs/decisions/receiver.md). In FastAPI or Starlette it is mounted like any other, at a parent of
its path: ``api.mount("/webhooks", pgonce.receiver(registry, secrets=[...]))``. (Mounted at the path itself, Starlette
redirects to it with a slash behind, and to Stripe a redirect is a failure.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from pgonce.core import database
from pgonce.core.execute_async import call
from pgonce.errors import DatabaseUnavailable, PayloadTooLarge, PgonceError
from pgonce.webhooks import calls_list, stripe
from pgonce.webhooks.calls import Event, accepted
from pgonce.webhooks.inbox_writer import Recorder
from pgonce.webhooks.registry import WebhookRegistry
from pgonce.webhooks.responses import MAX_BODY, Response, answer, failure
from pgonce.webhooks.worker import Worker

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PATH = "/webhooks/stripe"


class Receiver:
    """The ASGI app; made by ``receiver``.

    Raises:
        InvalidArgument: there is no secret, or one is None, or an API key.
    """

    def __init__(
        self,
        app: WebhookRegistry,
        *,
        secrets: Sequence[str],
        url: str | None = None,
        schema: str = "public",
        max_body: int = MAX_BODY,
        live_only: bool = False,
        worker: bool = True,
        concurrency: int = 4,
    ) -> None:
        self._app = app
        self._secrets = stripe.signing_secrets(secrets)
        self._url = url
        self._schema = schema
        self._max_body = max_body
        self._live_only = live_only
        self._with_worker = worker
        self._concurrency = concurrency
        self._starting = asyncio.Lock()
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] | None = None
        self._recorder: Recorder | None = None
        self._worker: Worker | None = None

    def __repr__(self) -> str:
        return f"<pgonce.receiver for {len(self._app.handlers)} handlers>"

    async def start(self) -> None:
        """Open the pool and start the worker. A server's lifespan does it, else the first request.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
        """
        async with self._starting:
            if self._recorder is not None:
                return
            url = await asyncio.to_thread(database.find, self._url)
            self._pool = await database.open_async_pool(url, 4)
            if self._with_worker:
                worker = Worker(self._app, url, schema=self._schema, concurrency=self._concurrency)
                try:
                    self._worker = await asyncio.to_thread(worker.start)
                except PgonceError:
                    await self._pool.close()
                    raise
            self._recorder = Recorder(self._pool, schema=self._schema, worker=self._worker)

    async def stop(self) -> None:
        """Let the worker finish what it has in hand, and close the pool."""
        if self._worker is not None:
            await asyncio.to_thread(self._worker.stop)
        if self._pool is not None:
            await self._pool.close()
        self._pool = self._recorder = self._worker = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"the receiver speaks http, not {scope['type']}")
        response = await self._respond(scope, receive)
        headers = [(name.encode(), value.encode()) for name, value in response.headers.items()]
        if response.status == 413:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        closes = response.status == 413
        await send({"type": "http.response.body", "body": response.body, "more_body": closes})
        if closes:
            await _take_leave(receive)
            await send({"type": "http.response.body", "body": b""})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.start()
                except PgonceError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        whole = scope["path"]
        path = whole.removeprefix(scope.get("root_path", ""))
        if path == "/healthz":
            return answer(200, status="ok")
        try:
            if path == "/readyz":
                return await self._ready()
            if PATH not in {path, whole}:
                return answer(404, error=f"there is nothing here: Stripe's endpoint is POST {PATH}")
            if scope["method"] != "POST":
                return answer(405, error="Stripe sends POST")
            return await self._receive(scope, receive)
        except Exception as error:  # noqa: BLE001 -- every failure becomes an answer
            return failure(error)

    async def _receive(self, scope: Scope, receive: Receive) -> Response:
        """Size, signature, then the database: what anybody can send costs as little as possible."""
        headers = {name: value for name, value in scope["headers"] if name in _HEADERS}
        body = await _read(headers.get(b"content-length", b""), receive, self._max_body)
        stripe.verify(body, headers.get(b"stripe-signature", b"").decode("latin-1"), self._secrets)
        event = stripe.read(body)
        if self._live_only and event.payload.get("livemode") is False:
            return answer(200, event=event.id, outcome="refused: a test event at a live endpoint")
        if self._recorder is None:
            await self.start()
        assert self._recorder is not None  # noqa: S101 -- start has made it, or raised
        key = self._app.order_key(Event(event.id, event.type, event.payload))
        outcome = accepted(await self._recorder.record(event, key), event.id)
        return answer(200, event=event.id, outcome=outcome)

    async def _ready(self) -> Response:
        await self.start()
        assert self._pool is not None  # noqa: S101 -- start has made it, or raised
        try:
            async with asyncio.timeout(5):
                await call(self._pool, calls_list.missing_webhooks([]), self._schema)
        except TimeoutError:
            raise DatabaseUnavailable("the database did not answer within 5 s") from None
        return answer(200, status="ready")


_HEADERS = {b"content-length", b"stripe-signature"}


async def _read(content_length: bytes, receive: Receive, limit: int) -> bytes:
    """The body, given up on as soon as it is, or says it will be, larger than ``limit`` bytes."""
    too_large = PayloadTooLarge(f"the body is over the limit of {limit:,} bytes")
    if content_length.isdigit() and int(content_length) > limit:
        raise too_large
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise PayloadTooLarge("the client went away in the middle of the body")
        part: bytes = message.get("body", b"")
        body += part
        if len(body) > limit:
            raise too_large
        if not message.get("more_body"):
            return body


async def _take_leave(receive: Receive) -> None:
    """Read on for a moment behind an answer that closes the connection.

    Where bytes are left unread, the kernel resets the connection instead of closing it, and the client may lose the
    answer that it has not read yet.
    """
    left = MAX_BODY
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return


receiver = Receiver
