"""One plain function for a delivery, for Django, Flask and serverless platforms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from psycopg import Connection
from psycopg_pool import ConnectionPool

from pgonce.core import database
from pgonce.core.execute import call
from pgonce.errors import PayloadTooLarge
from pgonce.webhooks import calls as protocol
from pgonce.webhooks import stripe
from pgonce.webhooks.calls import Event
from pgonce.webhooks.inline import Webhooks
from pgonce.webhooks.registry import WebhookRegistry
from pgonce.webhooks.responses import MAX_BODY, Response, answer, failure


class Headers(Protocol):
    """A dict of headers, or a framework's class for them."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Names, in any case, and values."""
        ...


class Endpoint:
    """Call ``handle`` with the raw body and the headers, and answer with what it returns.

    Args:
        app: the handlers; synchronous ones.
        secrets: the endpoint's secrets (``whsec_...``); several while one is being rolled.
        url: the database; the default is what ``database.find`` finds.
        schema: where ``pgonce migrate`` put the tables.
        queue: record only, and let a ``pgonce worker`` elsewhere handle; the default handles before it answers,
            because a serverless platform may freeze the process once the answer is out.
        max_body: bytes; a larger body gets 413.

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
        queue: bool = False,
        max_body: int = MAX_BODY,
    ) -> None:
        self._app = app
        self._secrets = stripe.signing_secrets(secrets)
        self._url = url
        self._schema = schema
        self._queue = queue
        self._max_body = max_body
        self._opened: ConnectionPool[Connection[Any]] | None = None

    def __repr__(self) -> str:
        return f"<pgonce.webhooks.endpoint for {len(self._app.handlers)} handlers>"

    def handle(self, body: bytes, headers: Headers) -> Response:
        """Verify, record and handle one delivery; never raises.

        Args:
            body: the request body exactly as received.
            headers: the request's headers, in any case; Django's ``request.headers`` and ``request.META`` both do.
        """
        try:
            if len(body) > self._max_body:
                raise PayloadTooLarge(f"the body is over the limit of {self._max_body:,} bytes")
            stripe.verify(body, _signature(headers), self._secrets)
            event = stripe.read(body)
            outcome = self._record(event) if self._queue else self._handle(event)
        except Exception as error:  # noqa: BLE001 -- every failure becomes an answer
            return failure(error)
        return answer(200, event=event.id, outcome=outcome)

    def _handle(self, event: stripe.Body) -> str:
        return Webhooks(self._pool(), schema=self._schema).handle(event, self._app.handle)

    def _record(self, event: stripe.Body) -> str:
        key = self._app.order_key(Event(event.id, event.type, event.payload))
        outcomes = call(self._pool(), protocol.queue_webhooks([event], [key]), self._schema)
        return protocol.accepted(outcomes[event.id], event.id)

    def _pool(self) -> ConnectionPool[Connection[Any]]:
        # at the first delivery, in the process that serves it: a pool does not survive a fork
        if self._opened is None:
            self._opened = database.open_pool(database.find(self._url))
        return self._opened


def _signature(headers: Headers) -> str | None:
    for name, value in headers.items():
        if name.lower().replace("_", "-") in {"stripe-signature", "http-stripe-signature"}:
            return value
    return None
