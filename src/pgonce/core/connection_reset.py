# Generated from connection_reset_async.py by tools/unasync.py: edit that one, then `make generate`.
"""Resets a connection of a pool after code of the user's has had it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus

from pgonce.core.concurrency import wait_until_free
from pgonce.core.database import is_own
from pgonce.core.execute import Pool, send
from pgonce.core.handler_session import RESET, ClientState
from pgonce.core.lent_connection import detach


@contextmanager
def resetting(conn: Connection[Any], pool: Pool) -> Iterator[None]:
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
                _, error = send(conn, RESET if is_idle else f"rollback; {RESET}")
            except psycopg.Error as lost:
                error = lost
            except BaseException:  # cancelled in between, it may have been reset or not
                conn.close()
                raise
            if error is None:
                state.restore()
            else:
                conn.close()


def take_back(conn: Connection[Any], lent: Connection[Any]) -> None:
    """End what ``lend`` has made of ``conn``, before the next statement of ours."""
    if conn.lock.locked():  # a stream that was left early: the event loop is about to close it, through ``lent``
        wait_until_free(conn.lock)
    detach(lent)
