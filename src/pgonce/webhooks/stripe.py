"""Stripe's side of a webhook: the signature over the raw bytes, and reading the body.

The rules are Stripe's (docs.stripe.com/webhooks, "Verify webhook signatures manually"): the header is
``t=<unix seconds>,v1=<hex>[,v1=<hex>...]``, the signed bytes are ``<t>.<raw body>``, a signature is HMAC-SHA256 with
the endpoint's whole secret ("whsec_..." included) as its key, schemes other than v1 are to be ignored, and the
default tolerance is 300 seconds.
"""

from __future__ import annotations

import hmac
import inspect
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NoReturn, TypeAlias

from pgonce.errors import InvalidArgument, InvalidPayload, SignatureError


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")  # the standard library accepts NaN and Infinity, jsonb does not


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # over 4,300 digits; jsonb accepts 131,072
        return float(digits)


def _finite(number: str) -> float:
    found = float(number)
    if math.isinf(found):
        raise ValueError(f"{number[:20]} is out of range")
    return found


def _decode_and_load(body: bytes) -> Any:
    # Decoded here, because the standard library would also accept UTF-16. A number out of range is an error, as in
    # orjson; `_parse` then uses the slower parser.
    return json.loads(body.decode(), parse_constant=_refuse, parse_int=_integer, parse_float=_finite)


_ZEROS = bytes(ord("0") if chr(byte).isascii() and chr(byte).isdigit() else ord(" ") for byte in range(256))


def _load_with_orjson(body: bytes) -> Any:
    # orjson makes a float of an integer over 64 bits. A translated search is faster than a regular expression.
    if b"0" * 19 in body.translate(_ZEROS):
        return _decode_and_load(body)
    return orjson.loads(body)


_fast_loads: Callable[[bytes], Any] = _decode_and_load
with suppress(ImportError):  # the extra "serve" installs it: 10 us instead of 30 us for an event of 3.4 kB
    import orjson

    _fast_loads = _load_with_orjson

TOLERANCE = 300
"""Seconds that a signature's timestamp may differ from now, in both directions (Stripe's default)."""

MAX_SIGNATURES = 16
"""v1 entries in a header, at most. Stripe sends one for each secret, and at most two secrets are valid at a time."""
MAX_HEADER = 4096
"""Characters in a header, at most: 16 entries take about 1,100."""

Secrets: TypeAlias = str | Iterable[str] | Callable[[], str | Iterable[str]]
"""One secret of the endpoint, several, or a function that returns them. It is called for every delivery."""

_API_KEYS = ("sk_", "rk_", "pk_")
NO_FIT = "the signature does not fit: check the endpoint's secret, and that the body is passed on as raw bytes"
_UNSIGNED = "no webhook secret is configured: set PGONCE_WEBHOOK_SECRET to the endpoint's whsec_..."


def sign(body: bytes, secret: str, timestamp: int | None = None) -> str:
    """The Stripe-Signature header for ``body``, as Stripe would send it at ``timestamp`` (unix seconds; now)."""
    timestamp = int(time.time()) if timestamp is None else timestamp
    return f"t={timestamp},v1={_signature(body, secret, str(timestamp)).hex()}"


def _signature(body: bytes, secret: str, timestamp: str) -> bytes:
    return hmac.digest(secret.encode(), timestamp.encode() + b"." + body, "sha256")


def signing_secrets(secrets: str | Iterable[str]) -> tuple[str, ...]:
    """Check the secrets when the program starts rather than at the first delivery, and strip white space around them.

    Raises:
        InvalidArgument: there is no secret, or one is not set (None), is an API key, or holds a character that no
            secret has. The secret is not quoted.
    """
    given: object = secrets
    if given is None:  # os.environ.get("...")
        raise InvalidArgument(_UNSIGNED)
    if inspect.iscoroutine(given):
        given.close()  # otherwise Python warns that it was never awaited
        raise InvalidArgument("the function for the webhook secrets is async: only pgonce.receiver and Inbox await it")
    if isinstance(given, bytes | Mapping) or not isinstance(given, Iterable):
        raise InvalidArgument(f'the webhook secret is {type(given).__name__}, not text: pass secrets="whsec_..."')
    found = (secrets,) if isinstance(secrets, str) else tuple(secrets)
    usable = tuple(checked for number, secret in enumerate(found, 1) if (checked := _check_secret(secret, number)))
    if not usable:
        raise InvalidArgument(_UNSIGNED)
    return usable


def _check_secret(secret: object, number: int) -> str:
    """The secret without white space around it; empty where it is blank."""
    if not isinstance(secret, str):
        given = "None" if secret is None else f"a {type(secret).__name__}, not a str"
        raise InvalidArgument(f"webhook secret {number} is {given}: is its variable set?")
    secret = secret.strip()
    if secret.startswith(_API_KEYS):
        raise InvalidArgument(
            f"webhook secret {number} is an API key ({secret[:3]}...): what signs is the endpoint's own "
            "secret, whsec_..., which Stripe's dashboard shows on the endpoint's page"
        )
    if secret.startswith("we_"):
        raise InvalidArgument(
            f"webhook secret {number} is the endpoint's id (we_...): the signing secret, whsec_..., is on its page"
        )
    if secret in {"whsec_", "whsec_..."}:
        raise InvalidArgument(f"webhook secret {number} is a placeholder: copy the whole whsec_... from Stripe")
    for wrong, name in (("\"'`", "a quotation mark"), (",;", "a comma or semicolon"), ("$", "a dollar sign")):
        if any(character in secret for character in wrong):
            raise InvalidArgument(f"webhook secret {number} holds {name}: {_WRITTEN}")
    if not secret.isprintable() or any(map(str.isspace, secret)):
        raise InvalidArgument(f"webhook secret {number} holds a space or a line break: {_WRITTEN}")
    return secret


_WRITTEN = "write whsec_ and the letters and digits after it, nothing else; several secrets are a list"


def verify(
    body: bytes,
    header: str | None,
    secrets: Secrets,
    *,
    tolerance: float = TOLERANCE,
    now: float | None = None,
) -> None:
    """Check that Stripe signed ``body``; raise an error if it did not.

    Args:
        body: the request body exactly as received. After parsing and dumping it, the signature does not match.
        header: the value of ``Stripe-Signature``; None when the request had none. Two headers are joined by a comma.
        secrets: the endpoint's secrets; while one is being rolled (up to 24 h) both are valid.
        tolerance: seconds between the timestamp and now, in both directions.
        now: unix seconds; the default is the current time.

    Raises:
        SignatureError: no header, an unreadable one, no matching signature, or a timestamp out of tolerance.
        InvalidArgument: there are no secrets. Without a secret, nothing can be accepted.
    """
    check_body(body)
    usable = signing_secrets(secrets() if callable(secrets) else secrets)
    timestamp, signatures = read_header(header)
    # One HMAC for each secret, for any number of signatures in the header, because the sender decides how long the body
    # is. Every pair is compared in constant time, so the time taken does not show which of them matched.
    expected = [_signature(body, secret, timestamp) for secret in usable]
    fits = [hmac.compare_digest(each, given) for each in expected for given in signatures]
    if not any(fits):
        raise SignatureError(NO_FIT, "signature")
    check_age(timestamp, tolerance, now)


def check_body(body: object) -> None:
    """Refuse a body that was decoded or parsed: the signature is over the bytes.

    Raises:
        InvalidArgument: it is not bytes.
    """
    if not isinstance(body, bytes | bytearray | memoryview):
        hint = "body.encode()" if isinstance(body, str) else "the framework's raw body"
        raise InvalidArgument(f"the body must be the raw bytes, not {type(body).__name__}: pass {hint}")


def check_header(header: str | None, *, now: float | None = None) -> None:
    """Check the header's form and its timestamp. It does not need the body, so it can run before the body is read.

    Raises:
        SignatureError: no header, an unreadable one, or a timestamp out of tolerance.
    """
    check_age(read_header(header)[0], TOLERANCE, now)


def check_age(timestamp: str, tolerance: float, now: float | None = None) -> None:
    """Raise SignatureError unless a timestamp of digits is at most ``tolerance`` seconds before or after ``now``."""
    age = (time.time() if now is None else now) - int(timestamp)
    if not abs(age) <= tolerance:  # so that with NaN nothing is accepted
        when = "old" if age > 0 else "ahead"
        raise SignatureError(
            f"the signature is {abs(age):.0f} s {when}, over the tolerance of {tolerance:g} s: "
            "an old delivery was sent again, or a clock is wrong",
            "time",
        )


def read_header(header: str | None) -> tuple[str, list[bytes]]:
    """The timestamp and the v1 signatures of a ``Stripe-Signature`` header.

    Raises:
        SignatureError: no header, or not one of Stripe's.
        InvalidArgument: it is not text, such as all headers of the request.
    """
    given: object = header
    if given is not None and not isinstance(given, str):
        raise InvalidArgument(
            f"the signature is the value of the Stripe-Signature header, not {type(given).__name__}: "
            'pass request.headers["Stripe-Signature"]'
        )
    if not header:
        raise SignatureError("the request has no Stripe-Signature header")
    timestamps, signatures = set[str](), list[bytes]()
    if len(header) > MAX_HEADER:
        raise SignatureError(f"the Stripe-Signature header is longer than {MAX_HEADER:,} characters")
    for item in header.split(","):
        name, _, content = item.strip().partition("=")
        if name == "t" and re.fullmatch(r"[0-9]{1,15}", content):
            timestamps.add(content)
        elif name == "v1" and re.fullmatch(r"[0-9a-fA-F]{64}", content):
            signatures.append(bytes.fromhex(content))
    if not timestamps or not signatures:
        raise SignatureError("the Stripe-Signature header has no t= and v1=: this is not a request from Stripe")
    if len(timestamps) > 1:
        raise SignatureError("the Stripe-Signature header has two different timestamps")
    if len(signatures) > MAX_SIGNATURES:
        raise SignatureError(f"the Stripe-Signature header has more than {MAX_SIGNATURES} v1 signatures")
    return timestamps.pop(), signatures


@dataclass(frozen=True, slots=True)
class Body:
    """A webhook body as it is recorded."""

    id: str
    type: str
    payload: dict[str, Any] = field(repr=False)
    text: str = field(repr=False)
    raw: bytes | None = field(repr=False)
    """The original bytes if ``text`` differs from them: they are not UTF-8, or a number has hundreds of digits."""


def read(body: bytes) -> Body:
    """Read the event's id and type from ``body``, even if jsonb cannot hold the whole of it.

    The rest of the body never causes an error: a delivery that Stripe signed is recorded, whatever it holds. An id or
    type that a column cannot hold is recorded in another form: see ``_storable``.

    Raises:
        InvalidPayload: it is not JSON, not an object, or its ``id`` or ``type`` is missing, empty or not a string.
    """
    body = bytes(body)  # of a memoryview, which cannot be decoded
    payload, is_odd = _parse(body)
    return _body(body, payload, is_odd, payload.get("id"), payload.get("type"))


def read_as(body: bytes, event_id: str, event_type: str) -> Body:
    """``read`` for an event of another sender, whose id and type are given."""
    return _body(body, *_parse(body), event_id, event_type)


def _body(body: bytes, payload: dict[str, Any], is_odd: bool, event_id: object, event_type: object) -> Body:
    for name, found in (("id", event_id), ("type", event_type)):
        if not isinstance(found, str) or not found:
            raise InvalidPayload(f"the event has no usable {name!r}: this is not an event from Stripe")
    try:
        text, raw = body.decode(), None
    except UnicodeDecodeError:
        text, raw = body.decode("utf-8", "replace"), body
    if is_odd and (readable := _HUGE.sub("null", text)) != text:
        text, raw = readable, body
    return Body(_storable(str(event_id)), _storable(str(event_type)), payload, text, raw)


def _storable(text: str) -> str:
    """``text``, if it is printable and has at most 255 characters.

    Otherwise its printable beginning and a hash of all of it: two different ids stay different, and a redelivery gets
    the same one. Stripe sends none like that, but a delivery that it signed must not be lost.
    """
    if len(text) <= 255 and text.isprintable():
        return text
    printable = "".join(each if each.isprintable() else "\ufffd" for each in text[:180])
    return f"{printable}#{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


# jsonb accepts numbers up to 1e131072 and writes them with all of their zeros. A body of 1 MB can become 14 GB of text,
# which a worker cannot read. A float's range ends at 1.8e308. Similar text in a string is replaced, too, but only in
# the readable version: the handler gets the original bytes.
_HUGE = re.compile(r"(?<![0-9.])-?[0-9]+(?:\.[0-9]+)?[eE]\+?[0-9]{3,}(?=\s*[,\]}])")


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``. If it is nested deeper than Python's stack allows, only its top-level strings.

    Raises:
        InvalidPayload: it is not a JSON object.
    """
    return _parse(body)[0]


def _parse(body: bytes) -> tuple[dict[str, Any], bool]:
    """The JSON object in ``body``, and whether the fast parser refused it."""
    is_odd = False
    try:
        payload = _fast_loads(body)
    except (ValueError, RecursionError):
        # orjson refuses lone surrogates, numbers out of range and more than 1,024 levels; the standard library accepts
        # the first two
        is_odd = True
        text = body.decode("utf-8", "replace")
        try:
            payload = _loads_or_skim(text)
        except ValueError:
            raise InvalidPayload("the body is not JSON") from None
    if not isinstance(payload, dict):
        raise InvalidPayload("the body is JSON, but not an object: a delivery is one event")
    return payload, is_odd


def _loads_or_skim(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse, parse_int=_integer)
    except RecursionError:
        return _top_level_strings(text)


_TOKEN = re.compile(r'("(?:[^"\\]|\\.)*")|([\[{])|([\]}])')


def _top_level_strings(text: str) -> dict[str, Any] | None:
    if "\0" in text:  # it is not allowed in JSON, and PostgreSQL's text cannot hold it
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
