"""Batches and resumes: after any batch, the rows after its cursor are exactly those that are left."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgonce.errors import InvalidArgument
from pgonce.seeds.batch import Batch, BatchBuilder, BatchSizer, build_batches
from pgonce.seeds.calls import jsonb
from pgonce.seeds.copy_format import copy_lines, copy_values
from pgonce.seeds.copy_text import RowFormatter
from tests.pure.seeds.columns import columns

# the verses of a chapter share a cursor; there is a chapter for each count
chapters = st.lists(st.integers(1, 6), min_size=1, max_size=12)


def cut(rows: Iterable[tuple[Any, Any]], sizer: BatchSizer) -> list[Batch]:
    return list(build_batches(rows, BatchBuilder(sizer, lambda _: RowFormatter(columns("chapter", "verse")))))


def read(batches: Iterable[Batch]) -> list[tuple[int, ...]]:
    """The rows that COPY would write."""
    lines = [line for batch in batches for line in copy_lines(b"".join(batch.parts))]
    return [tuple(int(value or "") for value in copy_values(line)) for line in lines]


@given(chapters, st.integers(1, 8), st.data())
def test_resuming_behind_any_batch_gives_exactly_the_rows_that_are_left(
    verses: list[int], size: int, data: st.DataObject
) -> None:
    rows = [((chapter, verse), chapter) for chapter, count in enumerate(verses) for verse in range(count)]
    done = cut(rows, BatchSizer(size))
    done = done[: data.draw(st.integers(1, len(done)))]
    rest = cut([(row, chapter) for row, chapter in rows if chapter > done[-1].cursor], BatchSizer(size))
    assert read([*done, *rest]) == [row for row, _ in rows]


@given(chapters, st.lists(st.integers(1, 8), min_size=1))
def test_a_size_that_changes_from_batch_to_batch_cuts_no_chapter_apart(verses: list[int], sizes: list[int]) -> None:
    rows = [((chapter, verse), chapter) for chapter, count in enumerate(verses) for verse in range(count)]
    sizer = BatchSizer(sizes[0])
    builder = BatchBuilder(sizer, lambda _: RowFormatter(columns("chapter", "verse")))
    batches: list[Batch] = []
    for row, chapter in rows:
        if batch := builder.add(row, chapter):
            batches.append(batch)
            sizer.fixed = sizes[len(batches) % len(sizes)]
    if last := builder.finish():
        batches.append(last)
    assert read(batches) == [row for row, _ in rows]
    assert sum(batch.rows for batch in batches) == len(rows)
    per_batch = [{chapter for chapter, _ in read([batch])} for batch in batches]
    assert sum(map(len, per_batch)) == len(verses)


class Vector(list[int]):
    """An array, of which == gives no bool."""

    __hash__ = None

    def __eq__(self, _: object) -> bool:
        raise ValueError("ambiguous")


def test_cursors_are_compared_as_json() -> None:
    found = cut([((n, 0), Vector([n // 2])) for n in range(6)], BatchSizer(1))
    assert [batch.rows for batch in found] == [2, 2, 2]
    pairs = [{"a": 1}, {"a": True}, {"a": [1]}, {"a": [True]}, 1, True, 0.5, 1e23, 10**23, "1"]
    found = cut([((n, 0), cursor) for n, cursor in enumerate(pairs)], BatchSizer(1))
    assert [(batch.rows, batch.cursor) for batch in found if batch.rows > 1] == [(2, 10**23)]
    with pytest.raises(InvalidArgument, match="the checkpoint is not JSON: Exceeds"):
        cut([((n, 0), {"n": 10**5000}) for n in range(2)], BatchSizer(1))
    with pytest.raises(InvalidArgument, match="the checkpoint is not JSON"):
        cut([((1, 1), functools.reduce(lambda inner, _: [inner], range(200_000), list[Any]()))], BatchSizer(1))


def test_nothing_in_nothing_out() -> None:
    assert cut([], BatchSizer(1)) == []


@pytest.mark.parametrize(
    ("cursor", "reason"),
    [
        ("a\0b", "has the character NUL"), ({"a": ["\\\0"]}, "has the character NUL"), ("\ud800", "is not JSON"),
        ({"\udcff": 1}, "is not JSON"), (float("nan"), "is not JSON"), ({1, 2}, "is not JSON"),
    ],
)  # fmt: skip
def test_a_cursor_that_jsonb_cannot_hold_is_refused_with_the_reason(cursor: Any, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=f"the checkpoint {reason}"):
        jsonb(cursor, "checkpoint")
    for text in ("\\u0000", "\\\\u0000", "\U0001f600"):
        assert jsonb(text, "checkpoint").obj == text
