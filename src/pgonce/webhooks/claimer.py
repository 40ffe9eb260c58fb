# Generated from claimer_async.py by tools/unasync.py: edit that one, then `make generate`.
"""Claims due events for the consumers of one kind of handlers in a process."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import psycopg

from pgonce.core.call import Call
from pgonce.core.concurrency import Lock
from pgonce.core.execute import Pool, connection, execute
from pgonce.core.hanging import answered_within
from pgonce.errors import PgonceError, summary
from pgonce.webhooks import calls_queue
from pgonce.webhooks.calls import Event
from pgonce.webhooks.claimed import take_all
from pgonce.webhooks.registry import ClaimedTypes
from pgonce.webhooks.responses import is_database_fault

LOOK = 0.2
"""Seconds for which the events that were handed over are handled without reading the table."""
FULL_LOOK = 5.0
"""Seconds between two claims without the low-water mark, for retries and for what was committed late."""
MARGIN = timedelta(seconds=2)
"""How far behind the newest due time a late commit may be and still be found at once."""
HANGS = 75.0
"""Seconds after which a worker's statements without an answer are given up. All consumers wait for a claim, and each
for its marks and commits. A trigger of the application's may make them slow."""
SINGLY = 60.0
"""Seconds for which events are claimed one by one, after the database has refused to claim a batch."""

T = TypeVar("T")

log = logging.getLogger("pgonce")


class Claimer:
    """Claims events, for one consumer at a time; for those that wait meanwhile it claims, too.

    Claims of all processes wait for each other in the database. When each consumer made its own, 32 processes handled
    0.66 to 0.71 of the events that eight did; now 0.92 (``python -m bench webhooks``).

    Args:
        pool: of the consumers.
        types: which events. Those whose handlers have transactions of their own are claimed one at a time: an event
            that waits behind another would hold its claim without being handled.
        handed: what a receiver in the same process has claimed for the consumers.
        schema, max_attempts: as of the worker; also for those consumers.
    """

    def __init__(
        self,
        pool: Pool,
        types: ClaimedTypes,
        handed: deque[Event] | None = None,
        *,
        schema: str = "public",
        max_attempts: int = calls_queue.MAX_ATTEMPTS,
    ) -> None:
        self.pool, self._types = pool, types
        self._handed: deque[Event] = deque() if handed is None else handed
        self.schema = schema
        self.max_attempts = max_attempts
        self.backlog = False
        """Whether the last claim found as many events as it asked for: then more are probably due."""
        self._lock = Lock()
        self.rooms: list[Callable[[], int]] = []
        """How many events each consumer would begin soon."""
        self._waiting: dict[object, int] = {}
        """How many events each consumer wants that claims, or waits for the lock."""
        self._claimed_last = False
        self._since: datetime | None = None
        self._full_look_at = self._look_at = 0.0
        self._singly_until = 0.0

    def claim(self, size: int) -> list[Event]:
        """The next batch, handed over or claimed, of at most ``size`` events; empty if nothing is due."""
        return self._take(size) or self._claim_for_all(size) or self._take(size)

    def claim_own(self) -> list[Event]:
        """One event whose handler has a transaction of its own; empty if none is due."""
        return self._claim_from_table(1, self._types.own) if self._types.own is not None else []

    def put_back(self, events: Iterable[Event]) -> None:
        """These are next. They are still claimed, and have not begun."""
        self._handed.extendleft(reversed(list(events)))

    def take_overdue(self) -> list[Event]:
        """What was handed over, if no consumer would begin it soon: another process may."""
        return [] if any(room() for room in self.rooms) else take_all(self._handed)

    def _take(self, size: int) -> list[Event]:
        """The next batch of what was handed over; empty if the table has not been read for a while."""
        if time.monotonic() - self._look_at > LOOK and not self._claimed_last:
            return []
        self._claimed_last = False
        events: list[Event] = []
        while self._handed and len(events) < size:
            try:
                events.append(self._handed.popleft())
            except IndexError:  # another consumer was faster
                break
        return events

    def _claim_for_all(self, size: int) -> list[Event]:
        """The next batch of the table. What is claimed for other consumers, which wait for the lock, is handed over."""
        consumer = object()
        self._waiting[consumer] = size
        try:
            with self._lock:
                if events := self._take(size):  # another consumer has claimed them for this one
                    return events
                events = self._claim_due(sum(list(self._waiting.values())))
                self.put_back(events[size:])
                return events[:size]
        finally:
            del self._waiting[consumer]

    def _claim_due(self, limit: int) -> list[Event]:
        """The due events after the low-water mark; every few seconds, and when idle, all due events.

        The commit need not reach the disk. If it is lost, only the count of one attempt is lost.
        """
        full = self._since is None or time.monotonic() - self._full_look_at > FULL_LOOK
        since = None if full else self._since
        self._look_at = time.monotonic()
        self._claimed_last = True
        events = self._claim_from_table(limit, self._types.all, self._types.own, since)
        self.backlog = len(events) == limit
        if full:
            self._full_look_at = time.monotonic()
        if events:
            self._since = min(event.due for event in events if event.due) - MARGIN
        elif not full and time.monotonic() - self._full_look_at > LOOK:
            self._since = None
            return self._claim_due(limit)
        return events

    def _claim_from_table(
        self, limit: int, included: str | None, excluded: str | None = None, since: datetime | None = None
    ) -> list[Event]:
        """Claim a batch; one by one if a trigger or constraint of the application's refuses to have it claimed."""
        wanted = partial(
            calls_queue.claim_webhooks,
            limit,
            types=included,
            other_types=excluded,
            since=since,
            max_attempts=self.max_attempts,
            schema=self.schema,
        )
        if time.monotonic() >= self._singly_until:
            try:
                return self.call(wanted(), synced=False)
            except (PgonceError, psycopg.Error) as error:
                if is_database_fault(error):
                    raise
                log.warning("a batch could not be claimed, so events are claimed one by one: %s", summary(error))
                self._singly_until = time.monotonic() + SINGLY
        return self.call(wanted(singly=True), synced=False)

    def call(self, wanted: Call[T], *, synced: bool = True) -> T:
        """Run a call of the worker's on a connection of its pool, in a transaction of its own.

        Raises:
            DatabaseUnavailable: there is no answer within `HANGS`.
        """
        with connection(self.pool) as conn:
            with answered_within(HANGS, conn):
                return execute(conn, wanted, self.schema, synced=synced)
