"""Recording deliveries: those that arrive while an INSERT is under way share the next one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from psycopg import AsyncConnection

from pgonce.core.batcher import Batcher
from pgonce.core.execute_async import Pool, connection, execute
from pgonce.webhooks import calls as webhooks
from pgonce.webhooks import calls_queue as queue
from pgonce.webhooks.calls_queue import Claimed
from pgonce.webhooks.stripe import Body

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
        pool: of at least ``batcher.AT_ONCE`` connections, in autocommit.
        schema: where ``pgonce migrate`` put the tables.
        worker: the one in this process. While it keeps up, events are claimed for it with their INSERT and handed over:
            that saves the claim, and reading the payload back.
    """

    def __init__(self, pool: Pool, *, schema: str = "public", worker: Hands | None = None) -> None:
        self._schema = schema
        self._worker = worker
        self._batcher = Batcher(partial(connection, pool), self._queue, most=MOST)

    async def record(self, body: Body, order_key: str | None) -> str:
        """Record one event; when this returns, it is committed.

        Returns:
            ``queued``, ``done``, or ``busy`` when a direct client is in the middle of it.

        Raises:
            PgonceError: it could not be recorded.
        """
        return await self._batcher.submit((body, order_key))

    async def _queue(self, conn: AsyncConnection[Any], events: Sequence[tuple[Body, str | None]]) -> list[str]:
        bodies, keys = [body for body, _ in events], [key for _, key in events]
        if self._worker is None:
            outcomes = await execute(conn, webhooks.queue_webhooks(bodies, keys), self._schema)
        elif self._worker.room() < len(bodies):
            outcomes = await execute(conn, webhooks.queue_webhooks(bodies, keys), self._schema)
            self._worker.wake()
        else:
            claim = queue.queue_and_claim(bodies, keys, self._schema)
            outcomes, claimed = await execute(conn, claim, self._schema)
            self._worker.hand_over(claimed)
        return [outcomes[body.id] for body in bodies]
