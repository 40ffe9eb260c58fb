"""Stripe events as a shop receives them, and an order of deliveries with duplicates."""

from __future__ import annotations

import json
import string
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

HANDLED = "checkout.session.completed"
"""The type that the example application has a handler for."""
UNHANDLED = ("invoice.paid", "payment_intent.succeeded", "charge.succeeded", "customer.created")
"""Types without a handler: they end as ``ignored``."""
_PREFIX = {"checkout": "cs_test_", "invoice": "in_", "payment_intent": "pi_", "charge": "ch_", "customer": "cus_"}


@dataclass(frozen=True, slots=True)
class Event:
    """An event and the body in which it is delivered."""

    id: str
    type: str
    body: bytes


def make(count: int, random: Random) -> list[Event]:
    """``count`` distinct events, oldest first: seven in ten are of the handled type, about four for each customer."""
    customers = [_id("cus_", random) for _ in range(count // 4 + 1)]
    begun = int(time.time()) - count
    types = [HANDLED if random.random() < 0.7 else random.choice(UNHANDLED) for _ in range(count)]
    return [event(type_, random.choice(customers), begun + n, random) for n, type_ in enumerate(types)]


def event(event_type: str, customer: str, created: int, random: Random, event_id: str = "") -> Event:
    """One event of ``event_type`` about an object of ``customer``; ``created`` in unix seconds."""
    event_id = event_id or _id("evt_1", random)
    payload = {
        "id": event_id,
        "object": "event",
        "api_version": "2025-03-31.basil",
        "created": created,
        "data": {"object": _object(event_type, customer, created, random)},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": event_type,
    }
    return Event(event_id, event_type, json.dumps(payload, indent=2).encode())  # as Stripe does


def _object(event_type: str, customer: str, created: int, random: Random) -> dict[str, Any]:
    kind = event_type.partition(".")[0]
    amount = random.randrange(500, 20_000)
    common = {"id": _id(_PREFIX[kind], random), "created": created, "currency": "usd", "metadata": {}}
    if event_type == HANDLED:
        paid = {
            "amount_subtotal": amount,
            "amount_total": amount,
            "client_reference_id": None,
            "customer": customer,
            "customer_details": {"email": f"{customer.lower()}@example.com", "name": None, "tax_exempt": "none"},
            "mode": "payment",
            "payment_intent": _id("pi_", random),
            "payment_status": "paid",
            "status": "complete",
            "success_url": "https://example.com/thanks?session_id={CHECKOUT_SESSION_ID}",
        }
        return common | {"object": "checkout.session"} | paid
    if kind == "customer":
        return common | {"object": kind, "id": customer, "email": f"{customer.lower()}@example.com"}
    return common | {"object": kind, "customer": customer, "amount": amount, "status": "succeeded"}


def _id(prefix: str, random: Random) -> str:
    return prefix + "".join(random.choices(string.ascii_letters + string.digits, k=23))


def shuffled(events: Sequence[Event], duplicates: int, random: Random) -> list[Event]:
    """All ``events`` and ``duplicates`` more deliveries of some of them, out of order.

    Half of the duplicates follow their first delivery at once, and so are sent at the same time over another
    connection. The other half are at random places.
    """
    placed = [(random.random(), each) for each in events]
    for _ in range(duplicates):
        place, each = placed[random.randrange(len(events))]
        placed.append((place if random.random() < 0.5 else random.random(), each))
    return [each for _, each in sorted(placed, key=lambda pair: pair[0])]
