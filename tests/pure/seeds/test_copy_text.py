"""Rows as the text of COPY, and where their batches end."""

from __future__ import annotations

import datetime as dt
import sqlite3
import subprocess
import sys
import uuid
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg._copy_base import format_row_text
from psycopg.adapt import Transformer

from pgonce.errors import InvalidArgument
from pgonce.seeds.batch import (
    BYTES,
    LARGEST,
    SMALLEST,
    Batch,
    BatchBuilder,
    BatchSizer,
    Refused,
    build_batches,
    join_blocks,
)
from pgonce.seeds.columns import Kind
from pgonce.seeds.copy_format import copy_lines, copy_values
from pgonce.seeds.copy_text import RowFormatter, Unwritable, write_row_text
from pgonce.seeds.source import BadRow
from pgonce.seeds.value_text import JsonNumber
from tests.pure.seeds.columns import column, columns, lines

texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from("\\\t\n\r\b\fN."), max_size=12
)
values = st.none() | st.integers() | texts


def formatter(*names: str) -> RowFormatter:
    return RowFormatter(columns(*(names or ("a", "b"))))


@given(st.lists(st.tuples(values, values), min_size=1, max_size=20))
def test_what_is_written_is_read_back_value_by_value(rows: list[tuple[Any, Any]]) -> None:
    data, refused = lines(formatter(), rows)
    assert refused == []
    read = [tuple(copy_values(line)) for line in copy_lines(data)]
    assert read == [tuple(None if value is None else str(value) for value in row) for row in rows]


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, "text", b"\\N"), ("\\N", "text", b"\\\\N"), ("a\rb", "text", b"a\\rb"),
        (True, "boolean", b"t"), (False, "boolean", b"f"), (True, "text", b"true"), (False, "json", b"false"),
        (1.5, "number", b"1.5"), (float("inf"), "number", b"inf"), (float("inf"), "text", b"Infinity"),
        (2.0, "integer", b"2"), (2.5, "integer", b"2.5"), (Decimal("3.00"), "integer", b"3"),
        (Decimal("1.10"), "number", b"1.10"), (Decimal("1.10"), "json", b"1.10"),
        (b"\0\\", "bytea", b"\\\\x005c"), (b"\xc3\xa4", "text", "ä".encode()),
        (uuid.UUID(int=1).bytes, "uuid", b"00000000-0000-0000-0000-000000000001"),
        ({"a": "\t"}, "json", b'{"a": "\\\\t"}'), ([1, "x"], "text", b'[1, "x"]'),
        ({"a": [Decimal("1.50"), dt.date(2026, 1, 2)]}, "json", b'{"a": [1.50, "2026-01-02"]}'),
        (dt.date(2026, 1, 2), "other", b"2026-01-02"), (dt.time(1, 2), "other", b"01:02:00"),
        (dt.date(2026, 1, 2), "json", b'"2026-01-02"'),
        (dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC), "other", b"2026-01-02 03:04:00+00:00"),
        (dt.timedelta(days=-1, seconds=5), "interval", b"P-1DT5.000000S"),
        (uuid.UUID(int=1), "uuid", b"00000000000000000000000000000001"),
        (JsonNumber("1.10"), "number", b"1.10"), ({"a": JsonNumber("1.10")}, "json", b'{"a": 1.10}'),
    ],
)  # fmt: skip
def test_a_value_is_written_alike_beside_plain_and_beside_special_neighbours(
    value: Any, kind: Kind, text: bytes
) -> None:
    made = RowFormatter([column("a", kind), column("b")])
    assert lines(made, [(value, "x")]) == (text + b"\tx\n", [])
    assert lines(made, [(value, "\t")]) == (text + b"\t\\t\n", [])
    assert lines(made, [(None, "x"), (value, "x"), ("\ud800", "x")]) == (b"\\N\tx\n" + text + b"\tx\n", [2])


def test_a_list_is_an_array_only_in_a_column_of_arrays() -> None:
    array = column("a", "array", element=column("a", "integer"))
    made = RowFormatter([array, column("b", "json")])
    assert lines(made, [([1, None], [1, 2])])[0] == b'{"1",NULL}\t[1, 2]\n'


def test_a_row_without_a_text_is_refused_alone_and_its_value_is_not_in_the_reason() -> None:
    data, refused = lines(formatter(), [("a", 1), ("\ud800", 2), ("c", object()), ("d", 4)])
    assert data == b"a\t1\nd\t4\n"
    assert refused == [1, 2]
    with pytest.raises(Unwritable, match=r"^list has no form in column a \(integer\)$"):
        RowFormatter([column("a", "integer")]).write((["secret"],), bytearray())


@pytest.mark.parametrize("row", [("a",), ("a", "b", "c"), {"a": 1}, {"a": 1, "c": 2}])
def test_a_row_of_other_columns_is_an_error_of_the_source(row: Any) -> None:
    with pytest.raises(InvalidArgument):
        lines(formatter(), [{"a": 1, "b": 2} if isinstance(row, dict) else ("a", "b"), row])


class Model:
    """As pydantic's models it yields pairs of name and value."""

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter([("a", "1"), ("b", "2")])


class Row(NamedTuple):
    b: int
    a: int


def sqlite_row() -> Any:
    with closing(sqlite3.connect(":memory:")) as conn:
        conn.row_factory = sqlite3.Row
        return conn.execute("select 2 as b, 1 as a").fetchone()


@pytest.mark.parametrize("row", [Model(), {"a": 1}.items(), {1, 2}, "ab", b"ab", None])
def test_what_has_no_values_in_an_order_is_no_row(row: Any) -> None:
    with pytest.raises(InvalidArgument, match="a row is a mapping or a sequence, not "):
        lines(formatter(), [row])


@pytest.mark.parametrize("row", [[("a", 1), ("b", 2)], (["a", "x"], ["b", "y"]), zip("ab", "xy", strict=True)])
def test_pairs_of_name_and_value_are_no_values(row: Any) -> None:
    with pytest.raises(InvalidArgument, match="a row is pairs of name and value: yield a dict of them"):
        lines(formatter(), [row])
    assert lines(formatter("a"), [{"a": ("a", 1)}]) == (b'["a", 1]\n', [])
    others = [("a", 1), ("c", 2)]
    assert lines(formatter(), [others]) == (b'["a", 1]\t["c", 2]\n', [])


@pytest.mark.parametrize("row", [Row(2, 1), sqlite_row()])
def test_values_that_have_the_names_of_the_columns_in_another_order_are_not_exchanged(row: Any) -> None:
    with pytest.raises(InvalidArgument, match="are in the order b, a, and the columns are a, b"):
        lines(formatter(), [row])
    assert lines(formatter("b", "a"), [row]) == (b"2\t1\n", [])
    assert lines(formatter("b", "c"), [row]) == (b"2\t1\n", [])


class Frame:
    """As a DataFrame it yields its names."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[str]:
        return iter("ab")

    def keys(self) -> Iterator[str]:
        return iter(self)


def test_a_table_of_rows_is_no_row_of_its_names() -> None:
    with pytest.raises(InvalidArgument, match="Frame iterates over its names, and not over values: yield its rows"):
        lines(formatter(), [Frame()])


@pytest.mark.parametrize("row", [defaultdict(int, a=1, c=2), Counter(a=1, c=2), {"a": 1, 3: 2}])
def test_a_mapping_that_invents_values_is_not_asked_for_what_it_lacks(row: Any) -> None:
    before = dict(row)
    with pytest.raises(InvalidArgument, match=r"a row has the columns \['"):
        lines(formatter(), [{"a": 1, "b": 2}, row])
    assert row == before


# Batches -------------------------------------------------------------------------------------------------------------


def packed(cursors: list[Any], size: int) -> list[Batch]:
    rows = (((number, "x"), cursor) for number, cursor in enumerate(cursors))
    return list(build_batches(rows, BatchBuilder(BatchSizer(size), lambda _: formatter())))


@given(st.lists(st.sampled_from([0, 1, "a", {"chapter": 1}, ["x"]]), max_size=60), st.integers(1, 9))
def test_batches_hold_every_row_once_in_order_and_end_only_where_the_cursor_changes(
    cursors: list[Any], size: int
) -> None:
    batches = packed(cursors, size)
    ids = [int(copy_values(line)[0] or "") for batch in batches for line in copy_lines(b"".join(batch.parts))]
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
    batches = list(
        build_batches(
            ((("x" * 1_000_000, 1), n) for n in range(12)), BatchBuilder(BatchSizer(50_000), lambda _: formatter())
        )
    )
    assert max(sum(map(len, batch.parts)) for batch in batches) <= BYTES + 2_000_000
    assert sum(batch.rows for batch in batches) == 12


@given(st.lists(st.tuples(st.integers(0, 3), values, st.lists(st.integers(), max_size=3)), max_size=40))
def test_a_source_may_use_its_row_its_values_and_its_cursor_again(rows: list[tuple[int, Any, list[int]]]) -> None:
    def anew() -> Iterator[tuple[Any, Any]]:
        for cursor, first, second in rows:
            yield {"a": first, "b": list(second)}, {"at": cursor, "deep": [cursor]}

    def again() -> Iterator[tuple[Any, Any]]:
        row: dict[str, Any] = {"b": []}
        cursor: dict[str, Any] = {"deep": [None]}
        for at, first, second in rows:
            row["a"] = first
            row["b"][:] = second
            cursor["at"] = cursor["deep"][0] = at
            yield row, cursor

    def batches(source: Iterator[Any]) -> list[Batch]:
        return list(build_batches(source, BatchBuilder(BatchSizer(3), lambda _: formatter())))

    assert batches(again()) == batches(anew())


@pytest.mark.parametrize("make", [list, bytearray, lambda values: array("b", values)])
def test_a_sequence_that_is_used_again_is_copied_too(make: Any) -> None:
    def again() -> Iterator[tuple[Any, int]]:
        row = make([0, 0])
        for number in range(100):
            row[0] = row[1] = number
            yield row, number

    batches = build_batches(again(), BatchBuilder(BatchSizer(7), lambda _: formatter()))
    data = b"".join(part for batch in batches for part in batch.parts)
    assert data == b"".join(b"%d\t%d\n" % (number, number) for number in range(100))


def test_rows_that_share_one_cursor_for_ever_are_refused_before_they_fill_the_memory() -> None:
    rows = ((("x" * 1_000_000, 1), {"the": "same"}) for _ in range(1000))
    with pytest.raises(InvalidArgument, match=r'cursor \{"the": "same"\}.*changes more often'):
        list(build_batches(rows, BatchBuilder(BatchSizer(), lambda _: formatter())))


def test_ready_blocks_are_joined_to_batches_and_never_cut() -> None:
    class Blocks:
        copy_columns: Sequence[str] = ("a",)

        def copy_blocks(self, cursor: Any) -> Any:
            yield from ((b"1\n" * 4, 4, number) for number in range(cursor, 5))

    batches = list(join_blocks(Blocks(), 0, BatchSizer(7)))
    assert [(batch.rows, batch.cursor) for batch in batches] == [(8, 1), (8, 3), (4, 4)]


def test_a_batch_grows_while_it_is_quick_and_shrinks_when_it_is_slow() -> None:
    sizer = BatchSizer()
    for _ in range(20):
        sizer.record(sizer.size, 0.01)
    assert sizer.size == LARGEST
    sizer.record(sizer.size, 2.0)
    assert sizer.size == LARGEST // 2
    for _ in range(20):
        sizer.record(sizer.size, 60.0)
    assert sizer.size == SMALLEST


def test_a_batch_of_a_given_size_keeps_it() -> None:
    sizer = BatchSizer(7)
    sizer.record(7, 0.001)
    assert sizer.size == 7


def test_a_limit_bounds_the_batch_and_asks_for_the_time_that_is_missing() -> None:
    sizer = BatchSizer(5000, limit=100)
    assert sizer.size == 100
    assert sizer.pause(300, 1.0) == 2.0
    assert sizer.pause(300, 9.0) == 0.0
    assert BatchSizer(5000).pause(10**9, 0.1) == 0.0


def test_a_record_that_cannot_be_cut_is_refused_at_its_place() -> None:
    bad = BadRow("f.csv, line 2: a quote", 'a"b')
    rows: list[tuple[Any, int]] = [(("a", 1), 1), (bad, 2), (("c", 3), 3)]
    [batch] = build_batches(rows, BatchBuilder(BatchSizer(), lambda _: formatter()))
    assert (batch.rows, batch.refused) == (3, [Refused(1, 'a"b', "f.csv, line 2: a quote")])
    assert b"".join(batch.parts) == b"a\t1\nc\t3\n"
    [batch] = build_batches([(bad, 2)], BatchBuilder(BatchSizer(), lambda _: formatter()))
    assert (batch.rows, batch.parts, batch.cursor) == (1, [], 2)


@given(st.lists(values | st.booleans() | st.floats() | st.decimals() | st.dates() | st.uuids() | st.binary(max_size=5)))
def test_the_public_way_to_write_a_row_writes_what_psycopg_writes(row: list[Any]) -> None:
    fast, slow = bytearray(), bytearray()
    format_row_text(row, Transformer(), fast)
    write_row_text(row, Transformer(), slow)
    assert fast == slow


def test_without_psycopgs_private_function_rows_are_written_by_public_ones() -> None:
    code = (
        "import psycopg, psycopg._copy_base as private; del private.format_row_text\n"
        "from pgonce.seeds import copy_text\n"
        "from tests.pure.seeds.columns import columns\n"
        "assert copy_text.format_row_text is copy_text.write_row_text\n"
        "out = bytearray()\n"
        "copy_text.RowFormatter(columns('a', 'b')).write(('x\\t\\\\', None), out)\n"
        "assert bytes(out) == rb'x\\t\\\\' + b'\\t' + rb'\\N' + b'\\n', out"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], timeout=60)
