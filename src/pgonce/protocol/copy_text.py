"""Python values as lines of COPY's text format, many rows at a time.

Measured against psycopg's write_row on rows of five columns: one % per row and one look for special characters per
chunk cost a third of one call per value.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import itemgetter
from typing import Any

import psycopg
from psycopg.adapt import AdaptersMap, PyFormat, Transformer

from pgonce.errors import InvalidArgument
from pgonce.protocol.source import SeedRow

# "%.0s" prints nothing of None. T and F, because "%.1s" can print them: boolean reads both.
_PLAIN: dict[type, str] = {
    str: "%s", int: "%s", Decimal: "%s", uuid.UUID: "%s", float: "%r", bool: "%.1s", type(None): r"%.0s\N",
    dt.datetime: "%s", dt.date: "%s", dt.time: "%s",
}  # fmt: skip
_SPECIAL = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


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
        self._templates: dict[tuple[type, ...], tuple[str, int] | None] = {}
        self._of_mapping: Callable[[Any], tuple[Any, ...]] = (
            itemgetter(*self.columns) if len(self.columns) > 1 else lambda row: (row[self.columns[0]],)
        )

    def format(self, rows: Sequence[SeedRow]) -> tuple[bytes, list[Refused]]:
        """The lines of ``rows``, and the rows that have none.

        Raises:
            InvalidArgument: a row has other columns than the first, or another number of values.
        """
        tuples = self._tuples(rows)
        text = self._quickly(tuples)
        if text is not None:
            try:
                return text.encode(), []
            except UnicodeEncodeError:
                pass
        lines, refused = [], []
        for index, values in enumerate(tuples):
            try:
                lines.append(b"\t".join(self._value(*pair) for pair in zip(values, self._is_array, strict=True)))
            except (psycopg.Error, UnicodeError, TypeError, ValueError) as error:
                refused.append(Refused(index, rows[index], f"{type(error).__name__}: {_without_value(error)}"))
        return b"".join(line + b"\n" for line in lines), refused

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

    def _quickly(self, rows: Iterable[tuple[Any, ...]]) -> str | None:
        """All rows by templates; None where a value needs more: an escape, or a type that has no template."""
        lines: list[str] = []
        nulls, templates = 0, self._templates
        for row in rows:
            kinds = tuple(map(type, row))
            try:
                found = templates[kinds]
            except KeyError:
                found = templates[kinds] = _template(kinds)
            if found is None:
                return None
            nulls += found[1]
            lines.append(found[0] % row)
        text = "".join(lines)
        # as many special characters as the templates have themselves, or one of them belongs to a value
        width = len(self.columns) - 1
        if text.count("\t") != width * len(lines) or text.count("\n") != len(lines):
            return None
        return None if text.count("\\") != nulls or "\r" in text else text

    def _value(self, value: Any, is_array: bool) -> bytes:
        template = _PLAIN.get(type(value))
        if value is None:
            return rb"\N"
        if template:
            text = template % (value,)
        elif isinstance(value, bytes | bytearray | memoryview):
            return rb"\\x" + bytes(value).hex().encode()
        elif isinstance(value, dict) or (isinstance(value, list) and not is_array):
            text = json.dumps(value, allow_nan=False)
        else:
            dumped = self._transformer.get_dumper(value, PyFormat.TEXT).dump(value)
            if dumped is None:
                return rb"\N"
            text = bytes(dumped).decode()
        return text.translate(_SPECIAL).encode()


def _template(kinds: tuple[type, ...]) -> tuple[str, int] | None:
    if not all(kind in _PLAIN for kind in kinds):
        return None
    return "\t".join(_PLAIN[kind] for kind in kinds) + "\n", kinds.count(type(None))


def _without_value(error: Exception) -> str:
    # the message of a UnicodeError or of json prints no more than a character; others may print the value
    return str(error) if isinstance(error, UnicodeError | psycopg.Error) else "a value cannot be written as text"
