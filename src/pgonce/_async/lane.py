"""One pair of a worker's hands: claim a batch of events, handle it in one transaction, and again."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from pgonce._async.execute import Pool, call, call_unsynced, connection, execute, transaction
from pgonce._async.waiting import asked_to_stop, time_limit
from pgonce.app import App, Handler, any_of
from pgonce.errors import DatabaseUnavailable, PgonceError, TransactionBroken, translate
from pgonce.protocol import queue as protocol
from pgonce.protocol import webhooks
from pgonce.protocol.call import Call
from pgonce.protocol.queue import Claimed
from pgonce.protocol.webhooks import Event, Ignored

MOST = 100
"""Events in a batch, at most. At 100 the commit costs each of them a hundredth of an fsync; more gains nothing."""
BRISK = 0.2
"""Seconds: a full batch that was done faster may grow, a slower one shrinks, so that other lanes get work too."""
FULL_LOOK = 5.0
"""Seconds between two claims without the low-water mark, for retries and for what was committed late."""
MARGIN = timedelta(seconds=2)
"""How far behind the newest due time a late commit may be and still be found at once."""
LIMIT = timedelta(minutes=5)
"""A stopped worker's transaction is ended after this long without a statement."""

log = logging.getLogger("pgonce")

Work: TypeAlias = tuple[Claimed, list[Handler]]

_RELEASE = "release savepoint pgonce_event"
_NO_SAVEPOINT = {"25P01", "3B001"}
_ENDED = "a handler ended the transaction: leave COMMIT and ROLLBACK to pgonce"
_SWALLOWED = "a handler caught a database error and went on: wrap what may fail in `with tx.transaction()`"
_NOT_COMPLETED = "the handler returned without event.complete(session) in its transaction"


class AsyncLane:
    """Claims and handles events, batch after batch.

    Args:
        pool: needs one connection for each lane, and one more for timeouts.
        app: the handlers; this world's kind of them must match the types claimed here.
        types: claim only types that match this regular expression.
        other_types: claim only types that do not match this one.
        schema: where ``pgonce migrate`` put the tables.
        max_attempts: after so many an event is a dead letter.
    """

    def __init__(
        self,
        pool: Pool,
        app: App,
        *,
        types: str | None = None,
        other_types: str | None = None,
        schema: str = "public",
        max_attempts: int = protocol.MAX_ATTEMPTS,
    ) -> None:
        self._pool = pool
        self._app = app
        self._types = types
        self._other_types = other_types
        self._schema = schema
        self._max_attempts = max_attempts
        self._size = 10
        self._since: datetime | None = None
        self._looked = 0.0

    async def step(self) -> int:
        """Claim and handle one batch.

        Returns:
            The number of events in it; 0 when nothing was due.

        Raises:
            DatabaseUnavailable, SchemaError: nothing was claimed, or what was claimed comes back by itself.
        """
        items = await self._claim()
        started = time.monotonic()
        shared: list[Work] = []
        batches: dict[Handler, list[Claimed]] = {}
        for item in items:
            try:
                handlers = self._app.matching(item.event.type)
                key = None if item.order_key else self._app.order_key(item.event)
            except Exception as error:  # noqa: BLE001 -- a wrong registration, or the user's key function
                await self._failed(item, error)
                continue
            if key is not None:  # recorded by a client that did not know that this type wants order
                await call(self._pool, protocol.order_webhook(item, key), self._schema)
            elif handlers and handlers[0].kind == "own":
                await self._own(item, handlers[0])
            elif handlers and handlers[0].kind == "batch":
                batches.setdefault(handlers[0], []).append(item)
            else:
                shared.append((item, handlers))
        if shared:
            await self._in_savepoints(shared)
        for handler, group in batches.items():
            await self._set_wise(handler, group)
        self._adapt(len(items), time.monotonic() - started)
        return len(items)

    def _adapt(self, done: int, seconds: float) -> None:
        if seconds > BRISK:
            self._size = max(1, self._size // 2)
        elif done == self._size:
            self._size = min(MOST, self._size * 2)

    async def _claim(self) -> list[Claimed]:
        """The next batch, above the low-water mark; with a full look every few seconds, and before giving up.

        Its commit need not reach the disk: losing it loses the count of one attempt.
        """
        full = self._since is None or time.monotonic() - self._looked > FULL_LOOK
        claim = protocol.claim_webhooks(
            self._size,
            types=self._types,
            other_types=self._other_types,
            since=None if full else self._since,
            max_attempts=self._max_attempts,
            schema=self._schema,
        )
        items = await call_unsynced(self._pool, claim, self._schema)
        if full:
            self._looked = time.monotonic()
        if items:
            self._since = min(item.due for item in items) - MARGIN
        elif not full:
            self._since = None
            return await self._claim()
        return items

    async def _in_savepoints(self, work: Sequence[Work]) -> None:
        """Several events in one commit, each in a savepoint of its own: mark, then handle."""
        done: list[Claimed] = []
        current: Claimed | None = None
        items = [item for item, _ in work]
        try:
            async with connection(self._pool) as conn, transaction(conn, "pgonce worker", LIMIT):
                for item, handlers in work:
                    mine = await self._mark(conn, item, handlers, previous=current)
                    current = item
                    if mine and handlers and await self._handled(conn, item, handlers, items):
                        done.append(item)
                await self._run(conn, _RELEASE)
        except psycopg.Error as error:
            if error.sqlstate in _NO_SAVEPOINT:
                await self._given_back(items, current, TransactionBroken(_ENDED))
            elif isinstance(unavailable := translate(error), DatabaseUnavailable):
                raise unavailable from error
            elif len(work) == 1:
                await self._failed(items[0], error)
            else:  # refused by the COMMIT, for a deferred constraint say: who it was shows when each is alone
                for each in work:
                    await self._in_savepoints([each])
        except (TransactionBroken, TimeoutError) as error:
            await self._given_back(items, current, error)
        else:
            for item in done:
                _after_commit(item.event)

    async def _mark(
        self, conn: AsyncConnection[Any], item: Claimed, handlers: Sequence[Handler], previous: Claimed | None
    ) -> bool:
        """Open the savepoint and mark the event; False when it is no longer ours.

        In the same round trip the savepoint of the event before it is released: an error there says that its handler
        has ended the transaction.
        """
        if handlers:
            ending = sql.SQL("complete_webhook({}, {})").format(item.claim.id, item.claim.lease)
        else:
            reason = f"no handler for {item.event.type}"
            ending = sql.SQL("ignore_webhook({}, {}, {})").format(item.claim.id, item.claim.lease, reason)
        mark = sql.SQL("savepoint pgonce_event; select {}.{}").format(sql.Identifier(self._schema), ending)
        return bool(await self._run(conn, sql.SQL(_RELEASE + "; ") + mark if previous else mark))

    async def _run(self, conn: AsyncConnection[Any], statements: str | sql.Composed) -> Any:
        """Several statements in one round trip; the value of the last."""
        async with conn.cursor(row_factory=tuple_row) as cursor:
            text = statements if isinstance(statements, str) else statements.as_string(conn)
            await cursor.execute(text.encode())
            while cursor.nextset():
                pass
            row = await cursor.fetchone() if cursor.description else None
        return row[0] if row else None

    async def _handled(
        self, conn: AsyncConnection[Any], item: Claimed, handlers: Sequence[Handler], batch: Sequence[Claimed]
    ) -> bool:
        """Run the handlers of one event inside its savepoint; False when the event ended otherwise."""
        limits = [handler.timeout for handler in handlers if handler.timeout]
        limit = min(limits) if limits else None

        async def expired(error: BaseException) -> None:
            await self._given_back(batch, item, error)

        try:
            if any(handler.order == "coalesce" for handler in handlers) and item.order_key:
                types = any_of([handler.pattern for handler in handlers])
                await execute(conn, protocol.coalesce_webhooks(item, types), self._schema)
            async with time_limit(conn, limit, expired):
                for handler in handlers:
                    await handler.function(item.event, conn)
            _check(conn)
        except BaseException as error:
            if conn.closed or isinstance(error, TransactionBroken) or asked_to_stop(error):
                raise
            await conn.execute("rollback to savepoint pgonce_event")
            await execute(conn, self._outcome(item, error), self._schema)
            return False
        return True

    def _outcome(self, item: Claimed, error: BaseException) -> Call[bool]:
        if isinstance(error, Ignored):
            return webhooks.ignore_webhook(item.claim, str(error))
        log.warning("event %s failed: %s", item.event.id, type(error).__name__)
        reason = "".join(traceback.format_exception(error))
        return webhooks.fail_webhook(item.claim, reason, self._max_attempts)

    async def _failed(self, item: Claimed, error: BaseException) -> None:
        await call(self._pool, self._outcome(item, error), self._schema)

    async def _given_back(self, items: Sequence[Claimed], culprit: Claimed | None, error: BaseException) -> None:
        """The batch is rolled back, or a handler has committed part of it: fail the culprit, release the rest."""
        if culprit:
            await self._failed(culprit, error)
        await call(self._pool, protocol.release_webhooks([i for i in items if i is not culprit]), self._schema)

    async def _set_wise(self, handler: Handler, items: Sequence[Claimed]) -> None:
        """A batch for one function, marked in one statement; when it fails, one by one."""
        events = []

        async def expired(error: BaseException) -> None:
            if len(items) == 1:
                await self._failed(items[0], error)

        try:
            async with connection(self._pool) as conn, transaction(conn, "pgonce worker", LIMIT):
                mine = await execute(conn, protocol.complete_webhooks(items), self._schema)
                events = [item.event for item in items if item.claim.id in mine]
                async with time_limit(conn, handler.timeout, expired):
                    if events:
                        await handler.function(events, conn)
                _check(conn)
        except BaseException as error:
            if asked_to_stop(error) or isinstance(error, DatabaseUnavailable):
                raise
            if len(items) == 1:
                await self._failed(items[0], error)
                return
            for item in items:
                await self._set_wise(handler, [item])
        else:
            for event in events:
                _after_commit(event)

    async def _own(self, item: Claimed, handler: Handler) -> None:
        """A handler with a transaction of its own, in which it calls event.complete(session)."""

        async def expired(error: BaseException) -> None:
            await self._failed(item, error)

        try:
            async with time_limit(None, handler.timeout, expired):
                await handler.function(item.event)
            if await call(self._pool, protocol.is_webhook_held(item.claim), self._schema):
                raise TransactionBroken(_NOT_COMPLETED)
        except BaseException as error:
            if asked_to_stop(error) or isinstance(error, DatabaseUnavailable):
                raise
            await self._failed(item, error)
        else:
            _after_commit(item.event)


def _check(conn: AsyncConnection[Any]) -> None:
    """What the connection itself knows of the transaction, without a round trip."""
    status = conn.info.transaction_status
    if status == TransactionStatus.IDLE:
        raise TransactionBroken(_ENDED)
    if status == TransactionStatus.INERROR:
        raise PgonceError(_SWALLOWED)


def _after_commit(event: Event) -> None:
    for function in event.after_commit_calls:
        try:
            function()
        except Exception:  # the event is handled, whatever becomes of this
            log.exception("after_commit of event %s failed", event.id)
