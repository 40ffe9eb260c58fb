"""Lends a connection to the user's code, and resets a pooled one that such code has used."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import PipelineStatus, TransactionStatus

from pgonce.core.concurrency_async import LEAVE, sleep, wait_until_free
from pgonce.core.database import is_own
from pgonce.core.execute_async import Pool, send
from pgonce.core.handler_session import RESET, ClientState
from pgonce.core.lent_connection import CANCEL, abandon, check_awaited, close_for_good, cut, detach, lend
from pgonce.errors import PgonceError

LEFT_OPEN = (
    "a COPY, a stream or a pipeline was left open on the connection, or a thread or task still uses it: "
    "end it before you give the connection back"
)


@asynccontextmanager
async def resetting(conn: AsyncConnection[Any], pool: Pool) -> AsyncIterator[None]:
    """Reset a connection after its transaction, so that the next user of it finds it as new.

    A pool that the user has opened is left alone: its connections may have settings that no RESET brings back.
    """
    if not is_own(pool):
        yield
        return
    state = ClientState(conn)
    try:
        yield
    finally:
        if not conn.closed:
            error: psycopg.Error | None
            is_idle = conn.info.transaction_status == TransactionStatus.IDLE
            try:
                _, error = await send(conn, RESET if is_idle else f"rollback; {RESET}")
            except psycopg.Error as lost:
                error = lost
            except BaseException:  # cancelled in between, it may have been reset or not
                close_for_good(conn)
                raise
            if error is None:
                state.restore()
            else:
                close_for_good(conn)


@asynccontextmanager
async def lent(conn: AsyncConnection[Any]) -> AsyncIterator[AsyncConnection[Any]]:
    """Give the body another object for the same session (see `lend`), which ends with the body.

    Raises:
        PgonceError: the body has left a COPY, a stream or a pipeline open, or a statement of a thread or task (the
            connection is closed then), or has not awaited a statement.
    """
    theirs = lend(conn)
    try:
        yield theirs
        check_awaited(theirs)
    finally:
        try:
            if conn.lock.locked():  # by a stream that was left early: the event loop closes it soon, by ``theirs``
                await wait_until_free(conn.lock)
        finally:  # also if it is cancelled meanwhile
            waiting = detach(theirs)
            was_busy = await close_if_busy(conn, waiting)
    if was_busy:
        raise PgonceError(LEFT_OPEN)


async def close_if_busy(conn: AsyncConnection[Any], waiting: Sequence[None] = ()) -> bool:
    """Close the connection if a statement, a COPY, a stream or a pipeline is open on it; returns whether one was.

    It may hold psycopg's lock, and then the next statement would wait for ever. A statement is cancelled: while it runs
    the server does not look at the connection, and its transaction would keep the event's row locked.

    Args:
        conn: the connection.
        waiting: an entry for each thread or task that waits for an answer on it. It gets an error first.
    """
    if conn.closed:
        return False
    pgconn = conn.pgconn
    is_active = conn.lock.locked() or pgconn.transaction_status == TransactionStatus.ACTIVE
    if not waiting and not is_active and pgconn.pipeline_status == PipelineStatus.OFF:
        return False
    until = time.monotonic() + LEAVE
    try:
        with suppress(OSError, psycopg.Error):
            await conn.cancel_safe(timeout=CANCEL)
            while not await _have_left(waiting, 0.1) and time.monotonic() < until:
                await conn.cancel_safe(timeout=CANCEL)  # the server ignores one that arrives before its statement
        cut(conn)
        await _have_left(waiting, LEAVE)
    finally:
        (abandon if waiting else close_for_good)(conn)
    return True


async def _have_left(waiting: Sequence[None], seconds: float) -> bool:
    """Whether all that wait for an answer have got one, or an error, within this time."""
    until = time.monotonic() + seconds
    while waiting and time.monotonic() < until:
        await sleep(0.001)
    return not waiting
