"""The calls of ``sql/api/webhooks.sql`` and their results. The transition table stands at the head of that file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from pgonce.protocol.call import Call, Row, clean, value
from pgonce.protocol.stripe import Body

LEASE = timedelta(minutes=5)
"""How long a claim is respected without an outcome. A handler whose transaction is open keeps it beyond that."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim; ``lease`` is there only when the event is the caller's."""

    outcome: Literal["claimed", "done", "queued", "busy"]
    id: UUID
    lease: UUID | None
    attempts: int


class Ignored(Exception):  # a decision of the handler, not an error
    """Raised by ``event.ignore``: the event ends as ``ignored``, what the handler wrote is rolled back."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event as a handler sees it."""

    id: str
    """Stripe's id, ``evt_...``."""
    type: str
    payload: dict[str, Any] = field(repr=False)
    """The whole event, as Stripe sent it."""
    attempts: int = 1
    """1 for the first attempt."""

    @property
    def object(self) -> dict[str, Any]:
        """``data.object`` of the event; empty when it has none."""
        data = self.payload.get("data")
        found = data.get("object") if isinstance(data, dict) else None
        return found if isinstance(found, dict) else {}

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt: pass it to what is outside the database, where a retry happens at least once."""
        return f"pgonce-{self.id}"

    def ignore(self, reason: str) -> None:
        """End the event as ``ignored`` with this reason; what this handler wrote is rolled back."""
        raise Ignored(reason)


def claim_webhook(body: Body, lease: timedelta | str = LEASE) -> Call[Claim]:
    """Claim the event for the caller."""
    args = {
        "p_stripe_event_id": body.id,
        "p_event_type": body.type,
        "p_body": body.text,
        "p_raw": body.raw,
        "p_lease_for": lease,
    }
    return Call("claim_webhook", args, _claim)


def _claim(rows: Sequence[Row]) -> Claim:
    outcome, row_id, lease, attempts = rows[0]
    return Claim(outcome, row_id, lease, attempts)


def queue_webhooks(bodies: Sequence[Body]) -> Call[dict[str, str]]:
    """Record a batch for the workers: for each event id its outcome, ``queued``, ``done`` or ``busy``."""
    args = {
        "p_stripe_event_ids": [body.id for body in bodies],
        "p_event_types": [body.type for body in bodies],
        "p_bodies": [body.text for body in bodies],
        "p_raws": [body.raw for body in bodies],
    }
    return Call("queue_webhooks", args, _outcomes)


def _outcomes(rows: Sequence[Row]) -> dict[str, str]:
    return {row[0]: row[1] for row in rows}


def complete_webhook(claim: Claim) -> Call[bool]:
    """Mark the event as handled; call it inside the transaction of the effect. False: no longer yours, roll back."""
    return Call("complete_webhook", {"p_id": claim.id, "p_lease": claim.lease}, value)


def fail_webhook(claim: Claim, error_message: str) -> Call[bool]:
    """End the attempt as failed; the next delivery is its retry. False: no longer yours."""
    args = {"p_id": claim.id, "p_lease": claim.lease, "p_error_message": clean(error_message)}
    return Call("fail_webhook", args, value)


def ignore_webhook(claim: Claim, reason: str) -> Call[bool]:
    """End the event as ignored. False: no longer yours."""
    return Call("ignore_webhook", {"p_id": claim.id, "p_lease": claim.lease, "p_reason": clean(reason)}, value)
