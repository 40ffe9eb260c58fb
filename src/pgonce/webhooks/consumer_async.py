"""One pair of a worker's hands: claim a batch of events, have it handled, and again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta

from pgonce.core.execute_async import Pool, call, call_unsynced
from pgonce.errors import DatabaseUnavailable
from pgonce.webhooks import calls as webhooks
from pgonce.webhooks import calls_queue as protocol
from pgonce.webhooks.calls_queue import Claimed
from pgonce.webhooks.executor_async import AsyncAttempts, Work
from pgonce.webhooks.registry import Handler, WebhookRegistry

MOST = 100
"""Events in a batch, at most. At 100 the commit costs each of them a hundredth of an fsync; more gains nothing."""
BRISK = 0.2
"""Seconds: a full batch that was done faster may grow, a slower one shrinks, so that other lanes get work too."""
AHEAD = 4
"""Full batches that may wait for a lane that has handled such in BRISK seconds."""
LOOK = 0.2
"""Seconds for which a lane lives on what is handed to it without a look at the table."""
FULL_LOOK = 5.0
"""Seconds between two claims without the low-water mark, for retries and for what was committed late."""
MARGIN = timedelta(seconds=2)
"""How far behind the newest due time a late commit may be and still be found at once."""


class AsyncLane:
    """Claims and handles events, batch after batch.

    Args:
        pool: needs one connection for each lane, and one more for timeouts.
        app: the handlers; this world's kind of them must match the types claimed here.
        handed: what a receiver in the same process has claimed for this lane and others.
        types, other_types: claim only types that match, and do not match, these regular expressions.
        schema, max_attempts: as of the worker.
    """

    def __init__(
        self,
        pool: Pool,
        app: WebhookRegistry,
        *,
        handed: deque[Claimed] | None = None,
        types: str | None = None,
        other_types: str | None = None,
        schema: str = "public",
        max_attempts: int = protocol.MAX_ATTEMPTS,
    ) -> None:
        self._pool, self._app = pool, app
        self._types, self._other_types = types, other_types
        self._schema = schema
        self._max_attempts = max_attempts
        self._attempts = AsyncAttempts(pool, schema, max_attempts)
        self._handed: deque[Claimed] = deque() if handed is None else handed
        self.size = 10
        """Events in the next batch, at most."""
        self.full = False
        """Whether the last one had as many: there is probably more to do than this lane can."""
        self.backlog = False
        """Whether the last look at the table found as many."""
        self._since: datetime | None = None
        self._looked = self._asked = 0.0

    @property
    def room(self) -> int:
        """How many events it would begin within a second or so: one batch, several where full ones have been brisk."""
        return self.size * (AHEAD if self.size == MOST else 1)

    async def step(self) -> int:
        """Claim and handle one batch.

        Returns:
            The number of events in it; 0 when nothing was due.

        Raises:
            DatabaseUnavailable, SchemaError: nothing was claimed, or what was claimed comes back by itself.
        """
        items = self._take() or await self._claim() or self._take()
        self.full = len(items) == self.size
        started = time.monotonic()
        self._attempts.begun = False
        try:
            await self._handle(items)
        except DatabaseUnavailable:
            # They are still ours. But a handler that has been called may be the cause: then their leases run out, and
            # the attempt counts. An event that always ends its connection would be tried for ever.
            if not self._attempts.begun:
                self._handed.extendleft(reversed(items))
            raise
        self._adapt(len(items), time.monotonic() - started)
        return len(items)

    async def _handle(self, items: Sequence[Claimed]) -> None:
        shared: list[Work] = []
        batches: dict[Handler, list[Claimed]] = {}
        for item in items:
            try:
                handlers = self._app.matching(item.event.type)
                key = None if item.order_key else self._app.order_key(item.event)
            except Exception as error:  # noqa: BLE001 -- a wrong registration, or the user's key function
                await self._attempts.failed(item, error)
                continue
            if handlers and await self._is_twin(item):
                continue
            if key is not None:  # recorded by a client that did not know that this type wants order
                await call(self._pool, protocol.order_webhook(item, key), self._schema)
            elif handlers and handlers[0].kind == "own":
                await self._attempts.own(item, handlers[0])
            elif handlers and handlers[0].kind == "batch":
                batches.setdefault(handlers[0], []).append(item)
            else:
                shared.append((item, handlers))
        if shared:
            await self._attempts.in_savepoints(shared)
        for handler, group in batches.items():
            await self._attempts.set_wise(handler, group)

    async def _is_twin(self, item: Claimed) -> bool:
        """Ignore an event whose twin, thin or snapshot, is handled by this app instead."""
        if not self._app.matching(protocol.twin_type(item.event.type)):
            return False
        twin = await call(self._pool, protocol.twin_of_webhook(item.claim), self._schema)
        ignore = webhooks.ignore_webhook(item.claim, f"twin of {twin}")
        return twin is not None and await call(self._pool, ignore, self._schema)

    def _adapt(self, done: int, seconds: float) -> None:
        if seconds > BRISK:
            self.size = max(1, self.size // 2)
        elif done == self.size:
            self.size = min(MOST, self.size * 2)

    def _take(self) -> list[Claimed]:
        """The next batch of what was handed over; none when the table has not been looked at for a while."""
        if time.monotonic() - self._asked > LOOK:
            return []
        items: list[Claimed] = []
        while self._handed and len(items) < self.size:
            try:
                items.append(self._handed.popleft())
            except IndexError:  # another lane was faster
                break
        return items

    async def _claim(self) -> list[Claimed]:
        """The next batch, above the low-water mark; with a full look every few seconds, and now and then when idle.

        Its commit need not reach the disk: losing it loses the count of one attempt.
        """
        full = self._since is None or time.monotonic() - self._looked > FULL_LOOK
        claim = protocol.claim_webhooks(
            self.size,
            types=self._types,
            other_types=self._other_types,
            since=None if full else self._since,
            max_attempts=self._max_attempts,
            schema=self._schema,
        )
        self._asked = time.monotonic()
        items = await call_unsynced(self._pool, claim, self._schema)
        self.backlog = len(items) == self.size
        if full:
            self._looked = time.monotonic()
        if items:
            self._since = min(item.due for item in items if item.due) - MARGIN
        elif not full and time.monotonic() - self._looked > BRISK:
            self._since = None
            return await self._claim()
        return items
