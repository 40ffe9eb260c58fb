"""Recording deliveries: those that arrive while an INSERT is under way share the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from pgonce._async.execute import Pool, call
from pgonce.protocol import queue, webhooks
from pgonce.protocol.queue import Claimed
from pgonce.protocol.stripe import Body

INSERTS = 2
"""Under way at once: while one waits for its commit's fsync, the other fills the database's processor."""
MOST = 100
"""Events in one INSERT, at most."""


class Hands(Protocol):
    """What a recorder asks of the worker in its process."""

    def room(self) -> int:
        """How many events it would begin soon."""

    def hand_over(self, claimed: Sequence[Claimed]) -> None:
        """Handle these."""

    def wake(self) -> None:
        """Look at the table."""


class Recorder:
    """Queues events for the workers, one INSERT for as many as have come together. For one event loop.

    Args:
        pool: of at least ``INSERTS`` connections.
        schema: where ``pgonce migrate`` put the tables.
        worker: the one in this process. While it keeps up, events are claimed for it with their INSERT and handed over:
            that saves the claim, and reading the payload back.
    """

    def __init__(self, pool: Pool, *, schema: str = "public", worker: Hands | None = None) -> None:
        self._pool = pool
        self._schema = schema
        self._worker = worker
        self._waiting: list[tuple[Body, str | None, asyncio.Future[str]]] = []
        self._inserting: set[asyncio.Task[None] | None] = set()

    async def record(self, body: Body, order_key: str | None) -> str:
        """Record one event; when this returns, it is committed.

        Returns:
            ``queued``, ``done``, or ``busy`` when a direct client is in the middle of it.

        Raises:
            PgonceError: it could not be recorded.
        """
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, order_key, future))
        if len(self._inserting) < INSERTS:
            self._inserting.add(asyncio.create_task(self._insert()))
        return await future

    async def _insert(self) -> None:
        try:
            await self._insert_all()
        finally:
            # Here, in the step that has found nothing waiting. A done callback comes later: whoever was answered in
            # this step and records its next event before it would count this task as under way and wait for ever.
            self._inserting.discard(asyncio.current_task())

    async def _insert_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            bodies, keys, futures = zip(*batch, strict=True)
            try:
                outcomes = await self._queue(bodies, keys)
            except Exception as error:  # noqa: BLE001 -- each request answers it
                for future in futures:
                    if not future.done():  # its client may have gone away
                        future.set_exception(error)
            else:
                for body, future in zip(bodies, futures, strict=True):
                    if not future.done():
                        future.set_result(outcomes[body.id])

    async def _queue(self, bodies: Sequence[Body], keys: Sequence[str | None]) -> dict[str, str]:
        if self._worker is None:
            return await call(self._pool, webhooks.queue_webhooks(bodies, keys), self._schema)
        if self._worker.room() < len(bodies):
            outcomes = await call(self._pool, webhooks.queue_webhooks(bodies, keys), self._schema)
            self._worker.wake()
        else:
            claim = queue.queue_and_claim(bodies, keys, self._schema)
            outcomes, claimed = await call(self._pool, claim, self._schema)
            self._worker.hand_over(claimed)
        return outcomes
