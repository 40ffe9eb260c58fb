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

    def statement(self, schema: str) -> bytes:
        """The SELECT, qualified with ``schema``: the session's search_path belongs to the user."""
        return _statement(schema, self.function, tuple(self.args))


@cache
def _statement(schema: str, function: str, names: tuple[str, ...]) -> bytes:
    arguments = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in names
    )
    return sql.SQL("select * from {}({})").format(sql.Identifier(schema, function), arguments).as_bytes()


def value(rows: Sequence[Row]) -> Any:
    """The result of a function that returns one value."""
    return rows[0][0]


def clean(text: str, limit: int = 20_000) -> str:
    """``text`` as PostgreSQL's type text can hold it (no NUL, no lone surrogates), its last ``limit`` characters."""
    return text[-limit:].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
