"""Calls of the functions in ``sql/api/webhooks_inbox.sql``, and their results. The transition table is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, NoReturn, TypeAlias
from uuid import UUID

from pgonce.core.call import Call, Row, clean, row_as, value
from pgonce.core.interval import interval
from pgonce.core.processes import this_process
from pgonce.errors import EventBusy, InvalidArgument, InvalidPayload
from pgonce.webhooks import complete_in_session
from pgonce.webhooks.stripe import Body, parse

Payload: TypeAlias = dict[str, Any]
SEND_AGAIN = "answer with an error, so that it is sent again"
LEASE = timedelta(minutes=5)
"""How long a claim without an outcome is valid. An open transaction that locks the event's row makes it last longer."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The result of a claim; ``lease`` is set only if the caller has claimed the event."""

    outcome: Literal["claimed", "done", "queued", "busy"]
    id: UUID
    lease: UUID | None
    attempts: int


class Ignored(BaseException):  # a decision, not an error: the handler's own `except Exception` must not catch it
    """Raised by ``event.ignore``: the event ends as ``ignored`` and the handler's writes are rolled back."""


class Unhandled(Ignored):
    """The app has no handler for the type. Another one on the same database may have one."""


class Postponed(BaseException):
    """Raised by ``event.retry``: the event is handled again later and the handler's writes are rolled back."""

    def __init__(self, delay: timedelta) -> None:
        super().__init__(f"again in {delay}")
        self.delay = delay


class deciding:  # noqa: N801 -- as `working`
    """Around a handler: a decision that a group of tasks has wrapped in an exception group is still that decision."""

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, BaseExceptionGroup):
            return
        decisions, errors = error.split((Ignored, Postponed))
        if decisions is None or errors is not None:
            return
        found: BaseException = decisions
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        raise found from None


@dataclass(frozen=True, slots=True)
class Event:
    """An event as it is passed to a handler."""

    id: str
    """Stripe's id, ``evt_...``."""
    type: str
    payload: Payload = field(repr=False)
    """The whole event, as Stripe sent it."""
    attempts: int = 1
    """1 for the first attempt."""
    claim: Claim | None = field(default=None, repr=False)
    schema: str = field(default="public", repr=False)
    order_key: str | None = field(default=None, repr=False)
    """Events with equal keys are handled one at a time."""
    due: datetime | None = field(default=None, repr=False)
    """None if the receiver in the same process claimed the event with its INSERT."""
    body: bytes | None = field(default=None, repr=False)
    """The bytes from which ``payload`` was read."""
    after_commit_calls: list[tuple[Callable[[], Any], Context]] = field(default_factory=list, repr=False)
    """The functions that ``after_commit`` has collected, each with the context variables of then."""

    def fresh(self) -> Event:
        """A copy for the next attempt, without what handlers have changed: ``payload`` and the callbacks."""
        payload = self.payload if self.body is None else parse(self.body)
        return replace(self, payload=payload, after_commit_calls=[])

    @property
    def object(self) -> Payload:
        """``data.object`` of the event; empty when it has none."""
        data = self.payload.get("data")
        found = data.get("object") if isinstance(data, dict) else None
        return found if isinstance(found, dict) else {}

    @property
    def object_id(self) -> str | None:
        """``data.object.id``, or ``related_object.id`` of a thin event."""
        related = self.payload.get("related_object")
        found = self.object.get("id") or (related.get("id") if isinstance(related, dict) else None)
        return found if isinstance(found, str) else None

    @property
    def account(self) -> str | None:
        """The connected account the event is about; None for your own."""
        found = self.payload.get("account") or self.payload.get("context")
        return found if isinstance(found, str) else None

    @property
    def object_key(self) -> str | None:
        """The identity of the object: account, mode, type and id. None if the event has no object.

        Different accounts, test and live mode, and different types may use one id for several objects, such as "gold".
        """
        if (object_id := self.object_id) is None:
            return None
        related = self.payload.get("related_object")
        kind = self.object.get("object") or (related.get("type") if isinstance(related, dict) else None)
        livemode = self.payload.get("livemode")
        mode = ("live" if livemode else "test") if isinstance(livemode, bool) else ""
        return "/".join([self.account or "", mode, kind if isinstance(kind, str) else "", object_id])

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt. Pass it to calls outside the database, which are made at least once."""
        return f"pgonce-{self.id}"

    def after_commit(self, function: Callable[[], Any]) -> None:
        """Call ``function``, plain or async, after mark and effect are committed, for example to start another task.

        The commit is on disk by then. The call is made at most once: a crash between the commit and the call loses it.
        Work that must happen belongs in the transaction. An error in the call is logged; the event stays handled. The
        call has the context variables of the handler, as they are now.
        """
        self.after_commit_calls.append((function, copy_context()))

    def complete(self, session: Any) -> Awaitable[None] | None:
        """Mark the event as handled inside the open transaction of ``session`` (``transaction="own"``).

        See ``pgonce.webhooks.complete_in_session`` for the kinds of sessions; await it with an asynchronous one.

        Raises:
            LeaseLost: another client has the event now. Do not catch it inside the transaction, so that it rolls back.
        """
        if self.claim is None:
            raise InvalidArgument('this event is marked by pgonce itself; event.complete is for transaction="own"')
        return complete_in_session.complete(session, self.claim.id, self.claim.lease, self.schema)

    def ignore(self, reason: str) -> NoReturn:
        """End the event as ``ignored`` with this reason; this handler's writes are rolled back.

        It raises a BaseException, so that the handler's own ``except Exception`` does not catch it.
        """
        raise Ignored(reason)

    def retry(self, in_: timedelta | str) -> NoReturn:
        """Handle the event again after ``in_`` ("30 seconds"); this handler's writes are rolled back.

        This does not count as an attempt, so an event may be postponed any number of times. Like ``ignore``, it
        raises a BaseException.

        Raises:
            InvalidArgument: ``in_`` cannot be read, or is longer than 31 days.
        """
        delay = interval(in_, "the delay of event.retry")
        if delay > timedelta(days=31):
            raise InvalidArgument("the delay of event.retry must not be longer than 31 days")
        raise Postponed(delay)


def claim_webhook(body: Body, lease: timedelta | str = LEASE) -> Call[Claim]:
    """Claim the event for the caller."""
    args = {
        "p_stripe_event_id": body.id,
        "p_event_type": body.type,
        "p_body": body.text,
        "p_raw": body.raw,
        "p_lease_for": lease,
    }
    return Call("claim_webhook", args, row_as(Claim))


def queue_webhooks(
    bodies: Sequence[Body], order_keys: Sequence[str | None] | None = None, *, deliveries: int = 1
) -> Call[dict[str, str]]:
    """Record a batch for the workers. Returns for each event id ``queued``, ``done``, ``busy`` or ``refused``."""
    args = {
        "p_stripe_event_ids": [body.id for body in bodies],
        "p_event_types": [body.type for body in bodies],
        "p_bodies": [body.text for body in bodies],
        "p_raws": [body.raw for body in bodies],
        "p_order_keys": list(order_keys) if order_keys else None,
        "p_deliveries": deliveries,
    }
    return Call("pgonce_queue_webhooks", args, _outcomes)


def accepted(outcome: str, event_id: str) -> str:
    """Return the outcome of queue_webhooks if it can be answered with 200, and raise an error otherwise.

    Raises:
        EventBusy: a direct client is handling the event now.
        InvalidPayload: the database refuses to store it as an event.
    """
    if outcome == "busy":
        raise EventBusy(f"event {event_id} is being handled by another client: {SEND_AGAIN}")
    if outcome == "refused":
        raise InvalidPayload("the database cannot hold this as an event: its id, type or body is none of Stripe's")
    return outcome


def _outcomes(rows: Sequence[Row]) -> dict[str, str]:
    return {row[0]: row[1] for row in rows}


def complete_webhook(claim: Claim) -> Call[bool]:
    """Mark the event as handled, inside the transaction of the effect. False: the claim was lost, so roll back."""
    return Call("complete_webhook", {"p_id": claim.id, "p_lease": claim.lease}, value)


def fail_webhook(
    claim: Claim, error_message: str, max_attempts: int = 12, *, took: timedelta | None = None
) -> Call[bool]:
    """End the attempt as failed: a worker, or the next delivery, retries. False: the claim was lost."""
    args = {
        "p_id": claim.id,
        "p_lease": claim.lease,
        "p_error_message": clean(error_message),
        "p_max_attempts": max_attempts,
        "p_worker": this_process(),
        "p_took": took,
    }
    return Call("fail_webhook", args, value)


def ignore_webhook(claim: Claim, reason: str, *, unhandled: bool = False) -> Call[bool]:
    """End the event as ignored; ``unhandled``: a worker that has a handler takes it back. False: the claim was lost."""
    args = {"p_id": claim.id, "p_lease": claim.lease, "p_reason": clean(reason), "p_unhandled": unhandled}
    return Call("ignore_webhook", args, value)
