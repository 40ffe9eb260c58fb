"""One call of one SQL function: its name, its arguments by name, and how to read the rows of the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from psycopg import sql
from psycopg.adapt import PyFormat

T = TypeVar("T")
Row = Sequence[Any]

BATCH_LOCK_TIMEOUT = "100ms"
"""How long a statement that several calls share waits for a lock: one call must not delay the others."""

_UNSYNCED = "pg_catalog.set_config('synchronous_commit', 'off', true)"


@dataclass(slots=True)  # not frozen: that took a microsecond more for each call
class Call(Generic[T]):
    """A call of ``function`` with ``args`` (by the SQL names); ``read`` turns its rows into the result.

    It is not to be changed.
    """

    function: str
    args: Mapping[str, Any]
    read: Callable[[Sequence[Row]], T]
    null_unsynced: bool = False
    """Commit asynchronously where the answer is null: losing such a commit costs nothing."""
    many: str | None = None
    """The SQL function for many such calls: it takes an array for each argument, in the order of ``args``."""

    def statement(self, schema: str, *, synced: bool = True) -> bytes:
        """The SELECT. The function is qualified with ``schema``, because the user may set the session's search_path.

        ``synced=False`` makes the commit of its transaction asynchronous. It is set beside the call, not by a SET
        before it: that makes one round trip, which reaches one server also through a transaction pooler.
        """
        arguments = tuple((name, isinstance(value, list)) for name, value in self.args.items())
        return _statement(schema, self.function, arguments, synced, self.null_unsynced)

    def numbered(self, schema: str) -> bytes:
        """The same SELECT with $1, $2 for the arguments, as libpq needs it."""
        return _numbered(schema, self.function, tuple(self.args), self.null_unsynced)

    def batch_statement(self, schema: str) -> bytes:
        """The SELECT of ``many``, one array for each argument; its lock timeout is `BATCH_LOCK_TIMEOUT`."""
        return _batch_statement(schema, self.many or "", len(self.args), self.null_unsynced, BATCH_LOCK_TIMEOUT)


@cache
def _statement(
    schema: str, function: str, names: tuple[tuple[str, bool], ...], synced: bool, null_unsynced: bool
) -> bytes:
    # Arrays are sent in binary. As text, psycopg escapes quotes with a regular expression in Python, and a JSON body is
    # full of quotes: that was 60 % of a receiver's time to record an event of 3.4 kB.
    arguments = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(
            sql.Identifier(name), sql.Placeholder(name, PyFormat.BINARY if is_list else PyFormat.AUTO)
        )
        for name, is_list in names
    )
    escaped = schema.replace("%", "%%")  # % begins a placeholder
    called = sql.SQL("{}({})").format(sql.Identifier(escaped, function), arguments)
    return _select(called, synced, null_unsynced)


@cache
def _numbered(schema: str, function: str, names: tuple[str, ...], null_unsynced: bool) -> bytes:
    arguments = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), sql.SQL(f"${number}")) for number, name in enumerate(names, 1)
    )
    return _select(sql.SQL("{}({})").format(sql.Identifier(schema, function), arguments), True, null_unsynced)


@cache
def _batch_statement(schema: str, function: str, count: int, null_unsynced: bool, lock_timeout: str) -> bytes:
    # the setting stands before the call: PostgreSQL evaluates the values of a SELECT from left to right
    statement = "select answer{} from (select pg_catalog.set_config('lock_timeout', {}, true), {}({}) as answer) calls"
    nothing = "pg_catalog.cardinality(pg_catalog.array_remove(answer, null)) = 0"
    unsynced = f", case when {nothing} then {_UNSYNCED} end"
    arguments = sql.SQL(", ").join(sql.SQL(f"${number}") for number in range(1, count + 1))
    return (
        sql.SQL(statement)
        .format(
            sql.SQL(unsynced if null_unsynced else ""),
            sql.Literal(lock_timeout),
            sql.Identifier(schema, function),
            arguments,
        )
        .as_bytes()
    )


def _select(called: sql.Composed, synced: bool, null_unsynced: bool) -> bytes:
    if null_unsynced:  # not inside the function: there it would hold for the caller's whole transaction
        maybe = f"case when answer is null then {_UNSYNCED} end"
        return sql.SQL("select answer, " + maybe + " from {} as answer").format(called).as_bytes()
    if synced:
        return sql.SQL("select * from {}").format(called).as_bytes()
    return sql.SQL(f"select called.* from {_UNSYNCED}, {{}} as called").format(called).as_bytes()


def value(rows: Sequence[Row]) -> Any:
    """The result of a function that returns one value."""
    return rows[0][0]


def rows_as(kind: Callable[..., T]) -> Callable[[Sequence[Row]], list[T]]:
    """Reads each row as a ``kind``, whose arguments are the columns in their order."""
    return lambda rows: [kind(*row) for row in rows]


def row_as(kind: Callable[..., T]) -> Callable[[Sequence[Row]], T]:
    """Reads the one row as a ``kind``."""
    return lambda rows: kind(*rows[0])


def row_or_none(kind: Callable[..., T]) -> Callable[[Sequence[Row]], T | None]:
    """Reads the first row as a ``kind``; None if there is no row."""
    return lambda rows: kind(*rows[0]) if rows else None


def column(rows: Sequence[Row]) -> list[Any]:
    """The values of the first column."""
    return [row[0] for row in rows]


def clean(text: str, limit: int = 20_000) -> str:
    """``text`` as PostgreSQL's type text can hold it (no NUL, no lone surrogates), its last ``limit`` characters."""
    return text[-limit:].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
