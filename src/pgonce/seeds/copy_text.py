"""Writes Python values as lines of COPY's text format. Each row is written at once, and nothing of it is kept.

psycopg writes a row in C (docs/decisions/copy-writer.md). Before that, a value is replaced by its text where the
column's type reads another text than psycopg writes. Rows without such values are not looked at.
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from operator import itemgetter
from typing import Any, get_args

import psycopg
from psycopg.abc import Dumper
from psycopg.adapt import AdaptersMap, PyFormat, Transformer

from pgonce.errors import InvalidArgument
from pgonce.seeds.columns import NO_NUMBERS, Column, Kind
from pgonce.seeds.source import SeedRow, check_sequence, has_exactly, refuse_pairs
from pgonce.seeds.value_text import PRISTINE, NoForm, ValueWriter


def write_row_text(row: Sequence[Any], transformer: Any, out: bytearray) -> None:
    """What psycopg's function does, by public names alone: about a quarter of its speed."""
    texts = (None if value is None else transformer.get_dumper(value, PyFormat.TEXT).dump(value) for value in row)
    out += b"\t".join(rb"\N" if text is None else _SPECIAL.sub(_escaped, bytes(text)) for text in texts) + b"\n"


_ESCAPES = {b"\b": b"b", b"\t": b"t", b"\n": b"n", b"\v": b"v", b"\f": b"f", b"\r": b"r", b"\\": b"\\"}
_SPECIAL = re.compile(rb"[\b\t\n\v\f\r\\]")


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\" + _ESCAPES[found[0]]


try:
    from psycopg._copy_base import format_row_text  # what Copy.write_row calls; there is no public name for it
except ImportError:  # a release of psycopg that has moved it
    format_row_text = write_row_text
_ALL: frozenset[Kind] = frozenset(get_args(Kind))
_PLAIN: dict[type, frozenset[Kind]] = {
    type(None): _ALL,
    str: _ALL,
    int: _ALL - NO_NUMBERS,
    uuid.UUID: frozenset({"uuid"}),
    dt.date: _ALL - {"json"},
    dt.time: _ALL - {"json", "zoneless"},
    dt.datetime: _ALL - {"json", "zoneless"},
    Decimal: _ALL - {"json", "integer"} - NO_NUMBERS,
    float: _ALL - {"json", "integer", "text", "bytea", "other"} - NO_NUMBERS,
    bool: frozenset({"boolean"}),
}
"""The kinds of columns that read what psycopg writes of a value; for all others `ValueWriter` is called."""
_NUMBERS = frozenset({int, float, Decimal})


class Unwritable(Exception):
    """A row with a value that cannot be written: it has no form in its column, or its class has no dumper."""

    def __init__(self, values: Sequence[Any], error: Exception) -> None:
        super().__init__(_reason(error))
        self.values = values
        self.column: str | None = getattr(error, "column", None)


class _NotPlain(Exception):
    """A value of another class than those of `_Plain`."""


class _Plain(AdaptersMap):
    """psycopg's adapters for exactly these classes, and not for what inherits from them."""

    def __init__(self, kinds: Collection[type]) -> None:
        super().__init__(PRISTINE.adapters)
        self._kinds = frozenset(kinds)

    def get_dumper(self, cls: type, format: PyFormat) -> type[Dumper]:  # noqa: A002 -- psycopg's name for it
        """Asked once for each class, and each time for one that is not plain."""
        if cls not in self._kinds:
            raise _NotPlain
        return super().get_dumper(cls, format)


class RowFormatter:
    """Writes rows for one table.

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
        self._writer = ValueWriter(json_strings=json_strings, adapters=adapters)
        self._transformer = Transformer(PRISTINE)
        self._of_mapping = itemgetter(*self.columns) if len(self.columns) > 1 else None
        self._width = len(self.columns)
        self._plain = dict(_PLAIN)
        if json_strings:
            self._plain[str] = _ALL - {"json"}
        kinds = {column.kind for column in columns}
        # psycopg looks up the class of each value anyway. This transformer knows only the classes that are plain in
        # every column, so that a row needs no check of its types first, which took a fifth of its time. Only for
        # numbers some columns are looked at: most tables have a number, and a time or a UUID.
        self._numberless = [place for place, column in enumerate(columns) if column.kind in NO_NUMBERS]
        self._only_plain = Transformer(_Plain([
            each for each, plain in self._plain.items() if kinds - (NO_NUMBERS if each in _NUMBERS else set()) <= plain
        ]))  # fmt: skip
        self._is_plain = self._is_first = True
        self._odd: dict[tuple[type, ...], list[int]] = {}
        """By the types of a row the places of the values that `ValueWriter` writes."""

    def write(self, row: SeedRow, out: bytearray) -> None:
        """Append the line of ``row`` to ``out``.

        Raises:
            InvalidArgument: the row has other columns than the first, or another number of values.
            Unwritable: a value has no text; ``out`` is as it was.
        """
        values = row if type(row) is tuple else self._values(row)
        before = len(out)
        if self._is_first:
            self._is_first = False
            if not isinstance(row, Mapping):
                refuse_pairs(values, self.columns)
        if len(values) != self._width:
            raise InvalidArgument(f"a row has {len(values)} values for {self._width} columns")
        is_plain = self._is_plain
        for place in self._numberless:
            is_plain = is_plain and type(values[place]) not in _NUMBERS
        try:
            if is_plain:
                try:
                    format_row_text(values, self._only_plain, out)
                except _NotPlain:
                    del out[before:]
                else:
                    return
            shape = tuple(map(type, values))
            odd = self._odd.get(shape)
            if odd is None:
                odd = self._find_odd(shape)
            self._is_plain = not odd
            if odd:
                texts = list(values)
                for place in odd:
                    texts[place] = self._writer.text(texts[place], self._columns[place])
                format_row_text(texts, self._transformer, out)
            else:
                format_row_text(values, self._transformer, out)
        except Exception as error:  # of the value's own class, too
            del out[before:]
            raise Unwritable(values, error) from error

    def _find_odd(self, shape: tuple[type, ...]) -> list[int]:
        if len(self._odd) >= 1000:  # NULLs in many columns: each row may have types of its own
            self._odd.clear()
        pairs = enumerate(zip(shape, self._columns, strict=True))
        self._odd[shape] = [place for place, (kind, column) in pairs if column.kind not in self._plain.get(kind, ())]
        return self._odd[shape]

    def _values(self, row: SeedRow) -> tuple[Any, ...]:
        if not isinstance(row, Mapping):
            check_sequence(row, self.columns)
            return tuple(row)
        if type(row) is dict and len(row) == self._width:
            try:
                return self._of_mapping(row) if self._of_mapping else (row[self.columns[0]],)
            except KeyError:
                pass
        elif has_exactly(row, self.columns):
            return tuple([row[name] for name in self.columns])
        raise InvalidArgument(
            f"a row has the columns {sorted(map(str, row))}, the first had {sorted(self.columns)}: yield equal rows"
        )


def _reason(error: Exception) -> str:
    # the message of a UnicodeError prints no more than a character; others may print the value
    if isinstance(error, NoForm):
        return str(error)
    said = str(error) if isinstance(error, UnicodeError | psycopg.Error) else "a value cannot be written as text"
    return f"{type(error).__name__}: {said}"
