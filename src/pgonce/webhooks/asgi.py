"""The HTTP side of the inbox: an ASGI app that verifies, records and answers; a worker handles what it recorded.

It uses no framework, because it has one hot route (docs/decisions/receiver.md). In FastAPI or Starlette it is mounted
like any other app, at a parent of its path: ``api.mount("/webhooks", pgonce.receiver(app, secrets=[...]))``. Mounted at
the path itself, Starlette redirects to the path with a slash after it, and Stripe counts a redirect as a failure.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from pgonce.core import database
from pgonce.core.event_loop import EventLoop
from pgonce.core.execute_async import call, connection, execute
from pgonce.core.hanging import HANGS, answered_within
from pgonce.core.lifespan import Receive, Scope, Send, follow_lifespan
from pgonce.core.processes import BEAT_EVERY, Registration, beat_process, end_process
from pgonce.core.registration import check_app, check_count, check_flag, check_schema, check_text
from pgonce.core.service import Service
from pgonce.errors import DatabaseUnavailable, InvalidArgument, PgonceError, summary
from pgonce.webhooks import stripe
from pgonce.webhooks.calls_receive import check_inbox
from pgonce.webhooks.event_types import doubts
from pgonce.webhooks.handling_async import receiving, write_counts
from pgonce.webhooks.inbox_writer import InboxWriter, order_key
from pgonce.webhooks.providers import Provider
from pgonce.webhooks.refusals import RefusalCounter, refusal_reason
from pgonce.webhooks.registry import WebhookRegistry
from pgonce.webhooks.request_body import BodyReader, RequestBody
from pgonce.webhooks.responses import MAX_BODY, Response, answer, failure
from pgonce.webhooks.secret_lookup import SecretLookup
from pgonce.webhooks.worker import Worker

log = logging.getLogger("pgonce")

PATH = "/webhooks/stripe"
LIVE, READY = "/healthz", "/readyz"
READY_SECONDS = 1.0
"""Seconds for which an answer about readiness is reused."""
READY_WITHIN = 5.0
"""Seconds for the database's answer. Until it has come or is given up, all probes wait for it."""
RECORD_SECONDS = 12.0
"""Seconds until a delivery is answered with 503. A pooler whose server is gone may keep a statement for two minutes.
The outcome of one that was sent is awaited for 5 s more; Stripe waits for about 20 s."""
STOP_SECONDS = 20.0
"""Seconds that ``stop`` waits for handlers. Kubernetes and systemd kill a process after 30 and 90 s."""


class Receiver:
    """The ASGI app; made by ``receiver``.

    Args:
        app: the handlers.
        secrets: the endpoint's secrets (``whsec_...``), several while one is being rolled; or a function, plain or
            async, that returns them and is called for every delivery. One that takes over 5 s costs a 503.
        verify: another sender, in place of Stripe and ``secrets``: ``providers.github(secret)`` and the like.
        url: the database; the default is what ``database.find`` finds.
        schema: where ``pgonce migrate`` put the tables.
        path: where deliveries are received, below the prefix under which the receiver is mounted. A slash after it is
            accepted.
        max_body: bytes; a larger body gets 413.
        live_only: answer test events with 200 and do not record them.
        worker: handle the events in this process, too. Async handlers run in the event loop of the server.
        concurrency: transactions at once, for each kind of handler.

    Raises:
        InvalidArgument: there is no secret, or one cannot be a signing secret; or nothing could be received
            at the path.
    """

    def __init__(
        self,
        app: WebhookRegistry,
        *,
        secrets: stripe.Secrets | Callable[[], Awaitable[Any]] = (),
        verify: Provider | None = None,
        url: str | None = None,
        schema: str = "public",
        path: str = PATH,
        max_body: int = MAX_BODY,
        live_only: bool = False,
        worker: bool = True,
        concurrency: int = 4,
    ) -> None:
        check_text(path, "the path", f'"{PATH}"')
        if not re.fullmatch(r"/[^?#%\s]*", path):  # the server decodes the path of a request
            raise InvalidArgument(f"the path {path!r} must begin with a slash and have no ? # % or space, as {PATH}")
        if path.rstrip("/") in {LIVE, READY}:
            raise InvalidArgument(f"the path {path!r} is that of a health check: choose another one, as {PATH}")
        check_app(app, WebhookRegistry, "receiver")
        check_schema(schema)
        check_count(max_body, "max_body of receiver", 1)
        check_count(concurrency, "concurrency of receiver", 1)
        check_flag(live_only, "live_only of receiver")
        check_flag(worker, "worker of receiver")
        self._app = app
        self._verify = verify
        self._lookup = SecretLookup(secrets) if callable(secrets) else None
        self._secrets = () if verify or callable(secrets) else stripe.signing_secrets(secrets)
        self._url = url
        self._schema = schema
        self._path = path.rstrip("/")
        self._bodies = BodyReader(max_body)
        self._live_only = live_only
        self._with_worker = worker
        self._concurrency = concurrency
        self._starting: asyncio.Task[None] | None = None
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] | None = None
        self._writer: InboxWriter | None = None
        self._worker: Worker | None = None
        self._refusals = RefusalCounter()
        self._checking: asyncio.Task[None] | None = None
        self._checked = 0.0
        self._sweeping: asyncio.Task[None] | None = None
        self._starting_late: asyncio.Task[None] | None = None
        self._watched: EventLoop | None = None
        self.event_loop: EventLoop | None = None
        """Where async handlers run; None: in the loop that runs the receiver."""
        self.shutdown_timeout = STOP_SECONDS
        """Seconds that ``stop`` waits for handlers, unless it is called with another number."""

    def __repr__(self) -> str:
        return f"<pgonce.receiver for {len(self._app.handlers)} handlers>"

    async def start(self) -> None:
        """Open the pool and start the worker. If the server has no lifespan, the first delivery does this, or
        `BEAT_EVERY` seconds after it the first refusal.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
        """
        if self._writer is not None:
            return
        if self._starting is None:  # all requests that arrive meanwhile wait for this attempt
            self._starting = asyncio.create_task(self._start())
        starting = self._starting
        try:
            await asyncio.shield(starting)
        finally:
            if starting.done():
                self._starting = None

    async def _start(self) -> None:
        patterns = [handler.pattern for handler in self._app.handlers]
        self._registration = Registration(
            "receives", self._schema, app=getattr(self._app, "name", ""), content=patterns
        )
        url = await asyncio.to_thread(database.find, self._url)
        pool = await database.open_async_pool(url, 4)
        try:
            if self._with_worker:
                loop = self.event_loop or EventLoop.running()
                worker = Worker(self._app, url, schema=self._schema, concurrency=self._concurrency, loop=loop)
                self._worker = await asyncio.to_thread(worker.start)
                if self.event_loop is None and any(handler.is_async for handler in self._app.handlers):
                    loop.watch()
                    self._watched = loop
        except BaseException:
            await pool.close()
            raise
        self._pool = pool
        self._writer = InboxWriter(pool, schema=self._schema, worker=self._worker)
        self._sweeping = asyncio.create_task(self._sweep(pool))

    async def _sweep(self, pool: AsyncConnectionPool[AsyncConnection[Any]]) -> None:
        """From time to time record that this process receives, and write the counts of what it refused."""
        while True:
            await self._beat(pool)
            await asyncio.sleep(BEAT_EVERY)
            await write_counts(self._refusals, partial(connection, pool), self._schema)

    def _count_refusal(self, reason: str | None) -> None:
        self._refusals.count(reason)
        if reason is not None and self._writer is None and self._starting_late is None:
            self._starting_late = asyncio.create_task(self._start_late())

    async def _start_late(self) -> None:
        """Start what writes the counts: without a lifespan only a good delivery does, and there may never be one."""
        while self._writer is None:
            await asyncio.sleep(BEAT_EVERY)
            try:
                await self.start()
            except (PgonceError, psycopg.Error) as error:
                log.warning("the counts of refused deliveries wait for the database: %s", summary(error))
        self._starting_late = None

    async def _beat(self, pool: AsyncConnectionPool[AsyncConnection[Any]]) -> None:
        """Write or refresh this process's row for ``pgonce ps``. Without it deliveries are received, too."""
        try:
            async with connection(pool) as conn:
                with answered_within(HANGS, conn):
                    if not await execute(conn, beat_process(self._registration.id, 0, []), self._schema):
                        registering = self._registration.registering()
                        self._registration.started_at = await execute(conn, registering, self._schema)
        except (PgonceError, psycopg.Error) as error:
            log.warning("this receiver is not in the list of processes now: %s", summary(error))

    @property
    def services(self) -> list[Service]:
        """The worker of this process; empty until it has started, and without one."""
        return [] if self._worker is None else [self._worker]

    async def stop(self, timeout: float | None = None) -> None:
        """Wait until the worker has finished the events that it has begun, and close the pool.

        Args:
            timeout: seconds to wait for handlers; None: ``shutdown_timeout``. An event that has not ended by then is
                handled again by another worker.
        """
        if self._starting_late is not None:
            self._starting_late.cancel()
            self._starting_late = None
        if self._starting is not None:  # what it starts must be stopped, too
            await asyncio.wait([self._starting])
        worker, pool = self._worker, self._pool
        self._worker = self._writer = self._pool = None
        if self._watched is not None:
            self._watched.close()
        if worker is not None:
            await asyncio.to_thread(worker.stop, self.shutdown_timeout if timeout is None else timeout)
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        if pool is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await write_counts(self._refusals, partial(connection, pool), self._schema, 0)
                    with suppress(PgonceError, psycopg.Error):
                        await call(pool, end_process(self._registration.id), self._schema)
            await pool.close()

    @asynccontextmanager
    async def lifespan(self, _app: Any = None) -> AsyncIterator[None]:
        """Start and stop with the application that mounts the receiver: ``FastAPI(lifespan=receiver.lifespan)``.

        A mounted app gets no lifespan events of its own: without this, the worker starts with the first request, and
        events that were queued before it wait until then.
        """
        await self.start()
        if self._verify is None:
            for line in doubts(handler.pattern for handler in self._app.handlers):
                log.warning("%s", line)
        try:
            yield
        finally:
            await self.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's lifespan."""
        if scope["type"] == "lifespan":
            await follow_lifespan(receive, send, self.start, self.stop)
            return
        if scope["type"] == "websocket":  # anybody can ask for one; an error here would be a traceback in the log
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            raise RuntimeError(f"the receiver speaks http, not {scope['type']}")
        request = RequestBody(receive)
        response = await self._respond(scope, request)
        headers = [(name.encode(), value.encode()) for name, value in response.headers.items()]
        # An answer that is sent before the body was read must close the connection: the next bytes on it are the body.
        closes = request.begun and not request.complete
        if closes:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": closes})
        if closes:
            await request.discard_rest()
            await send({"type": "http.response.body", "body": b""})

    async def _respond(self, scope: Scope, request: RequestBody) -> Response:
        try:
            if _is_at(scope, self._path):
                if scope["method"] != "POST":
                    return answer(405, error="deliveries are sent by POST")
                return await self._receive(scope, request)
            if _is_at(scope, LIVE):
                return answer(200, status="ok")
            if _is_at(scope, READY):
                return await self._check_ready()
            if _signature(scope):
                self._count_refusal("path")
            return answer(404, error=f"there is nothing here: deliveries are received at POST {self._path}")
        except Exception as error:  # noqa: BLE001 -- every failure becomes an answer
            if request.begun:
                self._count_refusal(refusal_reason(error))
            return failure(error, by="the receiver")

    async def _receive(self, scope: Scope, request: RequestBody) -> Response:
        """Check size, header, body and signature in this order, so that unsigned requests cost little."""
        request.begun = True
        header = _signature(scope)
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if length.isdigit():
            self._bodies.check_size(int(length[:20]))
        if self._verify is not None:
            event = self._verify.read(await self._bodies.read(request), scope["headers"])
        else:
            stripe.check_header(header)
            body = await self._bodies.read(request)
            stripe.verify(body, header, await self._lookup.find() if self._lookup else self._secrets)
            event = stripe.read(body)
        if self._live_only and event.payload.get("livemode") is False:
            self._count_refusal("test")
            return answer(200, event=event.id, outcome="refused: a test event at a live endpoint")
        async with _database_answers_within(RECORD_SECONDS):
            await self.start()
            assert self._writer is not None  # noqa: S101 -- start has made it, or raised
            async with receiving(self._pool, event, self._schema):
                outcome = await self._writer.record(event, order_key(self._app, event))
        return answer(200, event=event.id, outcome=outcome)

    async def _check_ready(self) -> Response:
        """Check the database: at most once a second, one check at a time, because anybody may send this request."""
        if self._checking is None or (self._checking.done() and time.monotonic() - self._checked > READY_SECONDS):
            self._checking = asyncio.create_task(self._check_inbox())
        await asyncio.shield(self._checking)
        return answer(200, status="ready")

    async def _check_inbox(self) -> None:
        try:
            async with _database_answers_within(READY_WITHIN):
                await self.start()
                assert self._pool is not None  # noqa: S101 -- start has made it, or raised
                async with connection(self._pool) as conn:
                    with answered_within(READY_WITHIN, conn):
                        await execute(conn, check_inbox(), self._schema)
        finally:
            self._checked = time.monotonic()


@asynccontextmanager
async def _database_answers_within(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise DatabaseUnavailable(f"the database did not answer within {seconds:g} s") from None


def _signature(scope: Scope) -> str:
    """The Stripe-Signature header; several are joined by a comma. Empty if there is none."""
    return b",".join(value for name, value in scope["headers"] if name == b"stripe-signature").decode("latin-1")


def _is_at(scope: Scope, path: str) -> bool:
    """Whether the request is for ``path`` below the prefix under which the app is mounted, or below a part of it.

    Servers and frameworks differ in whether ``path`` still contains ``root_path``. Litestar removes the prefix, also
    its last slash, and does not name it: only ``raw_path`` has it. A proxy may send the whole address, and a server
    pass it on.
    """
    prefix = scope.get("root_path", "").rstrip("/")
    sent = [scope["path"], (scope.get("raw_path") or b"").decode("latin-1").partition("?")[0]]
    paths = ["/" + re.sub(r"^https?://[^/]*", "", each).strip("/") for each in sent]
    return any(
        full.endswith(path) and f"{prefix}/".startswith(full.removesuffix(path) + "/")
        for each in paths
        for full in (each, prefix + each)
    )


receiver = Receiver
