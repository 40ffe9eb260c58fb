"""What the command line prints of rejected rows."""

from __future__ import annotations

import pytest

from pgonce.cli.progress import reasons_of
from pgonce.seeds.calls_operate import RejectGroup


def group(reason: str, column: str | None = None, rows: int = 1) -> RejectGroup:
    return RejectGroup(reason, column, None, rows, 1, "")


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("a.csv, line {}: a CR without LF", "a.csv: a CR without LF"),
        ("a.parquet, row {}: a map has no form", "a.parquet: a map has no form"),
        ("a.jsonl, line {}: not JSON: bad: line 1 column {} (char 3)", "a.jsonl: not JSON: bad"),
    ],
)
def test_reasons_that_differ_in_the_place_only_are_counted_as_one(reason: str, shown: str) -> None:
    groups = [group(reason.format(f"{number:,}", number)) for number in range(995, 1005)]
    assert reasons_of([group("too long", "name", 3), *groups]) == f"10 × {shown} · 3 × name: too long"


def test_of_many_reasons_the_most_frequent_are_shown() -> None:
    shown = reasons_of([group(f"reason {letter}", rows=rows) for rows, letter in enumerate("abcdefgh", 1)])
    assert shown.startswith("8 × reason h · 7 × reason g")
    assert shown.endswith("other reasons")
