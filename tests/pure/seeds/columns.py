"""Columns for tests without a database."""

from __future__ import annotations

from typing import Any

from pgonce.seeds.columns import Column, Kind
from pgonce.seeds.copy_text import RowFormatter, Unwritable


def column(name: str = "c", kind: Kind = "text", **others: Any) -> Column:
    return Column(name, others.pop("type", kind), kind, **others)


def columns(*names: str, kind: Kind = "text") -> list[Column]:
    return [column(name, kind) for name in names]


def lines(formatter: RowFormatter, rows: list[Any]) -> tuple[bytes, list[int]]:
    """The lines of ``rows``, and the positions of the rows that cannot be written."""
    data = bytearray()
    refused = []
    for place, row in enumerate(rows):
        try:
            formatter.write(row, data)
        except Unwritable:
            refused.append(place)
    return bytes(data), refused
