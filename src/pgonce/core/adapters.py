"""The adapters of own statements: psycopg's defaults, whatever the application has registered."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from psycopg import DataError
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap
from psycopg.postgres import register_default_adapters, register_default_types
from psycopg.types import TypesRegistry
from psycopg.types.array import register_all_arrays
from psycopg.types.datetime import TimestamptzBinaryLoader
from psycopg.types.json import set_json_dumps, set_json_loads

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{\]}]')
_LEVELS = 100


def _loads(given: str | bytes) -> Any:
    """The value. If it is nested deeper than Python reads, what is below `_LEVELS` levels of it becomes its text."""
    text = given if isinstance(given, str) else bytes(given).decode("utf-8", "replace")
    try:
        return json.loads(text)
    except RecursionError:
        return json.loads(_with_deep_values_as_text(text))


def _with_deep_values_as_text(text: str) -> str:
    parts: list[str] = []
    depth = begin = end = 0
    for match in _TOKEN.finditer(text):
        if match[0] in {"[", "{"}:
            depth += 1
            if depth == _LEVELS + 1:
                begin = match.start()
        elif match[0] in {"]", "}"}:
            if depth == _LEVELS + 1:
                parts += text[end:begin], json.dumps(text[begin : match.end()])
                end = match.end()
            depth -= 1
    return "".join(parts) + text[end:]


_EARLIEST, _LATEST = datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)
"""A year from the ends of Python's calendar: a zone's offset or a day may be added."""


class _TimeLoader(TimestamptzBinaryLoader):
    """A time at the ends of Python's calendar or beyond them is read as the earliest or the latest one.

    SQL accepts ``infinity`` and the year 20000 in every column of the tables. With an error, one such row would hide
    all others of its list.
    """

    def load(self, data: Buffer) -> datetime:
        try:
            return min(max(super().load(data), _EARLIEST), _LATEST)
        except DataError:
            is_before_2000 = bytes(data[:1]) >= b"\x80"  # the sign of a count of microseconds
            return _EARLIEST if is_before_2000 else _LATEST


def read_time(text: str) -> datetime:
    """A time in JSON that the database has written, such as ``2026-11-23T06:00:00+00:00``, within the same bounds."""
    try:
        return min(max(datetime.fromisoformat(text), _EARLIEST), _LATEST)
    except ValueError:
        return _EARLIEST if text.startswith("-") or text.endswith("BC") else _LATEST


def _shipped() -> AdaptersMap:
    types = TypesRegistry()
    register_default_types(types)
    adapters = AdaptersMap(types=types)
    register_default_adapters(adapters)
    register_all_arrays(adapters)
    adapters.register_loader("timestamptz", _TimeLoader)
    # set_json_loads without a context changes the default loader itself, which this map would share
    set_json_loads(_loads, adapters)
    set_json_dumps(json.dumps, adapters)
    return adapters


ADAPTERS = _shipped()
"""Independent of ``psycopg.adapters``, where an application may register loaders and dumpers for all connections."""
