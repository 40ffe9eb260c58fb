"""Calls of SQL functions that return one value, without psycopg's cursor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection, generators
from psycopg.errors import InvalidSqlStatementName, error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult
from psycopg.types.json import Jsonb

from pgonce.core.call import Call
from pgonce.core.execute_async import execute, is_fault_of_settings, is_usual
from pgonce.errors import translate

T = TypeVar("T")


def _no_scope(jsonb: Jsonb) -> str:
    if jsonb.obj == {}:
        return "{}"
    raise KeyError  # a Jsonb may have a dumps function of its own


_TEXT: dict[type, Callable[[Any], str | None]] = {
    str: str,
    int: str,
    UUID: str,
    Jsonb: _no_scope,
    datetime: str,
    timedelta: lambda length: f"{length.days} days {length.seconds} s {length.microseconds} us",
    type(None): lambda _: None,
}
"""How an argument is written as text. The text does not depend on settings of the session."""
BOOL_TYPE, UUID_TYPE = 16, 2950  # the types' numbers are fixed in PostgreSQL's catalogue
_uses: WeakKeyDictionary[AsyncConnection[Any], dict[bytes, int]] = WeakKeyDictionary()
"""How often a connection has used a statement."""


def arguments_as_text(wanted: Call[Any]) -> list[str | None] | None:
    """The arguments of ``wanted`` as text; None if one has a type that only psycopg can write."""
    try:
        return [_TEXT[type(argument)](argument) for argument in wanted.args.values()]
    except KeyError:
        return None


async def execute_value(conn: AsyncConnection[Any], wanted: Call[T], schema: str) -> T:
    """``execute`` for a function that returns one value, in a transaction of its own whatever the pool's setting.

    A run consists of two such calls, so cursor and adapters are avoided. ``execute`` is used if
    an argument's type is not in the table, and where the session's settings are not the usual ones.

    Raises:
        PgonceError: the SQL function refused the call; translated from its SQLSTATE.
        psycopg.Error: anything else.
    """
    texts = arguments_as_text(wanted)
    try:
        if texts is None or not await is_usual(conn):
            answer = await execute(conn, wanted, schema)
            await conn.commit()  # no round trip in autocommit
            return answer
        result = await send_statement(conn, wanted.numbered(schema), texts)
    except psycopg.Error as error:
        if not conn.closed and await is_fault_of_settings(conn, error):
            answer = await execute(conn, wanted, schema)
            await conn.commit()
            return answer
        raise translate(error) from error
    return wanted.read([(read_value(result.ftype(0), result.get_value(0, 0)),)])


def _encoded(conn: AsyncConnection[Any], text: str) -> bytes:
    if "\0" in text:  # libpq would stop reading there
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    if text.isascii() or (encoding := conn.info.encoding) == "ascii":  # SQL_ASCII takes the bytes as they come
        return text.encode()
    return text.encode(encoding)


def read_value(kind: int, found: bytes | None) -> Any:
    """The value of a text that PostgreSQL wrote for the type with the number ``kind``."""
    if found is None:
        return None
    if kind == UUID_TYPE:
        return UUID(int=int(found.replace(b"-", b""), 16))
    return found == b"t" if kind == BOOL_TYPE else found.decode()


async def send_statement(conn: AsyncConnection[Any], statement: bytes, texts: Sequence[str | None]) -> PGresult:
    """The server's answer to ``statement``. It is prepared after as many uses as psycopg would, never for a pooler.

    Raises:
        psycopg.Error: what the server refused, or that it cannot be reached.
    """
    values = [text if text is None else _encoded(conn, text) for text in texts]
    uses = _uses.setdefault(conn, {})
    count = uses[statement] = uses.get(statement, 0) + 1
    threshold = conn.prepare_threshold
    if threshold is None or count <= threshold:
        conn.pgconn.send_query_params(statement, values)
        return await _answer(conn)
    name = b"pgonce_%x" % (hash(statement) & 0xFFFFFFFFFFFFFFFF)
    if count == threshold + 1:
        conn.pgconn.send_prepare(name, statement)
        await _answer(conn)
    conn.pgconn.send_query_prepared(name, values)
    try:
        return await _answer(conn)
    except InvalidSqlStatementName:  # a DISCARD ALL of the user's; nothing was run
        uses[statement] = 0
        return await send_statement(conn, statement, texts)


async def _answer(conn: AsyncConnection[Any]) -> PGresult:
    result: PGresult = (await conn.wait(generators.execute(conn.pgconn)))[-1]
    if result.status == ExecStatus.FATAL_ERROR:
        raise error_from_result(result, encoding=conn.info.encoding)
    return result
