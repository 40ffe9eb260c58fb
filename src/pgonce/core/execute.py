# Generated from execute_async.py by tools/unasync.py: edit that one, then `make generate`.
"""How a call reaches the database: one statement, or one transaction with our settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import Connection, generators
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.rows import tuple_row
from psycopg_pool import ConnectionPool

from pgonce.core.call import Call
from pgonce.errors import translate

T = TypeVar("T")
Pool: TypeAlias = ConnectionPool[Connection[Any]]


def execute(conn: Connection[Any], call: Call[T], schema: str, *, synced: bool = True) -> T:
    """Run ``call`` on ``conn``: a transaction of its own in autocommit, else part of the one that is open.

    ``synced=False``: its commit does not wait for the disk; a crash of the server may forget it.

    Raises:
        PgonceError: what the protocol refused, translated from its SQLSTATE.
        psycopg.Error: anything else.
    """
    try:
        # a cursor of our own: the pool's connections may have the user's row factory
        with conn.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(call.statement(schema, synced=synced), call.args)
            return call.read(cursor.fetchall())
    except psycopg.Error as error:
        raise translate(error) from error


def run(conn: Connection[Any], statements: str) -> bytes | None:
    """Several statements in one round trip; the value of the last one that has rows, as PostgreSQL writes it.

    Below the cursor, which would look for placeholders, adapt no arguments, and wrap results that nobody reads: of a
    worker's time for an event that was a fifth.

    Raises:
        psycopg.Error: the first error; what follows it was not run.
    """
    with conn.lock:
        conn.pgconn.send_query(statements.encode())
        results = conn.wait(generators.execute(conn.pgconn))
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise error_from_result(result, encoding=conn.info.encoding)
    return next((result.get_value(0, 0) for result in reversed(results) if result.ntuples), None)


@contextmanager
def translated(context: AbstractContextManager[T]) -> Iterator[T]:
    """``context``, with its own database errors translated; those of the body are the user's and stay as they are."""
    try:
        entered = context.__enter__()
    except psycopg.Error as error:
        raise translate(error) from error
    try:
        yield entered
    except BaseException as error:
        if not context.__exit__(type(error), error, error.__traceback__):
            raise
    else:
        try:
            context.__exit__(None, None, None)
        except psycopg.Error as error:
            raise translate(error) from error


def connection(pool: Pool) -> AbstractContextManager[Connection[Any]]:
    """A connection of the pool; one that cannot be had is a DatabaseUnavailable."""
    return translated(pool.connection())


def call(pool: Pool, call: Call[T], schema: str) -> T:
    """Run ``call`` on a connection of the pool, in a transaction of its own."""
    with connection(pool) as conn:
        return execute(conn, call, schema)


def call_unsynced(pool: Pool, call: Call[T], schema: str) -> T:
    """``call``, whose commit does not wait for the disk."""
    with connection(pool) as conn:
        return execute(conn, call, schema, synced=False)


@contextmanager
def transaction(conn: Connection[Any], name: str, limit: timedelta) -> Iterator[None]:
    """A transaction that cannot outlive its client by more than ``limit``.

    A client that is stopped in the middle (SIGSTOP, a cut network) keeps its locks for as long as it is connected:
    ``idle_in_transaction_session_timeout`` ends it. ``name`` stands in pg_stat_activity as application_name for as
    long as the transaction lasts, so that a successor can end exactly this one (a COPY is ended by no timeout).
    """
    with translated(conn.transaction()):
        try:
            run(conn, settings(name, limit))
        except psycopg.Error as error:
            raise translate(error) from error
        yield


def settings(name: str, limit: timedelta) -> str:
    """The statement that makes a transaction what ``transaction`` says; ``name`` holds no quotes."""
    milliseconds = min(max(int(limit / timedelta(milliseconds=1)), 1), 2**31 - 1)
    return (
        f"select set_config('application_name', '{name}', true),"
        f" set_config('idle_in_transaction_session_timeout', '{milliseconds}', true)"
    )
