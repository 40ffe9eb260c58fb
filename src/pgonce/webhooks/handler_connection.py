# Generated from handler_connection_async.py by tools/unasync.py: edit that one, then `make generate`.
"""The connection that handlers get. It is reset before and after, and its transaction is checked."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult

from pgonce.core.concurrency import asked_to_stop, finish, isolated, sleep
from pgonce.core.connection_reset import close_if_busy
from pgonce.core.execute import Pool, connection, execute, run, send
from pgonce.core.failures import log_failure
from pgonce.core.forked_child import ends_forked_child
from pgonce.core.handler_session import RESET, HandlerSession
from pgonce.core.hanging import answered_within
from pgonce.core.lent_connection import was_lost
from pgonce.errors import DatabaseUnavailable, PgonceError, TransactionBroken, summary, translate
from pgonce.webhooks.calls import Event
from pgonce.webhooks.calls_queue import claim_of, statuses_of_claims
from pgonce.webhooks.claimer import HANGS
from pgonce.webhooks.handling import ids_of

_ENDED = "a handler ended the transaction: leave COMMIT and ROLLBACK to pgonce"
_CLOSED = "the connection was closed while the handler ran, by the handler or by the server"
# psycopg cancels a stream that is left before its end, and hides the error. The transaction is aborted all the same.
_SWALLOWED = (
    "a handler caught a database error and went on, or left a stream before its last row: "
    "wrap what may fail in `with tx.transaction()`, and limit the query instead of leaving its stream"
)
_NOT_THE_SAME = "22012"
# The commit waits for the disk although the role, the database or a handler has synchronous_commit = off; any other
# setting may ask for standbys, too.
SYNCED = (
    "select pg_catalog.set_config('synchronous_commit', 'local', true)"
    " where pg_catalog.texteq(pg_catalog.current_setting('synchronous_commit'), 'off')"
)
# Only a commit that has written something waits for the disk. So this writes a record that nobody reads.
_FLUSH = f"begin; {SYNCED}; select pg_catalog.pg_logical_emit_message(true, 'pgonce', ''); commit"

log = logging.getLogger("pgonce")


@contextmanager
def handler_connection(pool: Pool) -> Iterator[tuple[Connection[Any], HandlerSession]]:
    """A connection for handlers; it is reset before it is returned to the pool.

    It is cut if what is not the user's takes longer than `HANGS`: a COMMIT without an answer would end the consumer.
    """
    with connection(pool) as conn:
        with answered_within(HANGS, conn) as unlimited, HandlerSession(conn, unlimited) as session:
            try:
                yield conn, session
            finally:
                if not session.is_new and not conn.closed:
                    roll_back(conn, session)


def roll_back(conn: Connection[Any], session: HandlerSession) -> None:
    """End the transaction without a commit, and reset the connection. One that is still in use is closed."""
    if close_if_busy(conn):
        return
    _, error = send(conn, f"rollback; {RESET}")
    if error is not None:
        raise error
    session.restore()


def check_open(conn: Connection[Any]) -> None:
    """Check the transaction by what the client knows of it, without a round trip.

    Raises:
        TransactionBroken, PgonceError: it cannot be committed.
    """
    if conn.closed:
        raise TransactionBroken(_CLOSED)
    status = conn.info.transaction_status
    if status == TransactionStatus.INERROR:
        raise PgonceError(_SWALLOWED)
    if status != TransactionStatus.INTRANS:
        raise TransactionBroken(_ENDED)


def check_lost(conn: Connection[Any] | None, error: BaseException) -> None:
    """Tell a lost database from a handler that raises the same: its query was cancelled, another database is down.

    ``conn`` is the connection on which the handler was called; None if none was.

    Raises:
        DatabaseUnavailable: the connection was lost; the event has no outcome.
    """
    lost = translate(error) if isinstance(error, psycopg.Error) else error
    if isinstance(lost, DatabaseUnavailable) and (conn is None or was_lost(conn)):
        raise lost from (None if lost is error else error)


def send_if_same(conn: Connection[Any], transaction: str, statements: str) -> tuple[list[PGresult], Exception | None]:
    """``send``, after a statement that fails unless the transaction is still the one with this id.

    The handler's role may have no right to anything of pgonce, so that statement calls no function of ours; and the
    operators of its search_path may be others.
    """
    same = f"pg_catalog.xid8eq(pg_catalog.pg_current_xact_id_if_assigned(), '{transaction}')"
    check = f"select pg_catalog.int4div(1, coalesce({same}, false)::pg_catalog.int4)"
    results, error = send(conn, f"{check}; {statements}")
    if error is not None and not results and error.sqlstate == _NOT_THE_SAME:
        ended = TransactionBroken(_ENDED)
        ended.__cause__ = error
        return results, ended
    return results[1:], error


def call_back(event: Event) -> None:
    """Run the functions that ``after_commit`` has collected; their errors are reported, and the event stays handled."""
    for function, context in event.after_commit_calls:

        def call_it(function: Callable[[], Any] = function) -> None:
            with ends_forked_child():
                finish(function())

        try:
            isolated(call_it, context)
        except BaseException as error:  # also sys.exit() and event.ignore(): it must not end the thread
            if asked_to_stop(error):
                raise
            log_failure(f"after_commit of event {event.id}", error, ids_of(event))


def call_back_all(pool: Pool, schema: str, committed: Sequence[Event], *, is_durable: bool) -> None:
    """``call_back`` for events that were committed one after the other, after the last commit is on disk.

    ``is_durable``: the last commit has waited for the disk; otherwise ``pool`` is used to write to it. The server may
    have crashed in between. An event whose commit it has forgotten is handled again, and is not called back now.
    """
    events = [event for event in committed if event.after_commit_calls]
    if events and not is_durable:
        try:
            with connection(pool) as conn:
                with answered_within(HANGS, conn):
                    run(conn, _FLUSH)
                    statuses = execute(conn, statuses_of_claims(events), schema)
        except (PgonceError, psycopg.Error) as error:
            log.warning("after_commit of %s events was not called: %s", len(events), summary(error))
            return
        events = [event for event in events if statuses.get(claim_of(event).id) == "succeeded"]
    for event in events:
        call_back(event)


def step_aside() -> None:
    """Wait for a random moment, so that two conflicting transactions do not conflict again."""
    sleep(random.uniform(0.005, 0.05))  # noqa: S311
