"""Calls of one function that come at the same time; its twin is written by hand, too."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from math import inf
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from pgonce.core.batcher import Gathering
from pgonce.core.call import Call
from pgonce.core.execute_async import Pool, connection, is_usual
from pgonce.core.fast_call_async import BOOL_TYPE, UUID_TYPE, execute_value, loaded, sent, written
from pgonce.errors import translate

T = TypeVar("T")
_Texts: TypeAlias = list[str | None]

MOST = 100
"""Calls in one statement."""
_ELEMENTS = {1000: BOOL_TYPE, 2951: UUID_TYPE}
"""The types of arrays, and of what is in them."""
_ALONE = object()
"""The outcome of a call whose companions, or which itself, was refused: nothing of theirs was done."""


class AsyncTogether:
    """Calls of functions that return one value; those that come while some are under way share a statement and commit.

    They stand in it in the order of their arguments, so that two processes with the same ones wait for each other and
    do not deadlock. None is at another's expense: what the server refuses is rolled back as a whole, then each goes
    alone and has its own error, or its own wait for a lock.

    Args:
        pool: ``gathering.AT_ONCE`` connections of it for each function, and one for each call that goes alone.
        schema: where ``pgonce migrate`` put the tables.
        unclaimed: is given the value of a call whose caller was cancelled meanwhile.
    """

    def __init__(self, pool: Pool, schema: str, unclaimed: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        self._schema = schema
        self._unclaimed = unclaimed
        self._turn = partial(connection, pool)
        self._alone = Gathering(self._turn, self._send_one, most=1, at_once=inf, unclaimed=unclaimed)
        self._kinds: dict[str, Gathering[AsyncConnection[Any], tuple[_Texts, Call[Any]], Any]] = {}

    async def value(self, wanted: Call[T]) -> T:
        """The value of ``wanted``, committed.

        Raises:
            PgonceError: what the protocol refused, translated from its SQLSTATE.
            psycopg.Error: anything else.
        """
        texts = written(wanted) if wanted.many else None
        if texts is not None:
            outcome = await self._shared(texts, wanted)
            if outcome is not _ALONE:
                return wanted.read([(outcome,)])
        said: T = await self._alone.sent(wanted)
        return said

    async def _shared(self, texts: _Texts, wanted: Call[Any]) -> Any:
        gathering = self._kinds.get(wanted.function)
        if gathering is None:
            gathering = Gathering(self._turn, self._send, most=MOST, unclaimed=self._leave)
            self._kinds[wanted.function] = gathering
        try:
            return await gathering.sent((texts, wanted))
        except psycopg.Error as error:
            raise translate(error) from error

    async def _send_one(self, conn: AsyncConnection[Any], calls: Sequence[Call[Any]]) -> list[Any]:
        return [await execute_value(conn, each, self._schema) for each in calls]

    async def _send(self, conn: AsyncConnection[Any], calls: Sequence[tuple[_Texts, Call[Any]]]) -> list[Any]:
        if not await is_usual(conn):
            return [_ALONE] * len(calls)
        order = sorted(range(len(calls)), key=lambda number: [text or "" for text in calls[number][0]])
        arrays = [_array(texts) for texts in zip(*(calls[number][0] for number in order), strict=True)]
        try:
            result = await sent(conn, calls[0][1].together(self._schema), arrays)
        except (psycopg.Error, UnicodeError):
            if conn.info.transaction_status == TransactionStatus.IDLE:
                return [_ALONE] * len(calls)
            raise
        outcomes = [_ALONE] * len(calls)
        found = (result.get_value(0, 0) or b"")[1:-1].split(b",")
        for number, each in zip(order, found, strict=True):
            outcomes[number] = loaded(_ELEMENTS[result.ftype(0)], None if each == b"NULL" else each)
        return outcomes

    async def _leave(self, outcome: Any) -> None:
        if outcome is not _ALONE:
            await self._unclaimed(outcome)


def _array(texts: Sequence[str | None]) -> str:
    """An array as PostgreSQL reads it."""
    escaped = (text and text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join("NULL" if text is None else f'"{text}"' for text in escaped) + "}"
