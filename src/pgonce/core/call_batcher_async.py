"""Sends concurrent calls of one SQL function in one statement; ``call_batcher.py`` is written by hand, too."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from math import inf
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from pgonce.core.batcher import Batcher
from pgonce.core.call import Call
from pgonce.core.execute_async import Pool, connection, is_usual
from pgonce.core.fast_call_async import (
    BOOL_TYPE,
    UUID_TYPE,
    arguments_as_text,
    execute_value,
    read_value,
    send_statement,
)
from pgonce.errors import translate

T = TypeVar("T")
_Texts: TypeAlias = list[str | None]

MOST = 100
"""Calls in one statement."""
_ELEMENTS = {1000: BOOL_TYPE, 2951: UUID_TYPE}
"""Array types, and the types of their elements."""
_SEND_ALONE = object()
"""The outcome of every call of a statement that was refused: nothing was written, and each call is sent by itself."""


class AsyncCallBatcher:
    """Calls of functions that return one value. Calls that arrive while some are in flight share one statement.

    The calls of a statement are sorted by their arguments, so that two processes with the same ones wait for each other
    and do not deadlock. If the server refuses the statement, it is rolled back as a whole. Then each call is sent
    alone, and has its own error or its own wait for a lock.

    Args:
        pool: ``batcher.AT_ONCE`` connections of it are used for each function, and one for each call sent alone.
        schema: where ``pgonce migrate`` put the tables.
        unclaimed: gets the value of a call whose caller was cancelled meanwhile.
    """

    def __init__(self, pool: Pool, schema: str, unclaimed: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        self._schema = schema
        self._unclaimed = unclaimed
        self._connect = partial(connection, pool)
        self._single_calls = Batcher(self._connect, self._send_one, most=1, at_once=inf, unclaimed=unclaimed)
        self._batchers: dict[str, Batcher[AsyncConnection[Any], tuple[_Texts, Call[Any]], Any]] = {}

    async def value(self, wanted: Call[T]) -> T:
        """The value of ``wanted``, committed.

        Raises:
            PgonceError: the SQL function refused the call; translated from its SQLSTATE.
            psycopg.Error: anything else.
        """
        texts = arguments_as_text(wanted) if wanted.many else None
        if texts is not None:
            outcome = await self._send_shared(texts, wanted)
            if outcome is not _SEND_ALONE:
                return wanted.read([(outcome,)])
        answer: T = await self._single_calls.submit(wanted)
        return answer

    async def _send_shared(self, texts: _Texts, wanted: Call[Any]) -> Any:
        batcher = self._batchers.get(wanted.function)
        if batcher is None:
            batcher = Batcher(self._connect, self._send, most=MOST, unclaimed=self._hand_back)
            self._batchers[wanted.function] = batcher
        try:
            return await batcher.submit((texts, wanted))
        except psycopg.Error as error:
            raise translate(error) from error

    async def _send_one(self, conn: AsyncConnection[Any], calls: Sequence[Call[Any]]) -> list[Any]:
        return [await execute_value(conn, each, self._schema) for each in calls]

    async def _send(self, conn: AsyncConnection[Any], calls: Sequence[tuple[_Texts, Call[Any]]]) -> list[Any]:
        if not await is_usual(conn):
            return [_SEND_ALONE] * len(calls)
        order = sorted(range(len(calls)), key=lambda number: "\0".join(filter(None, calls[number][0])))
        arrays = [_array(texts) for texts in zip(*(calls[number][0] for number in order), strict=True)]
        try:
            result = await send_statement(conn, calls[0][1].batch_statement(self._schema), arrays)
        except (psycopg.Error, UnicodeError):
            if conn.info.transaction_status == TransactionStatus.IDLE:
                return [_SEND_ALONE] * len(calls)
            raise
        outcomes = [_SEND_ALONE] * len(calls)
        found = (result.get_value(0, 0) or b"")[1:-1].split(b",")
        for number, each in zip(order, found, strict=True):
            outcomes[number] = read_value(_ELEMENTS[result.ftype(0)], None if each == b"NULL" else each)
        return outcomes

    async def _hand_back(self, outcome: Any) -> None:
        if outcome is not _SEND_ALONE:
            await self._unclaimed(outcome)


def _array(texts: Sequence[str | None]) -> str:
    """An array as PostgreSQL reads it."""
    quoted = ["NULL" if text is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts]
    return "{" + ",".join(quoted) + "}"
