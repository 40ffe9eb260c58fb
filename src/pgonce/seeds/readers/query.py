"""A query on another PostgreSQL database as a source: what COPY writes there, COPY reads here."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from hashlib import blake2b
from typing import Any, LiteralString, get_args

import psycopg
from psycopg import Connection, sql
from psycopg.conninfo import conninfo_to_dict

from pgonce.core.database import check_url
from pgonce.core.execute import fetch, no_transaction_timeout
from pgonce.errors import InvalidArgument, SourceChanged, summary
from pgonce.seeds.columns import NO_NUMBERS, Column, Kind
from pgonce.seeds.copy_format import copy_values
from pgonce.seeds.source import Cursor, Verdict

BLOCK = 64 * 1024
_ONE_TEXT = frozenset({
    "integer", "bigint", "smallint", "uuid", "date", "boolean", "oid", "bytea", "timestamp without time zone",
    "timestamp with time zone",
})  # fmt: skip
"""Types in which equal values have one text: an index on such a key gives the order alone."""
_DIGITS = re.compile(r"\([\d,]+\)")
_MISREAD: Mapping[str, Collection[Kind]] = {
    **dict.fromkeys(
        ("smallint", "integer", "bigint", "numeric", "real", "double precision", "oid", "int4range",
         "int8range", "numrange", "int4multirange", "int8multirange", "nummultirange"),
        NO_NUMBERS,
    ),
    "bytea": frozenset(get_args(Kind)) - {"bytea"},
    **{name: {"integer", "number", "interval", "json", "bytea"} for name in ("bit", '"bit"', "bit varying")},
    **{name: NO_NUMBERS | {"array", "interval", "bytea"} for name in ("json", "jsonb")},
    "uuid": {"bytea"},
    "time with time zone": {"zoneless"},
}  # fmt: skip
"""By the type in the query: kinds of columns that take its text for another value: 20260102 for a day, the bits 101 for
a hundred and one, the object {} for an array."""
_BOOLEANS: Mapping[str, LiteralString] = {"boolean": "{}::text", "boolean[]": "{}::text[]"}
# texts that the other server reads as the same values, whatever is set there; and time to read all rows
_SETTINGS = (
    "set local client_encoding = 'UTF8'; set local datestyle = 'ISO'; set local intervalstyle = 'iso_8601';"
    " set local extra_float_digits = 3; set local bytea_output = 'hex'; set local timezone = 'UTC';"
    " set local statement_timeout = 0"
)


class Query:
    """The rows of a query, in the order of its key: the key of the last row is the cursor.

    One run reads one snapshot. The next run takes the rows whose key is greater; rows that were changed in between are
    not seen again, except with ``--restart``.

    Args:
        url: of the database that is read.
        query: a SELECT.
        key: columns of its result that identify a row and have an order.

    Raises:
        InvalidArgument: while reading: the database refuses the query, or it has no such key.
    """

    total = None

    def __init__(self, url: str, query: str, key: Sequence[str]) -> None:
        self._url = url
        self._query = sql.SQL(query.strip().rstrip(";").rstrip())
        self._key = tuple(key)
        self._names: dict[str, str] = {}
        check_url(url)
        server = conninfo_to_dict(url)
        database = str(server.get("dbname") or "another database")
        # hashes: the query may hold values, and what is taken for the host or the database may hold a password
        self._database = _hash(*(str(server.get(each)) for each in ("host", "hostaddr", "port", "service", "dbname")))
        # a / in a password that is not encoded ends the host, and the rest is taken as the database's name
        self.name = f"a query on {'another database' if '@' in database else database}"

    @property
    def columns(self) -> Sequence[str]:
        """Those of the result, by the table's names."""
        return tuple(self._names.get(name, name) for name in self._types)

    @property
    def types(self) -> Mapping[str, str]:
        """The type of each column, as the other database calls it."""
        return dict(zip(self.columns, self._types.values(), strict=True))

    @property
    def copy_columns(self) -> Sequence[str]:
        """``columns``."""
        return self.columns

    def check_columns(self, known: Collection[str] | Mapping[str, Column], table: str) -> None:
        """Refuse a column whose text would be another value in the table's.

        Raises:
            InvalidArgument: with its name and type.
        """
        columns = known if isinstance(known, Mapping) else {}
        for name, kind in self.types.items():
            if name in columns and _is_misread(kind, columns[name]):
                raise InvalidArgument(
                    f"column {name} of {self.name} is of type {kind}, whose text is another value in {table}, where it "
                    f"is of type {columns[name].type}: convert it in the query"
                )

    def rename(self, names: Mapping[str, str]) -> None:
        """Give columns other names."""
        self._names |= names

    def fingerprint(self, cursor: Cursor | None) -> Mapping[str, Any]:
        """Which query of which database it is. A key of another query, or of another shard, is not a place in it."""
        del cursor
        names = (f"{old}={new}" for old, new in sorted(self._names.items()))
        return {"query": _hash(self._query.as_string(), *names), "database": self._database}

    def same(self, stored: Mapping[str, Any]) -> Verdict:
        """``same``, where it is the same query on the same database.

        Raises:
            SourceChanged: it is not.
        """
        for key, found in self.fingerprint(None).items():
            if stored.get(key) != found:
                raise SourceChanged(
                    f"{self.name}: the {key} is not that of the checkpoint: give this import another --name, begin at "
                    "the start (--restart), or resume after the last key that was read (--accept-change)"
                )
        return "same"

    def __call__(self, cursor: Cursor | None) -> Iterator[tuple[list[str | None], Cursor]]:
        """The rows after ``cursor`` as texts."""
        for line in self._lines(cursor):
            values = copy_values(line)
            yield values, self._cursor(values)

    def copy_blocks(self, cursor: Cursor | None) -> Iterator[tuple[bytes, int, Cursor]]:
        """The rows after ``cursor`` as COPY has written them."""
        lines: list[bytes] = []
        size = 0
        for line in self._lines(cursor):
            lines.append(line)
            size += len(line)
            if size >= BLOCK:
                yield b"".join(lines), len(lines), self._cursor(copy_values(line))
                lines, size = [], 0
        if lines:
            yield b"".join(lines), len(lines), self._cursor(copy_values(lines[-1]))

    def _cursor(self, values: Sequence[str | None]) -> Cursor:
        row = dict(zip(self._types, values, strict=True))
        if lacking := [name for name in self._key if row[name] is None]:
            raise InvalidArgument(
                f"{self.name} has a row without {lacking[0]}, so a run could not resume after it: leave such rows out "
                f"(where {lacking[0]} is not null)"
            )
        return {name: row[name] for name in self._key}

    @cached_property
    def _types(self) -> dict[str, str]:
        """The type of each column."""
        with self._connected() as conn:
            looked = conn.execute(sql.SQL("select * from ({}\n) pgonce_query limit 0").format(self._query))
            found, result = looked.description or (), looked.pgresult
            names = [column.name for column in found]
            if lacking := [name for name in self._key if name not in names]:
                raise InvalidArgument(f"{self.name} has no column {lacking[0]}: it has {', '.join(names)}")
            # with its length: a cast to "character" would cut a key to one letter
            kinds = [(column.type_code, result.fmod(place) if result else -1) for place, column in enumerate(found)]
            types = [fetch(conn, "select pg_catalog.format_type(%s, %s)", kind) for kind in kinds]
        return {name: str(kind[0][0]) for name, kind in zip(names, types, strict=True)}

    def _lines(self, cursor: Cursor | None) -> Iterator[bytes]:
        """The rows after ``cursor`` in COPY's text format, a line each."""
        if cursor is not None and (not isinstance(cursor, dict) or set(cursor) != set(self._key)):
            raise InvalidArgument(f"the checkpoint {cursor!r} is not a place in {self.name}: it looks like a row's key")
        key = self._in_order({name: sql.Identifier(name) for name in self._key})
        after: sql.Composable = sql.SQL("")
        if cursor is not None:
            casts = {name: self._types[name].replace("{", "{{").replace("}", "}}") for name in self._key}
            values = {name: sql.SQL("{}::" + cast).format(sql.Literal(cursor[name])) for name, cast in casts.items()}
            after = sql.SQL("where ({}) > ({})").format(key, self._in_order(values))
        columns = sql.SQL(", ").join(
            # true, and not t, also in a column of texts
            sql.SQL(_BOOLEANS.get(kind, "{}")).format(sql.Identifier(name))
            for name, kind in self._types.items()
        )
        statement = sql.SQL("copy (select {} from ({}\n) pgonce_query {} order by {}) to stdout").format(
            columns, self._query, after, key
        )
        with self._connected() as conn, conn.cursor() as reader, reader.copy(statement) as copy:
            rest = b""
            for data in copy:
                rest += data
                *lines, rest = rest.split(b"\n")
                for line in lines:
                    yield line + b"\n"

    def _in_order(self, key: Mapping[str, sql.Composable]) -> sql.Composed:
        """The key in an order in which no two texts are equal, such as 1.0 and 1.00, or a and A under a collation."""
        parts = list[sql.Composable]()
        for name, value in key.items():
            if "." not in self._types[name]:  # of citext in a schema that is not on the path, > would be that of text
                parts.append(value)
            if _DIGITS.sub("", self._types[name]) not in _ONE_TEXT:
                parts.append(sql.SQL('({})::text collate "C"').format(value))
        return sql.SQL(", ").join(parts)

    @contextmanager
    def _connected(self) -> Iterator[Connection[Any]]:
        try:
            with psycopg.connect(self._url) as conn:
                conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                conn.read_only = True
                conn.execute((_SETTINGS + no_transaction_timeout(conn)).encode())
                yield conn
        except psycopg.Error as error:
            reason = summary(error)
            raise InvalidArgument(f"{self.name} cannot be read: {reason}") from error


def _is_misread(kind: str, column: Column) -> bool:
    if kind.endswith("[]"):
        if column.element is None:
            return column.kind != "text"
        return _is_misread(kind.removesuffix("[]"), column.element)
    return column.kind in _MISREAD.get(_DIGITS.sub("", kind), ())


def _hash(*parts: str) -> str:
    return blake2b("\0".join(parts).encode(errors="surrogateescape"), digest_size=16).hexdigest()
