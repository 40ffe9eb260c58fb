"""Stripe's side of a webhook: the signature over the raw bytes, and what stands in a body.

The rules are Stripe's (docs.stripe.com/webhooks, "Verify webhook signatures manually"): the header is
``t=<unix seconds>,v1=<hex>[,v1=<hex>...]``, the signed bytes are ``<t>.<raw body>``, a signature is HMAC-SHA256 with
the endpoint's whole secret ("whsec_..." included) as its key, schemes other than v1 are to be ignored, and the
default tolerance is 300 seconds.
"""

from __future__ import annotations

import hmac
import json
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pgonce.errors import InvalidArgument, InvalidPayload, SignatureError


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")  # the standard library takes NaN and Infinity, jsonb does not


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # over 4,300 digits; jsonb takes 131,072
        return float(digits)


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse, parse_int=_integer)


def _decode_and_load(body: bytes) -> Any:
    return _loads(body.decode())  # decoded here: given bytes, the standard library would take UTF-16 too


_fast_loads: Callable[[bytes], Any] = _decode_and_load
with suppress(ImportError):  # the extra "serve" brings it: 10 us instead of 30 us for an event of 3.4 kB
    from orjson import loads

    _fast_loads = loads

TOLERANCE = 300
"""Seconds that a signature's timestamp may differ from now, in both directions (Stripe's default)."""

_API_KEYS = ("sk_", "rk_", "pk_")
_UNSIGNED = "no webhook secret is configured: set PGONCE_WEBHOOK_SECRET to the endpoint's whsec_..."


def sign(body: bytes, secret: str, timestamp: int | None = None) -> str:
    """The Stripe-Signature header for ``body``, as Stripe would send it at ``timestamp`` (unix seconds; now)."""
    timestamp = int(time.time()) if timestamp is None else timestamp
    return f"t={timestamp},v1={_signature(body, secret, str(timestamp)).hex()}"


def _signature(body: bytes, secret: str, timestamp: str) -> bytes:
    return hmac.digest(secret.encode(), timestamp.encode() + b"." + body, "sha256")


def signing_secrets(secrets: str | Iterable[str]) -> tuple[str, ...]:
    """``secrets``, or the only one, as `verify` takes them: looked at now rather than at the first delivery.

    Raises:
        InvalidArgument: there is none, or one is not set (None), or an API key; it is not quoted.
    """
    found = (secrets,) if isinstance(secrets, str) else tuple(secrets)
    for number, secret in enumerate(found, 1):
        if not isinstance(secret, str):
            raise InvalidArgument(f"webhook secret {number} is {secret!r}: is its variable set?")
        if secret.strip().startswith(_API_KEYS):
            raise InvalidArgument(
                f"webhook secret {number} is an API key ({secret.strip()[:3]}...): what signs is the endpoint's own "
                "secret, whsec_..., which stands beside it in Stripe's dashboard"
            )
    if not any(secret.strip() for secret in found):
        raise InvalidArgument(_UNSIGNED)
    return found


def verify(
    body: bytes,
    header: str | None,
    secrets: Iterable[str],
    *,
    tolerance: float = TOLERANCE,
    now: float | None = None,
) -> None:
    """Check that Stripe signed ``body``; return nothing when it did.

    Args:
        body: the request body exactly as received. Parsed and dumped again it no longer fits.
        header: the value of ``Stripe-Signature``; None when the request had none.
        secrets: the endpoint's secrets; while one is being rolled (up to 24 h) both are valid.
        tolerance: seconds between the timestamp and now, in both directions.
        now: unix seconds; the default is the clock.

    Raises:
        SignatureError: no header, an unreadable one, no fitting signature, or a timestamp out of tolerance.
        InvalidArgument: there are no secrets: refusing everything beats accepting everything.
    """
    secrets = [secret for secret in secrets if secret.strip()]  # a blank one anybody can guess
    if not secrets:
        raise InvalidArgument(_UNSIGNED)
    if not header:
        raise SignatureError("the request has no Stripe-Signature header")
    timestamp, signatures = _read(header)
    age = (time.time() if now is None else now) - int(timestamp)
    # every pair is compared, in constant time: the time taken does not tell which of them fitted
    fits = [hmac.compare_digest(_signature(body, s, timestamp), given) for s in secrets for given in signatures]
    if not any(fits):
        raise SignatureError(
            "the signature does not fit: check the endpoint's secret, and that the body is passed on as raw bytes"
        )
    if abs(age) > tolerance:
        when = "old" if age > 0 else "ahead"
        raise SignatureError(
            f"the signature is {abs(age):.0f} s {when}, over the tolerance of {tolerance:g} s: "
            "an old delivery was sent again, or a clock is wrong"
        )


def _read(header: str) -> tuple[str, list[bytes]]:
    timestamp, signatures = "", []
    for item in header.split(","):
        name, _, content = item.strip().partition("=")
        if name == "t" and re.fullmatch(r"[0-9]{1,15}", content):
            timestamp = content
        elif name == "v1" and re.fullmatch(r"[0-9a-fA-F]{64}", content):
            signatures.append(bytes.fromhex(content))
    if not timestamp or not signatures:
        raise SignatureError("the Stripe-Signature header has no t= and v1=: this is not a request from Stripe")
    return timestamp, signatures


@dataclass(frozen=True, slots=True)
class Body:
    """A webhook body as it goes into the inbox."""

    id: str
    type: str
    payload: dict[str, Any] = field(repr=False)
    text: str = field(repr=False)
    raw: bytes | None = field(repr=False)
    """The bytes, where ``text`` is not exactly them (they are not UTF-8)."""


def read(body: bytes) -> Body:
    """Read the event's id and type out of ``body``, also where jsonb will not be able to hold it.

    Raises:
        InvalidPayload: it is not JSON, not an object, or has no usable ``id`` and ``type``.
    """
    payload = parse(body)
    event_id, event_type = payload.get("id"), payload.get("type")
    for name, found in (("id", event_id), ("type", event_type)):
        if not isinstance(found, str) or not found or len(found) > 255 or not found.isprintable():
            raise InvalidPayload(f"the event has no usable {name!r}: this is not an event from Stripe")
    try:
        text, raw = body.decode(), None
    except UnicodeDecodeError:
        text, raw = body.decode("utf-8", "replace"), body
    return Body(str(event_id), str(event_type), payload, text, raw)


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``. Deeper than Python's stack, only its top-level strings.

    Raises:
        InvalidPayload: it is not a JSON object.
    """
    try:
        payload = _fast_loads(body)
    except (ValueError, RecursionError):
        # orjson refuses lone surrogates and more than 1,024 levels; the standard library takes the former
        text = body.decode("utf-8", "replace")
        try:
            payload = _loads_or_skim(text)
        except ValueError:
            raise InvalidPayload("the body is not JSON") from None
    if not isinstance(payload, dict):
        raise InvalidPayload("the body is JSON, but not an object: Stripe sends one event at a time")
    return payload


def _loads_or_skim(text: str) -> Any:
    try:
        return _loads(text)
    except RecursionError:
        return _top_level_strings(text)


_TOKEN = re.compile(r'("(?:[^"\\]|\\.)*")|([\[{])|([\]}])')


def _top_level_strings(text: str) -> dict[str, Any] | None:
    if "\0" in text:  # nowhere in JSON, and PostgreSQL's text cannot hold it
        raise ValueError("NUL is not JSON")
    found: dict[str, Any] = {}
    depth, key, end = 0, "", 0
    for match in _TOKEN.finditer(text):
        string, opening, closing = match.groups()
        if opening and depth == 0 and opening != "{":
            return None
        depth += bool(opening) - bool(closing)
        if string and depth == 1:
            if text[end : match.start()].strip() == ":":
                found[key] = json.loads(string, strict=False)
            else:
                key = json.loads(string, strict=False)
                found.pop(key, None)  # of two equal keys the last counts, in Python and in jsonb
        end = match.end()
    return found if depth == 0 else None
