"""Completing an event inside a transaction that the handler opened with a library of its own."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from pgonce.core import execute, execute_async
from pgonce.errors import InvalidArgument, LeaseLost

_LOST = "the event was taken over by another worker: roll back"


def complete(session: Any, row_id: UUID | None, lease: UUID | None, schema: str) -> Awaitable[None] | None:
    """Mark the claimed event as handled in the open transaction of ``session``; they commit together.

    Args:
        session: an instance of these or of a class derived from them: a SQLAlchemy Session, AsyncSession or Connection,
            an asyncpg connection, a psycopg Connection or AsyncConnection; or anything with the DB-API's ``cursor()``,
            such as Django's ``connection``.
        row_id: the event's id in ``webhook_events``.
        lease: of the claim.
        schema: where ``pgonce migrate`` put the tables.

    Returns:
        None, or for an asynchronous session what must be awaited.

    Raises:
        LeaseLost: somebody else has the event now; let it out of the transaction, so that it rolls back.
    """
    # The answer is a row or no row. What a driver makes of a boolean is the application's to choose: with a text loader
    # "f" would be true.
    select = f"select 1 where {sql.Identifier(schema, 'complete_webhook').as_string()}"
    keys = [str(row_id), str(lease)]
    with_percent = select.replace("%", "%%")  # psycopg and Django take a % for a placeholder
    if isinstance(session, psycopg.AsyncConnection):
        return _complete_async(session, with_percent, keys)
    if any(base.__module__.partition(".")[0] == "sqlalchemy" for base in type(session).__mro__):
        return _complete_sqlalchemy(session, select, keys)
    if hasattr(session, "fetchval"):
        text = "cast(cast(${} as pg_catalog.text) as pg_catalog.uuid)"  # as text: a codec for uuid may be set
        return _check_awaited(session.fetchval(f"{select}({text.format(1)}, {text.format(2)})", *keys))
    if not hasattr(session, "cursor"):
        raise InvalidArgument(f"event.complete cannot use a {type(session).__name__}: pass a connection or session")
    with execute.OwnCursor(session) if isinstance(session, psycopg.Connection) else session.cursor() as cursor:
        cursor.execute(f"{with_percent}(%s::pg_catalog.uuid, %s::pg_catalog.uuid)", keys)
        _check(cursor.fetchone())
    return None


async def _complete_async(conn: psycopg.AsyncConnection[Any], select: str, keys: list[str]) -> None:
    async with execute_async.OwnCursor(conn) as cursor:
        await cursor.execute(f"{select}(%s::pg_catalog.uuid, %s::pg_catalog.uuid)".encode(), keys)
        _check(await cursor.fetchone())


def _complete_sqlalchemy(session: Any, select: str, keys: list[str]) -> Awaitable[None] | None:
    from sqlalchemy import text

    arguments = dict(zip(("id", "lease"), keys, strict=True))
    select = select.replace(":", "\\:")  # text() takes a : for a parameter
    statement = f"{select}(cast(:id as pg_catalog.uuid), cast(:lease as pg_catalog.uuid))"
    result = session.execute(text(statement), arguments)
    if inspect.isawaitable(result):
        return _check_awaited(result)
    _check(result.first())
    return None


async def _check_awaited(result: Awaitable[Any]) -> None:
    found = await result
    _check(found.first() if hasattr(found, "first") else found)


def _check(row: Any) -> None:
    if row is None:
        raise LeaseLost(_LOST)
