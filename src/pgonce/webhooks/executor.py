# Generated from executor_async.py by tools/unasync.py: edit that one, then `make generate`.
"""Runs the handlers of claimed events and records the outcome."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
from psycopg import Connection, sql
from psycopg.pq.abc import PGresult

from pgonce.core.call import Call
from pgonce.core.concurrency import asked_to_stop, in_thread, meanwhile, time_limit
from pgonce.core.execute import execute, last_value, run, send, settings
from pgonce.core.failures import log_failure, traceback_of
from pgonce.core.handler_session import RESET, RESET_SETTINGS, UNLOCK, HandlerSession
from pgonce.errors import LeaseLost, PgonceError, TransactionBroken, summary, translate
from pgonce.webhooks import calls, calls_queue
from pgonce.webhooks.calls import Event, Ignored, Postponed
from pgonce.webhooks.calls_queue import claim_of
from pgonce.webhooks.claimed import Batch, Work, put_back_on_error, take, take_all
from pgonce.webhooks.claimer import Claimer
from pgonce.webhooks.conflicts import Conflicts, is_conflict
from pgonce.webhooks.handler_connection import (
    call_back_all,
    check_lost,
    check_open,
    handler_connection,
    roll_back,
    send_if_same,
    step_aside,
)
from pgonce.webhooks.handling import call_batch_handler, call_handlers, call_own_handler, ids_of
from pgonce.webhooks.registry import Handler, WebhookRegistry
from pgonce.webhooks.responses import is_database_fault, status_of

LIMIT = timedelta(minutes=5)
"""After this long without a statement the server ends a worker's transaction: its process or host is gone."""
CHAIN = 0.2
"""Seconds after which a chain of transactions ends, and the events it has not begun are released."""
MARKS = 10
"""How often a mark is tried that a concurrent transaction refuses under the user's isolation level."""

log = logging.getLogger("pgonce")

_BEGIN = f"begin; {settings('pgonce worker', LIMIT)}"
_UNSYNCED = "set local synchronous_commit to off"
_SYNCED = "select pg_catalog.current_setting('synchronous_commit')"
_NOT_COMPLETED = "the handler returned without committing a transaction in which it called event.complete"
_NOT_OURS = "the event was taken over, or has failed, before the handler completed it"


@dataclass
class _Chain:
    """What became of a chain of transactions."""

    committed: list[Event] = field(default_factory=list)
    is_durable: bool = True
    """Whether the last commit is on disk, and with it those before."""


class Executor:
    """The three ways of handling claimed events; the arguments are those of the consumer."""

    def __init__(self, app: WebhookRegistry, claimer: Claimer, renew: Callable[[Event], bool]) -> None:
        self._app, self._claimer, self._renew = app, claimer, renew
        self._pool, self._schema = claimer.pool, claimer.schema
        self._qualifier = sql.Identifier(claimer.schema).as_string()
        self._conflicts = Conflicts()
        self._expired: BaseException | None = None  # recorded by the timer; a handler may raise a TimeoutError, too

    # One event, one transaction -------------------------------------------------------------------------------------

    def handle(self, work: deque[Work], batches: deque[Batch], *, batches_first: bool) -> None:
        """Handle claimed events: some each in a transaction of its own, some in batches.

        After `CHAIN` seconds the events that have not begun are released, also while a handler is running.

        Args:
            work, batches: events that begin, or are released, are removed. After an error they have those that did not
                begin.
            batches_first: which of the two begins; the events of the other may be released.

        Raises:
            DatabaseUnavailable: an event that began has no outcome; it is claimed again when its lease runs out.
        """
        with meanwhile(partial(self._release, work, batches), CHAIN):
            if work and not batches_first:
                self._handle_each(work)
            with suppress(IndexError):
                while True:
                    self.handle_together(*batches.popleft())
            if work and batches_first:
                self._handle_each(work)
        self._release(work, batches)  # a chain that ended because its time was over

    def _handle_each(self, work: deque[Work]) -> None:
        """Handle events one after the other, each in a transaction of its own.

        The transactions make a chain. All but the last one commit asynchronously, and the COMMIT of one, the reset of
        the connection, and the BEGIN and the mark of the next go in one message. A crash of the server may forget the
        last commits of a chain, each with mark and effect: such an event is claimed again. Callbacks of
        ``after_commit`` wait until the whole chain is on disk.
        """
        chain = _Chain()
        try:
            with handler_connection(self._pool) as (conn, session):
                self._run_chain(chain, conn, session, work)
        except psycopg.Error as error:
            raise translate(error) from error
        finally:
            call_back_all(self._pool, self._schema, chain.committed, is_durable=chain.is_durable)

    def _run_chain(self, chain: _Chain, conn: Connection[Any], session: HandlerSession, work: deque[Work]) -> None:
        until = time.monotonic() + CHAIN
        transaction = None  # a transaction of "": the event is no longer ours
        current = take(work, until)
        while current:
            event, handlers = current
            if transaction is None:
                with put_back_on_error(work, current):
                    transaction = self._begin(conn, session, event)
            following: Work | None = None
            if not transaction:
                roll_back(conn, session)
                transaction = None
            else:
                began = time.monotonic()
                error = self._call_handlers(conn, session, event, handlers)
                if error is None:
                    following = take(work, until)
                    is_durable = following is None or any(handler.durable == "each" for handler in handlers)
                    with put_back_on_error(work, following):
                        error, transaction = self._commit(
                            chain, conn, session, transaction, event, following, is_durable=is_durable
                        )
                if error is not None:
                    if following:
                        work.appendleft(following)
                    following = transaction = None
                    self._end_attempt(conn, session, event, error, began)
                    if conn.closed:
                        return
            current = following or take(work, until)

    def _opening(self, event: Event) -> str:
        # Put together by hand: composing it with psycopg.sql took 8 % of the worker's samples. UUIDs need no quoting.
        claim = claim_of(event)
        return f"{_BEGIN}; select {self._qualifier}.pgonce_mark_webhook('{claim.id}', '{claim.lease}'), {UNLOCK}"

    def _begin(self, conn: Connection[Any], session: HandlerSession, event: Event) -> str:
        """Open the event's transaction and mark the event; the transaction's id, or "" if the event is not ours.

        The transaction has the user's isolation level. Under a strict one a concurrent transaction may refuse the mark.
        If a trigger of the user's refuses it, or lets it write no row (PT503), the attempt has failed: it must not stop
        the other events.
        """
        for attempt in range(1, MARKS + 1):
            session.is_new = False
            results, error = send(conn, self._opening(event))
            if error is None:
                return _text(results)
            roll_back(conn, session)
            if attempt == MARKS or not is_conflict(error):
                if error.sqlstate != "PT503" and status_of(translate(error)) == 503:
                    raise error
                self.record(event, error)
                break
        return ""

    def _commit(
        self,
        chain: _Chain,
        conn: Connection[Any],
        session: HandlerSession,
        transaction: str,
        event: Event,
        following: Work | None,
        *,
        is_durable: bool,
    ) -> tuple[BaseException | None, str | None]:
        """Commit, reset the connection, and begin the next transaction, in one message.

        Returns:
            Why it was not committed, or None; and the next transaction as ``_begin`` returns it, or None.
        """
        ending = [_SYNCED if is_durable else _UNSYNCED, "commit"]
        message = [*ending, RESET_SETTINGS, self._opening(following[0])] if following else [*ending, RESET]
        results, error = send_if_same(conn, transaction, "; ".join(message))
        if len(results) < len(ending):
            return error, None
        chain.committed.append(event)  # now: the connection may be lost in what follows the COMMIT
        # A handler may have set it to off for its own commit. The earlier events of the chain need one that is on disk.
        chain.is_durable = is_durable and results[0].get_value(0, 0) != b"off"
        session.restore()
        if error is None and following:
            session.is_new = False
            return None, _text(results)
        if error is not None:  # only the next event's mark, which ``_begin`` tries again by itself
            roll_back(conn, session)
        return None, None

    def _call_handlers(
        self, conn: Connection[Any], session: HandlerSession, event: Event, handlers: Sequence[Handler]
    ) -> BaseException | None:
        """Run the handlers of one event in its transaction; returns what one of them raised."""
        limit = min((handler.timeout for handler in handlers if handler.timeout), default=None)
        try:
            if event.order_key is not None and (types := self._app.coalesced_types(event.type)):
                execute(conn, calls_queue.coalesce_webhooks(event, *types), self._schema)
            with session.unlimited():
                with time_limit(conn, limit, partial(self._expire, [event])):
                    call_handlers(conn, event, handlers, self._schema)
            check_open(conn)
        except BaseException as error:
            if asked_to_stop(error):
                raise
            return error
        return None

    def _end_attempt(
        self, conn: Connection[Any], session: HandlerSession, event: Event, error: BaseException, began: float
    ) -> None:
        """Roll back, and record why the attempt has ended."""
        if not conn.closed:
            roll_back(conn, session)
        if conn.closed:
            check_lost(conn, error)
            if error is not self._expired:
                self.record(event, error)
            return
        if not self.record(event, error, began, conn):  # the handler may have committed the mark
            execute(conn, calls_queue.fail_committed_webhook(event, traceback_of(error)), self._schema)
        if is_conflict(error):
            step_aside()

    def _outcome(self, event: Event, error: BaseException, began: float | None = None) -> Call[Any]:
        claim = claim_of(event)
        if isinstance(error, Ignored):
            return calls.ignore_webhook(claim, str(error))
        if isinstance(error, Postponed):
            return calls_queue.postpone_webhook(claim, error.delay)
        if self._conflicts.are_retried(error, [event]):
            return calls_queue.release_webhooks([event])
        log_failure(f"event {event.id}", error, ids_of(event), event, self._app.on_error)
        took = None if began is None else timedelta(seconds=time.monotonic() - began)
        return calls.fail_webhook(claim, traceback_of(error), self._claimer.max_attempts, took=took)

    def record(
        self, event: Event, error: BaseException, began: float | None = None, conn: Connection[Any] | None = None
    ) -> bool | int:
        """Record why an attempt has ended. If the database refuses the handler's decision, the attempt has failed."""
        write: Any = self._claimer.call if conn is None else partial(execute, conn, schema=self._schema)
        try:
            recorded: bool | int = write(self._outcome(event, error, began))
        except (PgonceError, psycopg.Error) as refusal:
            if is_database_fault(refusal) or not isinstance(error, Ignored | Postponed):
                raise
            recorded = write(self._outcome(event, refusal, began))
        return recorded

    def _expire(self, events: Sequence[Event], error: BaseException) -> None:
        """Record at once that an event's time is over. Of a list each event is handled again by itself."""
        if len(events) == 1:
            self.record(events[0], error)
            self._expired = error

    def _release(self, work: deque[Work], batches: deque[Batch]) -> bool:
        """Release the events that have not begun, and those handed over; True, for ``meanwhile``: more may come."""
        left = [*self._claimer.take_overdue(), *(event for event, _ in take_all(work))]
        left += [event for _, events in take_all(batches) for event in events]
        if left:
            try:
                self._claimer.call(calls_queue.release_webhooks(left), synced=False)
            except (PgonceError, psycopg.Error) as error:
                log.warning("%s events come back when their leases run out: %s", len(left), summary(error))
        return True

    # Many events, one transaction -----------------------------------------------------------------------------------

    def handle_together(self, handler: Handler, events: Sequence[Event]) -> None:
        """Handle a list with one call of a function, in one transaction; if that fails, one by one.

        Raises:
            DatabaseUnavailable: the events have no outcome; they are claimed again when their leases run out.
        """
        committed: list[Event] = []
        is_durable = True
        used: Connection[Any] | None = None
        try:
            with handler_connection(self._pool) as (conn, session):
                session.is_new = False
                transaction, _, ids = (run(conn, self._opening_of_all(events)) or b"").decode().partition(" ")
                mine = set(ids.split(","))
                marked = [event for event in events if str(claim_of(event).id) in mine]
                used = conn
                with session.unlimited():
                    with time_limit(conn, handler.timeout, partial(self._expire, events)):
                        if marked:
                            call_batch_handler(conn, marked, handler)
                check_open(conn)
                results, failure = send_if_same(conn, transaction, f"{_SYNCED}; commit; {RESET}")
                if failure is None:
                    session.restore()
                elif len(results) < 2:  # otherwise the COMMIT has succeeded
                    raise failure
                committed, is_durable = marked, results[0].get_value(0, 0) != b"off"
        except BaseException as error:
            if asked_to_stop(error):
                raise
            if not committed:
                check_lost(used, error)
                self._end_attempt_of_all(handler, events, error)
        call_back_all(self._pool, self._schema, committed, is_durable=is_durable)

    def _opening_of_all(self, events: Sequence[Event]) -> str:
        ids = ",".join(str(claim_of(event).id) for event in events)
        leases = ",".join(str(claim_of(event).lease) for event in events)
        marked = f"{self._qualifier}.pgonce_complete_webhooks('{{{ids}}}', '{{{leases}}}')"
        return (
            f"{_BEGIN}; select pg_catalog.concat("
            "pg_catalog.pg_current_xact_id(), ' ', pg_catalog.string_agg(id::pg_catalog.text, ','))"
            f" from {marked} as id"
        )

    def _end_attempt_of_all(self, handler: Handler, events: Sequence[Event], error: BaseException) -> None:
        if is_conflict(error):
            step_aside()
        if len(events) > 1 and self._conflicts.are_retried(error, events):
            self._claimer.call(calls_queue.release_webhooks(events), synced=False)
        elif len(events) > 1:
            for event in events:
                if not self._claimer.call(calls_queue.fail_committed_webhook(event, traceback_of(error))):
                    self.handle_together(handler, [event.fresh()])
                else:  # the handler has committed the marks
                    log_failure(f"event {event.id}", error, ids_of(event), event, self._app.on_error)
        elif error is not self._expired and not self.record(events[0], error):
            self._claimer.call(calls_queue.fail_committed_webhook(events[0], traceback_of(error)))

    # The handler's own transaction ----------------------------------------------------------------------------------
    def handle_in_own_transaction(self, event: Event, handler: Handler) -> None:
        """Run a handler that opens a transaction of its own, in which it calls event.complete(session)."""
        error: BaseException | None = None
        try:
            with (
                in_thread(partial(self._renew, event), calls_queue.RENEW),
                time_limit(None, handler.timeout, partial(self._expire, [event])),
            ):
                call_own_handler(self._pool, event, handler, self._schema)
        except BaseException as raised:
            if asked_to_stop(raised):
                raise
            error = raised
        statuses: dict[Any, str] = {}
        try:
            statuses = self._claimer.call(calls_queue.statuses_of_claims([event]))
        except (PgonceError, psycopg.Error):
            if error is None:
                raise
        status = statuses.get(claim_of(event).id)
        if status == "succeeded":  # also if its library's hooks, which run after the commit, have raised
            if error is not None and error is not self._expired:
                what = f"the handler of event {event.id}, after its commit,"
                log_failure(what, error, ids_of(event), event, self._app.on_error)
            # the handler may have committed asynchronously
            call_back_all(self._pool, self._schema, [event], is_durable=False)
        elif error is None:  # the handler may have caught what event.complete raised
            broken = TransactionBroken(_NOT_COMPLETED) if status == "processing" else LeaseLost(_NOT_OURS)
            self.record(event, broken)
        elif error is not self._expired:
            self.record(event, error)
            if is_conflict(error):
                step_aside()


def _text(results: Sequence[PGresult]) -> str:
    return (last_value(results) or b"").decode()
