"""Rows as COPY's text, and where batches of them end."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgonce.errors import InvalidArgument
from pgonce.seeds.batch import BYTES, LARGEST, SMALLEST, Pace, Packed, Packer, join_blocks, pack
from pgonce.seeds.copy_format import TEXT
from pgonce.seeds.copy_text import RowFormatter
from pgonce.seeds.source import CopyFormat

texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\\\t\n\r\b\fN."), max_size=12)
values = st.none() | st.integers() | texts


def formatter(*columns: str) -> RowFormatter:
    return RowFormatter(columns or ("a", "b"), ())


@given(st.lists(st.tuples(values, values), min_size=1, max_size=20))
def test_what_is_written_is_read_back_value_by_value(rows: list[tuple[Any, Any]]) -> None:
    data, refused = formatter().format(rows)
    assert refused == []
    read = [tuple(TEXT.values(line)) for line in TEXT.lines(data)]
    assert read == [tuple(None if value is None else str(value) for value in row) for row in rows]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, b"\\N"), ("\\N", b"\\\\N"), ("a\rb", b"a\\rb"), (True, b"T"), (False, b"F"),
        (1.5, b"1.5"), (float("inf"), b"inf"),
        (Decimal("1.10"), b"1.10"), (b"\0\\", b"\\\\x005c"), ({"a": "\t"}, b'{"a": "\\\\t"}'), ([1, "x"], b'[1, "x"]'),
        (dt.date(2026, 1, 2), b"2026-01-02"), (dt.time(1, 2), b"01:02:00"),
        (dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC), b"2026-01-02 03:04:00+00:00"),
        (uuid.UUID(int=1), b"00000000-0000-0000-0000-000000000001"),
    ],
)  # fmt: skip
def test_a_value_is_written_alike_beside_plain_and_beside_special_neighbours(value: Any, text: bytes) -> None:
    assert formatter().format([(value, "x")]) == (text + b"\tx\n", [])
    assert formatter().format([(value, "\t")]) == (text + b"\t\\t\n", [])


def test_a_list_is_an_array_only_in_a_column_of_arrays() -> None:
    assert RowFormatter(("a", "b"), {"a"}).format([([1, 2], [1, 2])])[0] == b"{1,2}\t[1, 2]\n"


def test_a_row_without_a_text_is_refused_alone_and_its_value_is_not_in_the_reason() -> None:
    data, refused = formatter().format([("a", 1), ("\ud800", 2), ("c", object()), ("d", 4)])
    assert data == b"a\t1\nd\t4\n"
    assert [bad.index for bad in refused] == [1, 2]


@pytest.mark.parametrize("row", [("a",), ("a", "b", "c"), {"a": 1}, {"a": 1, "c": 2}])
def test_a_row_of_other_columns_is_an_error_of_the_source(row: Any) -> None:
    with pytest.raises(InvalidArgument):
        formatter().format([{"a": 1, "b": 2} if isinstance(row, dict) else ("a", "b"), row])


# Batches -------------------------------------------------------------------------------------------------------------


def packed(cursors: list[Any], size: int) -> list[Packed]:
    rows = (((number, "x"), cursor) for number, cursor in enumerate(cursors))
    return list(pack(rows, Packer(Pace(size), lambda _: formatter())))


@given(st.lists(st.sampled_from([0, 1, "a", {"chapter": 1}, ["x"]]), max_size=60), st.integers(1, 9))
def test_batches_hold_every_row_once_in_order_and_end_only_where_the_cursor_changes(
    cursors: list[Any], size: int
) -> None:
    batches = packed(cursors, size)
    ids = [int(TEXT.values(line)[0] or "") for batch in batches for line in TEXT.lines(b"".join(batch.parts))]
    assert ids == list(range(len(cursors)))
    done = 0
    for batch in batches:
        done += batch.rows
        assert batch.cursor == cursors[done - 1]
        assert batch.cursors == cursors[done - batch.rows : done]
        if done < len(cursors):
            assert batch.rows >= size
            assert cursors[done] != cursors[done - 1]


def test_rows_of_a_megabyte_end_a_batch_after_a_few() -> None:
    batches = list(pack(((("x" * 1_000_000, 1), n) for n in range(12)), Packer(Pace(50_000), lambda _: formatter())))
    assert max(sum(map(len, batch.parts)) for batch in batches) <= BYTES + 2_000_000
    assert sum(batch.rows for batch in batches) == 12


def test_ready_blocks_are_joined_to_batches_and_never_cut() -> None:
    class Blocks:
        copy_columns: Sequence[str] = ("a",)
        copy_format: CopyFormat = TEXT

        def copy_blocks(self, cursor: Any) -> Any:
            yield from ((b"1\n" * 4, 4, number) for number in range(cursor, 5))

    batches = list(join_blocks(Blocks(), 0, Pace(7)))
    assert [(batch.rows, batch.cursor) for batch in batches] == [(8, 1), (8, 3), (4, 4)]


def test_a_batch_grows_while_it_is_quick_and_shrinks_when_it_is_slow() -> None:
    pace = Pace()
    for _ in range(20):
        pace.took(pace.size, 0.01)
    assert pace.size == LARGEST
    pace.took(pace.size, 2.0)
    assert pace.size == LARGEST // 2
    for _ in range(20):
        pace.took(pace.size, 60.0)
    assert pace.size == SMALLEST


def test_a_batch_of_a_given_size_keeps_it() -> None:
    pace = Pace(7)
    pace.took(7, 0.001)
    assert pace.size == 7


def test_a_limit_bounds_the_batch_and_asks_for_the_time_that_is_missing() -> None:
    pace = Pace(5000, limit=100)
    assert pace.size == 100
    assert pace.pause(300, 1.0) == 2.0
    assert pace.pause(300, 9.0) == 0.0
    assert Pace(5000).pause(10**9, 0.1) == 0.0
