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
    """The lines of ``rows``, and the places of those that have none."""
    taken: list[Any] = []
    refused = []
    for place, row in enumerate(rows):
        try:
            taken.append((place, formatter.take(row)))
        except Unwritable:
            refused.append(place)
    data, unwritable = formatter.format([values for _, values in taken])
    return data, sorted([*refused, *(taken[index][0] for index in unwritable)])
