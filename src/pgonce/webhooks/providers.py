"""Senders other than Stripe: how each signs, and where an event's id and type are.

An event of another sender has its name before id and type, such as ``github:72d3162e`` and ``github.issues.opened``. So
ids of two senders are never equal, and a handler for one sender is never called for another. The guarantees are the
same for what is signed: GitHub and Shopify do not sign the headers that have id and type.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pgonce.core.registration import check_seconds
from pgonce.errors import InvalidArgument, InvalidPayload, SignatureError
from pgonce.webhooks import stripe
from pgonce.webhooks.stripe import Body


@dataclass(frozen=True, slots=True)
class Provider:
    """A sender; made by ``standard_webhooks``, ``github`` or ``shopify``, and passed as ``verify=``."""

    name: str
    check: Callable[[bytes, Mapping[str, str]], None] = field(repr=False)
    """Raises SignatureError unless the sender has signed the body."""
    identify: Callable[[Mapping[str, Any], Mapping[str, str]], tuple[object, object]] = field(repr=False)
    """The id and the type of an event, from its content and its headers."""

    def read(self, body: bytes, headers: Iterable[tuple[Any, Any]]) -> Body:
        """The event in a delivery.

        Args:
            body: the request body exactly as received.
            headers: pairs of name and value.

        Raises:
            SignatureError: the sender has not signed it, or signed it too long ago.
            InvalidPayload: it is not a JSON object, or has no usable id and type.
        """
        found = {_text(name).lower().replace("_", "-").removeprefix("http-"): _text(value) for name, value in headers}
        self.check(body, found)
        event_id, event_type = self.identify(stripe.parse(body), found)
        if not event_id or not event_type:
            raise InvalidPayload(f"the event has no id or no type: this is not an event from {self.name}")
        return stripe.read_as(body, f"{self.name}:{event_id}", f"{self.name}.{event_type}")


def standard_webhooks(secrets: str | Iterable[str], *, name: str = "standard", tolerance: float = 300) -> Provider:
    """Senders that sign as the Standard Webhooks specification says: Clerk, Resend, OpenAI and whoever uses Svix.

    Args:
        secrets: ``whsec_`` and Base64; several while one is being rolled.
        name: of the sender, such as "clerk": it begins the id and type of its events.
        tolerance: seconds that the signature's timestamp may differ from now, in both directions.

    Raises:
        InvalidArgument: a secret is not one, or the name has other characters than a-z, 0-9, ``_`` and ``-``.
    """
    keys = [_decoded(secret) for secret in _listed(secrets)]
    check_seconds(tolerance, "the tolerance")

    def check(body: bytes, headers: Mapping[str, str]) -> None:
        event_id, timestamp, given = (_either(headers, part) for part in ("id", "timestamp", "signature"))
        if not event_id or not given or not re.fullmatch(r"[0-9]{1,15}", timestamp):
            raise SignatureError("the request has no webhook-id, webhook-timestamp and webhook-signature")
        signed = f"{event_id}.{timestamp}.".encode() + body
        expected = [hmac.digest(key, signed, "sha256") for key in keys]
        _fits(expected, [_base64(each[3:]) for each in given.split()[:16] if each.startswith("v1,")])
        stripe.check_age(timestamp, tolerance)

    return _provider(name, check, lambda event, headers: (_either(headers, "id"), event.get("type")))


def github(secrets: str | Iterable[str]) -> Provider:
    """GitHub: the type of its events is "github.", the event and the action: ``github.push``, ``github.issues.opened``.

    Set the content type of the webhook to application/json. A redelivery has the id of the first delivery.

    Args:
        secrets: of the webhook.

    Raises:
        InvalidArgument: there is no secret.
    """
    keys = [secret.encode() for secret in _listed(secrets)]

    def check(body: bytes, headers: Mapping[str, str]) -> None:
        kind, _, digits = headers.get("x-hub-signature-256", "").partition("=")
        if kind != "sha256" or not re.fullmatch(r"[0-9a-f]{64}", digits):
            raise SignatureError("the request has no X-Hub-Signature-256: does the webhook have a secret?")
        _fits([hmac.digest(key, body, "sha256") for key in keys], [bytes.fromhex(digits)])
        if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):  # GitHub's default
            raise InvalidPayload("GitHub sends a form: set the content type of the webhook to application/json")

    def identify(event: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[object, object]:
        kind, action = headers.get("x-github-event"), event.get("action")
        return headers.get("x-github-delivery"), f"{kind}.{action}" if kind and isinstance(action, str) else kind

    return _provider("github", check, identify)


def shopify(secrets: str | Iterable[str]) -> Provider:
    """Shopify: the type of its events is "shopify." and the topic, with a dot: ``shopify.orders.create``.

    Args:
        secrets: the app's client secret.

    Raises:
        InvalidArgument: there is no secret.
    """
    keys = [secret.encode() for secret in _listed(secrets)]

    def check(body: bytes, headers: Mapping[str, str]) -> None:
        given = headers.get("x-shopify-hmac-sha256", "")
        if not given:
            raise SignatureError("the request has no X-Shopify-Hmac-Sha256")
        _fits([hmac.digest(key, body, "sha256") for key in keys], [_base64(given)])

    def identify(_: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[object, object]:
        topic = headers.get("x-shopify-topic", "").replace("/", ".")
        # one event may be sent under several topics: to a handler these are several events
        event_id = headers.get("x-shopify-event-id") or headers.get("x-shopify-webhook-id")
        return event_id and f"{topic}:{event_id}", topic

    return _provider("shopify", check, identify)


def _provider(name: str, check: Any, identify: Any) -> Provider:
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,30}", name) or name == "stripe":
        raise InvalidArgument(f'the name of a sender is up to 31 of a-z, 0-9, _ and -, and not "stripe", not {name!r}')
    return Provider(name, check, identify)


def _listed(secrets: str | Iterable[str]) -> list[str]:
    given: object = secrets
    found = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    usable = [secret.strip() for secret in found if isinstance(secret, str) and secret.strip()]
    if not usable or len(usable) < len(found):
        raise InvalidArgument("a secret is missing, or is not text: is its variable set?")
    return usable


def _decoded(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:  # also of characters that are not ASCII
        key = b""
    if not key:  # with an empty key anybody could sign
        raise InvalidArgument("a secret of Standard Webhooks is whsec_ and Base64: copy it whole")
    return key


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def _fits(expected: list[bytes], given: list[bytes]) -> None:
    if not any([hmac.compare_digest(each, other) for each in expected for other in given]):  # noqa: C419 -- all of them
        raise SignatureError(stripe.NO_FIT, "signature")


def _either(headers: Mapping[str, str], part: str) -> str:
    return headers.get(f"webhook-{part}") or headers.get(f"svix-{part}") or ""


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
