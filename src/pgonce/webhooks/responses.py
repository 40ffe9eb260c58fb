"""The answers to deliveries, for every kind of server."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from typing import Any

import psycopg

from pgonce.core.failures import ErrorHook, log_failure
from pgonce.errors import (
    DatabaseUnavailable,
    EventBusy,
    InvalidPayload,
    PayloadTooLarge,
    PgonceError,
    SchemaError,
    SignatureError,
    database_error,
    is_transient,
    summary,
)

MAX_BODY = 1_000_000
"""Bytes. Real events over 52 kB have been seen; nothing that Stripe documents comes near a megabyte."""

UNAVAILABLE = "this delivery could not be recorded and must be sent again: the log of this service says why"

LOG_EVERY = 1.0
"""Seconds between two log lines about requests refused for the same reason, because anybody can send a million."""

log = logging.getLogger("pgonce")
_logged: dict[tuple[str, str], float] = {}
"""When a refusal of a kind was last logged. Not by its text, which may quote numbers of the sender's choice."""


class SlowRequest(PgonceError):
    """The body was not received within its time limit."""


class NoSecrets(PgonceError):
    """The application's function has not returned the secrets in time."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: its status, its JSON body, and its headers."""

    status: int
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        """Content-Type and Content-Length; with 405, which refuses a method, also the one that is accepted."""
        allowed = {"allow": "POST"} if self.status == 405 else {}
        return {"content-type": "application/json", "content-length": str(len(self.body)), **allowed}


def answer(code: int, **content: Any) -> Response:
    """A JSON answer."""
    return Response(code, json.dumps(content).encode())


def failure(
    error: BaseException, *, by: str = "a handler", about: object = None, on_error: ErrorHook | None = None
) -> Response:
    """The answer for an error: 4xx if a retry cannot succeed, 409 and 5xx if it may.

    Anybody may send a request and read the answer. So messages of the database and of exceptions are only in the log.

    Args:
        error: what was raised.
        by: where it was raised, for an error of neither pgonce nor the database.
        about: the event, for ``on_error``; None if no handler was called. Then every error of the database is one of
            recording the delivery.
        on_error: of the app.
    """
    # What a handler raises may be one of pgonce's own errors, or a database's, and says nothing about this delivery.
    status = 500 if about is not None and by == "a handler" else status_of(error)
    if status == 500 and about is None and database_error(error) is not None:
        status = 503
    if status == 503:
        text = UNAVAILABLE
    elif status == 500:
        text = f"{by} raised {type(error).__name__}: the log of this service says more"
    else:
        text = str(error)
    _log(status, error, about, on_error)
    return answer(status, error=text)


def status_of(error: BaseException) -> int:
    """The HTTP status for an error."""
    if isinstance(error, PayloadTooLarge):
        return 413
    if isinstance(error, SlowRequest):
        return 408
    if isinstance(error, SignatureError | InvalidPayload):
        return 400
    if isinstance(error, EventBusy):
        return 409
    if isinstance(error, DatabaseUnavailable | SchemaError | NoSecrets) or is_database_fault(error):
        return 503
    return 500


def is_database_fault(error: BaseException) -> bool:
    """Whether the database is the cause, and not the statement: it is down, full, read-only, locked or broken."""
    state = (error.sqlstate or "") if isinstance(error, psycopg.Error) else ""
    # 53: disk full, out of memory, too many connections; 58: I/O error; XX: internal error, data corrupted
    return is_transient(error) or state.startswith(("53", "58", "XX"))


def _log(status: int, error: BaseException, about: object, on_error: ErrorHook | None) -> None:
    """Write a line to the log: of a handler's error only kind and place, because its text may contain the payload."""
    if status == 500 and (about is not None or not isinstance(error, PgonceError)):
        log_failure("a delivery", error, subject=about, hook=on_error)
        return
    reason = summary(error)
    kind = type(error).__name__, getattr(error, "reason", "")
    if status < 500:
        if time.monotonic() - _logged.get(kind, -LOG_EVERY) < LOG_EVERY:
            return
        _logged[kind] = time.monotonic()
    log.log(logging.ERROR if status >= 500 else logging.WARNING, "answered %s: %s", status, reason)
