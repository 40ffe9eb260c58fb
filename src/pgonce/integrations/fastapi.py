"""For FastAPI: one lifespan for several services, and a dependency that gives a route the event and its transaction."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psycopg
from fastapi import Depends, FastAPI, HTTPException, Request
from psycopg import AsyncConnection
from starlette.exceptions import HTTPException as StarletteHTTPException

from pgonce.core import database
from pgonce.core.callables import is_async
from pgonce.core.concurrency_async import LEAVE, shielded
from pgonce.core.service import Service
from pgonce.errors import InvalidArgument, PgonceError
from pgonce.webhooks import stripe
from pgonce.webhooks.calls import Event, Ignored, Postponed
from pgonce.webhooks.inline_async import AsyncWebhooks
from pgonce.webhooks.request_body import BodyReader, RequestBody
from pgonce.webhooks.responses import MAX_BODY, failure
from pgonce.webhooks.secret_lookup import SecretLookup

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Any]]

_ANSWERED_BEFORE_COMMIT = (
    "this FastAPI ends a dependency after it has answered, so Stripe would get 200 before the commit: "
    "upgrade FastAPI to 0.121 or newer"
)

_RAISED = "a route's effect is rolled back when it raises, so return the answer instead of raising HTTPException of"


def lifespan(*parts: Any) -> Lifespan:
    """One lifespan of several parts: ``FastAPI(lifespan=lifespan(receiver, scheduler, own))``.

    They start in this order and stop in the reverse one. If one cannot start, those before it are stopped.

    Args:
        parts: receivers and `Inbox` (anything with a ``lifespan``), services such as ``Scheduler``, ``Worker`` and
            ``Alerts``, and lifespan functions of your own, whose state is passed on.

    Raises:
        InvalidArgument: a part is none of these.
    """
    functions = [_function_of(part) for part in parts]

    @asynccontextmanager
    async def combined(app: Any) -> AsyncIterator[dict[str, Any]]:
        state: dict[str, Any] = {}
        async with AsyncExitStack() as stack:
            for function in functions:
                found = await stack.enter_async_context(function(app))
                state |= found if isinstance(found, Mapping) else {}
            yield state

    return combined


def _function_of(part: Any) -> Lifespan:
    if isinstance(part, Service):
        return _lifespan_of(part)
    function = getattr(part, "lifespan", part)
    if not callable(function) or inspect.isclass(function) or isinstance(part, FastAPI):
        raise InvalidArgument(f"lifespan cannot start {part!r}: pass a receiver, a service or a lifespan function")
    if inspect.isasyncgenfunction(function):
        return asynccontextmanager(function)
    started: Lifespan = function
    return started


def _lifespan_of(service: Service) -> Lifespan:
    @asynccontextmanager
    async def run(_app: Any) -> AsyncIterator[None]:
        await asyncio.to_thread(service.start)
        try:
            yield
        finally:
            await asyncio.to_thread(service.stop, 20.0)

    return run


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a route gets: the event, and the connection inside the transaction that marks it."""

    event: Event
    tx: AsyncConnection[Any] = field(repr=False)


class Inbox:
    """Webhooks in routes of your own: the route is the handler, and its effect commits together with the mark.

    ::

        inbox = Inbox(secrets=["whsec_..."])
        api = FastAPI(lifespan=inbox.lifespan)

        @api.post("/webhooks/stripe")
        async def stripe_webhook(delivery: Annotated[Delivery, inbox.delivery]):
            await delivery.tx.execute("insert into ...", [delivery.event.id])

    The transaction commits after the route has returned and before the answer is sent. A delivery of an event that is
    handled already is answered with 200, and the route is not called. If the route raises, nothing is written, and an
    ``HTTPException`` with a status below 300 is answered with 500. ``event.ignore`` and ``event.retry`` work. A body
    of more than a megabyte is answered with 413, one that is not received within 10 s with 408.

    Args:
        secrets: the endpoint's (``whsec_...``), several while one is being rolled; or a function, plain or async, that
            returns them and is called for every delivery. If it has not returned within 5 s, the answer is 503.
        url: the database; the default is what ``database.find`` finds.
        schema: where ``pgonce migrate`` put the tables.
        size: connections, at most: so many deliveries are handled at once.

    Raises:
        InvalidArgument: a secret cannot be one; or this FastAPI would answer before the commit.
    """

    def __init__(
        self,
        *,
        secrets: stripe.Secrets | Callable[[], Awaitable[Any]],
        url: str | None = None,
        schema: str = "public",
        size: int = 10,
    ) -> None:
        if "scope" not in inspect.signature(Depends).parameters:
            raise InvalidArgument(_ANSWERED_BEFORE_COMMIT)
        self._lookup = SecretLookup(secrets) if callable(secrets) else None
        self._secrets = () if callable(secrets) else stripe.signing_secrets(secrets)
        self._url, self._schema, self._size = url, schema, size
        self._webhooks: AsyncWebhooks | None = None
        self._bodies = BodyReader(MAX_BODY)
        # scope: the default ends the dependency, and with it the transaction, after the answer was sent
        self.delivery: Any = Depends(self._deliver, scope="function")
        """The dependency of a route's argument."""

    @asynccontextmanager
    async def lifespan(self, _app: Any = None) -> AsyncIterator[None]:
        """Open the pool, and close it at the end."""
        url = await asyncio.to_thread(database.find, self._url)
        async with await database.open_async_pool(url, self._size) as pool:
            webhooks = self._webhooks = AsyncWebhooks(pool, schema=self._schema)
            try:
                yield
            finally:
                self._webhooks = None
                await webhooks._write_refusals(0)  # noqa: SLF001

    def _check(self, request: Request) -> AsyncWebhooks:
        if self._webhooks is None:
            raise InvalidArgument("the inbox has not started: pass FastAPI(lifespan=inbox.lifespan)")
        if not is_async(inspect.unwrap(request.scope["endpoint"])):
            # it would be committed before what a generator does, and without what a plain function cannot await
            raise InvalidArgument("a route of inbox.delivery must be `async def`, without a yield")
        return self._webhooks

    async def _read(self, request: Request, webhooks: AsyncWebhooks) -> stripe.Body:
        """The verified event of a request."""
        signature = ",".join(request.headers.getlist("stripe-signature")) or None
        try:
            async with webhooks._counting():  # noqa: SLF001
                stripe.check_header(signature)  # before the body: anybody can send a large one
                body = await self._body(request)
                stripe.verify(body, signature, await self._lookup.find() if self._lookup else self._secrets)
                event = stripe.read(body)
        except PgonceError as error:
            raise _answer_to(error) from None
        return event

    async def _body(self, request: Request) -> bytes:
        """The body, also if another parameter of the route or another dependency has read it already."""
        if hasattr(request, "_body"):
            body = await request.body()
            self._bodies.check_size(len(body))
            return body
        if request._stream_consumed:  # noqa: SLF001 -- nothing would come any more
            raise InvalidArgument(
                "the body was read before inbox.delivery, by request.form() or request.stream(): "
                "the signature is over its bytes, so let request.body() read it"
            )
        body = await self._bodies.read(RequestBody(request.receive))
        request._body = body  # noqa: SLF001 -- so that the route may read it, too
        return body

    async def _deliver(self, request: Request) -> AsyncIterator[Delivery]:
        webhooks = self._check(request)
        event = await self._read(request, webhooks)
        handed: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def handle(taken: Event, tx: AsyncConnection[Any]) -> None:
            handed.set_result(Delivery(taken, tx))
            await ended

        handling = asyncio.create_task(webhooks.handle(event, handle))
        waiting: set[asyncio.Future[Any]] = {handling, handed}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:  # the request was cancelled: its transaction would wait for the route
            handling.cancel()
            await shielded(asyncio.wait({handling}, timeout=LEAVE))  # until the attempt has failed
            raise
        if not handed.done():
            try:
                raise HTTPException(200, {"outcome": await handling})
            except (PgonceError, psycopg.Error) as error:
                raise _answer_to(error) from None
        raised: BaseException | None = None
        try:
            yield handed.result()
        except (Ignored, Postponed) as decision:
            raised = decision
            ended.set_exception(decision)
        except BaseException as error:
            ended.set_exception(error)
            await asyncio.wait({handling})
            handling.exception()
            _refuse_success(error)
            raise
        else:
            ended.set_result(None)
        try:
            outcome = await handling
        except PgonceError as error:  # of the commit, or of what the route decided
            raise _answer_to(error) from None
        if raised is not None:
            raise HTTPException(200, {"outcome": outcome})


def _refuse_success(error: BaseException) -> None:
    """Raise another error if the route has raised a 2xx: after it Stripe would not deliver the event again."""
    if isinstance(error, StarletteHTTPException) and error.status_code < 300:
        raise _answer_to(PgonceError(f"{_RAISED} {error.status_code}")) from error


def _answer_to(error: Exception) -> HTTPException:
    answer = failure(error)
    return HTTPException(answer.status, str(error) if answer.status < 500 else "see the log of this service")
