"""How a program finds its database, and the pools on it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from pgonce import embedded
from pgonce.errors import DatabaseUnavailable, InvalidArgument, translate

# Behind a transaction pooler a prepared statement of one transaction is unknown to the next one's server: none, until
# `_is_direct` says that there is no pooler.
# Keepalives end a connection whose peer is gone after 30 + 3 * 10 s; the kernel's default is two hours.
CONNECTION = {
    "autocommit": True,
    "prepare_threshold": None,
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "application_name": "pgonce",
}

TIMEOUT = 10
"""Seconds to wait for a free connection. Stripe gives up on an answer after some 10 to 20 s."""


def find(given: str | None = None) -> str:
    """The database's URL: ``given``, else PGONCE_DATABASE_URL, else DATABASE_URL, else that of the embedded server.

    Raises:
        DatabaseUnavailable: there is no URL and the embedded server is not installed or does not start.
    """
    url = given or os.environ.get("PGONCE_DATABASE_URL") or os.environ.get("DATABASE_URL")
    return url or embedded.start().url


def check(url: str) -> None:
    """Connect once.

    Raises:
        DatabaseUnavailable: with the server's reason, which a pool's timeout would hide.
        InvalidArgument: ``url`` is none. It is not quoted: it may hold a password.
    """
    try:
        psycopg.connect(url, **_options()).close()
    except psycopg.ProgrammingError:
        raise InvalidArgument("the database URL is none: write postgresql://user:password@host:5432/name") from None
    except psycopg.OperationalError as error:
        reason = str(translate(error)).splitlines()[0]
        raise DatabaseUnavailable(f"{reason}; check DATABASE_URL, and that the server runs") from error


def open_pool(url: str, size: int = 10) -> ConnectionPool[Connection[Any]]:
    """An open pool of up to ``size`` connections with the settings that pgonce wants.

    Raises:
        DatabaseUnavailable: the database cannot be reached.
    """
    check(url)
    pool = ConnectionPool(
        url, kwargs=_options(), configure=_configure, min_size=1, max_size=size, open=True, timeout=TIMEOUT,
        name="pgonce",
    )  # fmt: skip
    with _arriving():
        pool.wait(TIMEOUT)
    return pool


async def open_async_pool(url: str, size: int = 10) -> AsyncConnectionPool[AsyncConnection[Any]]:
    """``open_pool`` for the asynchronous bindings.

    Raises:
        DatabaseUnavailable: the database cannot be reached.
    """
    await asyncio.to_thread(check, url)
    pool = AsyncConnectionPool[AsyncConnection[Any]](
        url, kwargs=_options(), configure=_configure_async, min_size=1, max_size=size, open=False, timeout=TIMEOUT,
        name="pgonce",
    )  # fmt: skip
    await pool.open()
    with _arriving():
        await pool.wait(TIMEOUT)
    return pool


@contextmanager
def _arriving() -> Iterator[None]:
    """Around the wait for a pool's first connection.

    Who asks before it is there gets the pool to open a second one. From then on an import took them in turns, and two
    processes of the server had the table and its index to learn: 3 % of a load.
    """
    try:
        yield
    except PoolTimeout as error:
        raise translate(error) from error


def _options() -> dict[str, Any]:
    return dict(CONNECTION)


PREPARE_AFTER = 3
"""Uses of a statement until it is prepared, on a direct connection: the server then plans it no more."""
_PID = "select pg_backend_pid()"


def _configure(conn: Connection[Any]) -> None:
    if _is_direct(conn, conn.execute(_PID).fetchone()):
        conn.prepare_threshold = PREPARE_AFTER


async def _configure_async(conn: AsyncConnection[Any]) -> None:
    if _is_direct(conn, await (await conn.execute(_PID)).fetchone()):
        conn.prepare_threshold = PREPARE_AFTER


def _is_direct(conn: Connection[Any] | AsyncConnection[Any], served_by: tuple[int] | None) -> bool:
    """Whether no pooler stands in between: a pooler has to make up the process id that the client may cancel with."""
    return served_by == (conn.info.backend_pid,)
