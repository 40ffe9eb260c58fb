"""Counts the requests that a receiver refuses, so that a wrong secret is noticed before Stripe gives up."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

import psycopg

from pgonce.core.execute_async import Pool, call
from pgonce.errors import (
    DatabaseUnavailable,
    InvalidPayload,
    PayloadTooLarge,
    PgonceError,
    SchemaError,
    SignatureError,
    database_error,
    summary,
)
from pgonce.webhooks.calls_receive import count_refused_deliveries
from pgonce.webhooks.responses import SlowRequest, is_database_fault

EVERY = 30.0
"""Seconds between two writes of the counts, so that any number of refusals costs the database little."""

log = logging.getLogger("pgonce")


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
    """How often each reason has occurred since the counts were last taken. Any number of threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._taken = time.monotonic()

    def count(self, reason: str | None) -> None:
        """One more; None is not counted."""
        if reason is not None:
            with self._lock:
                self._counts[reason] += 1

    def take(self, every: float = EVERY) -> dict[str, int]:
        """Take the counts, and begin at zero again. Empty if the last time was less than ``every`` seconds ago."""
        with self._lock:
            if not self._counts or time.monotonic() - self._taken < every:
                return {}
            self._taken = time.monotonic()
            counts, self._counts = dict(self._counts), Counter()
            return counts

    def put_back(self, counts: dict[str, int]) -> None:
        """These could not be written."""
        with self._lock:
            self._counts.update(counts)


async def write_counts(counter: RefusalCounter, pool: Pool, schema: str, every: float) -> None:
    """Write the counts, if the last time was ``every`` seconds ago. What cannot be written is kept until then."""
    if counts := counter.take(every):
        try:
            await call(pool, count_refused_deliveries(counts), schema)
        except (PgonceError, psycopg.Error) as error:
            counter.put_back(counts)
            log.warning("the counts of refused deliveries could not be written: %s", summary(error))
