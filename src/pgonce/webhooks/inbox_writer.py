"""Records deliveries. Those that arrive while an INSERT is in flight share the next one; each has its own outcome."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncConnection, sql

from pgonce.core.batcher import Batcher
from pgonce.core.call import Call
from pgonce.core.execute_async import Pool, connection, execute, is_fault_of_settings, is_usual
from pgonce.core.fast_call_async import read_value, send_statement
from pgonce.core.hanging import HANGS, answered_within
from pgonce.errors import DatabaseUnavailable, EventBusy, translate
from pgonce.webhooks import calls, calls_queue
from pgonce.webhooks.calls import SEND_AGAIN, Event, accepted
from pgonce.webhooks.calls_receive import check_inbox
from pgonce.webhooks.registry import WebhookRegistry
from pgonce.webhooks.stripe import Body

if TYPE_CHECKING:
    from pgonce.webhooks.worker import Worker

T = TypeVar("T")
Delivery: TypeAlias = tuple[Body, str | None]

MOST = 100
"""Events in one INSERT, at most."""
# How long an INSERT waits for a lock. It waits for another client's open transaction that inserted the same event, and
# for LOCK TABLE. One transaction that stayed open, and two deliveries of its event, once held up all others.
ALONE = "3s"
TOGETHER = "500ms"
"""Shorter, because all deliveries of the INSERT wait for a lock that only one of them needs."""
AGAIN = "100ms"
"""For each delivery of a failed INSERT: a hundred take 10 s at most, and Stripe waits for about 20 s."""


def order_key(app: WebhookRegistry, body: Body) -> str | None:
    """The event's order key; None if the application cannot compute it.

    A key function that raises must not keep a verified delivery out of the inbox. The consumer computes a key that is
    missing once more, and fails the event with the traceback.
    """
    try:
        return app.order_key(Event(body.id, body.type, body.payload))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 -- whatever the user's function raises, also by event.ignore
        return None


class InboxWriter:
    """Queues events for the workers, one INSERT for all that arrived during the last one. For one event loop.

    Args:
        pool: of at least ``batcher.AT_ONCE`` connections, in autocommit.
        schema: where ``pgonce migrate`` put the tables.
        worker: the one in this process. While it keeps up, events are claimed for it in their INSERT and handed over:
            that saves the claim, and reading the payload back.
    """

    def __init__(self, pool: Pool, *, schema: str = "public", worker: Worker | None = None) -> None:
        self._schema = schema
        self._worker = worker
        self._batcher = Batcher(partial(connection, pool), self._write, most=MOST)

    async def record(self, body: Body, key: str | None) -> str:
        """Record one event with its order key; when this returns, it is committed.

        Returns:
            ``queued`` or ``done``.

        Raises:
            EventBusy: another client is handling it.
            DatabaseUnavailable: the database could not record it now.
            PgonceError, psycopg.Error: it cannot be recorded.
        """
        outcome = await self._batcher.submit((body, key))
        if isinstance(outcome, Exception):
            raise outcome
        return accepted(outcome, body.id)

    async def _write(self, conn: AsyncConnection[Any], deliveries: Sequence[Delivery]) -> Sequence[str | Exception]:
        """The outcome of each delivery: a word, or the exception for its caller."""
        with answered_within(HANGS, conn):
            try:
                return await self._insert(conn, deliveries, ALONE if len(deliveries) == 1 else TOGETHER)
            except Exception as error:  # noqa: BLE001 -- also of the driver, which cannot encode everything
                if isinstance(error, DatabaseUnavailable) or conn.closed:
                    return [error] * len(deliveries)
                if len(deliveries) == 1:
                    return [await self._explain(conn, deliveries[0], error)]
            return await self._write_one_by_one(conn, deliveries)

    async def _write_one_by_one(
        self, conn: AsyncConnection[Any], deliveries: Sequence[Delivery]
    ) -> Sequence[str | Exception]:
        outcomes: list[str | Exception] = []
        for delivery in deliveries:
            try:
                outcomes += await self._insert(conn, [delivery], AGAIN)
            except Exception as error:  # noqa: BLE001 -- as above
                outcomes.append(await self._explain(conn, delivery, error))
                if isinstance(outcomes[-1], DatabaseUnavailable):  # no INSERT can succeed now
                    return outcomes + [outcomes[-1]] * (len(deliveries) - len(outcomes))
        return outcomes

    async def _explain(self, conn: AsyncConnection[Any], delivery: Delivery, error: Exception) -> Exception:
        """After a lock timeout: whether another client holds this one event, or the whole table is locked."""
        if not isinstance(error, psycopg.errors.LockNotAvailable):
            return error
        try:
            check = check_inbox(AGAIN)
            await execute(conn, check, self._schema, statement=with_lock_timeout(check, self._schema, AGAIN))
        except Exception:  # noqa: BLE001 -- whatever it is, the inbox cannot be written
            return DatabaseUnavailable("the table webhook_events is locked: no delivery can be recorded now")
        return EventBusy(f"event {delivery[0].id} is in another client's open transaction: {SEND_AGAIN}")

    async def _insert(self, conn: AsyncConnection[Any], deliveries: Sequence[Delivery], lock_timeout: str) -> list[str]:
        bodies, keys = [body for body, _ in deliveries], [key for _, key in deliveries]
        if self._worker is None or self._worker.room() < len(bodies):
            outcomes = await self._call(conn, calls.queue_webhooks(bodies, keys), deliveries, lock_timeout)
            if self._worker is not None:
                self._worker.wake()
        else:
            claim = calls_queue.queue_and_claim(bodies, keys, self._schema)
            outcomes, claimed = await self._call(conn, claim, deliveries, lock_timeout)
            self._worker.hand_over(claimed)
        return [outcomes[body.id] for body in bodies]

    async def _call(
        self, conn: AsyncConnection[Any], call: Call[T], deliveries: Sequence[Delivery], lock_timeout: str
    ) -> T:
        if len(deliveries) == 1 and conn.autocommit and await is_usual(conn):
            try:
                return call.read(await self._rows_of_one(conn, deliveries[0], call, lock_timeout))
            except psycopg.Error as error:
                if conn.closed or not await is_fault_of_settings(conn, error):
                    if error.sqlstate == "25006":  # as `execute` does
                        await conn.close()
                    raise translate(error) from error
        return await execute(conn, call, self._schema, statement=with_lock_timeout(call, self._schema, lock_timeout))

    async def _rows_of_one(
        self, conn: AsyncConnection[Any], delivery: Delivery, call: Call[Any], lock_timeout: str
    ) -> list[tuple[Any, ...]]:
        """The rows of ``call`` for one delivery, without psycopg's cursor and arrays.

        They took a quarter of this process's time to record one event.
        """
        body, key = delivery
        raw = None if body.raw is None else "\\x" + body.raw.hex()
        lease: timedelta | None = call.args.get("p_lease_for")
        until = None if lease is None else f"{lease.total_seconds()} s"
        statement = _statement_of_one(call.function, self._schema, lock_timeout)
        result = await send_statement(conn, statement, [body.id, body.type, body.text, raw, key, until])
        return [
            tuple(read_value(result.ftype(at), result.get_value(row, at)) for at in range(result.nfields))
            for row in range(result.ntuples)
        ]


_OF_ONE = (
    "p_stripe_event_ids => array[$1], p_event_types => array[$2], p_bodies => array[$3], p_raws => array[$4::bytea],"
    " p_order_keys => array[$5], p_lease_for => $6"
)


@cache
def _statement_of_one(function: str, schema: str, lock_timeout: str) -> bytes:
    call = sql.SQL("select * from {}({})").format(sql.Identifier(schema, function), sql.SQL(_OF_ONE))
    return _after_lock_timeout(call.as_bytes(), lock_timeout)


def with_lock_timeout(call: Call[Any], schema: str, lock_timeout: str, *, synced: bool = True) -> bytes:
    """The statement of ``call`` with a lock_timeout for its own transaction, in one round trip.

    The setting is the outer side of a left join, which a nested loop evaluates before the function on its inner side.
    """
    return _after_lock_timeout(call.statement(schema, synced=synced), lock_timeout)


def _after_lock_timeout(statement: bytes, lock_timeout: str) -> bytes:
    return (
        b"select called.* from (select pg_catalog.set_config('lock_timeout', '%b', true) offset 0) as waiting"
        b" left join (%b) as called on true" % (lock_timeout.encode(), statement)
    )
