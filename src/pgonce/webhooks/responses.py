"""What a delivery is answered with, whichever server carries the answer."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

from pgonce.errors import (
    DatabaseUnavailable,
    EventBusy,
    InvalidPayload,
    PayloadTooLarge,
    PgonceError,
    SchemaError,
    SignatureError,
)

MAX_BODY = 1_000_000
"""Bytes. Real events over 52 kB have been seen; nothing that Stripe documents comes near a megabyte."""

log = logging.getLogger("pgonce")


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: its status, its JSON body, and its headers."""

    status: int
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        """Content-Type and Content-Length."""
        return {"content-type": "application/json", "content-length": str(len(self.body))}


def answer(code: int, **content: Any) -> Response:
    """A JSON answer."""
    return Response(code, json.dumps(content).encode())


def failure(error: BaseException) -> Response:
    """The answer that makes Stripe do the right thing: 4xx what will never fit, 409 and 5xx what a retry mends.

    The reason is in it and in the log; of a handler's own error only the kind is, because it may hold the payload.
    """
    if isinstance(error, PayloadTooLarge):
        status = 413
    elif isinstance(error, SignatureError | InvalidPayload):
        status = 400
    elif isinstance(error, EventBusy):
        status = 409
    elif isinstance(error, DatabaseUnavailable | SchemaError):
        status = 503
    else:
        status = 500
    reason = str(error) if isinstance(error, PgonceError) else f"a handler raised {type(error).__name__}"
    log.warning("answered %s: %s", status, reason)
    return answer(status, error=reason)
