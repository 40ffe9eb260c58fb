"""Resets a connection of a pool after code of the user's has had it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from pgonce.core.concurrency_async import wait_until_free
from pgonce.core.database import is_own
from pgonce.core.execute_async import Pool, send
from pgonce.core.handler_session import RESET, ClientState
from pgonce.core.lent_connection import detach


@asynccontextmanager
async def resetting(conn: AsyncConnection[Any], pool: Pool) -> AsyncIterator[None]:
    """Reset a connection after its transaction, so that whoever gets it next finds it as new.

    Only of a pool that pgonce has opened: one of the user's may have settings that no RESET brings back.
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
                await conn.close()
                raise
            if error is None:
                state.restore()
            else:
                await conn.close()


async def take_back(conn: AsyncConnection[Any], lent: AsyncConnection[Any]) -> None:
    """End what ``lend`` has made of ``conn``, before the next statement of ours."""
    if conn.lock.locked():  # a stream that was left early: the event loop is about to close it, through ``lent``
        await wait_until_free(conn.lock)
    detach(lent)
