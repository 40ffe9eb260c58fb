"""Where a batch of rows ends: never between two rows of one cursor."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from pgonce.protocol.seeds import Batcher

sizes = st.integers(1, 8)
# few values: long runs of equal cursors, and cursors that come back
cursors = st.lists(st.sampled_from([0, 1, False, "a", {"chapter": 1}, {"chapter": 2}, ["x"]]), max_size=40)


def cut(rows: Iterable[tuple[Any, Any]], size: int) -> list[Any]:
    batcher = Batcher(lambda: size)
    batches = [batch for row, cursor in rows if (batch := batcher.add(row, cursor))]
    last = batcher.finish()
    return [*batches, last] if last else batches


@given(cursors, sizes)
@example([0] * 40, 1)
def test_every_row_is_in_one_batch_and_in_order(found: list[Any], size: int) -> None:
    batches = cut(enumerate(found), size)
    assert [row for batch in batches for row in batch.rows] == list(range(len(found)))
    assert all(batch.rows for batch in batches)


@given(cursors, sizes)
def test_rows_with_equal_cursors_are_never_cut_apart(found: list[Any], size: int) -> None:
    batches = cut(enumerate(found), size)
    for before, after in itertools.pairwise(batches):
        assert found[before.rows[-1]] != found[after.rows[0]]


@given(cursors, sizes)
def test_a_batch_s_cursor_is_that_of_its_last_row(found: list[Any], size: int) -> None:
    for batch in cut(enumerate(found), size):
        assert batch.cursor == found[batch.rows[-1]]


@given(cursors, sizes)
def test_a_batch_ends_at_the_first_change_of_cursor_behind_its_size(found: list[Any], size: int) -> None:
    for batch in cut(enumerate(found), size)[:-1]:
        assert len(batch.rows) >= size
        enough = [found[row] for row in batch.rows[size - 1 :]]
        assert all(cursor == enough[0] for cursor in enough)


@given(st.lists(st.integers(1, 6), min_size=1), sizes, st.data())
def test_resuming_behind_any_batch_gives_exactly_the_rows_that_are_left(
    verses: list[int], size: int, data: st.DataObject
) -> None:
    rows = [((chapter, verse), chapter) for chapter, count in enumerate(verses) for verse in range(count)]
    done = cut(rows, size)
    done = done[: data.draw(st.integers(1, len(done)))]
    rest = cut([(row, chapter) for row, chapter in rows if chapter > done[-1].cursor], size)
    assert [row for batch in (*done, *rest) for row in batch.rows] == [row for row, _ in rows]


def test_the_size_may_change_while_it_runs() -> None:
    wanted = iter([1, 3, 3, 3, 3, 3, 3, 3])
    batcher = Batcher(lambda: next(wanted))
    batches = [batcher.add((row,), row) for row in range(7)]
    assert [batch.rows for batch in batches if batch] == [[(0,)], [(1,), (2,), (3,)]]


def test_nothing_in_nothing_out() -> None:
    assert Batcher(lambda: 1).finish() is None
