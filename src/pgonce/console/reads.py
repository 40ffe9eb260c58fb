"""How a page reads: one short read-only transaction, which ends when its time is over or the client has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import psycopg
from psycopg import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from pgonce.core.call import Call
from pgonce.core.execute_async import connection, execute, run
from pgonce.errors import PgonceError, translate

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]

SECONDS = 2
"""Seconds that one statement of a page may take in the database."""
# One snapshot for all of a page's reads, so that its figures agree with each other.
_BEGIN = "begin isolation level repeatable read read only; select " + ", ".join(
    f"pg_catalog.set_config('{name}', '{value}', true)"
    for name, value in {
        "statement_timeout": f"{SECONDS}s",
        "lock_timeout": f"{SECONDS}s",
        "idle_in_transaction_session_timeout": "10s",
        "client_encoding": "UTF8",
        "standard_conforming_strings": "on",
        "array_nulls": "on",
        "transform_null_equals": "off",
        "plan_cache_mode": "auto",
        "jit": "off",
    }.items()
)


class TooMuch(PgonceError):
    """A page's search took longer than `SECONDS`."""


class Read(Protocol):
    """Reads within a page's transaction."""

    async def __call__(self, call: Call[T], /) -> T:
        """The result of ``call``.

        Raises:
            TooMuch: it took longer than `SECONDS`.
            PgonceError: as for every call.
        """
        ...


@asynccontextmanager
async def reading(request: Request) -> AsyncIterator[Read]:
    """The block reads in one read-only transaction: ``found = await read(list_things())``.

    Raises:
        DatabaseUnavailable: no connection can be had.
    """
    console = request.app.state.console
    pool = await console.pool()
    async with connection(pool) as conn:
        try:
            await run(conn, _BEGIN)
        except psycopg.Error as error:
            raise translate(error) from error

        async def read(call: Call[T], /) -> T:
            return await _execute(conn, call, console.schema)

        try:
            yield read
        finally:
            await _end(conn)


async def _execute(conn: AsyncConnection[Any], call: Call[T], schema: str) -> T:
    try:
        return await execute(conn, call, schema)
    except (PgonceError, psycopg.Error) as error:
        cause = error.__cause__ if isinstance(error, PgonceError) else error
        if isinstance(cause, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
            raise TooMuch(f"the search took longer than {SECONDS} s: narrow it") from error
        raise


async def _end(conn: AsyncConnection[Any]) -> None:
    """End the transaction. It has written nothing, so a connection that is lost meanwhile does not matter."""
    try:
        await run(conn, "rollback")
    except psycopg.Error:
        await conn.close()


def cancelled_with_client(endpoint: Endpoint) -> Endpoint:
    """``endpoint``, cancelled when the client closes the connection; the server then cancels the query.

    A count that took 232 s elsewhere went on after the browser had gone.
    """

    async def serve(request: Request) -> Response:
        work = asyncio.ensure_future(endpoint(request))
        gone = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return Response(status_code=499)  # nobody reads it
            return work.result()
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    return serve


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
