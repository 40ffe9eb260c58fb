"""Counts the requests that a receiver refuses, so that a wrong secret is noticed before Stripe gives up."""

from __future__ import annotations

import threading
import time
from collections import Counter

from pgonce.errors import (
    DatabaseUnavailable,
    InvalidPayload,
    PayloadTooLarge,
    SchemaError,
    SignatureError,
    database_error,
)
from pgonce.webhooks.responses import SlowRequest, is_database_fault

EVERY = 30.0
"""Seconds between two writes of the counts, so that any number of refusals costs the database little."""
REASONS = {
    "header": "no Stripe-Signature header, or not one of Stripe's: not from Stripe",
    "signature": "the signature does not fit: is the endpoint's secret the current one?",
    "time": "the signature is too old or in the future: is the clock right?",
    "body": "signed, but not an event",
    "size": "the body is over the limit (--max-body)",
    "slow": "the body was not received in time",
    "test": "a test event at a live endpoint (--live-only)",
    "path": "sent with a signature to another path: is the endpoint's URL at Stripe right?",
    "database": "the database refuses to store it: the receiver's log says why",
}
"""The reasons by which refusals are counted, and what each means."""


def refusal_reason(error: BaseException) -> str | None:
    """Why a delivery was refused, as one word; None if the next one may well be recorded."""
    if isinstance(error, SignatureError):
        return error.reason
    for kind, reason in ((PayloadTooLarge, "size"), (SlowRequest, "slow"), (InvalidPayload, "body")):
        if isinstance(error, kind):
            return reason
    found = database_error(error)
    if isinstance(error, SchemaError) or (
        found is not None and not isinstance(error, DatabaseUnavailable) and not is_database_fault(found)
    ):
        return "database"  # a trigger or constraint of the application's, a missing table or grant
    return None


class RefusalCounter:
    """How often each reason has occurred since the counts were last taken. Any number of threads may use it.

    A ``with`` block counts the error with which it ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._taken = time.monotonic()

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            self.count(refusal_reason(error))

    def count(self, reason: str | None) -> None:
        """One more; None is not counted."""
        if reason is not None:
            with self._lock:
                self._counts[reason] += 1

    def take(self, every: float | None = None) -> dict[str, int]:
        """Take the counts, and begin at zero again. Empty if the last time was less than ``every`` seconds ago."""
        with self._lock:
            if not self._counts or time.monotonic() - self._taken < (EVERY if every is None else every):
                return {}
            self._taken = time.monotonic()
            counts, self._counts = dict(self._counts), Counter()
            return counts

    def put_back(self, counts: dict[str, int]) -> None:
        """These could not be written."""
        with self._lock:
            self._counts.update(counts)
