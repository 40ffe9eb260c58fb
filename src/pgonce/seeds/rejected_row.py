"""Whether a row of the source is the one that was rejected: only that one may be missing from the table.

A number alone does not tell: the source may have another row in that place by now, which was never written. What was
kept of a rejected row are texts, those of COPY or of Python. A value is compared with its text wherever all texts that
it could have are known, by its Python type; a value of another class is taken for the same.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, NamedTuple

from pgonce.seeds.copy_format import copy_values
from pgonce.seeds.readers.parquet_values import Unreadable
from pgonce.seeds.source import BadRow, SeedRow

_SHOWN_ALIKE = (type(None), str, int, float, bytes, Decimal, dt.date, dt.time, dt.timedelta, uuid.UUID)
"""Classes of which equal values have one repr."""

_NOT_UTF8 = re.compile("[\ufffd\udc80-\udcff]")


class RejectedRow(NamedTuple):
    """What is kept of a row that was rejected."""

    values: Mapping[str, str | None] | None
    """Its texts in COPY, by column."""
    line: bytes | None
    """Where it has none: its line of a COPY, its record in the file, or its values in Python, as JSON."""


def shown_value(value: Any) -> str:
    """The value in ASCII, as it is kept of a row that cannot be written. Printing a value may fail."""
    try:
        return ascii(value)
    except Exception:  # noqa: BLE001 -- of the value's own class
        return f"<{type(value).__name__}>"


def is_rejected(row: SeedRow | BadRow, columns: Sequence[str], rejected: RejectedRow, *, json_strings: bool) -> bool:
    """Whether ``row`` is the one that was rejected, as far as can be told.

    Args:
        row: the row with its number, as the source has it now.
        columns: the names of the row's values, if it is a sequence.
        rejected: what was kept.
        json_strings: the values are those of JSON, where a row that cannot be read comes as NULLs.
    """
    if isinstance(row, BadRow):  # it cannot be written in any case
        return True
    if not isinstance(row, Mapping) and len(row) != len(columns):
        return True
    found = dict(row) if isinstance(row, Mapping) else dict(zip(columns, row, strict=True))
    if any(isinstance(value, Unreadable) for value in found.values()):
        return True
    if json_strings and all(value is None for value in found.values()):
        return True
    if rejected.values is not None:
        return found.keys() == rejected.values.keys() and all(
            _may_be(value, rejected.values[name]) for name, value in found.items()
        )
    return rejected.line is None or _is_line(found, rejected.line, json_strings=json_strings)


def _is_line(found: Mapping[str, Any], line: bytes, *, json_strings: bool) -> bool:
    if line.endswith(b"\n"):
        texts = copy_values(line)
        return len(texts) == len(found) and all(map(_may_be, found.values(), texts))
    text = line.decode("utf-8", "replace")
    try:
        shown = json.loads(text)
    except (ValueError, RecursionError):
        shown = None
    if isinstance(shown, dict):
        if shown.keys() == found.keys():
            kinds = (str, bool) if json_strings else _SHOWN_ALIKE  # numbers of JSON are of another class when written
            if all(shown_value(value) == shown[name] for name, value in found.items() if isinstance(value, kinds)):
                return True
        if json_strings:
            return all(value is None or value in shown.values() for value in found.values())
    if json_strings or not all(isinstance(value, str | None) for value in found.values()):
        return False  # then it was no row at all, and now it is one
    values = "".join(value or "" for value in found.values())
    return "\ufffd" in text and bool(_NOT_UTF8.search(values)) and _signs(values).startswith(_signs(text))


def _signs(text: str) -> str:
    """Letters and digits, without quotes, delimiters and what is not UTF-8."""
    return re.sub(r"\W", "", text)


def _may_be(value: Any, text: str | None) -> bool:
    """Whether ``text`` is what the writer makes of ``value``, in some type of column."""
    if isinstance(value, dt.datetime) and value != value:  # noqa: PLR0124 -- pandas' NaT
        value = None
    if value is None or text is None:
        return value is text or not isinstance(value, _SHOWN_ALIKE)
    if isinstance(value, Enum):
        return True
    if isinstance(value, str):
        if "\ufffd" in text:
            return bool(_NOT_UTF8.search(value))
        return str.__str__(value) == text or _loaded(text) == value
    if isinstance(value, bool):
        return text in ({"t", "true"} if value else {"f", "false"})
    if isinstance(value, int | float | Decimal):
        return _is_number(value, text)
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        return text in {"\\x" + raw.hex(), raw.decode("utf-8", "replace")} or text.replace("-", "") == raw.hex()
    if isinstance(value, uuid.UUID):
        return text.strip('"').replace("-", "") == value.hex
    if isinstance(value, dt.date | dt.time):
        return _digits(text) in {_digits(_micros(value)), _digits(_in_utc(value))}
    return True


def _is_number(value: float | Decimal, text: str) -> bool:
    if isinstance(value, Decimal) and value.is_snan():  # it cannot even be compared
        return text in {"NaN", "sNaN"}
    try:
        number = Decimal(text)
        # no text of an int: Python refuses to make one of more than 4,300 digits
        if number == Decimal(float.__repr__(value) if isinstance(value, float) else value):
            return True
        if number.is_nan() or not isinstance(value, float):
            return number.is_nan() and value != value  # noqa: PLR0124
        # 1e300 has all its digits in a column of integers; 0.1 is the shortest text of a float32
        return float(number) == value or (value == _single(value) and _single(float(number)) == value)
    except InvalidOperation:
        return not isinstance(value, int) and str(value) == text


def _in_utc(value: dt.date | dt.time) -> str:
    """A moment as blocks of a Parquet file have it, whatever its zone."""
    with suppress(OverflowError):
        if isinstance(value, dt.datetime) and value.tzinfo is not None:
            return _micros(value.astimezone(dt.UTC))
    return _micros(value)


def _micros(value: dt.date | dt.time) -> str:
    """Without the nanoseconds of pandas."""
    return dt.datetime.isoformat(value) if isinstance(value, dt.datetime) else str(value)


def _digits(text: str) -> str:
    """Of a time. pyarrow writes zeros after the seconds and a Z; Python does not."""
    return re.sub(r"\D", "", re.sub(r"(\.\d*?)0+(?!\d)", r"\1", text.replace("Z", "+00:00")))


def _single(value: float) -> float:
    """The nearest float of 32 bits."""
    return array("f", [value])[0]


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
