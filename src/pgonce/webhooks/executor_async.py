"""Attempts at claimed events: mark, handle and commit, in whichever way their handlers want it."""

from __future__ import annotations

import logging
import random
import traceback
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.pq import TransactionStatus

from pgonce.core.call import Call
from pgonce.core.callables import ensure_awaitable
from pgonce.core.concurrency_async import asked_to_stop, sleep, time_limit
from pgonce.core.execute_async import Pool, call, connection, execute, run, settings, translated
from pgonce.errors import DatabaseUnavailable, PgonceError, TransactionBroken, translate
from pgonce.webhooks import calls as webhooks
from pgonce.webhooks import calls_queue as protocol
from pgonce.webhooks.calls import Ignored
from pgonce.webhooks.calls_queue import Claimed
from pgonce.webhooks.glob import any_of
from pgonce.webhooks.registry import Handler

LIMIT = timedelta(minutes=5)
"""A stopped worker's transaction is ended after this long without a statement."""

log = logging.getLogger("pgonce")

Work: TypeAlias = tuple[Claimed, list[Handler]]

_SAVEPOINT = "savepoint pgonce_event"
_RELEASE = f"release {_SAVEPOINT}"
_UNSEAL = "select pg_catalog.set_config('pgonce.sealed', 'off', true)"
_NO_SAVEPOINT = {"25P01", "3B001"}
_CONTENTION = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
_ENDED = "a handler ended the transaction: leave COMMIT and ROLLBACK to pgonce"
_SWALLOWED = "a handler caught a database error and went on: wrap what may fail in `with tx.transaction()`"
_NOT_COMPLETED = "the handler returned without event.complete(session) in its transaction"


class AsyncAttempts:
    """The three ways of handling what a lane has claimed; ``pool``, ``schema`` and ``max_attempts`` as of the lane."""

    def __init__(self, pool: Pool, schema: str, max_attempts: int) -> None:
        self._pool = pool
        self._schema = schema
        self._qualifier = sql.Identifier(schema).as_string()
        self._max_attempts = max_attempts
        self.begun = False
        """Whether a handler has been called since this was set to False."""

    async def in_savepoints(self, work: Sequence[Work]) -> None:
        """Several events in one commit: all are marked, then each is handled in a savepoint of its own."""
        done: list[Claimed] = []
        again: list[Claimed] = []
        current: Claimed | None = None
        items = [item for item, _ in work]
        try:
            async with connection(self._pool) as conn, conn.transaction():
                mine = await self._mark(conn, work)
                for number, (item, handlers) in enumerate(work):
                    if item.claim.id not in mine:
                        continue
                    # an error says that the handler before has ended the transaction
                    await run(conn, f"{_RELEASE}; {_SAVEPOINT}" if current else _SAVEPOINT)
                    current = item
                    try:
                        if await self._handled(conn, item, handlers, items):
                            done.append(item)
                    except _CONTENTION:  # with another lane's batch: commit what is done, which frees its locks
                        again = [item for item in items[number:] if item.claim.id in mine]
                        await self._unmark(conn, again)
                        await execute(conn, protocol.release_webhooks(again), self._schema)
                        break
                await run(conn, f"{_RELEASE}; {_UNSEAL}" if current else _UNSEAL)
            if again:
                await _step_aside()
        except psycopg.Error as error:
            await self._refused(work, current, error)
        except (TransactionBroken, TimeoutError) as error:
            await self._given_back(items, current, error)
        else:
            for item in done:
                item.event.committed()

    async def _refused(self, work: Sequence[Work], current: Claimed | None, error: psycopg.Error) -> None:
        """The database refused the batch as a whole."""
        items = [item for item, _ in work]
        if error.sqlstate in _NO_SAVEPOINT:
            broken = TransactionBroken(_ENDED)
            broken.__cause__ = error  # with the handler's line that did it
            await self._given_back(items, current, broken)
        elif isinstance(error, _CONTENTION):
            await self._again(items)
        elif isinstance(unavailable := translate(error), DatabaseUnavailable):
            raise unavailable from error
        elif len(work) == 1:
            await self.failed(items[0], error)
        else:  # at the COMMIT, for a deferred constraint say: who it was shows when each is alone
            for each in work:
                await self.in_savepoints([each])

    async def _mark(self, conn: AsyncConnection[Any], work: Sequence[Work]) -> set[UUID]:
        """Mark all events of a batch, and seal it; the ids of those that are to be handled.

        In one round trip with the transaction's settings, and with the end of those that have no handler. The text is
        put together by hand: composing it with psycopg.sql took 8 % of the worker's samples. UUIDs need no quoting.
        """
        statements = [settings("pgonce worker", LIMIT)]
        for item, handlers in work:
            if not handlers:
                reason = sql.Literal(f"no handler for {item.event.type}").as_string(conn)
                ignore = f"ignore_webhook('{item.claim.id}', '{item.claim.lease}', {reason})"
                statements.append(f"select {self._qualifier}.{ignore}")
        complete = self._call("pgonce_complete_webhooks", [item for item, handlers in work if handlers], "true")
        statements.append(f"select pg_catalog.string_agg(id::pg_catalog.text, ',') from {complete} as id")
        found = await run(conn, "; ".join(statements))
        return {UUID(id_) for id_ in found.decode().split(",")} if found else set()

    def _call(self, function: str, items: Sequence[Claimed], *more: str) -> str:
        ids = ",".join(str(item.claim.id) for item in items)
        leases = ",".join(str(item.claim.lease) for item in items)
        arguments = ", ".join([f"'{{{ids}}}'", f"'{{{leases}}}'", *more])
        return f"{self._qualifier}.{function}({arguments})"

    async def _unmark(self, conn: AsyncConnection[Any], items: Sequence[Claimed]) -> None:
        """Undo what has happened since the savepoint, and take back the marks of these events."""
        await run(conn, f"rollback to {_SAVEPOINT}; select {self._call('pgonce_unmark_webhooks', items)}")

    async def _handled(
        self, conn: AsyncConnection[Any], item: Claimed, handlers: Sequence[Handler], batch: Sequence[Claimed]
    ) -> bool:
        """Run the handlers of one event inside its savepoint; False when the event ended otherwise."""
        limit = min((handler.timeout for handler in handlers if handler.timeout), default=None)

        async def expired(error: BaseException) -> None:
            await self._given_back(batch, item, error)

        try:
            if any(handler.order == "coalesce" for handler in handlers) and item.order_key:
                types = any_of([handler.pattern for handler in handlers])
                await execute(conn, protocol.coalesce_webhooks(item, types), self._schema)
            self.begun = True
            async with time_limit(conn, limit, expired):
                for handler in handlers:
                    await ensure_awaitable(handler.function(item.event, conn))
            _check(conn)
        except BaseException as error:
            if conn.closed or isinstance(error, (TransactionBroken, *_CONTENTION)) or asked_to_stop(error):
                raise
            await self._unmark(conn, [item])
            await execute(conn, self._outcome(item, error), self._schema)
            return False
        return True

    def _outcome(self, item: Claimed, error: BaseException) -> Call[bool]:
        if isinstance(error, Ignored):
            return webhooks.ignore_webhook(item.claim, str(error))
        log.warning("event %s failed: %s", item.event.id, type(error).__name__)
        reason = "".join(traceback.format_exception(error))
        return webhooks.fail_webhook(item.claim, reason, self._max_attempts)

    async def failed(self, item: Claimed, error: BaseException) -> None:
        """Record that handling the event failed with this error."""
        await call(self._pool, self._outcome(item, error), self._schema)

    async def _given_back(self, items: Sequence[Claimed], culprit: Claimed | None, error: BaseException) -> None:
        """The batch is rolled back, or a handler has committed part of it: fail the culprit, release the rest."""
        if culprit:
            await self.failed(culprit, error)
        await call(self._pool, protocol.release_webhooks([i for i in items if i is not culprit]), self._schema)

    async def _again(self, items: Sequence[Claimed]) -> None:
        """Give events back that got into each other's way with another transaction: no attempt is counted.

        Two batches that write the same rows in another order deadlock, and the database ends one of them. That is the
        price of several events in one commit, and no fault of a handler's.
        """
        await call(self._pool, protocol.release_webhooks(items), self._schema)
        await _step_aside()

    async def set_wise(self, handler: Handler, items: Sequence[Claimed]) -> None:
        """A batch for one function, marked in one statement; when it fails, one by one."""
        events = []

        async def expired(error: BaseException) -> None:
            if len(items) == 1:
                await self.failed(items[0], error)

        try:
            async with connection(self._pool) as conn, translated(conn.transaction()):
                try:
                    mine = await self._mark(conn, [(item, [handler]) for item in items])
                except psycopg.Error as error:
                    raise translate(error) from error
                events = [item.event for item in items if item.claim.id in mine]
                self.begun = True
                async with time_limit(conn, handler.timeout, expired):
                    if events:
                        await ensure_awaitable(handler.function(events, conn))
                _check(conn)
                await run(conn, _UNSEAL)
        except BaseException as error:
            if asked_to_stop(error) or isinstance(error, DatabaseUnavailable):
                raise
            if isinstance(error, _CONTENTION):
                await self._again(items)
                return
            if len(items) == 1:
                await self.failed(items[0], error)
                return
            for item in items:
                await self.set_wise(handler, [item])
        else:
            for event in events:
                event.committed()

    async def own(self, item: Claimed, handler: Handler) -> None:
        """A handler with a transaction of its own, in which it calls event.complete(session)."""

        async def expired(error: BaseException) -> None:
            await self.failed(item, error)

        self.begun = True
        try:
            async with time_limit(None, handler.timeout, expired):
                await ensure_awaitable(handler.function(item.event))
            if await call(self._pool, protocol.is_webhook_held(item.claim), self._schema):
                raise TransactionBroken(_NOT_COMPLETED)
        except BaseException as error:
            if asked_to_stop(error) or isinstance(error, DatabaseUnavailable):
                raise
            if isinstance(error, _CONTENTION):
                await self._again([item])
                return
            await self.failed(item, error)
        else:
            item.event.committed()


async def _step_aside() -> None:
    """So that the two transactions that got into each other's way do not meet again."""
    await sleep(random.uniform(0.005, 0.05))  # noqa: S311


def _check(conn: AsyncConnection[Any]) -> None:
    """What the connection itself knows of the transaction, without a round trip."""
    status = conn.info.transaction_status
    if status == TransactionStatus.IDLE:
        raise TransactionBroken(_ENDED)
    if status == TransactionStatus.INERROR:
        raise PgonceError(_SWALLOWED)
