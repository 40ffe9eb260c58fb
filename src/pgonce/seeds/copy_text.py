"""Python values as lines of COPY's text format, many rows at a time.

A chunk of rows is looked at column by column, in loops that run in C: one type in a column is one conversion, and one
look for special characters. A row at a time, by templates, took twice as long; a call per value takes longer still
(docs/decisions/copy-writer.md).
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from operator import itemgetter
from typing import Any, get_args

import psycopg
from psycopg.adapt import AdaptersMap

from pgonce.errors import InvalidArgument
from pgonce.seeds.columns import Column, Kind
from pgonce.seeds.copy_format import SPECIAL
from pgonce.seeds.source import SeedRow
from pgonce.seeds.value_text import JsonNumber, NoForm, Text, ValueWriter

_NULL = r"\N"
_NOT_JSON: frozenset[Kind] = frozenset({"json"})
_TEMPLATES: dict[type, tuple[str, frozenset[Kind]]] = {
    str: ("%s", frozenset()),
    Text: ("%s", frozenset()),
    JsonNumber: ("%s", frozenset()),
    int: ("%s", frozenset()),
    uuid.UUID: ("%s", _NOT_JSON),
    dt.date: ("%s", _NOT_JSON),
    dt.time: ("%s", _NOT_JSON),
    dt.datetime: ("%s", _NOT_JSON | {"timestamp"}),
    Decimal: ("%s", _NOT_JSON | {"integer"}),
    float: ("%r", _NOT_JSON | {"integer", "text"}),
    bool: ("%.1s", frozenset(get_args(Kind)) - {"boolean"}),  # T and F, which boolean reads
}
"""How values of a type are printed, and the kinds of columns for which `ValueWriter` is asked instead."""
_UNCHANGING = frozenset({*_TEMPLATES, type(None), bytes, dt.timedelta})
"""Types whose values cannot change after the row was taken; a value of any other type is written at once."""
ERRORS = (psycopg.Error, UnicodeError, TypeError, ValueError, RecursionError, ArithmeticError)


class Unwritable(Exception):
    """A row that has no text: a value without a form in its column, a lone surrogate, a type that nobody can dump."""

    def __init__(self, values: Sequence[Any], error: Exception) -> None:
        super().__init__(_reason(error))
        self.values = values


class RowFormatter:
    """Takes rows for one table as they come, and formats them chunk by chunk.

    Args:
        columns: the columns of a line, in order.
        json_strings: a str is a JSON string, as in a JSON file.
        adapters: the connection's, for classes that only the application knows.
    """

    def __init__(
        self, columns: Sequence[Column], *, json_strings: bool = False, adapters: AdaptersMap | None = None
    ) -> None:
        self._columns = tuple(columns)
        self.columns = tuple(column.name for column in columns)
        self._json_strings = json_strings
        self._writer = ValueWriter(json_strings=json_strings, adapters=adapters)
        self._of_mapping: Callable[[Any], tuple[Any, ...]] = (
            itemgetter(*self.columns) if len(self.columns) > 1 else lambda row: (row[self.columns[0]],)
        )
        self._shapes: set[tuple[type, ...]] = set()
        """The types of the rows of this chunk."""

    def take(self, row: SeedRow) -> tuple[Any, ...]:
        """The row's values, as they are now: a source may use its row object, and what is in it, again.

        Raises:
            InvalidArgument: the row has other columns than the first, or another number of values.
            Unwritable: a value has no text.
        """
        values = row if type(row) is tuple else self._values(row)
        shape = tuple(map(type, values))
        if shape not in self._shapes:
            if len(values) != len(self.columns):
                raise InvalidArgument(f"a row has {len(values)} values for {len(self.columns)} columns")
            if not _UNCHANGING.issuperset(shape):
                values = self._written(values, keep_unchanging=True)
                shape = tuple(map(type, values))
            self._shapes.add(shape)
        return values

    def format(self, rows: Sequence[tuple[Any, ...]]) -> tuple[bytes, dict[int, Unwritable]]:
        """The lines of ``rows``, which were taken since the last call, and by their index the rows that have none."""
        shapes, self._shapes = self._shapes, set()
        try:
            return self._chunk(rows, shapes).encode(), {}
        except ERRORS:  # which row it is
            pass
        lines, refused = [], {}
        for index, values in enumerate(rows):
            try:
                texts = (_NULL if text is None else _escape(text) for text in self._written(values))
                lines.append(("\t".join(texts) + "\n").encode())
            except Unwritable as error:
                refused[index] = error
            except UnicodeError as error:
                refused[index] = Unwritable(values, error)
        return b"".join(lines), refused

    def _values(self, row: SeedRow) -> tuple[Any, ...]:
        if not isinstance(row, Mapping):
            return tuple(row)
        if len(row) == len(self.columns):
            try:
                return self._of_mapping(row)
            except KeyError:
                pass
        raise InvalidArgument(
            f"a row has the columns {sorted(row)}, the first had {sorted(self.columns)}: yield equal rows"
        )

    def _written(self, values: Sequence[Any], *, keep_unchanging: bool = False) -> tuple[Any, ...]:
        written = list[Any]()
        try:
            for value, column in zip(values, self._columns, strict=True):
                if value is None or (keep_unchanging and type(value) in _UNCHANGING):
                    written.append(value)
                else:
                    text = self._writer.text(value, column)
                    written.append(None if text is None else Text(text))
        except ERRORS as error:
            raise Unwritable(values, error) from error
        return tuple(written)

    def _chunk(self, rows: Sequence[tuple[Any, ...]], shapes: set[tuple[type, ...]]) -> str:
        columns = list(zip(*rows, strict=True))
        kinds = map(set, zip(*shapes, strict=True))
        printed = [self._column(*each) for each in zip(columns, self._columns, kinds, strict=True)]
        line = "\t".join(template for template, _ in printed) + "\n"
        if any(texts is not values for (_, texts), values in zip(printed, columns, strict=True)):
            rows = list(zip(*(texts for _, texts in printed), strict=True))
        return "".join([line % row for row in rows])

    def _column(self, values: tuple[Any, ...], column: Column, kinds: set[type]) -> tuple[str, Sequence[Any]]:
        """How each of ``values`` is printed: a template for the values themselves, or for texts in their place."""
        has_nulls = type(None) in kinds
        kinds.discard(type(None))
        kind = kinds.pop() if len(kinds) == 1 else object
        template, odd = _TEMPLATES.get(kind, ("", frozenset()))
        if kind is str and column.kind in {"json", "array"} and self._json_strings:
            template = ""
        texts: Sequence[str]
        if not template or column.kind in odd:
            written = (self._writer.text(value, column) for value in values)
            return "%s", [_NULL if text is None else _escape(text) for text in written]
        if kind is str or kind is Text:
            texts = escaped(["" if value is None else value for value in values] if has_nulls else values)
        elif not has_nulls:
            return template, values
        else:
            texts = [template % (value,) for value in values]
        if has_nulls:
            texts = [_NULL if value is None else text for value, text in zip(values, texts, strict=True)]
        return "%s", texts


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


def _reason(error: Exception) -> str:
    # the message of a UnicodeError prints no more than a character; others may print the value
    if isinstance(error, NoForm):
        return str(error)
    said = str(error) if isinstance(error, UnicodeError | psycopg.Error) else "a value cannot be written as text"
    return f"{type(error).__name__}: {said}"
