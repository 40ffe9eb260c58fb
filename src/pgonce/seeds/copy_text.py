"""Python values as lines of COPY's text format, many rows at a time.

A chunk of rows is looked at column by column, in loops that run in C: one type in a column is one conversion, and one
look for special characters. A row at a time, by templates, took twice as long; a call per value takes longer still
(write_row in `python -m bench.imports`).
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import itemgetter
from typing import Any

import psycopg
from psycopg.adapt import AdaptersMap, PyFormat, Transformer

from pgonce.errors import InvalidArgument
from pgonce.seeds.copy_format import SPECIAL
from pgonce.seeds.source import SeedRow

_NULL = r"\N"
# T and F, because "%.1s" can print them: boolean reads both.
_PLAIN: dict[type, str] = {
    str: "%s", int: "%s", Decimal: "%s", uuid.UUID: "%s", float: "%r", bool: "%.1s",
    dt.datetime: "%s", dt.date: "%s", dt.time: "%s",
}  # fmt: skip
_ERRORS = (psycopg.Error, UnicodeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class _Adapters:
    adapters: AdaptersMap
    connection: None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that has no text: a lone surrogate, a type that nobody can dump."""

    index: int
    """Its place in the chunk."""
    row: SeedRow
    reason: str


class RowFormatter:
    """Formats rows for one table.

    Args:
        columns: the columns of a line, in order.
        arrays: those of them that are arrays: there a list is an array, elsewhere it is JSON.
        adapters: for types that are not formatted here; the connection's, so that what a user registered counts.
    """

    def __init__(self, columns: Sequence[str], arrays: Collection[str], adapters: AdaptersMap | None = None) -> None:
        self.columns = tuple(columns)
        self._is_array = [column in arrays for column in columns]
        self._transformer = Transformer(_Adapters(adapters) if adapters else None)
        self._of_mapping: Callable[[Any], tuple[Any, ...]] = (
            itemgetter(*self.columns) if len(self.columns) > 1 else lambda row: (row[self.columns[0]],)
        )

    def format(self, rows: Sequence[SeedRow]) -> tuple[bytes, list[Refused]]:
        """The lines of ``rows``, and the rows that have none.

        Raises:
            InvalidArgument: a row has other columns than the first, or another number of values.
        """
        tuples = self._tuples(rows)
        try:
            return self._chunk(tuples).encode(), []
        except _ERRORS:  # which row it is
            pass
        lines, refused = [], []
        for index, values in enumerate(tuples):
            try:
                texts = (self._value(*pair) for pair in zip(values, self._is_array, strict=True))
                lines.append(("\t".join(texts) + "\n").encode())
            except _ERRORS as error:
                refused.append(Refused(index, rows[index], f"{type(error).__name__}: {_without_value(error)}"))
        return b"".join(lines), refused

    def _tuples(self, rows: Sequence[SeedRow]) -> list[tuple[Any, ...]]:
        width = len(self.columns)
        if set(map(len, rows)) - {width}:
            wrong = next(row for row in rows if len(row) != width)
            if isinstance(wrong, Mapping):
                self._other_columns(wrong)
            raise InvalidArgument(f"a row has {len(wrong)} values for {width} columns")
        kinds = set(map(type, rows))
        if kinds == {tuple}:
            return rows  # type: ignore[return-value]
        try:
            if kinds == {dict}:
                return list(map(self._of_mapping, rows))
            return [self._of_mapping(row) if isinstance(row, Mapping) else tuple(row) for row in rows]
        except KeyError:
            self._other_columns(next(row for row in rows if isinstance(row, Mapping) and row.keys() != {*self.columns}))
            raise

    def _other_columns(self, row: Mapping[str, Any]) -> None:
        raise InvalidArgument(
            f"a row has the columns {sorted(row)}, the first had {sorted(self.columns)}: yield equal rows"
        )

    def _chunk(self, rows: Sequence[tuple[Any, ...]]) -> str:
        columns = list(zip(*rows, strict=True))
        printed = [self._column(*pair) for pair in zip(columns, self._is_array, strict=True)]
        line = "\t".join(template for template, _ in printed) + "\n"
        if any(texts is not values for (_, texts), values in zip(printed, columns, strict=True)):
            rows = list(zip(*(texts for _, texts in printed), strict=True))
        return "".join([line % row for row in rows])

    def _column(self, values: tuple[Any, ...], is_array: bool) -> tuple[str, Sequence[Any]]:
        """How each of ``values`` is printed: a template for the values themselves, or for texts in their place."""
        kinds = set(map(type, values))
        has_nulls = type(None) in kinds
        kinds.discard(type(None))
        kind = kinds.pop() if len(kinds) == 1 else None
        texts: Sequence[str]
        if kind is str:
            texts = escaped(["" if value is None else value for value in values] if has_nulls else values)
        elif kind in _PLAIN and not has_nulls:
            return _PLAIN[kind], values
        else:
            texts = [self._value(value, is_array) for value in values]
        if has_nulls:
            texts = [_NULL if value is None else text for value, text in zip(values, texts, strict=True)]
        return "%s", texts

    def _value(self, value: Any, is_array: bool) -> str:
        template = _PLAIN.get(type(value))
        if value is None:
            return _NULL
        if template:
            text = template % (value,)
        elif isinstance(value, bytes | bytearray | memoryview):
            return r"\\x" + bytes(value).hex()
        elif isinstance(value, dict) or (isinstance(value, list) and not is_array):
            text = json.dumps(value, allow_nan=False)
        else:
            dumped = self._transformer.get_dumper(value, PyFormat.TEXT).dump(value)
            if dumped is None:
                return _NULL
            text = bytes(dumped).decode()
        return _escape(text)


def escaped(values: Sequence[str]) -> Sequence[str]:
    """``values`` for COPY's text format, all at once; they themselves where none has a special character."""
    joined = "\0".join(values)
    if not any(special in joined for special in SPECIAL):
        return values
    if joined.count("\0") >= len(values):  # no text in PostgreSQL has a NUL: the table will refuse that row
        return list(map(_escape, values))
    return _escape(joined).split("\0")


def _escape(text: str) -> str:
    for special, escape in SPECIAL.items():
        text = text.replace(special, escape)
    return text


def _without_value(error: Exception) -> str:
    # the message of a UnicodeError or of json prints no more than a character; others may print the value
    return str(error) if isinstance(error, UnicodeError | psycopg.Error) else "a value cannot be written as text"
