"""Completing an event inside a transaction that the handler opened with a library of its own."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias
from uuid import UUID

import psycopg
from psycopg import sql

from pgonce.core import execute, execute_async
from pgonce.errors import InvalidArgument, LeaseLost

Statement: TypeAlias = tuple[str, list[str]]
"""Its text, and its arguments by position."""

_LOST = "the event was taken over by another worker: roll back"
_NO_TRANSACTION = (
    "event.complete was called outside of a transaction, so it would not commit together with the handler's effect: "
    "call it inside `with conn.transaction():`, `session.begin()` or `transaction.atomic()`"
)


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
        InvalidArgument: ``session`` is of another kind, or in autocommit without an open transaction.
    """
    keys = str(row_id), str(lease)
    if isinstance(session, psycopg.AsyncConnection):
        return _complete_async(_with_own_cursor_async(session), _Statements(schema, *keys, "%s"))
    if any(base.__module__.partition(".")[0] == "sqlalchemy" for base in type(session).__mro__):
        return _complete_sqlalchemy(session, _Statements(schema, *keys, ":p{}"))
    if hasattr(session, "fetchval"):
        return _complete_async(_with_fetchval(session), _Statements(schema, *keys, "${}"))
    if not hasattr(session, "cursor"):
        raise InvalidArgument(f"event.complete cannot use a {type(session).__name__}: pass a connection or session")
    _complete(_with_cursor(session), _Statements(schema, *keys, "%s"))
    return None


class _Statements:
    """Their answer is a row or no row. What a driver makes of a boolean is the application's to choose: with a text
    loader "f" would be true.

    A setting that is local to the transaction tells a transaction from autocommit, where each statement is one of its
    own. No driver is asked, because each says it in another way, and a pool or a pooler in between does not say it.
    """

    def __init__(self, schema: str, row_id: str, lease: str, placeholder: str) -> None:
        function = sql.Identifier(schema, "complete_webhook").as_string()
        if placeholder == "%s":  # psycopg and Django take a % for a placeholder
            function = function.replace("%", "%%")
        elif placeholder.startswith(":"):  # text() takes a : for a parameter
            function = function.replace(":", "\\:")
        # as text: a codec for uuid may be set
        first, second, third = (f"cast({placeholder.format(number)} as pg_catalog.text)" for number in (1, 2, 3))
        is_same = f"pg_catalog.texteq(pg_catalog.current_setting('pgonce.completes', true), {first})"
        keys = f"cast({second} as pg_catalog.uuid), cast({third} as pg_catalog.uuid)"
        self.open: Statement = (f"select pg_catalog.set_config('pgonce.completes', {first}, true)", [lease])
        self.complete: Statement = (
            f"select 1 where case when {is_same} then {function}({keys}) end",
            [lease, row_id, lease],
        )
        self.is_open: Statement = (f"select 1 where {is_same}", [lease])


def _complete(has_row: Callable[[Statement], bool], statements: _Statements) -> None:
    has_row(statements.open)
    if not has_row(statements.complete):
        raise _reason(has_row(statements.is_open))


async def _complete_async(has_row: Callable[[Statement], Awaitable[bool]], statements: _Statements) -> None:
    await has_row(statements.open)
    if not await has_row(statements.complete):
        raise _reason(await has_row(statements.is_open))


def _reason(is_open: bool) -> Exception:
    return LeaseLost(_LOST) if is_open else InvalidArgument(_NO_TRANSACTION)


def _with_cursor(session: Any) -> Callable[[Statement], bool]:
    def has_row(statement: Statement) -> bool:
        with execute.OwnCursor(session) if isinstance(session, psycopg.Connection) else session.cursor() as cursor:
            cursor.execute(*statement)
            return cursor.fetchone() is not None

    return has_row


def _with_own_cursor_async(conn: psycopg.AsyncConnection[Any]) -> Callable[[Statement], Awaitable[bool]]:
    async def has_row(statement: Statement) -> bool:
        text, arguments = statement
        async with execute_async.OwnCursor(conn) as cursor:
            await cursor.execute(text.encode(), arguments)
            return await cursor.fetchone() is not None

    return has_row


def _with_fetchval(session: Any) -> Callable[[Statement], Awaitable[bool]]:
    async def has_row(statement: Statement) -> bool:
        text, arguments = statement
        return await session.fetchval(text, *arguments) is not None

    return has_row


def _complete_sqlalchemy(session: Any, statements: _Statements) -> Awaitable[None] | None:
    from sqlalchemy import text

    def run(statement: Statement) -> Any:
        if statement is statements.open:
            return opened
        return session.execute(text(statement[0]), _named(statement[1]))

    async def has_row(statement: Statement) -> bool:
        return (await run(statement)).first() is not None

    opened = session.execute(text(statements.open[0]), _named(statements.open[1]))
    if inspect.isawaitable(opened):
        return _complete_async(has_row, statements)
    _complete(lambda statement: run(statement).first() is not None, statements)
    return None


def _named(arguments: Sequence[str]) -> dict[str, str]:
    return {f"p{number}": argument for number, argument in enumerate(arguments, 1)}
