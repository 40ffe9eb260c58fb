"""The calls of ``sql/api/webhooks_claim.sql``, where the transition table is, and their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from pgonce.core.call import Call, Row, value
from pgonce.webhooks import calls as webhooks
from pgonce.webhooks import stripe
from pgonce.webhooks.calls import Claim, Event

LEASE = timedelta(seconds=30)
"""From a worker's claim to its transaction are milliseconds, and from then on its row locks hold the events: so a
short lease is enough, and what a killed worker held is taken up soon."""
MAX_ATTEMPTS = 12


@dataclass(frozen=True, slots=True)
class Claimed:
    """An event in a worker's hands."""

    claim: Claim
    event: Event
    order_key: str | None = None
    due: datetime | None = None
    """None where the receiver in the same process has claimed it with its INSERT."""


def claim_webhooks(
    limit: int,
    *,
    types: str | None = None,
    other_types: str | None = None,
    since: datetime | None = None,
    max_attempts: int = MAX_ATTEMPTS,
    schema: str = "public",
) -> Call[list[Claimed]]:
    """Claim up to ``limit`` due events; ``types`` and ``other_types`` are regular expressions.

    ``schema`` is for ``event.complete``.
    """
    args = {
        "p_limit": limit,
        "p_lease_for": LEASE,
        "p_max_attempts": max_attempts,
        "p_types": types,
        "p_other_types": other_types,
        "p_since": since,
    }
    return Call("pgonce_claim_webhooks", args, lambda rows: [_claimed(row, schema) for row in rows])


def _claimed(row: Row, schema: str) -> Claimed:
    row_id, event_id, event_type, payload, raw, lease, attempts, order_key, due = row
    claim = Claim("claimed", row_id, lease, attempts)
    # what jsonb could not hold is read from the bytes
    event = Event(event_id, event_type, stripe.parse(raw or payload.encode()), attempts, claim, schema)
    return Claimed(claim, event, order_key, due)


def queue_and_claim(
    bodies: Sequence[stripe.Body], order_keys: Sequence[str | None], schema: str = "public"
) -> Call[tuple[dict[str, str], list[Claimed]]]:
    """Record a batch, and claim what is new and waits for nobody: the outcomes as of queue_webhooks, and the claims."""
    queue = webhooks.queue_webhooks(bodies, order_keys)
    known = {body.id: body for body in reversed(bodies)}  # of two alike the first is stored

    def read(rows: Sequence[Row]) -> tuple[dict[str, str], list[Claimed]]:
        claims = ((known[row[0]], Claim("claimed", row[2], row[3], 1)) for row in rows if row[3])
        return queue.read(rows), [
            Claimed(claim, Event(body.id, body.type, body.payload, 1, claim, schema)) for body, claim in claims
        ]

    return Call(queue.function, {**queue.args, "p_lease_for": LEASE}, read)


def _ids(items: Sequence[Claimed]) -> dict[str, list[UUID | None]]:
    return {"p_ids": [item.claim.id for item in items], "p_leases": [item.claim.lease for item in items]}


def release_webhooks(items: Sequence[Claimed]) -> Call[int]:
    """Give events back untouched."""
    return Call("pgonce_release_webhooks", _ids(items), value)


def order_webhook(item: Claimed, order_key: str) -> Call[bool]:
    """Give an event back with the key of its object."""
    return Call(
        "pgonce_order_webhook", {"p_id": item.claim.id, "p_lease": item.claim.lease, "p_order_key": order_key}, value
    )


def coalesce_webhooks(item: Claimed, types: str) -> Call[int]:
    """Ignore the other waiting events of this one's object whose type matches ``types`` (a regular expression)."""
    return Call(
        "pgonce_coalesce_webhooks", {"p_id": item.claim.id, "p_order_key": item.order_key, "p_types": types}, value
    )


def is_webhook_held(claim: Claim) -> Call[bool]:
    """Whether this claim has not ended yet."""
    return Call("pgonce_is_webhook_held", {"p_id": claim.id, "p_lease": claim.lease}, value)


def adopt_webhooks() -> Call[int]:
    """Queue the expired events of direct clients."""
    return Call("pgonce_adopt_webhooks", {}, value)


def take_back_webhooks(types: str) -> Call[int]:
    """Queue the last day's events that were ignored for lack of a handler."""
    return Call("pgonce_take_back_webhooks", {"p_types": types}, value)


def replay_webhook(event_id: str) -> Call[bool]:
    """Queue an event again, whatever became of it. False: it is being handled."""
    return Call("pgonce_replay_webhook", {"p_stripe_event_id": event_id}, value)


def twin_type(event_type: str) -> str:
    """The type under which the same fact comes a second time, if both kinds of endpoint exist.

    The thin event of ``customer.created`` is ``v1.customer.created`` (docs.stripe.com/changelog, 2026-09-30).
    """
    return event_type.removeprefix("v1.") if event_type.startswith("v1.") else f"v1.{event_type}"


def twin_of_webhook(claim: Claim) -> Call[str | None]:
    """The event that is handled instead of this one; None: handle it."""
    return Call("pgonce_twin_of_webhook", {"p_id": claim.id}, value)
