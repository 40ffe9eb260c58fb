"""Conflicts between concurrent transactions: the handler that has lost one is called again soon, at no attempt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from psycopg.errors import DeadlockDetected, SerializationFailure

from pgonce.webhooks.calls import Event

CONFLICTS = (DeadlockDetected, SerializationFailure)
"""Two handlers wrote the same rows, in different orders or under a strict isolation level."""
MOST = 100
"""Conflicts of an event before its attempt has failed. A function of the application's may raise 40001 each time: such
a handler was called 16 times a second, without end, and nothing was recorded."""
_KNOWN = 10_000
_STATES = {kind.sqlstate for kind in CONFLICTS}


def is_conflict(error: BaseException) -> bool:
    """Whether the error is a conflict: of psycopg, psycopg2 or asyncpg, also as SQLAlchemy or Django raises it."""
    try:
        found = error.__cause__ if type(error).__module__ == "django.db.utils" else getattr(error, "orig", error)
        return (getattr(found, "sqlstate", None) or getattr(found, "pgcode", None)) in _STATES
    except Exception:  # noqa: BLE001 -- an exception of the application's may compute its attributes, and fail
        return False


class Conflicts:
    """Counts them for each event; one object for each consumer."""

    def __init__(self) -> None:
        self._times: Counter[str] = Counter()

    def are_retried(self, error: BaseException, events: Sequence[Event]) -> bool:
        """Whether the events, which share a transaction, are released after this error.

        Otherwise each is handled alone, and one that is alone has failed. A list is given up earlier, because the
        others must not wait for the one that conflicts.
        """
        if not is_conflict(error):
            return False
        if len(self._times) >= _KNOWN:
            self._times.clear()
        for event in events:
            self._times[event.id] += 1
        limit = MOST if len(events) == 1 else MOST // 2
        if all(self._times[event.id] < limit for event in events):
            return True
        if len(events) == 1:
            del self._times[events[0].id]
        return False
