"""Deliveries for the benchmarks: events of 3.4 kB as Stripe sends them, one in ten of them twice."""

from __future__ import annotations

import json
import random
from typing import Any

SIZE = 3400
"""Bytes; the median of the subscription and invoice events that we have seen."""
DUPLICATES = 0.1


def event(event_id: str, nr: int = 0) -> dict[str, Any]:
    """An event with the shape of a subscription's, filled up to ``SIZE``."""
    items = [
        {
            "id": f"si_{nr:08}{item}", "object": "subscription_item", "created": 1763900000 + item, "quantity": 1,
            "metadata": {}, "subscription": f"sub_{nr:012}",
            "price": {
                "id": f"price_{item:016}", "object": "price", "active": True, "billing_scheme": "per_unit",
                "currency": "usd", "custom_unit_amount": None, "livemode": False, "lookup_key": None, "nickname": None,
                "product": f"prod_{item:014}", "recurring": {"interval": "month", "interval_count": 1},
                "tax_behavior": "unspecified", "tiers_mode": None, "type": "recurring", "unit_amount": 1000 + item,
            },
        }
        for item in range(4)
    ]  # fmt: skip
    content = {
        "id": event_id, "object": "event", "api_version": "2026-08-26", "created": 1763900000 + nr,
        "type": "customer.subscription.updated", "livemode": False, "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "data": {
            "object": {
                "id": f"sub_{nr:012}", "object": "subscription", "customer": f"cus_{nr:014}", "status": "active",
                "cancel_at_period_end": False, "currency": "usd", "collection_method": "charge_automatically",
                "items": {"object": "list", "has_more": False, "total_count": 4, "data": items},
                "metadata": {},
            },
            "previous_attributes": {"cancel_at_period_end": True},
        },
    }  # fmt: skip
    filler = random.Random(nr)
    missing = SIZE - len(json.dumps(content))
    subscription: dict[str, Any] = content["data"]["object"]  # type: ignore[index]
    subscription["metadata"] = {"note": f"{filler.getrandbits(4 * (missing - 14)):x}"}
    return content


def deliveries(count: int, prefix: str = "evt") -> list[bytes]:
    """``count`` bodies; one in ten repeats a recent one."""
    dice = random.Random(count)
    bodies: list[bytes] = []
    for nr in range(count):
        if bodies and dice.random() < DUPLICATES:
            bodies.append(bodies[-dice.randint(1, min(20, len(bodies)))])
        else:
            bodies.append(json.dumps(event(f"{prefix}_{nr:010}", nr)).encode())
    return bodies
