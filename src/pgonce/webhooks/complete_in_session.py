"""Completing an event inside a transaction that the handler opened with a library of its own."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import Any
from uuid import UUID

from pgonce.errors import InvalidArgument, LeaseLost

_LOST = "the event was taken over by another worker: roll back"


def complete(session: Any, row_id: UUID | None, lease: UUID | None, schema: str) -> Awaitable[None] | None:
    """Mark the claimed event as handled in the open transaction of ``session``; they commit together.

    Args:
        session: an asyncpg connection, a SQLAlchemy Session, AsyncSession or Connection, or anything with the DB-API's
            ``cursor()``: a psycopg connection, Django's ``connection``.
        row_id: the event's id in ``webhook_events``.
        lease: of the claim.
        schema: where ``pgonce migrate`` put the tables.

    Returns:
        None, or for an asynchronous session what must be awaited.

    Raises:
        LeaseLost: somebody else has the event now; let it out of the transaction, so that it rolls back.
    """
    function = '"' + schema.replace('"', '""') + '".complete_webhook'
    if hasattr(session, "fetchval"):
        return _awaited(session.fetchval(f"select {function}($1, $2)", row_id, lease))
    if type(session).__module__.startswith("sqlalchemy."):
        from sqlalchemy import text

        arguments = {"id": row_id, "lease": lease}
        result = session.execute(text(f"select {function}(cast(:id as uuid), cast(:lease as uuid))"), arguments)
        if inspect.isawaitable(result):
            return _awaited(result)
        _check(result)
        return None
    if not hasattr(session, "cursor"):
        raise InvalidArgument(f"event.complete cannot use a {type(session).__name__}: pass a connection or session")
    with session.cursor() as cursor:
        cursor.execute(f"select {function}(%s::uuid, %s::uuid)", [str(row_id), str(lease)])
        _check(cursor.fetchone()[0])
    return None


async def _awaited(result: Awaitable[Any]) -> None:
    _check(await result)


def _check(result: Any) -> None:
    if not (result.scalar() if hasattr(result, "scalar") else result):
        raise LeaseLost(_LOST)
