"""Lends a connection to a handler. What the handler keeps of it does not work any more when the handler has ended."""

# ruff: noqa: SLF001 -- psycopg has no public way to have a second connection object on one session
from __future__ import annotations

import inspect
import os
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar

import psycopg
from psycopg import pq
from psycopg.adapt import AdaptersMap

from pgonce.errors import DatabaseUnavailable, PgonceError, first_line

C = TypeVar("C", bound="psycopg.Connection[Any] | psycopg.AsyncConnection[Any]")
CANCEL = 5.0
"""Seconds for the server to accept that a statement is cancelled."""

_CLOSED = pq.PGconn.connect_start(b"none")  # not a connection string: it is closed from the start, without any attempt
_CLOSED.finish()


def _refuse(*_: object, **__: object) -> NoReturn:
    # Not an OperationalError, which would count as a database that cannot be reached.
    raise psycopg.InterfaceError(
        "this connection was lent to a handler or a transaction that has ended: use a connection of your own"
    )


# Cursors, transactions and COPYs that were made before send everything through `wait`.
_ENDED = dict.fromkeys(("wait", "cursor", "execute", "transaction", "pipeline", "commit", "rollback"), _refuse) | {
    "pgconn": _CLOSED
}
_BEGUN = "_pgonce_begun"


def lend(conn: C) -> C:
    """Another object of the connection's class for the same session, to be given to code of the user's.

    The pooled connection serves the transaction of another event next. If a handler could keep it, in a global, a
    thread or a task, its later statements would run inside that transaction. The handler's row factory, adapters and
    the like stay in the lent object.
    """
    lent = object.__new__(type(conn))
    lent.__dict__.update(conn.__dict__)
    counting = _counting_async if isinstance(conn, psycopg.AsyncConnection) else _counting
    waiting: list[None] = []
    lent.__dict__["_waiting"] = waiting
    lent.__dict__["wait"] = counting(lent.wait, waiting)
    lent._pool = None  # of a pool with `close_returns`, close() would give the lent object to the pool
    if conn._adapters is not None:
        lent._adapters = AdaptersMap(conn._adapters)
    if isinstance(lent, psycopg.AsyncConnection):
        _keep_unawaited(lent)
    return lent


# psycopg goes on in `wait` with the memory of libpq's connection. If another thread or task frees it meanwhile, the
# process ends with a segmentation fault. So it is counted who is in there.


def _counting(wait: Callable[..., Any], waiting: list[None]) -> Callable[..., Any]:
    def counted(*args: Any, **options: Any) -> Any:
        waiting.append(None)
        try:
            return wait(*args, **options)
        finally:
            waiting.pop()

    return counted


def _counting_async(wait: Callable[..., Any], waiting: list[None]) -> Callable[..., Any]:
    async def counted(*args: Any, **options: Any) -> Any:
        waiting.append(None)
        try:
            return await wait(*args, **options)
        finally:
            waiting.pop()

    return counted


def _keep_unawaited(lent: psycopg.AsyncConnection[Any]) -> None:
    execute, begun = lent.execute, list[Coroutine[Any, Any, Any]]()

    def keep(*args: Any, **options: Any) -> Coroutine[Any, Any, Any]:
        while begun and inspect.getcoroutinestate(begun[-1]) != inspect.CORO_CREATED:
            del begun[-1]
        begun.append(execute(*args, **options))
        return begun[-1]

    lent.__dict__.update({"execute": keep, _BEGUN: begun})


def check_awaited(lent: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Check that each statement of ``execute`` on a lent asynchronous connection was awaited.

    Raises:
        PgonceError: one was not, and so it was not run. Its transaction would be committed without it.
    """
    left = [each for each in lent.__dict__.get(_BEGUN, ()) if inspect.getcoroutinestate(each) == inspect.CORO_CREATED]
    for each in left:
        each.close()  # or Python warns, too
    if left:
        raise PgonceError(
            "execute was called without await, so its statement was not run: write `await tx.execute(...)`"
        )


def close_for_good(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Close the connection. Its ``close()`` would give it back, where it is of a pool with `close_returns`."""
    conn.pgconn.finish()


def was_lost(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether the connection has ended and nobody in this process has closed it."""
    return conn.closed and getattr(conn.pgconn, "pgconn_ptr", None) is not None


def cut(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """End the traffic on the connection. Whoever waits for an answer on it gets the error of a lost connection.

    It may be called in any thread.
    """
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(conn.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


def abandon(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """End the traffic on a connection on which somebody waits for an answer, and leave it to them to free it."""
    cut(conn)
    conn.pgconn = _CLOSED


@contextmanager
def naming_loss(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> Iterator[None]:
    """Raise DatabaseUnavailable where own statements have lost ``conn``."""
    try:
        yield
    except psycopg.Error as error:
        if not conn.closed:  # an error of another database, which the source of an import reads
            raise
        raise DatabaseUnavailable(f"the connection to the database was lost: {first_line(error)}") from error


def detach(lent: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> Sequence[None]:
    """End the lent connection, before the next statement of ours: every use of it raises InterfaceError from now on.

    Returns:
        An entry for each thread or task that is still waiting for an answer on it.
    """
    lent.__dict__.update(_ENDED)
    waiting: Sequence[None] = lent.__dict__["_waiting"]
    return waiting
