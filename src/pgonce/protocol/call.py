"""One call of one SQL function: its name, its arguments by name, and how to read the row that comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from psycopg import sql

T = TypeVar("T")
Row = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A call of ``function`` with ``args`` (by the SQL names); ``read`` turns its rows into the result."""

    function: str
    args: Mapping[str, Any]
    read: Callable[[Sequence[Row]], T]

    def statement(self, schema: str, *, synced: bool = True) -> bytes:
        """The SELECT, qualified with ``schema``: the session's search_path belongs to the user.

        ``synced=False`` makes the commit of its transaction asynchronous. It is set beside the call, not by a SET
        in front of it: one round trip, and behind a transaction pooler one server.
        """
        return _statement(schema, self.function, tuple(self.args), synced)


@cache
def _statement(schema: str, function: str, names: tuple[str, ...], synced: bool) -> bytes:
    arguments = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in names
    )
    called = sql.SQL("{}({})").format(sql.Identifier(schema, function), arguments)
    if synced:
        return sql.SQL("select * from {}").format(called).as_bytes()
    unsynced = sql.SQL("select called.* from set_config('synchronous_commit', 'off', true), {} as called")
    return unsynced.format(called).as_bytes()


def value(rows: Sequence[Row]) -> Any:
    """The result of a function that returns one value."""
    return rows[0][0]


def clean(text: str, limit: int = 20_000) -> str:
    """``text`` as PostgreSQL's type text can hold it (no NUL, no lone surrogates), its last ``limit`` characters."""
    return text[-limit:].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
