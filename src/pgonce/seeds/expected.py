"""The values that the table should have, computed from the source for ``--verify`` and written by psycopg.

This module implements the table of types in the docs a second time, and shares no code with ``value_text``.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Any, TypeAlias

from psycopg.types.json import Json, Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from pgonce.errors import InvalidArgument
from pgonce.seeds.columns import Column, TableFacts
from pgonce.seeds.rejected_row import RejectedRow, is_rejected
from pgonce.seeds.seed import Seed
from pgonce.seeds.source import BadRow, Cursor, SeedRow, check_sequence, has_exactly

ROWS = 500
"""Rows that are collected and compared at a time."""
_MARK = f"number {uuid.uuid4()}: "
"""A beginning that no text of a source has: it marks numbers."""
_NUMBER = re.compile(f'"{_MARK}([^"]*)"')
Rejected: TypeAlias = Mapping[int, RejectedRow]
"""What is kept of each rejected row, by the row's number."""
_ROWS = frozenset({list, tuple, dict})
_AS_THEY_ARE = frozenset({type(None), str, int})


class RowReader:
    """Collects the rows of a source that should be in the table, numbered, with their values as psycopg takes them.

    Args:
        rejected: rows that are left out, by their numbers from 1, as far as the source has the same rows there.
        before: the reader of the partition before this one.
    """

    def __init__(
        self, seed: Seed, facts: TableFacts, source: object, rejected: Rejected, before: RowReader | None
    ) -> None:
        self.columns: tuple[str, ...] = before.columns if before else ()
        self.rows: int = before.rows if before else 0
        self.rejected: int = before.rejected if before else 0
        self.is_begun: bool = before.is_begun if before else False
        self._collected: list[tuple[Any, ...]] = []
        self._seed = seed
        self._facts = facts
        self._json_strings = bool(getattr(source, "json_strings", False))
        self._rejected = rejected
        self._number = 0
        self._columns: list[Column] = []
        self._changes: dict[tuple[type, ...], list[int]] = {}

    def add(self, row: SeedRow | BadRow, _: Cursor) -> list[tuple[Any, ...]] | None:
        """Add one row. Returns a full list of rows when there is one."""
        self._number += 1
        self.rows += 1
        if type(row) not in _ROWS and not isinstance(row, Mapping | BadRow):
            check_sequence(row, self._seed.named_columns or ())
            row = tuple(row)
        found = self._rejected.get(self._number)
        if found and is_rejected(row, self._seed.named_columns or (), found, json_strings=self._json_strings):
            self.rejected += 1
            return None
        if isinstance(row, BadRow):
            raise InvalidArgument(row.reason)
        if not self._columns:
            names = list(row) if isinstance(row, Mapping) else list(self._seed.named_columns or ())
            self.columns = self.columns or tuple(names)
            if set(self.columns) != set(names):
                raise InvalidArgument("the partitions of a seed have rows of different columns")
            self._columns = self._facts.find(list(self.columns), self._seed.into, self._seed.key)
        values = self._values(row)
        shape = tuple(map(type, values))
        changes = self._changes.get(shape)
        if changes is None:
            changes = self._changes[shape] = [
                place for place, (kind, column) in enumerate(zip(shape, self._columns, strict=True))
                if kind not in _AS_THEY_ARE or column.kind in {"json", "array", "composite"}
            ]  # fmt: skip
        try:
            for place in changes:
                values[place] = self._expected(values[place], self._columns[place])
        except Exception as error:  # of the value's own class, too
            raise ValueError("a value has no form in its column") from error
        self._collected.append(tuple(values))
        return self.finish() if len(self._collected) >= ROWS else None

    def _values(self, row: SeedRow) -> list[Any]:
        if not isinstance(row, Mapping):
            if len(row) != len(self.columns):
                raise InvalidArgument(f"a row has {len(row)} values for {len(self.columns)} columns")
            return list(row)
        if has_exactly(row, self.columns):
            return [row[name] for name in self.columns]
        raise InvalidArgument(f"a row has the columns {sorted(map(str, row))}, the first had {sorted(self.columns)}")

    def finish(self) -> list[tuple[Any, ...]] | None:
        """The rows that are left, if any."""
        done, self._collected = self._collected, []
        return done or None

    def _expected(self, value: Any, column: Column) -> Any:
        if hasattr(value, "tolist") and not isinstance(value, memoryview):
            value = _without_numpy(value)
        if isinstance(value, Enum):
            is_mixed_in = isinstance(value, str | int)
            value = value.value if is_mixed_in else _json(value) if column.kind == "json" else value.name
        if value is None or _is_nat(value):
            return None
        if isinstance(value, dt.datetime):
            value = _without_nanoseconds(value)
        if isinstance(value, Json | Jsonb):  # the application may have set another function that writes them
            return _json(value.obj)
        if column.kind == "json":
            if isinstance(value, bytes | bytearray | memoryview):
                return bytes(value).decode()
            return value if isinstance(value, str) and not self._json_strings else _json(value)
        if isinstance(value, list | tuple):
            return self._expected_of_many(value, column)
        if isinstance(value, Mapping):
            if column.kind == "composite":
                return self._expected_of_many([value.get(field.name) for field in column.fields], column)
            return _json(value)
        convert = _CONVERSIONS.get(column.kind, _as_it_is)
        return convert(value)

    def _expected_of_many(self, values: Sequence[Any], column: Column) -> Any:
        if column.kind == "array" and column.element:
            element = column.element
            if element.delimiter != ",":  # psycopg puts commas between texts
                return "{" + element.delimiter.join("NULL" if each is None else str(each) for each in values) + "}"
            nested = element.kind not in {"json", "composite"}
            return [
                self._expected_of_many(each, column)
                if nested and isinstance(each, list | tuple)
                else _for_list(self._expected(each, element))
                for each in values
            ]
        if column.kind == "composite":
            fields = zip(values, column.fields, strict=True)
            return tuple(_for_list(self._expected(each, field)) for each, field in fields)
        return _json(values)


def _is_nat(value: Any) -> bool:
    """Whether it is pandas' NA or NaT."""
    return type(value).__name__ == "NAType" or (isinstance(value, dt.datetime) and value != value)  # noqa: PLR0124


def _without_nanoseconds(value: dt.datetime) -> dt.datetime:
    """pandas' datetime as one of Python."""
    return dt.datetime.combine(value.date(), value.timetz())


def _without_numpy(value: Any) -> Any:
    kind = str(getattr(value, "dtype", ""))
    if kind.startswith(("datetime64", "timedelta64")):
        if value.shape:
            return list(value)
        if kind.endswith(("ns]", "ps]", "fs]", "as]")):
            value = value.astype(kind.partition("[")[0] + "[us]")
    return value.tolist()


def _for_list(value: Any) -> Any:
    """psycopg needs the elements of a list to have one type, so they are texts."""
    if value is None or isinstance(value, tuple | list | Range | Multirange):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return str(value)


def _as_it_is(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode()
    if isinstance(value, dt.timedelta):
        return _interval(value)
    if isinstance(value, bool):  # psycopg would write t, and a UUID without hyphens
        return "true" if value else "false"
    if isinstance(value, uuid.UUID):
        return str(value)
    return value if isinstance(value, str | int | float | Decimal | dt.date | dt.time) else _foreign(value)


def _foreign(value: Any) -> Any:
    return str(value) if type(value).__module__.startswith("pgonce.") else value


def _text(value: Any) -> Any:
    if isinstance(value, float):
        text = float.__repr__(value)
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)
    if isinstance(value, dt.date | dt.time):
        return str(value)
    return _as_it_is(value)


def _interval(value: dt.timedelta) -> str:
    seconds = (value - dt.timedelta(value.days)).total_seconds()
    return f"P{value.days}DT{seconds:.6f}S"


def _integer(value: Any) -> Any:
    if hasattr(value, "digits"):  # of a line of JSON that another source hands on
        value = Decimal(value.digits)
    if isinstance(value, float | Decimal) and math.isfinite(value) and value % 1 == 0:
        return int(value)
    return _as_it_is(value)


def _uuid(value: Any) -> Any:
    if isinstance(value, bytes) and len(value) == 16:
        return uuid.UUID(bytes=value)
    return _as_it_is(value)


def _bytea(value: Any) -> Any:
    # psycopg's own text of it depends on standard_conforming_strings
    return "\\x" + bytes(value).hex() if isinstance(value, bytes | bytearray | memoryview) else _as_it_is(value)


def _zoneless(value: Any) -> Any:
    ranges = value if isinstance(value, Multirange) else [value] if isinstance(value, Range) else []
    times = [value, *(bound for each in ranges for bound in (each.lower, each.upper))]
    if any(each.utcoffset() for each in times if isinstance(each, dt.datetime | dt.time)):
        raise ValueError("a time with an offset has no form without one")
    return value.replace(tzinfo=None) if isinstance(value, dt.datetime | dt.time) else _as_it_is(value)


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "text": _text, "integer": _integer, "uuid": _uuid, "zoneless": _zoneless,
    "bytea": _bytea,
}  # fmt: skip


def _json(value: Any) -> str:
    """json.dumps, with the numbers that it does not know put in afterwards."""

    def default(each: Any) -> Any:
        if _is_nat(each):
            return None
        if isinstance(each, dt.date | dt.time):
            return (_without_nanoseconds(each) if isinstance(each, dt.datetime) else each).isoformat()
        if isinstance(each, uuid.UUID):
            return str(each)
        if isinstance(each, Enum):
            return each.name
        if isinstance(each, Json | Jsonb):
            return each.obj
        if isinstance(each, Mapping):  # and not a dict
            return dict(each)
        if hasattr(each, "tolist"):
            return _without_numpy(each)
        return f"{_MARK}{each!s}"  # Decimal, and the digits of a file: format() would spell 1e2 as 1E+2

    return _NUMBER.sub(r"\1", json.dumps(value, default=default, ensure_ascii=False))
