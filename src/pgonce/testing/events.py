"""Events as Stripe would send them, made from templates; signed, and delivered to any test client."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pgonce.core.registration import check_name
from pgonce.errors import InvalidArgument
from pgonce.testing.templates import CHANGES, KINDS, PREFIXES, template
from pgonce.webhooks import stripe
from pgonce.webhooks.calls import Event
from pgonce.webhooks.event_types import TYPES, unknown_patterns
from pgonce.webhooks.glob import is_glob
from pgonce.webhooks.registry import WebhookRegistry

SECRET = "whsec_test"  # noqa: S105 -- for tests: Stripe's are random
"""The signing secret where neither an argument nor PGONCE_WEBHOOK_SECRET names one."""
API_VERSION = "2026-08-26.dahlia"
PATH = "/webhooks/stripe"


def event(
    type: str,  # noqa: A002 -- Stripe's name for it
    /,
    *,
    event_id: str | None = None,
    created: int | None = None,
    livemode: bool = False,
    connected_account: str | None = None,
    previous_attributes: Mapping[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """An event of this type with a realistic object.

    Args:
        type: one of Stripe's event types, such as "invoice.paid".
        event_id: the event's id; the default is a new one.
        created: unix seconds; the default is now.
        livemode: of event and object.
        connected_account: the account that the event is about (``account`` of the event).
        previous_attributes: what an update has changed, with the values before.
        fields: of ``data.object``: they replace those of the template, and a dict is merged into the template's. A thin
            event (``v1.…``, ``v2.…``) takes ``id`` for its related object; the rest is its ``data``.

    Raises:
        InvalidArgument: the type is a pattern, or looks like a misspelt one of Stripe's.
    """
    check_name(type, "event", "the event's type", "invoice.paid")
    if is_glob(type):
        raise InvalidArgument(f'an event has one type, not a pattern: write event("invoice.paid"), not event("{type}")')
    if type not in TYPES and (alike := unknown_patterns([type]).get(type)):
        raise InvalidArgument(f'Stripe sends no type "{type}": did you mean {alike}?')
    now = int(time.time()) if created is None else created
    if type.startswith(("v1.", "v2.")):
        return _thin(type, event_id, now, livemode, connected_account, fields)
    data: dict[str, Any] = {"object": _object(type, now, livemode, fields)}
    if previous_attributes is not None:
        data["previous_attributes"] = dict(previous_attributes)
    found = {
        "id": event_id or _id("evt_"),
        "object": "event",
        "api_version": API_VERSION,
        "created": now,
        "data": data,
        "livemode": livemode,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": type,
    }
    return found if connected_account is None else {**found, "account": connected_account}


def _thin(
    event_type: str, event_id: str | None, now: int, livemode: bool, context: str | None, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """A thin event: it names the object and does not hold it."""
    kind = _kind(event_type.partition(".")[2])
    object_id = fields.get("id") or _id(PREFIXES.get(kind, f"{kind.replace('.', '_')}_"))
    return {
        "id": event_id or _id("evt_"),
        "object": "v2.core.event",
        "context": context,
        "created": datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", ".000Z"),
        "data": {name: value for name, value in fields.items() if name != "id"},
        "livemode": livemode,
        "related_object": {"id": object_id, "type": kind, "url": f"/v1/{kind.replace('.', '/')}s/{object_id}"},
        "type": event_type,
    }


def _object(event_type: str, now: int, livemode: bool, fields: Mapping[str, Any]) -> dict[str, Any]:
    kind = _kind(event_type)
    found = {
        "id": _id(PREFIXES.get(kind, f"{kind.replace('.', '_')}_")),
        "object": kind,
        "created": now,
        "livemode": livemode,
        **template(kind, now),
        **deepcopy(CHANGES.get(event_type, {"deleted": True} if event_type.endswith(".deleted") else {})),
    }
    if event_type == "customer.subscription.deleted":
        found |= {"canceled_at": now, "ended_at": now}
    return _merged(found, fields)


def _kind(event_type: str) -> str:
    begins = next((kind for kind in KINDS if event_type.startswith(f"{kind}.")), None)
    return KINDS[begins] if begins else event_type.rpartition(".")[0] or event_type


def _merged(into: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        there = into.get(name)
        into[name] = _merged(there, value) if isinstance(there, dict) and isinstance(value, Mapping) else value
    return into


def _id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


def _check_event(payload: object) -> None:
    if isinstance(payload, str):
        raise InvalidArgument(f'pass an event, not its type: event("{payload}")')
    if not isinstance(payload, bytes) and (not isinstance(payload, Mapping) or not {"id", "type"} <= set(payload)):
        raise InvalidArgument('pass an event, which has an id and a type: event("invoice.paid", ...)')


def handled(payload: Mapping[str, Any]) -> Event:
    """The event as a handler gets it, to call one without a database: ``handler(handled(event(...)), tx)``."""
    _check_event(payload)
    return Event(str(payload["id"]), str(payload["type"]), dict(payload))


@dataclass(frozen=True, slots=True)
class Delivery:
    """A request as Stripe makes it."""

    body: bytes = field(repr=False)
    headers: dict[str, str] = field(repr=False)


def signed(payload: Mapping[str, Any] | bytes, *, secret: str | None = None, timestamp: int | None = None) -> Delivery:
    """The body and the headers of a delivery.

    Args:
        payload: an event, or the exact body.
        secret: the endpoint's; the default is the first one of PGONCE_WEBHOOK_SECRET, or ``SECRET``.
        timestamp: when it was signed, in unix seconds; the default is now. 300 s are tolerated.
    """
    _check_event(payload)
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    secret = secret or os.environ.get("PGONCE_WEBHOOK_SECRET", "").split(",")[0].strip() or SECRET
    headers = {"Content-Type": "application/json", "Stripe-Signature": stripe.sign(body, secret, timestamp)}
    return Delivery(body, headers)


def deliver(
    client: Any, payload: Mapping[str, Any] | bytes | Delivery, *, path: str = PATH, secret: str | None = None
) -> Any:
    """Send an event to the application under test, signed as Stripe signs it.

    Args:
        client: a test client of FastAPI, Starlette, Flask or Django, an httpx client, or a ``pgonce.Endpoint``.
        payload: an event, the exact body, or what ``signed`` has returned.
        path: where the application receives webhooks.
        secret: as of ``signed``.

    Returns:
        The client's response; with an asynchronous client, await it.
    """
    delivery = payload if isinstance(payload, Delivery) else signed(payload, secret=secret)
    if hasattr(client, "handle") and not hasattr(client, "post") and not isinstance(client, WebhookRegistry):
        return client.handle(delivery.body, delivery.headers)
    if not hasattr(client, "post") or isinstance(client, type):
        raise InvalidArgument(f"cannot deliver to {client!r}: pass a test client, an httpx client or a pgonce.Endpoint")
    libraries = {base.__module__.partition(".")[0] for base in type(client).__mro__}
    if "django" in libraries:
        headers = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in delivery.headers.items()}
        return client.post(path, data=delivery.body, content_type="application/json", **headers)
    content = {"data" if libraries & {"werkzeug", "requests"} else "content": delivery.body}
    return client.post(path, headers=delivery.headers, **content)
