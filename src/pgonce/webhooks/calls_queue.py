"""Calls of the functions in ``sql/api/webhooks_claim.sql`` and ``webhooks_batch.sql``, and their results."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from pgonce.core.call import Call, Row, clean, value
from pgonce.webhooks import calls, stripe
from pgonce.webhooks.calls import Claim, Event

WORKER_LEASE = timedelta(seconds=30)
"""The lease of a worker's claim. The event's transaction starts within milliseconds, and then its row lock protects the
event. So a short lease is enough, and events of a killed worker are soon claimed by another one."""
RENEW = 10.0
"""Seconds between two renewals of a lease. Two in a row may fail."""
MAX_ATTEMPTS = 12
TWIN_EVERY = timedelta(seconds=1)
"""Time between two looks at a twin that is being handled."""
UNHANDLED_EVERY = timedelta(seconds=2)
"""Time between two searches, by all workers together, for events that no process has a handler for."""


def claim_webhooks(
    limit: int,
    *,
    types: str | None = None,
    other_types: str | None = None,
    since: datetime | None = None,
    max_attempts: int = MAX_ATTEMPTS,
    schema: str = "public",
    singly: bool = False,
) -> Call[list[Event]]:
    """Claim up to ``limit`` due events; ``types`` and ``other_types`` are regular expressions.

    ``schema`` is for ``event.complete``. ``singly``: an event that the database refuses to claim is left out.
    """
    args = {
        "p_limit": limit,
        "p_lease_for": WORKER_LEASE,
        "p_max_attempts": max_attempts,
        "p_types": types,
        "p_other_types": other_types,
        "p_since": since,
    }
    function = "pgonce_claim_webhooks_singly" if singly else "pgonce_claim_webhooks"
    return Call(function, args, lambda rows: [_claimed(row, schema) for row in rows])


def _claimed(row: Row, schema: str) -> Event:
    row_id, event_id, event_type, payload, raw, lease, attempts, order_key, due = row
    claim = Claim("claimed", row_id, lease, attempts)
    body = raw or payload.encode()  # raw: the bytes of a body that jsonb cannot hold
    return Event(
        event_id, event_type, stripe.parse(body), attempts, claim, schema, order_key=order_key, due=due, body=body
    )


def queue_and_claim(
    bodies: Sequence[stripe.Body], order_keys: Sequence[str | None], schema: str = "public"
) -> Call[tuple[dict[str, str], list[Event]]]:
    """Record a batch and claim new events without an order key. Returns queue_webhooks' outcomes, and those events."""
    queue = calls.queue_webhooks(bodies, order_keys)
    known = {body.id: body for body in reversed(bodies)}  # of two bodies with one id the first is stored

    def read(rows: Sequence[Row]) -> tuple[dict[str, str], list[Event]]:
        claims = ((known[row[0]], Claim("claimed", row[2], row[3], 1)) for row in rows if row[3])
        return queue.read(rows), [
            Event(body.id, body.type, body.payload, 1, claim, schema, body=body.raw or body.text.encode())
            for body, claim in claims
        ]

    return Call(queue.function, {**queue.args, "p_lease_for": WORKER_LEASE}, read)


def claim_of(event: Event) -> Claim:
    """The claim of an event that a worker holds."""
    assert event.claim is not None, "the event was claimed"  # noqa: S101
    return event.claim


def keys(events: Sequence[Event]) -> dict[str, list[UUID | None]]:
    """The ids and leases of claimed events, as arguments."""
    claims = [claim_of(event) for event in events]
    return {"p_ids": [claim.id for claim in claims], "p_leases": [claim.lease for claim in claims]}


def _key(event: Event) -> dict[str, UUID | None]:
    claim = claim_of(event)
    return {"p_id": claim.id, "p_lease": claim.lease}


def release_webhooks(events: Sequence[Event]) -> Call[int]:
    """Release claimed events unchanged; this does not count as an attempt."""
    return Call("pgonce_release_webhooks", keys(events), value)


def ignore_unhandled_webhooks() -> Call[int]:
    """Ignore waiting events for whose type no recently seen process has a handler. Returns how many.

    0 also if another process has looked within `UNHANDLED_EVERY`.
    """
    return Call("pgonce_ignore_unhandled_webhooks", {"p_every": UNHANDLED_EVERY}, value)


def postpone_webhook(claim: Claim, delay: timedelta) -> Call[bool]:
    """Release an event, to be handled after ``delay``; this does not count as an attempt."""
    return Call("pgonce_postpone_webhook", {"p_id": claim.id, "p_lease": claim.lease, "p_delay": delay}, value)


def fail_committed_webhook(event: Event, error_message: str) -> Call[bool]:
    """Mark an event as dead whose handler committed the mark itself and then raised an error."""
    return Call("pgonce_fail_committed_webhook", {**_key(event), "p_error_message": clean(error_message)}, value)


def order_webhook(event: Event, order_key: str) -> Call[bool]:
    """Release an event and store the key of its object."""
    return Call("pgonce_order_webhook", {**_key(event), "p_order_key": order_key}, value)


def coalesce_webhooks(event: Event, types: str, other_types: str | None) -> Call[int]:
    """Ignore other waiting events of the same object whose type matches ``types``, and not ``other_types``.

    Both are regular expressions.
    """
    args = {
        "p_id": claim_of(event).id,
        "p_order_key": event.order_key,
        "p_types": types,
        "p_other_types": other_types,
    }
    return Call("pgonce_coalesce_webhooks", args, value)


def statuses_of_claims(events: Sequence[Event]) -> Call[dict[UUID, str]]:
    """The status of each event whose last claim is this one, by the id of its row."""
    return Call("pgonce_webhook_statuses", keys(events), lambda rows: {row[0]: row[1] for row in rows})


def renew_webhook(event: Event) -> Call[bool]:
    """Extend the claim by another `WORKER_LEASE`. False: the event has an outcome, or the claim was lost."""
    return Call("pgonce_renew_webhook", {**_key(event), "p_lease_for": WORKER_LEASE}, value)


def adopt_webhooks() -> Call[int]:
    """Queue events of direct clients whose lease has expired. Returns how many."""
    return Call("pgonce_adopt_webhooks", {}, value)


def take_back_webhooks(types: str) -> Call[int]:
    """Queue up to a thousand events of the last day that were ignored because they had no handler. Returns how many."""
    return Call("pgonce_take_back_webhooks", {"p_types": types}, value)


def twin_type(event_type: str) -> str:
    """The type of the second event for the same change, if both kinds of endpoint exist.

    The thin event of ``customer.created`` is ``v1.customer.created`` (docs.stripe.com/changelog, 2026-09-30).
    """
    return event_type.removeprefix("v1.") if event_type.startswith("v1.") else f"v1.{event_type}"


def twin_of_webhook(event: Event) -> Call[tuple[str | None, bool]]:
    """The event that is handled instead of this one, and whether it may yet fail; None: handle this one."""
    return Call("pgonce_twin_of_webhook", {"p_id": claim_of(event).id}, lambda rows: (rows[0][0], rows[0][1]))
