"""Handles a delivery where it arrives: verify, claim, handle and mark, in one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, Literal, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from pgonce.core.call import Call
from pgonce.core.callables import ensure_awaitable
from pgonce.core.concurrency_async import Result, or_undone, shielded
from pgonce.core.connection_reset_async import lent, resetting
from pgonce.core.execute_async import Pool, connection, execute, run, transaction, translated
from pgonce.core.failures import traceback_of
from pgonce.core.forked_child import ends_forked_child
from pgonce.core.hanging import HANGS, answered_within
from pgonce.core.interval import interval
from pgonce.core.registration import check_pool, check_schema, check_seconds
from pgonce.core.telemetry import working
from pgonce.errors import EventBusy, LeaseLost, PgonceError, TransactionBroken
from pgonce.webhooks import calls, stripe
from pgonce.webhooks.calls import SEND_AGAIN, Claim, Event, Ignored, Postponed, Unhandled, deciding
from pgonce.webhooks.calls_queue import postpone_webhook
from pgonce.webhooks.conflicts import CONFLICTS
from pgonce.webhooks.executor_async import MARKS
from pgonce.webhooks.handler_connection_async import SYNCED, call_back
from pgonce.webhooks.handling_async import ids_of, write_counts
from pgonce.webhooks.inbox_writer import ALONE, with_lock_timeout
from pgonce.webhooks.refusals import RefusalCounter
from pgonce.webhooks.responses import is_database_fault

HandlerFunction: TypeAlias = Callable[[Event, AsyncConnection[Any]], Result[object]]
Outcome: TypeAlias = Literal["succeeded", "ignored", "done", "queued"]

CLAIM = timedelta(minutes=1)
"""How long a claim is valid at most. It bridges the time until the mark locks the row: a locked row counts as held."""
END_SECONDS = 2.0
"""Seconds that the end of a failed attempt waits for a connection, and about as long for the answer: the attempt may
have waited already, and Stripe waits for about 20 s."""


class _Refused(Exception):
    """A concurrent transaction has refused the mark; no handler was called."""


class AsyncWebhooks:
    """The inbox, for a handler that runs where the delivery arrives.

    Args:
        pool: a psycopg pool. In autocommit it saves a round trip; any setting is correct.
        secrets: the endpoint's secrets (``whsec_...``), several while one is being rolled; or a plain function that
            returns them and is called for every delivery.
        schema: where ``pgonce migrate`` put the tables.
        tolerance: seconds that a signature's timestamp may differ from now, in both directions.
        lease: how long the handler's transaction may be idle before the server ends it, and how long after a crash a
            redelivery takes the event over, which is never later than after a minute: "5 minutes", or a timedelta.

    Raises:
        InvalidArgument: a secret is not set (None, blank), or is an API key.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        secrets: stripe.Secrets = (),
        schema: str = "public",
        tolerance: float = stripe.TOLERANCE,
        lease: timedelta | str = calls.LEASE,
    ) -> None:
        # none: for `handle` alone
        self._secrets = stripe.signing_secrets(secrets) if secrets and not callable(secrets) else secrets
        check_pool(pool, AsyncConnectionPool, "AsyncWebhooks")
        check_schema(schema)
        self._pool = pool
        self._schema = schema
        check_seconds(tolerance, "the tolerance")
        self._tolerance = tolerance
        self._lease = interval(lease, "the lease")
        self._refusals = RefusalCounter()

    async def receive(self, body: bytes, signature: str | None, handler: HandlerFunction) -> Outcome:
        """Verify, record and handle one delivery; when this returns, answer 200.

        Args:
            body: the request body exactly as received.
            signature: the value of the ``Stripe-Signature`` header.
            handler: called with the event and the connection inside the transaction. What it writes through that
                connection happens exactly once.

        Returns:
            ``succeeded`` or ``ignored`` by the handler now; ``done`` when that happened before; ``queued`` when a
            worker will do it.

        Raises:
            SignatureError, InvalidPayload: not a delivery from Stripe; nothing is stored. Answer 400.
            EventBusy: another client is handling it at this moment. Answer with an error: Stripe delivers again.
            DatabaseUnavailable, SchemaError: answer 503: Stripe delivers again.
            Exception: the handler's own; the event is marked ``failed``, and the next delivery is its retry.
        """
        async with self._counting():
            stripe.verify(body, signature, self._secrets, tolerance=self._tolerance)
            event = stripe.read(body)
        return await self.handle(event, handler)

    @asynccontextmanager
    async def _counting(self) -> AsyncIterator[None]:
        """Count the refusal of a delivery in the body, and from time to time write the counts."""
        try:
            with self._refusals:
                yield
        except Exception as error:
            if not is_database_fault(error):  # otherwise it would wait for a connection once more
                await self._write_refusals()
            raise

    async def _write_refusals(self, every: float | None = None) -> None:
        await write_counts(self._refusals, self._connection, self._schema, every)

    def _connection(self) -> AbstractAsyncContextManager[AsyncConnection[Any]]:
        """A connection, for which no delivery waits longer than Stripe does, whatever the timeout of the pool is."""
        return connection(self._pool, min(self._pool.timeout, HANGS))

    async def handle(self, body: stripe.Body, handler: HandlerFunction) -> Outcome:
        """``receive`` for an event that is already verified and read; the same results and errors."""
        # a request that was cancelled at this statement left the event claimed: deliveries got 409 for five minutes
        async with self._counting():
            claim = await or_undone(self._claim(body), self._fail)
        if claim.outcome == "busy":
            raise EventBusy(f"event {body.id} is being handled by another client: {SEND_AGAIN}")
        if claim.outcome != "claimed":
            return claim.outcome
        event = Event(body.id, body.type, body.payload, claim.attempts)
        of_handler: list[BaseException] = []

        async def watched(event: Event, tx: AsyncConnection[Any]) -> object:
            try:
                with ends_forked_child():
                    return await ensure_awaitable(handler(event, tx))
            except BaseException as error:
                of_handler.append(error)
                raise

        try:
            outcome = await self._attempt(claim, event, watched)
        except Postponed as decision:
            await shielded(self._record(postpone_webhook(claim, decision.delay)))
            raise EventBusy(f"the handler of event {body.id} asks for a retry: {SEND_AGAIN}") from None
        except BaseException as error:
            # also CancelledError and KeyboardInterrupt, and if the connection is lost or a statement of pgonce's is
            # cancelled: otherwise the next delivery would have to wait for the lease
            if not isinstance(error, LeaseLost) or error in of_handler:
                await self._fail(claim, error)
            raise
        if outcome == "succeeded":
            await call_back(event)
        return outcome

    async def _claim(self, body: stripe.Body) -> Claim:
        # This commit need not wait for the disk: no delivery was answered with 200 yet, and the commit of the effect
        # includes it.
        claim = calls.claim_webhook(body, min(self._lease, CLAIM))
        statement = with_lock_timeout(claim, self._schema, ALONE, synced=False)
        try:
            async with self._connection() as conn:
                with answered_within(HANGS, conn):
                    return await execute(conn, claim, self._schema, statement=statement)
        except psycopg.errors.LockNotAvailable as error:
            raise EventBusy(
                f"event {body.id} is in another client's open transaction, or the table is locked: {SEND_AGAIN}"
            ) from error

    async def _attempt(self, claim: Claim, event: Event, handler: HandlerFunction) -> Outcome:
        """Mark, handle, and commit both. Under a strict isolation level the mark may have to be repeated.

        The mark comes first: its row lock says "live" for as long as the transaction is open, however long the
        handler takes. Both are in a savepoint, whose RELEASE fails if the handler has ended the transaction, and whose
        rollback undoes mark and effect of a handler that ignores the event.
        """
        for attempt in range(1, MARKS + 1):
            try:
                return await self._try(claim, event, handler)
            except _Refused as error:
                if attempt == MARKS:
                    raise error.__cause__ or error from None
        raise AssertionError

    async def _try(self, claim: Claim, event: Event, handler: HandlerFunction) -> Outcome:
        async with self._connection() as conn:
            with answered_within(HANGS, conn) as unlimited:
                async with resetting(conn, self._pool):
                    return await self._in_transaction(conn, claim, event, handler, unlimited)

    async def _in_transaction(
        self,
        conn: AsyncConnection[Any],
        claim: Claim,
        event: Event,
        handler: HandlerFunction,
        unlimited: Callable[[], AbstractContextManager[None]],
    ) -> Outcome:
        async with transaction(conn, f"pgonce {claim.id}", self._lease):
            try:
                async with translated(conn.transaction("pgonce_handler")):
                    try:
                        marked = await execute(conn, calls.complete_webhook(claim), self._schema)
                    except CONFLICTS as error:
                        raise _Refused from error
                    if not marked:
                        raise LeaseLost(f"event {event.id} was taken over by another client: nothing was written")
                    with unlimited():
                        async with lent(conn) as tx:
                            with working(f"process {event.type}", "consumer", ids_of(event)), deciding():
                                await ensure_awaitable(handler(event, tx))
                    if event.after_commit_calls:
                        await run(conn, SYNCED)
            except Ignored as decision:
                # the rollback to the savepoint has released the row: another client may have claimed it
                unhandled = isinstance(decision, Unhandled)
                ignored = calls.ignore_webhook(claim, str(decision), unhandled=unhandled)
                if not await execute(conn, ignored, self._schema):
                    raise LeaseLost(f"event {event.id} was taken over by another client: nothing was written") from None
                return "ignored"
            except psycopg.Error as error:
                if error.sqlstate not in {"25P01", "3B001"}:  # no active transaction, no such savepoint
                    raise
                raise TransactionBroken(
                    f"a handler of {event.type} ended the transaction: leave COMMIT and ROLLBACK to pgonce"
                ) from error
            return "succeeded"

    async def _fail(self, claim: Claim, error: BaseException) -> None:
        if claim.outcome != "claimed":
            return
        with suppress(PgonceError, psycopg.Error):  # the handler's error is more important; the lease expires by itself
            await shielded(self._record(calls.fail_webhook(claim, traceback_of(error))))

    async def _record(self, end: Call[bool]) -> bool:
        async with connection(self._pool, END_SECONDS) as conn:
            with answered_within(END_SECONDS + 1, conn):  # the functions wait 2 s for a lock
                return await execute(conn, end, self._schema)
