"""How a program finds its database, and the pools on it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from pgonce.core import embedded, execute_async
from pgonce.core.call import Call
from pgonce.core.concurrency import time_limit
from pgonce.core.execute import Pool, connection, execute, own_transaction, run
from pgonce.errors import DatabaseUnavailable, InvalidArgument, translate

T = TypeVar("T")

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
    "client_encoding": "UTF8",
}

TIMEOUT = 10
"""Seconds to wait for a free connection. Stripe gives up on an answer after some 10 to 20 s.

Also how long a pool tries to get a lost connection back: after 1, 2, 4 … seconds, by default for 5 minutes, and whoever
waits does not hasten it: 135 s without a database were 250 s without alerts. One that has given up tries anew for
whoever asks next.
"""


def find(given: str | None = None) -> str:
    """The database's URL: ``given``, else PGONCE_DATABASE_URL, else DATABASE_URL, else that of the embedded server.

    Raises:
        DatabaseUnavailable: there is no URL and the embedded server is not installed or does not start.
    """
    url = given or os.environ.get("PGONCE_DATABASE_URL") or os.environ.get("DATABASE_URL")
    return url or embedded.start().url


def check(url: str) -> str:
    """Connect once; where that led, as "database on host", without user and password.

    Raises:
        DatabaseUnavailable: with the server's reason, which a pool's timeout would hide.
        InvalidArgument: ``url`` cannot be read. It is not quoted: it may hold a password.
    """
    authority, path, _ = _parts(url)
    if "@" in authority:  # what libpq takes for a host begins with the rest of the password: not even DNS is to see it
        raise InvalidArgument(UNENCODED)
    try:
        with psycopg.connect(url, **_options(url)) as conn:
            return f"{conn.info.dbname} on {conn.info.host or 'this machine'}"
    except psycopg.ProgrammingError as error:
        raise InvalidArgument(_unreadable(url, str(error))) from None
    except psycopg.OperationalError as error:
        if "@" in path:  # may be a database's name, but not one that could be reached
            raise InvalidArgument(UNENCODED) from None
        reason = str(translate(error)).splitlines()[0]
        if "session is read-only" in str(error):
            raise DatabaseUnavailable(f"{reason}; to read from a standby add target_session_attrs=any") from error
        raise DatabaseUnavailable(f"{reason}; check DATABASE_URL, and that the server runs") from error


ENCODE = "in the password write @ : / # ? and % as %40 %3A %2F %23 %3F and %25"
UNENCODED = f"the database URL has an @ where none belongs: {ENCODE}"


def _parts(url: str) -> tuple[str, str, str]:
    """Host and port, path, and parameters of a URL, as libpq takes it apart; empty where it is none."""
    authority, _, path = url.partition("://")[2].partition("/")
    user, at, host = authority.partition("@")
    host, _, early = (host if at else user).partition("?")
    path, _, parameters = path.partition("?")
    return host, path, early or parameters


def _unreadable(url: str, said: str) -> str:
    """What is wrong with a URL that libpq cannot read, without any other part of it."""
    scheme, is_url, _ = url.partition("://")
    driver = re.fullmatch(r"(postgres(?:ql)?)(\+\w+)", scheme)
    if is_url and driver:
        return f"the database URL's scheme is SQLAlchemy's: drop {driver[2]}, write {driver[1]}://"
    if is_url and "@" in "".join(_parts(url)):
        return UNENCODED
    if is_url and (parameter := re.search(r'URI query parameter: "(\w+)"$', said.strip())):
        return f"the database URL: PostgreSQL knows no parameter {parameter[1]}: take it out"
    if is_url and "percent-encoded" in said:
        return f"the database URL has a % that encodes nothing: {ENCODE}"
    return "the database URL cannot be read: write postgresql://user:password@host:5432/name"


def open_pool(url: str, size: int = 10) -> ConnectionPool[Connection[Any]]:
    """An open pool of up to ``size`` connections with the settings that pgonce wants.

    Raises:
        DatabaseUnavailable: the database cannot be reached.
    """
    check(url)
    pool = ConnectionPool(
        url, kwargs=_options(url), configure=_configure, min_size=1, max_size=size, open=True, timeout=TIMEOUT,
        reconnect_timeout=TIMEOUT, name="pgonce",
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
        url, kwargs=_options(url), configure=_configure_async, min_size=1, max_size=size, open=False, timeout=TIMEOUT,
        reconnect_timeout=TIMEOUT, name="pgonce",
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


def _options(url: str) -> dict[str, Any]:
    """The settings of a connection; where the URL does not say, one to a server that can write.

    After a switchover the demoted primary still accepts connections, and every write there fails. With several hosts in
    the URL libpq then tries the next one. ``target_session_attrs=any`` in the URL allows to read from a standby.
    """
    options = dict(CONNECTION)
    if "target_session_attrs" not in url and "PGTARGETSESSIONATTRS" not in os.environ:
        options["target_session_attrs"] = "read-write"
    return options


PREPARE_AFTER = 3
"""Uses of a statement until it is prepared, on a direct connection: the server then plans it no more."""
_PID = "select pg_backend_pid()"


def _configure(conn: Connection[Any]) -> None:
    if _is_direct(conn, run(conn, _PID)):
        conn.prepare_threshold = PREPARE_AFTER


async def _configure_async(conn: AsyncConnection[Any]) -> None:
    if _is_direct(conn, await execute_async.run(conn, _PID)):
        conn.prepare_threshold = PREPARE_AFTER


def _is_direct(conn: Connection[Any] | AsyncConnection[Any], served_by: bytes | None) -> bool:
    """Whether no pooler stands in between: a pooler has to make up the process id that the client may cancel with."""
    return served_by == str(conn.info.backend_pid).encode()


PATIENCE = "5s"
"""For a lock that somebody's psql may hold until the evening."""
_TIMEOUTS = (
    "select pg_catalog.set_config('lock_timeout', '{}', true), pg_catalog.set_config('statement_timeout', '60s', true)"
)
ANSWER_WITHIN = 75.0
"""Seconds until a server that should have ended the statement by itself is taken for one that hangs."""


def patiently(pool: Pool, call: Call[T], schema: str) -> T:
    """Run ``call`` in a transaction of its own, for a thread that must come back: it waits for no lock and no server.

    The timeouts are set in the transaction: behind a transaction pooler a session's would be somebody else's.

    Raises:
        DatabaseUnavailable: the database cannot be reached, or does not answer.
        PgonceError: what the protocol refused, translated from its SQLSTATE.
        psycopg.Error: anything else; LockNotAvailable after `PATIENCE`.
    """
    try:
        with (
            connection(pool) as conn,
            time_limit(conn, ANSWER_WITHIN, lambda _: None),
            own_transaction(conn),
        ):
            run(conn, _TIMEOUTS.format(PATIENCE))
            return execute(conn, call, schema)
    except psycopg.Error as error:
        raise translate(error) from error
    except TimeoutError as error:
        raise DatabaseUnavailable(f"the database has not answered {call.function} for {ANSWER_WITHIN:g} s") from error
