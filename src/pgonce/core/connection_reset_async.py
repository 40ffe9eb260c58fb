"""Lends a connection to the user's code, and resets a pooled one that such code has used."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import PipelineStatus, TransactionStatus

from pgonce.core.concurrency_async import wait_until_free
from pgonce.core.database import is_own
from pgonce.core.execute_async import Pool, send
from pgonce.core.handler_session import RESET, ClientState
from pgonce.core.lent_connection import close_for_good, detach, lend
from pgonce.errors import PgonceError

LEFT_OPEN = "a COPY, a stream or a pipeline was left open on the connection: end it before you give the connection back"


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
        PgonceError: the body has left a COPY, a stream or a pipeline open. The connection is closed then.
    """
    theirs = lend(conn)
    try:
        yield theirs
    finally:
        if conn.lock.locked():  # a stream that was left early: the event loop is about to close it, through ``theirs``
            await wait_until_free(conn.lock)
        detach(theirs)
        was_busy = close_if_busy(conn)
    if was_busy:
        raise PgonceError(LEFT_OPEN)


def close_if_busy(conn: AsyncConnection[Any]) -> bool:
    """Close the connection if a COPY, a stream or a pipeline is open on it; returns whether one was.

    It may hold psycopg's lock, and then the next statement would wait for ever.
    """
    if conn.closed:
        return False
    pgconn = conn.pgconn
    is_active = conn.lock.locked() or pgconn.transaction_status == TransactionStatus.ACTIVE
    if not is_active and pgconn.pipeline_status == PipelineStatus.OFF:
        return False
    close_for_good(conn)
    return True
