# Generated from handler_connection_async.py by tools/unasync.py: edit that one, then `make generate`.
"""The connection that handlers get. It is reset before and after, and its transaction is checked."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus

from pgonce.core.concurrency import finish
from pgonce.core.execute import Pool, connection, run, send
from pgonce.core.handler_session import RESET, HandlerSession
from pgonce.errors import PgonceError, TransactionBroken
from pgonce.webhooks.calls import Event

ENDED = "a handler ended the transaction: leave COMMIT and ROLLBACK to pgonce"
_SWALLOWED = "a handler caught a database error and went on: wrap what may fail in `with tx.transaction()`"
# Only a commit that has written something waits for the disk. So this writes a record that nobody reads.
_FLUSH = "begin; select pg_catalog.pg_logical_emit_message(true, 'pgonce', ''); commit"

log = logging.getLogger("pgonce")


@contextmanager
def handler_connection(pool: Pool) -> Iterator[tuple[Connection[Any], HandlerSession]]:
    """A connection for handlers; it is reset before it is returned to the pool."""
    with connection(pool) as conn:
        with HandlerSession(conn) as session:
            try:
                yield conn, session
            finally:
                if not session.is_new and not conn.closed:
                    roll_back(conn, session)


def roll_back(conn: Connection[Any], session: HandlerSession) -> None:
    """End the transaction without a commit, and reset the connection."""
    _, error = send(conn, f"rollback; {RESET}")
    if error is not None:
        raise error
    session.restore()


def check_open(conn: Connection[Any]) -> None:
    """Check the transaction by what the client knows of it, without a round trip.

    Raises:
        TransactionBroken, PgonceError: it cannot be committed.
    """
    status = conn.info.transaction_status
    if status == TransactionStatus.INERROR:
        raise PgonceError(_SWALLOWED)
    if status != TransactionStatus.INTRANS:
        raise TransactionBroken(ENDED)


def call_back(event: Event) -> None:
    """Run the functions that ``after_commit`` has collected; their errors are logged, and the event stays handled."""
    for function in event.after_commit_calls:
        try:
            finish(function())
        except Exception:
            log.exception("after_commit of event %s failed", event.id)


def call_back_all(pool: Pool, events: Sequence[Event], *, is_durable: bool) -> None:
    """``call_back`` for events that were committed one after the other, after the last commit is on disk.

    Args:
        pool: used to write to the disk if ``is_durable`` is False.
        events: the committed ones.
        is_durable: whether the last commit has waited for the disk.
    """
    if not any(event.after_commit_calls for event in events):
        return
    if not is_durable:
        try:
            with connection(pool) as conn:
                run(conn, _FLUSH)
        except (PgonceError, psycopg.Error) as error:
            log.warning("after_commit of %s events was not called: %s", len(events), error)
            return
    for event in events:
        call_back(event)
