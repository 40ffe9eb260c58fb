"""The values of a Parquet column: in Python, or as text."""

from __future__ import annotations

import datetime as dt
import uuid
from contextlib import suppress
from decimal import Decimal
from types import ModuleType
from typing import Any

from pgonce.errors import InvalidArgument, first_line
from pgonce.seeds.columns import NO_NUMBERS, Column
from pgonce.seeds.copy_format import SPECIAL

_KEYS = (str, int, float, Decimal, dt.date, dt.time, uuid.UUID)
"""Of a map: those that str() writes as JSON's names, also in a column of jsonb."""
_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000}


class Unreadable:
    """A value that Python or JSON has no form for."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def plain_columns(batch: Any) -> Any:
    """The batch without dictionaries and with microseconds, also inside of lists, structs and maps."""
    for index, field in enumerate(batch.schema):
        kind = _plain_type(field.type)
        if kind != field.type:
            column = batch.column(index)
            if hasattr(column, "storage"):
                column = column.storage
            batch = batch.set_column(index, field.name, column.cast(kind, safe=False))
    return batch


def _plain_type(kind: Any) -> Any:
    arrow, types = pyarrow("lib"), pyarrow("types")
    if types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if types.is_timestamp(kind) and kind.unit == "ns":
        return arrow.timestamp("us", kind.tz)
    if types.is_time64(kind) and kind.unit == "ns":
        return arrow.time64("us")
    if types.is_duration(kind) and kind.unit == "ns":
        return arrow.duration("us")
    if types.is_map(kind):
        return arrow.map_(_plain_type(kind.key_type), kind.item_field.with_type(_plain_type(kind.item_type)))
    if types.is_struct(kind):
        return arrow.struct([each.with_type(_plain_type(each.type)) for each in kind])
    if types.is_fixed_size_list(kind):
        return arrow.list_(kind.value_field.with_type(_plain_type(kind.value_type)), kind.list_size)
    if types.is_large_list(kind):
        return arrow.large_list(kind.value_field.with_type(_plain_type(kind.value_type)))
    if types.is_list(kind):
        return arrow.list_(kind.value_field.with_type(_plain_type(kind.value_type)))
    return kind


def is_typed(kind: Any, column: Column) -> bool:
    """Whether the column's type reads another text than pyarrow writes of such values."""
    types = pyarrow("types")
    if types.is_dictionary(kind):
        kind = kind.value_type
    if hasattr(kind, "extension_name"):
        return True
    if types.is_floating(kind):  # the text of a float32 is that of another float64: 0.1, and not 0.10000000149011612
        return column.type != "real" and not (types.is_float64(kind) and column.type == "double precision")
    if types.is_decimal(kind) or types.is_integer(kind):
        return column.kind in NO_NUMBERS or (column.kind == "integer" and types.is_decimal(kind))
    if types.is_timestamp(kind) and kind.tz not in {None, "UTC"}:  # blocks have it in UTC, which is another timetz
        return column.type != "timestamp with time zone"
    if types.is_date32(kind) or types.is_time(kind) or types.is_timestamp(kind):
        return column.kind in {"json", "text", "bytea"}
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return not (text or types.is_boolean(kind) or types.is_null(kind))


def values_of(column: Any) -> list[Any]:
    """The column's values in Python, in place of each that has none its reason."""
    if _leaves_the_day(column):
        beyond = ValueError("it is beyond 23:59:59")
        return [
            _unreadable(each, beyond) if _leaves_the_day(column.slice(place, 1)) else _value(each)
            for place, each in enumerate(column)
        ]
    if not pyarrow("types").is_nested(column.type):
        with suppress(ValueError, OverflowError, ArithmeticError):
            return [_interval(each) if hasattr(each, "months") else each for each in column.to_pylist()]
    return [_value(each) for each in column]


def _leaves_the_day(values: Any) -> bool:
    """Whether a time, also in lists, is before 00:00 or after 23:59:59: pyarrow would give it as that of another day.

    PostgreSQL has 24:00:00, and Python has not.
    """
    types, kind = pyarrow("types"), values.type
    if types.is_struct(kind):
        return any(map(_leaves_the_day, values.flatten()))
    if types.is_map(kind):
        first, after = values.offsets[0].as_py(), values.offsets[-1].as_py()
        return any(_leaves_the_day(part.slice(first, after - first)) for part in (values.keys, values.items))
    if types.is_nested(kind):
        return _leaves_the_day(values.flatten())
    if not types.is_time(kind):
        return False
    arrow = pyarrow("lib")
    found = pyarrow("compute").min_max(values.cast(arrow.int32() if kind.bit_width == 32 else arrow.int64())).as_py()
    return found["min"] is not None and not 0 <= found["min"] <= found["max"] < _DAY[kind.unit]


def _value(scalar: Any) -> Any:
    try:
        found = scalar.as_py()
        return _with_dicts(found, scalar.type) if found is not None else None
    except (ValueError, OverflowError, ArithmeticError) as error:
        types = pyarrow("types")
        if types.is_date(scalar.type) or types.is_timestamp(scalar.type):
            if (moment := in_utc(scalar)) is not scalar:  # of a zone that is not known here, or of a year that is
                return _value(moment)  # beyond Python's in that zone alone
            with suppress(ValueError):
                text = str(scalar.cast(pyarrow("lib").string()))
                if "out of range" not in text:
                    return text  # of a year that Python does not know, and PostgreSQL may
        return _unreadable(scalar, error)


def _unreadable(scalar: Any, error: Exception) -> Unreadable:
    where = "a value inside of " if pyarrow("types").is_nested(scalar.type) else ""
    return Unreadable(f"{where}a {scalar.type} has no form: {first_line(error)}")


def in_utc(moments: Any) -> Any:
    """The same moments in UTC: pyarrow writes an offset without its seconds, +0053 for the 53:28 of Berlin in 1880."""
    kind = moments.type
    if not pyarrow("types").is_timestamp(kind) or kind.tz in {None, "UTC"}:
        return moments
    return moments.cast(pyarrow("lib").timestamp(kind.unit, "UTC"))


def _with_dicts(value: Any, kind: Any) -> Any:
    """Maps, which pyarrow gives as lists of pairs, as dicts."""
    types = pyarrow("types")
    if value is None:
        return None
    if types.is_map(kind):
        found = {}
        for key, item in value:
            name = _name_of(key)
            if name in found:
                raise ValueError("a map has a key twice")
            found[name] = _with_dicts(item, kind.item_type)
        return found
    if types.is_struct(kind):
        return {each.name: _with_dicts(value[each.name], each.type) for each in kind}
    if types.is_nested(kind) and hasattr(kind, "value_type"):
        return [_with_dicts(each, kind.value_type) for each in value]
    return _interval(value) if hasattr(value, "months") else value


def _name_of(key: Any) -> str:
    """A key of a map as a name in JSON. str() of bytes would be their repr, and that of True is not JSON's."""
    if isinstance(key, bytes):
        return key.decode()
    if isinstance(key, bool):
        return "true" if key else "false"
    if not isinstance(key, _KEYS):
        raise ValueError("JSON has no such key of a map")  # noqa: TRY004 -- as a value that has no form
    return str(key)


def escaped(texts: Any) -> Any:
    """The texts as fields of COPY's text format, NULL still as NULL."""
    raw = texts.buffers()[2].to_pybytes()  # all of a slice's base, too: a look more than needed at a resume
    for special, escape in SPECIAL.items():
        if special.encode() in raw:
            texts = pyarrow("compute").replace_substring(texts, special, escape)
    return texts


def _interval(value: Any) -> str:
    """ISO 8601, which reads the same under every intervalstyle."""
    seconds, micros = divmod(abs(value.nanoseconds) // 1000, 1_000_000)
    sign = "-" if value.nanoseconds < 0 else ""
    return f"P{value.months}M{value.days}DT{sign}{seconds}.{micros:06}S"


def pyarrow(module: str) -> ModuleType:
    """A module of pyarrow.

    Raises:
        InvalidArgument: it is not installed.
    """
    try:
        return __import__(f"pyarrow.{module}", fromlist=["_"])
    except ImportError as error:
        raise InvalidArgument("Parquet needs pyarrow: run pip install 'pgonce[parquet]'") from error
