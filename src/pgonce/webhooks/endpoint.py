"""``Endpoint.handle``: one synchronous call per delivery, for Django, Flask and serverless platforms."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from psycopg import Connection
from psycopg_pool import ConnectionPool

from pgonce.core import database
from pgonce.core.execute import connection, execute
from pgonce.core.hanging import HANGS, answered_within
from pgonce.core.registration import check_app, check_count, check_flag, check_schema
from pgonce.core.telemetry import is_traced
from pgonce.errors import InvalidArgument, PayloadTooLarge
from pgonce.webhooks import calls, stripe
from pgonce.webhooks.calls import Event
from pgonce.webhooks.handling import receiving, write_counts
from pgonce.webhooks.inbox_writer import ALONE, order_key, with_lock_timeout
from pgonce.webhooks.inline import Webhooks
from pgonce.webhooks.providers import Provider
from pgonce.webhooks.refusals import RefusalCounter, refusal_reason
from pgonce.webhooks.registry import WebhookRegistry
from pgonce.webhooks.responses import MAX_BODY, Response, answer, failure, is_database_fault


class Headers(Protocol):
    """A dict of headers, or a framework's headers object."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Pairs of a name, in upper or lower case, and a value."""
        ...


class Endpoint:
    """Call ``handle`` with the raw body and the headers, and answer with what it returns.

    Args:
        app: the handlers; synchronous ones.
        secrets: the endpoint's secrets (``whsec_...``), several while one is being rolled; or a function that returns
            them and is called for every delivery.
        verify: another sender, in place of Stripe and ``secrets``: ``providers.github(secret)`` and the like.
        url: the database; the default is the URL from ``database.find``.
        schema: where ``pgonce migrate`` put the tables.
        queue: only record the event; a ``pgonce worker`` elsewhere handles it. By default the event is handled before
            the answer, because a serverless platform may freeze the process after the answer is sent.
        max_body: bytes; a larger body gets 413.

    Raises:
        InvalidArgument: no secret is given, or one of them is not a signing secret.
    """

    def __init__(
        self,
        app: WebhookRegistry,
        *,
        secrets: stripe.Secrets = (),
        verify: Provider | None = None,
        url: str | None = None,
        schema: str = "public",
        queue: bool = False,
        max_body: int = MAX_BODY,
    ) -> None:
        check_app(app, WebhookRegistry, "Endpoint")
        check_schema(schema)
        check_count(max_body, "max_body of Endpoint", 1)
        check_flag(queue, "queue of Endpoint")
        self._app = app
        self._verify = verify
        self._secrets = secrets if callable(secrets) or verify else stripe.signing_secrets(secrets)
        self._url = url
        self._schema = schema
        self._queue = queue
        self._max_body = max_body
        self._refusals = RefusalCounter()
        self._opened: ConnectionPool[Connection[Any]] | None = None
        self._opening = threading.Lock()

    def __repr__(self) -> str:
        return f"<pgonce.webhooks.endpoint for {len(self._app.handlers)} handlers>"

    def handle(self, body: bytes, headers: Headers) -> Response:
        """Verify, record and handle one delivery; raises no ``Exception``.

        SystemExit and its like, from a handler, are raised after the event is marked as failed.

        Args:
            body: the request body exactly as received.
            headers: the request's headers, with names in upper or lower case. Django's ``request.headers`` and
                ``request.META`` both work. A header's value may be a list, as in AWS's multiValueHeaders.

        Returns:
            The answer to send: its ``status``, its ``body`` as bytes, and its ``headers`` as a dict.
        """
        by, about, is_away = "the endpoint", None, False

        def handle(event: Event, tx: Any) -> None:
            nonlocal by, about
            about = event
            try:
                self._app.handle(event, tx)
            except Exception:
                by = "a handler"
                raise

        try:
            stripe.check_body(body)  # the signature is over the bytes
            if len(raw := bytes(body)) > self._max_body:
                raise PayloadTooLarge(f"the body is over the limit of {self._max_body:,} bytes")
            if self._verify is not None:
                event = self._verify.read(raw, _pairs(headers))
            else:
                stripe.verify(raw, _signature(headers), self._secrets)
                event = stripe.read(raw)
            if self._queue:
                with receiving(self._pool() if is_traced() else None, event, self._schema):
                    outcome = self._record(event)
            else:
                outcome = Webhooks(self._pool(), schema=self._schema).handle(event, handle)
        except Exception as error:  # noqa: BLE001 -- every failure becomes an answer
            if about is None:  # no handler was called
                self._refusals.count(refusal_reason(error))
            is_away = is_database_fault(error)  # another wait for a connection would be in vain
            return failure(error, by=by, about=about, on_error=self._app.on_error)
        finally:  # a serverless platform runs nothing between two deliveries
            if not is_away:
                write_counts(self._refusals, self._connection, self._schema)
        return answer(200, event=event.id, outcome=outcome)

    def _record(self, event: stripe.Body) -> str:
        queue = calls.queue_webhooks([event], [order_key(self._app, event)])
        with self._connection() as conn:
            statement = with_lock_timeout(queue, self._schema, ALONE)
            with answered_within(HANGS, conn):
                outcomes = execute(conn, queue, self._schema, statement=statement)
        return calls.accepted(outcomes[event.id], event.id)

    def _connection(self) -> AbstractContextManager[Connection[Any]]:
        """A connection for what is recorded without a handler; what is written is committed at the end."""
        return connection(self._pool())

    def _pool(self) -> ConnectionPool[Connection[Any]]:
        # opened at the first delivery, in the process that serves it, because a pool does not survive a fork
        if (found := self._opened) is None:
            pool = database.open_pool(database.find(self._url))
            with self._opening:  # not around the line above: where a database hangs, each would wait for all others
                found = self._opened = self._opened or pool
            if found is not pool:  # another thread's first delivery came at the same moment
                pool.close()
        return found


def _signature(headers: Headers) -> str | None:
    """The value of the signature header; several values are joined by a comma.

    Raises:
        InvalidArgument: ``headers`` is not a mapping of names to values.
    """
    try:
        found: list[Any] = [value for name, value in _pairs(headers) if _is_signature(name)]
    except (TypeError, ValueError):
        raise InvalidArgument(
            f"Endpoint.handle needs the headers as a mapping of names to values, not {type(headers).__name__}"
        ) from None
    values = [part for value in found for part in (value if isinstance(value, list | tuple) else [value])]
    return ",".join(part.decode("latin-1") if isinstance(part, bytes) else str(part) for part in values) or None


def _pairs(headers: Any) -> Iterable[tuple[Any, Any]]:
    pairs: Iterable[tuple[Any, Any]] = headers.items() if hasattr(headers, "items") else headers
    return pairs


def _is_signature(name: str | bytes) -> bool:
    text = name.decode("latin-1") if isinstance(name, bytes) else name
    return text.lower().replace("_", "-") in {"stripe-signature", "http-stripe-signature"}
