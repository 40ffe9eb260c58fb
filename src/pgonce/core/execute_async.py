"""How a call reaches the database: one statement, or one transaction with our settings.

Own statements do not depend on the user's settings: adapters, row factories, DateStyle, encoding, isolation level and
timeouts of a connection, role or database. This module makes sure of that.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection, AsyncCursor, generators
from psycopg.abc import Params
from psycopg.adapt import AdaptersMap
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import tuple_row
from psycopg.sql import Composed
from psycopg_pool import AsyncConnectionPool

from pgonce.core.adapters import ADAPTERS
from pgonce.core.call import Call
from pgonce.core.concurrency_async import running_loop
from pgonce.core.idle_connections import has_unread_input
from pgonce.core.lent_connection import close_for_good, naming_loss, was_lost
from pgonce.core.pool import refuse_inherited
from pgonce.errors import DatabaseUnavailable, TransactionBroken, translate

T = TypeVar("T")
Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[Any]]

LOST = "the connection was lost before the COMMIT: nothing was written"


class OwnCursor(AsyncCursor[tuple[Any, ...]]):
    """A cursor for own statements: psycopg's adapters as shipped, binary results, tuples.

    An application may register loaders for all connections (``psycopg.adapters``) or for one. With a text loader for
    uuid, every event was marked and none was handled. Binary results do not depend on DateStyle and IntervalStyle.
    """

    def __init__(self, conn: AsyncConnection[Any]) -> None:
        super().__init__(conn, row_factory=tuple_row)  # not conn.cursor(): the user chooses that one's class
        self.format = Format.BINARY

    @property
    def adapters(self) -> AdaptersMap:
        """Those of this package."""
        return ADAPTERS


# ``begin`` sets the isolation level. Under REPEATABLE READ the functions would not see concurrent commits, and would
# raise 40001 instead of returning a row. Short timeouts of the user are meant for the user's statements.
# A default of read-only is respected: hosts set it when a disk is full.
_PINNED = {
    "statement_timeout": "60s",
    "lock_timeout": "30s",
    "idle_in_transaction_session_timeout": "60s",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "plan_cache_mode": "auto",
}
_BEGIN = "begin isolation level read committed; select " + ", ".join(
    f"pg_catalog.set_config('{name}', '{value}', true)" for name, value in _PINNED.items()
)
_SHIPPED = {
    "default_transaction_isolation": "read committed",
    **{name: value for name, value in _PINNED.items() if not name.endswith("_timeout")},
}


def _is_default(name: str) -> str:
    return f"pg_catalog.current_setting('{name}') = '{_SHIPPED[name]}'"


def _is_limit(name: str, least: str) -> str:
    """Whether the time limit is off, or at least ``least``."""
    limit = f"coalesce(pg_catalog.current_setting('{name}', true), '0')::pg_catalog.interval"
    return f"({limit} = '0' or {limit} >= '{least}')"


def no_transaction_timeout(conn: AsyncConnection[Any], scope: str = "local") -> str:
    """SQL, to be added to a statement, that takes this limit from pgonce's own transaction if the server has it."""
    return f"; set {scope} transaction_timeout to 0" if conn.info.server_version >= 170000 else ""


_LIMITS = ("statement_timeout", "lock_timeout", "transaction_timeout")
_IS_USUAL = "select " + " and ".join([*map(_is_default, _SHIPPED), *(_is_limit(name, "10s") for name in _LIMITS)])
# Checked only after an error that the setting may have caused: a transaction of pgonce's own for each statement would
# take three round trips instead of one.
_WAS_ENOUGH = {
    "40001": f"select {_is_default('default_transaction_isolation')}",
    "55P03": f"select {_is_limit('lock_timeout', _PINNED['lock_timeout'])}",
    "57014": f"select {_is_limit('statement_timeout', _PINNED['statement_timeout'])}",  # or it was cancelled
}
_usual: WeakKeyDictionary[AsyncConnection[Any], bool] = WeakKeyDictionary()


async def is_usual(conn: AsyncConnection[Any]) -> bool:
    """Whether a single statement on ``conn``, outside of a transaction, has the settings that it needs.

    The first use of a connection costs a round trip. The encoding is checked at every use, because libpq
    knows it without one.
    """
    usual = _usual.get(conn)
    if usual is None:
        usual = _usual[conn] = await run(conn, _IS_USUAL) == b"t"
    return usual and _is_utf8(conn)


async def is_fault_of_settings(conn: AsyncConnection[Any], error: psycopg.Error) -> bool:
    """Whether a single statement has failed because of the session's settings; then `is_usual` is False from now on.

    The application may have changed them since the first use of ``conn``, or a time limit that seemed long enough was
    too short. The statement has been rolled back, so it can be executed again, in ``own_transaction``.
    """
    was_enough = _WAS_ENOUGH.get(error.sqlstate or "")
    if was_enough is None or conn.pgconn.transaction_status != TransactionStatus.IDLE:
        return False
    if await run(conn, was_enough) == b"t":
        return False
    _usual[conn] = False
    return True


def _is_utf8(conn: AsyncConnection[Any]) -> bool:
    return conn.pgconn.parameter_status(b"client_encoding") == b"UTF8"


async def execute(
    conn: AsyncConnection[Any], call: Call[T], schema: str, *, synced: bool = True, statement: bytes | None = None
) -> T:
    """Run ``call`` on ``conn``: in autocommit as its own transaction, otherwise in the open transaction.

    A transaction that begins here is READ COMMITTED, whatever the default of session, role or database is.
    ``synced=False``: its commit does not wait for the disk; a crash of the server may forget it. ``statement``: the
    call's statement as part of a larger one. A connection to a read-only server is closed, so that its pool
    connects to the primary.

    Raises:
        PgonceError: the SQL function refused the call; translated from its SQLSTATE.
        psycopg.Error: anything else.
    """
    statement = statement or call.statement(schema, synced=synced)
    try:
        if conn.pgconn.transaction_status == TransactionStatus.IDLE:
            if conn.autocommit and await is_usual(conn):
                try:
                    return await _execute(conn, call, statement)
                except psycopg.Error as error:
                    if not await is_fault_of_settings(conn, error):
                        raise
            if conn.autocommit:
                async with own_transaction(conn):
                    return await _execute(conn, call, statement)
            await run(conn, _BEGIN + no_transaction_timeout(conn))  # whoever has the connection commits
        if _is_utf8(conn):
            return await _execute(conn, call, statement)
        encoding = (conn.pgconn.parameter_status(b"client_encoding") or b"").decode()
        await run(conn, "set local client_encoding to UTF8")
        found = await _execute(conn, call, statement)
        await run(conn, f"set local client_encoding to '{encoding}'")
        return found
    except psycopg.Error as error:
        if error.sqlstate == "25006":
            close_for_good(conn)
        raise translate(error) from error


async def _execute(conn: AsyncConnection[Any], call: Call[T], statement: bytes) -> T:
    async with OwnCursor(conn) as cursor:
        await cursor.execute(statement, call.args)
        return call.read(await cursor.fetchall())


async def fetch(
    conn: AsyncConnection[Any], statement: str | Composed, arguments: Params | None = None
) -> list[tuple[Any, ...]]:
    """The rows of an own statement, read by psycopg's adapters as shipped; empty where it has none.

    Outside of a transaction it begins one, if the connection is not in autocommit.
    """
    async with OwnCursor(conn) as cursor:
        await cursor.execute(statement.encode() if isinstance(statement, str) else statement, arguments)
        return await cursor.fetchall() if cursor.description else []


@asynccontextmanager
async def own_transaction(conn: AsyncConnection[Any]) -> AsyncIterator[None]:
    """A transaction for own statements only: READ COMMITTED, with own settings."""
    await run(conn, _BEGIN + no_transaction_timeout(conn))
    try:
        yield
    except BaseException:
        if not conn.closed:
            with suppress(psycopg.Error):
                await run(conn, "rollback")
        raise
    await run(conn, "commit")


async def send(conn: AsyncConnection[Any], statements: str) -> tuple[list[PGresult], psycopg.Error | None]:
    """Send several statements in one message. Returns their results, and the error of the last one, if any.

    This avoids psycopg's cursor, which looks for placeholders and wraps results that are not read: that
    was a fifth of a worker's time for an event.

    Raises:
        psycopg.OperationalError: the connection is lost, and it is unknown which statements were executed.
    """
    async with conn.lock:
        conn.pgconn.send_query(statements.encode())
        results = await conn.wait(generators.execute(conn.pgconn))
    if results and results[-1].status == ExecStatus.FATAL_ERROR:
        return results[:-1], error_from_result(results[-1], encoding=conn.info.encoding)
    return results, None


async def run(conn: AsyncConnection[Any], statements: str) -> bytes | None:
    """Send several statements in one message. Returns the first value of the last one with rows, as text.

    Raises:
        psycopg.Error: the first error; the statements after it were not run.
    """
    results, error = await send(conn, statements)
    if error is not None:
        raise error
    return last_value(results)


def last_value(results: Sequence[PGresult]) -> bytes | None:
    """The first value of the last result that has rows."""
    return next((result.get_value(0, 0) for result in reversed(results) if result.ntuples), None)


@asynccontextmanager
async def translated(context: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter and exit ``context``, and translate its own database errors. Errors of the body are the user's and stay."""
    try:
        entered = await context.__aenter__()
    except psycopg.Error as error:
        raise translate(error) from error
    try:
        yield entered
    except BaseException as error:
        if not await context.__aexit__(type(error), error, error.__traceback__):
            raise
    else:
        try:
            await context.__aexit__(None, None, None)
        except psycopg.Error as error:
            raise translate(error) from error


def connection(pool: Pool, within: float | None = None) -> AbstractAsyncContextManager[AsyncConnection[Any]]:
    """A connection of the pool that the server has not closed.

    Raises:
        DatabaseUnavailable: there is none within this many seconds; None: the pool's timeout.
    """
    return translated(_borrowed(pool, within))


@asynccontextmanager
async def own_connection(pool: Pool) -> AsyncIterator[AsyncConnection[Any]]:
    """``connection`` for own statements: DatabaseUnavailable also if it is lost in the body."""
    async with connection(pool) as conn:
        with naming_loss(conn):
            yield conn


async def was_closed(conn: AsyncConnection[Any]) -> bool:
    """Whether the connection has ended, also if only the server knows it."""
    if conn.closed:
        return True
    try:
        if has_unread_input(conn):  # maybe only a notification
            await run(conn, "")
    except psycopg.Error:
        return True
    return False


async def get_connection(pool: Pool, within: float | None = None) -> AsyncConnection[Any]:
    """A connection of the pool that the server has not closed; to be given back with ``putconn``.

    It waits for ``within`` seconds, or the pool's timeout, once, however many closed connections the pool has.
    """
    running_loop()
    refuse_inherited(pool)
    until = time.monotonic() + (pool.timeout if within is None else within)
    while await was_closed(conn := await pool.getconn(max(until - time.monotonic(), 0.001))):
        close_for_good(conn)
        await pool.putconn(conn)  # which opens another in its place
    if conn.read_only:  # set by the application: the claim of an event would be written, and its mark refused
        await pool.putconn(conn)
        raise DatabaseUnavailable("the pool's connections have read_only set: pgonce needs a pool that may write")
    return conn


@asynccontextmanager
async def _borrowed(pool: Pool, within: float | None) -> AsyncIterator[AsyncConnection[Any]]:
    conn = await get_connection(pool, within)
    try:
        async with conn:  # commits or rolls back; the pool's connections stay open
            yield conn
    finally:
        await pool.putconn(conn)


async def call(pool: Pool, call: Call[T], schema: str, *, synced: bool = True) -> T:
    """Run ``call`` on a connection of the pool, in a transaction of its own; ``synced`` as of ``execute``."""
    async with connection(pool) as conn:
        return await execute(conn, call, schema, synced=synced)


@asynccontextmanager
async def transaction(conn: AsyncConnection[Any], name: str, limit: timedelta) -> AsyncIterator[None]:
    """A transaction that cannot outlive its client by more than ``limit``.

    A client that is stopped in the middle (SIGSTOP, a cut network) would keep its locks for as long as it is connected.
    Therefore ``idle_in_transaction_session_timeout`` is set to ``limit``. It does not end a COPY: for that case the
    session is called ``name`` in pg_stat_activity during the transaction, so that a successor can find and end it.
    The setting ``pgonce.transaction`` is ``name`` until the transaction ends: `only_in` asks for it.

    Raises:
        DatabaseUnavailable: the connection was lost in the body, which did not say so.
        TransactionBroken: the body has closed the connection.
    """
    async with translated(conn.transaction()):
        try:
            await run(conn, f"{settings(name, limit)}; set local pgonce.transaction to '{name}'")
        except psycopg.Error as error:
            raise translate(error) from error
        yield
        if conn.closed:  # psycopg would leave out the COMMIT, and raise nothing
            if was_lost(conn):
                raise DatabaseUnavailable(LOST)
            raise TransactionBroken("the connection was closed before the COMMIT: leave its end to pgonce")


def only_in(name: str, statement: bytes) -> bytes:
    """``statement``, a SELECT without WHERE, which has no row unless the transaction is still the one called ``name``.

    The client cannot tell. After a ROLLBACK inside, the next statement may have begun another transaction.
    """
    is_same = f"pg_catalog.texteq(pg_catalog.current_setting('pgonce.transaction', true), '{name}')"
    return b"%b where %b" % (statement, is_same.encode())


def settings(name: str, limit: timedelta) -> str:
    """The statements with the settings of ``transaction``. ``name`` must not contain quotes."""
    milliseconds = min(max(int(limit / timedelta(milliseconds=1)), 1), 2**31 - 1)
    # two SETs, because a SELECT of set_config took three times as long
    return f"set local application_name to '{name}'; set local idle_in_transaction_session_timeout to {milliseconds}"
