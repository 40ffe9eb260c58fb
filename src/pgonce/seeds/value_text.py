"""Writes a value as text for a column. The text depends on the type of the column, not only on that of the value.

A value that has no faithful form in the column's type raises `NoForm`, and its row becomes a reject: it is never stored
as another value. The table of all pairs is in docs/seeds.md.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any

import psycopg
from psycopg import postgres
from psycopg.adapt import AdaptersMap, PyFormat, Transformer
from psycopg.types import TypesRegistry
from psycopg.types.json import Json, Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from pgonce.seeds.columns import NO_NUMBERS, Column

_MIXED_IN: Any = (str, int)
_TEXTS = (str, bytes, bytearray, memoryview)
_DIGITS = 4000
"""Digits of an integer at most: numeric holds more, but Python refuses to print more than 4,300."""


class NoForm(ValueError):
    """The value cannot be stored in the column without becoming another one. The message holds no value."""

    def __init__(self, value: object, column: Column, why: str = "") -> None:
        self.column = column.name
        what = f"{type(value).__name__} has no form in column {column.name} ({column.type})"
        super().__init__(f"{what}: {why}" if why else what)


class JsonNumber:
    """The digits of a JSON number as they stand in a file: written as they are, also inside of nested JSON.

    Not a str, which json.dumps would write in quotes.
    """

    __slots__ = ("digits",)

    def __init__(self, digits: str) -> None:
        self.digits = digits

    def __str__(self) -> str:
        return self.digits

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JsonNumber) and self.digits == other.digits

    def __hash__(self) -> int:
        return hash(self.digits)


_NUMBERS = (int, float, Decimal, JsonNumber)


class _Pristine:
    """psycopg's adapters as the library ships them, whatever an application has registered globally."""

    def __init__(self) -> None:
        types = TypesRegistry()
        postgres.register_default_types(types)
        self.adapters = AdaptersMap(types=types)
        postgres.register_default_adapters(self.adapters)
        self.connection = None


PRISTINE = _Pristine()


class ValueWriter:
    r"""Writes the values that psycopg would not write as the column's type reads them.

    Args:
        json_strings: a str is a JSON string, as in a JSON file. Else it is JSON text in a json column, as in \copy.
        adapters: the connection's, for classes that psycopg itself does not know (an application's Money, say).
    """

    def __init__(self, *, json_strings: bool = False, adapters: AdaptersMap | None = None) -> None:
        self._json_strings = json_strings
        self._known = Transformer(PRISTINE)
        self._adapters = adapters

    def text(self, value: Any, column: Column) -> str | None:
        """``value`` as ``column``'s type reads it; None for NULL.

        Raises:
            NoForm: it has no faithful form there.
            Exception: it cannot be written.
        """
        if value is None or _is_missing(value):
            return None
        if hasattr(value, "tolist") and not isinstance(value, memoryview):  # numpy's scalars and arrays, array.array
            return self.text(_in_python(value, column), column)
        _refuse_number(value, value, column)
        if isinstance(value, Json | Jsonb):
            return _json(value.obj, column)
        if column.kind == "json" and (self._json_strings or not isinstance(value, _TEXTS)):
            return _json(value, column)
        if column.kind == "array" and column.element and isinstance(value, list | tuple):
            return self._array(value, column, column.element)
        if column.kind == "composite" and isinstance(value, tuple | list | Mapping):
            return self._composite(value, column)
        for kind, write in _BY_TYPE.items():
            if isinstance(value, kind):
                return write(value, column)
        return self._by_psycopg(value, column)

    def _array(self, values: Any, column: Column, element: Column, depth: int = 0) -> str:
        if not values and depth:
            raise NoForm(values, column, "PostgreSQL has no empty array inside of an array")
        texts = []
        for value in values:
            if isinstance(value, list | tuple) and element.kind not in {"json", "composite"}:
                texts.append(self._array(value, column, element, depth + 1))
            else:
                text = self.text(value, element)
                texts.append("NULL" if text is None else _quoted(text, '\\"'))
        return "{" + element.delimiter.join(texts) + "}"

    def _composite(self, value: Any, column: Column) -> str:
        if isinstance(value, Mapping):
            names = [field.name for field in column.fields]
            if unknown := set(value) - set(names):
                raise NoForm(value, column, f"there is no field {min(map(str, unknown))!r}")
            value = [value.get(name) for name in names]
        if len(value) != len(column.fields):
            raise NoForm(value, column, f"{len(value)} values for {len(column.fields)} fields")
        texts = [self.text(each, field) for each, field in zip(value, column.fields, strict=True)]
        return "(" + ",".join("" if text is None else _quoted(text, '""') for text in texts) + ")"

    def _by_psycopg(self, value: Any, column: Column) -> str | None:
        if isinstance(value, Range | Multirange) and not (column.is_range or column.kind == "text"):
            raise NoForm(value, column)  # a date reads [2026-01-02,) as that day, a composite reads (,5) as its values
        for each in value if isinstance(value, Multirange) else [value]:
            if isinstance(each, Range):
                for bound in (each.lower, each.upper):
                    _refuse_number(bound, value, column)
                    _refuse_offset(bound, value, column)
        try:
            dumper = self._known.get_dumper(value, PyFormat.TEXT)
        except psycopg.ProgrammingError:
            try:
                dumper = (self._adapters or PRISTINE.adapters).get_dumper(type(value), PyFormat.TEXT)(type(value))
            except psycopg.ProgrammingError:
                raise NoForm(value, column, "psycopg has no dumper for this class") from None
        dumped = dumper.dump(value)
        return None if dumped is None else bytes(dumped).decode()


def _is_missing(value: Any) -> bool:
    """Whether it is pandas' NA, or NaT: the one datetime that is not equal to itself, as NaN among the floats."""
    return type(value).__name__ == "NAType" or (isinstance(value, dt.datetime) and value != value)  # noqa: PLR0124


def _in_python(value: Any, column: Column) -> Any:
    """What an object of numpy is in Python. Nanoseconds are cut to microseconds, as those of a Parquet file.

    numpy's own ``tolist`` makes plain integers of them, and of months: 5 ns in an interval would become 5 seconds.
    """
    dtype: Any = getattr(value, "dtype", None)
    is_time = dtype is not None and dtype.kind in "mM"
    if is_time and value.shape:
        return list(value)
    if is_time and _FINER.search(dtype.str):
        value = value.astype(f"{dtype.kind}8[us]")
    found = value.tolist()
    if isinstance(found, type(value)) or (is_time and isinstance(found, int)):
        raise NoForm(value, column, "Python has no such value")
    return found


_FINER = re.compile(r"\[\d*[npfa]s\]")
"""The units of numpy's times below the microsecond, as in ``<M8[ns]``."""


def _quoted(text: str, quote: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', quote) + '"'


def _uuid(value: Any, column: Column) -> str:
    if column.kind == "bytea":
        raise NoForm(value, column, "pass its bytes, or its text")
    return str(value)


def _float(value: Any, column: Column) -> str:
    if not math.isfinite(value):
        if math.isnan(value) and column.kind != "number":
            raise NoForm(value, column, "NaN is a number: yield None where a value is missing")
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if column.kind == "integer" and value.is_integer():
        return str(int(value))
    return float.__repr__(value)


def _decimal(value: Any, column: Column) -> str:
    if column.kind == "integer" and value.is_finite() and value.adjusted() < _DIGITS and value % 1 == 0:
        return str(int(value))
    return str(value)


def _json_number(value: Any, column: Column) -> str:
    # 2.0 is an integer in JSON, and pandas writes it for one beside a NULL
    if column.kind == "integer" and not value.digits.lstrip("-").isdigit():
        return _decimal(Decimal(value.digits), column)
    return str(value)


def _bytes(value: Any, column: Column) -> str:
    raw = bytes(value)
    if column.kind == "bytea":
        return "\\x" + raw.hex()
    if column.kind == "uuid" and len(raw) == 16:
        return str(uuid.UUID(bytes=raw))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise NoForm(value, column, "these bytes are not UTF-8") from None


def _time(value: Any, column: Column) -> str:
    _refuse_offset(value, value, column)
    return _datetime(value, " ", column) if isinstance(value, dt.datetime) else str(value)


def _datetime(value: dt.datetime, separator: str, column: Column) -> str:
    # not str(), to which pandas adds nanoseconds, and the server would round them
    text = dt.datetime.isoformat(value, separator)
    if int(text[:4]) != value.year:  # pandas has years that Python has not, and shows Python another one
        raise NoForm(value, column, "Python has no such year")
    return text


def _refuse_number(number: Any, value: Any, column: Column) -> None:
    if column.kind in NO_NUMBERS and isinstance(number, _NUMBERS) and not isinstance(number, bool):
        raise NoForm(value, column, "a number has no form there: pass a text")


def _refuse_offset(time: Any, value: Any, column: Column) -> None:
    if isinstance(time, dt.time) and time.tzinfo is not None and time.utcoffset() is None:
        raise NoForm(value, column, "the offset of its zone depends on the date: use a fixed offset, or a datetime")
    if column.kind == "zoneless" and isinstance(time, dt.datetime | dt.time) and time.utcoffset():
        raise NoForm(
            value, column, "its offset from UTC would be lost: use a type with time zone, or convert it to UTC"
        )


def _timedelta(value: Any, _: Column) -> str:
    # ISO 8601 reads the same under every intervalstyle; "-1 days 5 seconds" is -5 seconds under sql_standard
    return f"P{value.days}DT{value.seconds}.{value.microseconds:06}S"


def _enum(value: Any, column: Column) -> str:
    return str(value.value) if isinstance(value, _MIXED_IN) else _name(value, column)


def _name(value: Enum, column: Column) -> str:
    if value.name is None:  # of a Flag without flags
        raise NoForm(value, column, "it has no name")
    return value.name


def _container(value: Any, column: Column) -> str:
    if column.kind != "text":
        raise NoForm(value, column)
    return _json(value, column)


_BY_TYPE: dict[Any, Callable[[Any, Column], str]] = {
    Enum: _enum,
    str: lambda value, _: str.__str__(value),
    bool: lambda value, _: "true" if value else "false",
    int: lambda value, _: int.__repr__(value),
    float: _float, Decimal: _decimal, (bytes, bytearray, memoryview): _bytes, (dt.datetime, dt.time): _time,
    dt.date: lambda value, _: str(value),
    uuid.UUID: _uuid, JsonNumber: _json_number, dt.timedelta: _timedelta, (dict, list, tuple): _container,
}  # fmt: skip
"""In this order: bool is an int, datetime is a date, and an Enum may be a str or an int."""


def _json(value: Any, column: Column) -> str:
    """``value`` as JSON. Decimals and `JsonNumber` keep their digits, which json.dumps cannot write."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    except TypeError:  # it, or something inside of it, is not JSON's own
        pass
    except ValueError as error:
        why = "JSON has no NaN and no Infinity" if "float" in str(error) else "a loop, or a number of too many digits"
        raise NoForm(value, column, why) from None
    if isinstance(value, Mapping):
        keys = (json.dumps({key: 0}, ensure_ascii=False)[1:-4] for key in value)  # 1 as "1", as json.dumps has it
        items = (f"{key}: {_json(each, column)}" for key, each in zip(keys, value.values(), strict=True))
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_json(each, column) for each in value) + "]"
    if hasattr(value, "tolist") and not isinstance(value, memoryview):
        return _json(_in_python(value, column), column)
    return _json_scalar(value, column)


def _json_scalar(value: Any, column: Column) -> str:
    if isinstance(value, JsonNumber) or (isinstance(value, Decimal) and value.is_finite()):
        return str(value)
    if _is_missing(value):
        return "null"
    if isinstance(value, dt.datetime):
        return json.dumps(_datetime(value, "T", column))
    if isinstance(value, dt.date | dt.time):
        _refuse_offset(value, value, column)
        return json.dumps(value.isoformat())
    if isinstance(value, uuid.UUID):
        return json.dumps(str(value))
    if isinstance(value, Enum):
        return json.dumps(_name(value, column))
    if isinstance(value, Json | Jsonb):
        return _json(value.obj, column)
    raise NoForm(value, column, "JSON has no such value")
