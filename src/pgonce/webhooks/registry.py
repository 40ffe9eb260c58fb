"""Which function handles which event type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any, Literal, TypeVar
from weakref import WeakSet

from pgonce.core.call import clean
from pgonce.core.callables import ensure_awaitable, ensure_result, is_async
from pgonce.core.failures import ErrorHook
from pgonce.core.interval import interval
from pgonce.core.registration import called, check_choice, check_flag, check_function, check_name, warn_if_late
from pgonce.errors import InvalidArgument
from pgonce.webhooks.calls import Event, Unhandled
from pgonce.webhooks.glob import any_of, check_sets, overlap

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, eq=False)  # the function may be an object that has no hash
class Handler:
    """A function for the events whose type matches ``pattern``."""

    pattern: str
    function: Callable[..., Any]
    order: Literal["any", "ordered", "coalesce"] = "any"
    key: Callable[[Event], str | None] | None = None
    timeout: float | None = None
    kind: Literal["shared", "own", "batch"] = "shared"
    """On pgonce's transaction, on one of its own, or with a list of events on pgonce's transaction."""
    durable: Literal["chain", "each"] = "chain"

    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function."""
        return is_async(self.function)

    def matches(self, event_type: str) -> bool:
        """Whether it is for events of this type."""
        return fnmatchcase(event_type, self.pattern)


@dataclass(frozen=True)
class ClaimedTypes:
    """The event types that one kind of consumers claims, as regular expressions."""

    all: str
    own: str | None = None
    """Those of them whose handlers have transactions of their own."""


@dataclass
class WebhookRegistry:
    """The handlers of an app, in order of registration."""

    handlers: list[Handler] = field(default_factory=list)
    on_error: ErrorHook | None = field(default=None, kw_only=True, repr=False, compare=False)
    """Called with what a handler or job raised, and the event or run."""
    workers: WeakSet[Any] = field(default_factory=WeakSet, init=False, repr=False, compare=False)
    """Workers of this process that have started with these handlers and have not stopped."""
    _matching: dict[tuple[str, int], list[Handler]] = field(default_factory=dict, repr=False, compare=False)
    _coalesced: dict[tuple[str, int], tuple[str, str | None] | None] = field(
        default_factory=dict, repr=False, compare=False
    )

    def webhook(
        self,
        pattern: str,
        *,
        ordered: bool = False,
        coalesce: bool = False,
        key: Callable[[Event], str | None] | None = None,
        timeout: timedelta | str | None = None,
        transaction: Literal["shared", "own"] = "shared",
        durable: Literal["chain", "each"] = "chain",
    ) -> Callable[[F], F]:
        """Register ``function(event, tx)`` for the event types that match ``pattern``.

        Args:
            pattern: an exact type (``checkout.session.completed``) or a glob (``customer.subscription.*``).
            ordered: a worker handles events of one object one at a time, in the order they were received; one that
                fails holds back its successors for up to an hour.
            coalesce: of several waiting events of one object the function is called for one, to fetch the present
                state; the others are ignored, unless another function wants them. Also one at a time. Not with
                ``transaction="own"``.
            key: identifies the object, as a text; the default is account, mode, type and id of ``data.object``.
                Functions that order one event have the same key.
            timeout: after this long, such as "30 seconds", the attempt has failed. A synchronous function cannot be
                interrupted: its connection is closed.
            transaction: ``own`` calls ``function(event)`` without a transaction: it opens one of its own (SQLAlchemy,
                Django, asyncpg) and calls ``event.complete(session)`` in it.
            durable: ``chain``: the commits of events that a worker handles right after each other wait for the disk
                together. ``each``: every commit waits as ``synchronous_commit`` says.

        Raises:
            InvalidArgument: the pattern is neither a type nor a glob; an argument cannot be read, or does nothing
                without another one; or, from the decorator, the function cannot be called with these arguments, or
                cannot share an event with one that is registered.
        """
        _check_pattern(pattern, "@app.webhook")
        check_choice(transaction, f"transaction of {pattern}", ("shared", "own"))
        by = ': to order by something else, pass ordered=True, key=lambda event: event.object["..."]'
        check_flag(ordered, f"ordered of {pattern}", by)
        check_flag(coalesce, f"coalesce of {pattern}", by.replace("ordered", "coalesce"))
        if ordered and coalesce:
            raise InvalidArgument(
                f"{pattern} has ordered and coalesce: ordered=True handles every event, coalesce=True one of several"
            )
        if coalesce and transaction == "own":
            raise InvalidArgument(
                f'{pattern} has coalesce and transaction="own": it cannot leave events out in a transaction of yours, '
                "so use ordered=True"
            )
        if key is not None:
            if not callable(key):
                raise InvalidArgument(
                    f"key of {pattern} must be a function of the event, not {key!r}: key=lambda event: ..."
                )
            if not (ordered or coalesce):
                raise InvalidArgument(f"key of {pattern} does nothing by itself: add ordered=True or coalesce=True")
            check_function(key, f"the key of {pattern}", ("event",), plain="make it plain")
        check_choice(durable, f"durable of {pattern}", ("chain", "each"))
        order: Literal["any", "ordered", "coalesce"] = "coalesce" if coalesce else "ordered" if ordered else "any"
        limit = None if timeout is None else interval(timeout, f"the timeout for {pattern}").total_seconds()

        def register(function: F) -> F:
            arguments = ("event", "tx") if transaction == "shared" else ("event",)
            check_function(function, f"the handler of {pattern}", arguments)
            self._add(Handler(pattern, function, order, key, limit, transaction, durable))
            return function

        return register

    def webhook_batch(self, pattern: str, *, timeout: timedelta | str | None = None) -> Callable[[F], F]:
        """Register ``function(events, tx)``: a list of events, whose effects it writes set-wise in one transaction.

        When it fails, its events are handled one by one, so that a bad one does not stop the others. It needs a worker.

        Args:
            pattern: as of ``webhook``.
            timeout: after this long, such as "30 seconds", the call has failed.

        Raises:
            InvalidArgument: as of ``webhook``.
        """
        _check_pattern(pattern, "@app.webhook_batch")
        limit = None if timeout is None else interval(timeout, f"the timeout for {pattern}").total_seconds()

        def register(function: F) -> F:
            check_function(function, f"the handler of {pattern}", ("events", "tx"))
            self._add(Handler(pattern, function, timeout=limit, kind="batch"))
            return function

        return register

    def _add(self, handler: Handler) -> None:
        """Add the handler.

        Raises:
            InvalidArgument: it cannot share an event with an earlier one: one is a coroutine function and the other is
                not, one takes a batch or has a transaction of its own, their keys differ, or they are the same.
        """
        for other in self.handlers:
            if not overlap(handler.pattern, other.pattern):
                continue
            both = f"{called(other.function)} ({other.pattern}) and {called(handler.function)} ({handler.pattern})"
            if handler.pattern == other.pattern and handler.function == other.function:
                raise InvalidArgument(
                    f"{called(handler.function)} handles {handler.pattern} already: remove one decorator"
                )
            if handler.is_async != other.is_async:
                raise InvalidArgument(f"{both} may get the same event: make both `async def`, or neither")
            if handler.kind != "shared" or other.kind != "shared":
                raise InvalidArgument(
                    f"{both} may get the same event, so neither may be a batch or have a transaction of its own"
                )
            if handler.order != "any" != other.order and handler.key != other.key:
                raise InvalidArgument(
                    f"{both} may get the same event, which has one place in an order: give both the same key= function"
                )
        self.handlers.append(handler)
        warn_if_late(self.workers, f"the handler of {handler.pattern}, {called(handler.function)},", "worker")

    def matching(self, event_type: str) -> list[Handler]:
        """The handlers of this type, in order of registration; they share one transaction."""
        cached_as = event_type, len(self.handlers)  # called three times for each event, of some 250 types
        if (found := self._matching.get(cached_as)) is not None:
            return found
        found = [handler for handler in self.handlers if handler.matches(event_type)]
        self._matching[cached_as] = found
        return found

    def coalesced_types(self, event_type: str) -> tuple[str, str | None] | None:
        """Which events of an object need not be handled after one of this type; None: each must be.

        Returns:
            Two regular expressions; the second one may be None. Events whose type matches the first may be left out,
            except those that match the second, which other handlers want.
        """
        cached_as = event_type, len(self.handlers)
        if cached_as not in self._coalesced:
            called = [handler for handler in self.matching(event_type) if handler.order == "coalesce"]
            others = [handler.pattern for handler in self.handlers if handler not in called]
            found = any_of([handler.pattern for handler in called]), any_of(others) if others else None
            self._coalesced[cached_as] = found if called else None
        return self._coalesced[cached_as]

    def order_key(self, event: Event) -> str | None:
        """Events with equal keys are handled one at a time; None if the event's handlers want no order."""
        for handler in self.matching(event.type):
            if handler.order != "any":
                key = ensure_result(handler.key(event)) if handler.key else event.object_key
                return key if key is None else _storable(str(key))
        return None

    def types(self, *, asynchronous: bool | None = None, own: bool | None = None) -> str | None:
        """A regular expression, as PostgreSQL understands it, for the types that have handlers of this kind.

        Args:
            asynchronous: whether they are coroutine functions; None: either.
            own: whether they have transactions of their own; None: either.
        """
        patterns = [
            handler.pattern
            for handler in self.handlers
            if asynchronous in {None, handler.is_async} and own in {None, handler.kind == "own"}
        ]
        return any_of(patterns) if patterns else None

    def claimed_types(self, *, asynchronous: bool) -> ClaimedTypes | None:
        """What consumers claim whose handlers are coroutine functions, or are not; None if there is nothing."""
        included = self.types(asynchronous=asynchronous)
        return ClaimedTypes(included, self.types(asynchronous=asynchronous, own=True)) if included else None

    def handle(self, event: Event, tx: Any) -> None:
        """Run every synchronous handler of the event on one transaction; for a delivery handled where it arrives.

        Pass it to ``Webhooks.receive``. An event without a handler ends as ignored.

        Raises:
            InvalidArgument: a handler is asynchronous, takes a batch, or has a transaction of its own.
        """
        for handler in self._shared(event):
            ensure_result(handler.function(event, tx))

    async def handle_async(self, event: Event, tx: Any) -> None:
        """``handle`` for asynchronous handlers, to be passed to ``AsyncWebhooks.receive``."""
        for handler in self._shared(event):
            await ensure_awaitable(handler.function(event, tx))

    def _shared(self, event: Event) -> list[Handler]:
        found = self.matching(event.type)
        if not found:
            raise Unhandled(f"no handler for {event.type}")
        if found[0].kind != "shared":
            raise InvalidArgument(f"the handler of {event.type} is a batch or owns its transaction: it needs a worker")
        return found


def _check_pattern(pattern: Any, decorator: str) -> None:
    """Refuse what is neither an event type nor a glob: it would match nothing, and the handler would never be called.

    Raises:
        InvalidArgument: it is not text, or is a list of types, a regular expression or a pattern of SQL's.
    """
    check_name(pattern, decorator, "an event type", "invoice.paid")
    if any(sign in pattern for sign in ",;|{}"):
        raise InvalidArgument(f'{pattern!r} is not an event type: write {decorator}("invoice.paid") once for each type')
    if any(sign in pattern for sign in "^$\\()%"):
        raise InvalidArgument(
            f'{pattern!r} is not an event type: {decorator} takes a glob, such as "customer.subscription.*"'
        )
    check_sets(pattern)


def _storable(key: str) -> str:
    """The key in a form that an index and a text column can hold; different keys stay different."""
    if len(key) <= 255 and clean(key) == key:
        return key
    return f"{clean(key[:190])}#{sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"
