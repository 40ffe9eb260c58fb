"""After a Parquet file was loaded, the table has exactly the file's values, whatever their types."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce.core import database as pools
from pgonce.errors import InvalidArgument
from pgonce.seeds.readers import read
from pgonce.seeds.readers.parquet_values import Unreadable, values_of
from pgonce.seeds.seeds import Seeds

arrow = pytest.importorskip("pyarrow", reason="pyarrow missing: pip install 'pgonce[parquet]'")
Conn = psycopg.Connection[Any]

WHEN = dt.datetime(2020, 2, 29, 1, 2, 3, 456789)  # noqa: DTZ001 -- Parquet has both
LEAP = dt.datetime(2020, 2, 29, 23, 59, 59, 999999, dt.UTC)
TEXTS = ["", "a\\b", "a\tb", "a\nb", "a\r\nb", r"\N", r"\.", '"', "nämé 𝄞", "x" * 300_000, None]
SOME_ID = uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057")
PAIRS = arrow.map_(arrow.string(), arrow.int32())
DAYS = arrow.map_(arrow.date32(), arrow.int32())
KINDS = [  # the type in the file, the column's, values
    (arrow.string(), "text", TEXTS),
    (arrow.large_string(), "text", TEXTS),
    (arrow.string_view(), "text", TEXTS),
    (arrow.dictionary(arrow.int8(), arrow.string()), "text", TEXTS),
    (arrow.dictionary(arrow.int32(), arrow.int64()), "bigint", [1, 2, 1, None]),
    (arrow.binary(), "bytea", [b"", b"\\", b"\x00\xff", None]),
    (arrow.large_binary(), "bytea", [b"", b"\\", b"\x00\xff", None]),
    (arrow.binary(2), "bytea", [b"ab", b"\x00\xff", None]),
    (arrow.bool_(), "boolean", [True, False, None]),
    *(
        (kind, "smallint", [-128 if kind.bit_width == 8 else -(2**15), 127, None])
        for kind in (arrow.int8(), arrow.int16())
    ),
    (arrow.int32(), "int", [-(2**31), 2**31 - 1, None]),
    (arrow.int64(), "bigint", [-(2**63), 2**63 - 1, None]),
    (arrow.uint8(), "int", [255, None]),
    (arrow.uint16(), "int", [2**16 - 1, None]),
    (arrow.uint32(), "bigint", [2**32 - 1, None]),
    (arrow.uint64(), "numeric", [2**64 - 1, None]),
    (arrow.float16(), "real", [0.5, -2.0, None]),
    (arrow.float32(), "real", [0.5, -1.5, float("-inf"), None]),
    (arrow.float64(), "float8", [0.1, -1e300, 5e-324, float("inf"), 123456789.123, None]),
    (arrow.decimal128(30, 10), "numeric", [decimal.Decimal("-0.0000000001"), decimal.Decimal("12.5"), None]),
    (arrow.decimal256(60, 30), "numeric", [decimal.Decimal(123456789012345678901234567890) / 10**30, None]),
    (arrow.date32(), "date", [WHEN.date(), dt.date(1, 1, 1), dt.date(9999, 12, 31), None]),
    (arrow.time32("ms"), "time", [dt.time(1, 2, 3, 456000), None]),
    (arrow.time64("us"), "time", [WHEN.time(), dt.time(), None]),
    (arrow.time64("ns"), "time", [WHEN.time(), None]),
    (arrow.timestamp("ms"), "timestamp", [WHEN.replace(microsecond=456000), None]),
    (arrow.timestamp("us"), "timestamp", [WHEN, dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31), None]),  # noqa: DTZ001
    (arrow.timestamp("ns"), "timestamp", [WHEN, None]),
    (arrow.timestamp("us", "UTC"), "timestamptz", [LEAP, None]),
    (arrow.timestamp("us", "America/New_York"), "timestamptz", [LEAP, None]),
    (arrow.duration("us"), "interval", [dt.timedelta(days=-1, microseconds=1), dt.timedelta(5), None]),
    (arrow.duration("ns"), "interval", [dt.timedelta(hours=-3), None]),
    (arrow.list_(arrow.int32()), "jsonb", [[1, None], [], None]),
    (arrow.list_(arrow.int32()), "int[]", [[1, None], [], None]),
    (arrow.large_list(arrow.string()), "text[]", [["a", '"', "{}", "", None, "NULL"], None]),
    (arrow.list_(arrow.int32(), 2), "int[]", [[1, 2], None]),
    (arrow.list_(arrow.list_(arrow.int32())), "jsonb", [[[1], [], None], None]),
    (
        arrow.struct([("a", arrow.int32()), ("b", arrow.list_(arrow.string()))]),
        "jsonb",
        [{"a": 1, "b": ["x", None]}, None],
    ),
    (arrow.null(), "text", [None]),
]


def load(database: str, path: Path, **options: Any) -> dict[str, Any]:
    """Load the file, verify the table, and return the result of the verification."""
    with pools.open_pool(database, 3) as pool:
        seeds = Seeds(pool)
        done = seeds.run("f", read(path), into="f", key=("n",), **options)
        assert done.outcome == "complete"
        return seeds.verify("f", read(path), into="f", key=("n",))


def write(path: Path, kind: Any, values: list[Any], **options: Any) -> list[tuple[Any, ...]]:
    from pyarrow import parquet

    # with a second column, to test tabs, and several times, to test blocks, batches and row groups; one group is empty
    expected = [(number, value) for number, value in enumerate(values * 3)]
    schema = arrow.schema([("n", arrow.int64()), ("v", kind)])
    with parquet.ParquetWriter(path, schema, **options) as writer:
        table = arrow.table([[n for n, _ in expected], arrow.array([v for _, v in expected], kind)], schema=schema)
        writer.write_table(table, row_group_size=2 * len(values))
        writer.write_table(table.slice(0, 0))
    return expected


@pytest.mark.parametrize(("kind", "column", "values"), KINDS, ids=[f"{kind} {column}" for kind, column, _ in KINDS])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_every_type_arrives_as_it_is_in_the_file_and_is_verified(
    database: str, conn: Conn, tmp_path: Path, kind: Any, column: str, values: list[Any], version: str
) -> None:
    try:
        expected = write(tmp_path / "f.parquet", kind, values, data_page_version=version, store_schema=version == "2.0")
    except (NotImplementedError, arrow.ArrowNotImplementedError):
        pytest.skip("pyarrow cannot write this type into Parquet")
    if version == "1.0" and arrow.types.is_duration(kind):
        return  # without Arrow's schema it is a number
    conn.execute(f"create table f (n int primary key, v {column})".encode())
    proof = load(database, tmp_path / "f.parquet")
    assert conn.execute("select n, v from f order by n").fetchall() == expected
    assert (proof["ok"], proof["equal"]) == (True, len(expected)), proof


def test_a_uuid_goes_into_a_uuid_column_and_bytes_of_text_into_a_text_column(
    database: str, conn: Conn, tmp_path: Path
) -> None:
    from pyarrow import parquet

    table = arrow.table(
        {
            "n": [1],
            "id": arrow.array([SOME_ID.bytes], arrow.uuid()),
            "raw": arrow.array([SOME_ID.bytes], arrow.binary(16)),
            "name": arrow.array(["nämé".encode()], arrow.binary()),
        }
    )
    parquet.write_table(table, tmp_path / "f.parquet")
    conn.execute("create table f (n int primary key, id uuid, raw uuid, name text)")
    assert load(database, tmp_path / "f.parquet")["ok"]
    assert conn.execute("select id, raw, name from f").fetchall() == [(SOME_ID, SOME_ID, "nämé")]


def test_a_timestamp_of_96_bits_keeps_its_year(database: str, conn: Conn, tmp_path: Path) -> None:
    years = [dt.datetime(year, 12, 31, 23, 59, 59) for year in (1, 1600, 2026, 2300, 9999)]  # noqa: DTZ001
    expected = write(tmp_path / "f.parquet", arrow.timestamp("us"), years, use_deprecated_int96_timestamps=True)
    conn.execute("create table f (n int primary key, v timestamp)")
    assert load(database, tmp_path / "f.parquet")["ok"]
    assert conn.execute("select n, v from f order by n").fetchall() == expected


def test_a_map_is_an_object_with_its_keys_as_text_and_one_with_a_key_twice_is_a_reject(
    database: str, conn: Conn, tmp_path: Path
) -> None:
    write(tmp_path / "f.parquet", PAIRS, [[("a", 1), ("b", None)], [], None, [("a", 1), ("a", 2)]])
    conn.execute("create table f (n int primary key, v jsonb)")
    load(database, tmp_path / "f.parquet", max_rejects=3)
    assert conn.execute("select v from f order by n limit 3").fetchall() == [({"a": 1, "b": None},), ({},), (None,)]
    errors = conn.execute("select distinct error from pgonce_seed_rejects").fetchall()
    assert len(errors) == 3
    assert all("a map has a key twice" in error for (error,) in errors)
    conn.execute("truncate f")
    write(tmp_path / "f.parquet", DAYS, [[(dt.date(2026, 11, 29), 1)]])
    load(database, tmp_path / "f.parquet", restart=True)
    assert conn.execute("select v from f where n = 0").fetchall() == [({"2026-11-29": 1},)]


@pytest.mark.parametrize(
    ("kind", "key", "name"),
    [(arrow.binary(), "kä".encode(), "kä"), (arrow.bool_(), True, "true"), (arrow.float64(), 1.5, "1.5"),
     (arrow.binary(), b"\xff", None), (arrow.struct([("x", arrow.int32())]), {"x": 1}, None),
     (arrow.list_(arrow.int32()), [1], None), (arrow.duration("us"), dt.timedelta(1), None)],
)  # fmt: skip
def test_a_key_of_a_map_is_its_json_or_a_reject(
    database: str, conn: Conn, tmp_path: Path, kind: Any, key: Any, name: str | None
) -> None:
    write(tmp_path / "f.parquet", arrow.map_(kind, arrow.int32()), [[(key, 1)]])
    conn.execute("create table f (n int primary key, v jsonb)")
    load(database, tmp_path / "f.parquet", max_rejects=9)
    assert conn.execute("select distinct v from f").fetchall() == ([({name: 1},)] if name else [])


def test_moments_that_python_has_no_form_for_are_taken_or_rejected_and_never_changed(
    database: str, conn: Conn, tmp_path: Path
) -> None:
    year_20000 = 568_971_820_800_000_000  # in microseconds
    kinds = [arrow.timestamp("us"), arrow.list_(arrow.timestamp("us"))]
    for kind, values in zip(kinds, ([year_20000, 0], [[year_20000], [0]]), strict=True):
        conn.execute("drop table if exists f")
        conn.execute(f"create table f (n int primary key, v {'jsonb' if kind == kinds[1] else 'timestamp'})".encode())
        integers = arrow.array(values, arrow.int64() if kind == kinds[0] else arrow.list_(arrow.int64()))
        from pyarrow import parquet

        parquet.write_table(arrow.table({"n": [1, 2], "v": integers.cast(kind)}), tmp_path / "f.parquet")
        load(database, tmp_path / "f.parquet", max_rejects=1, restart=True)
        found = conn.execute("select n, v::text from f order by n").fetchall()
        assert found[-1][1] in {"1970-01-01 00:00:00", '["1970-01-01 00:00:00"]', '["1970-01-01T00:00:00"]'}
        assert kind == kinds[1] or found[0] == (1, "20000-01-01 00:00:00")
        assert kind == kinds[0] or len(found) == 1, "inside of a list it is a reject"


@pytest.mark.parametrize(
    ("kind", "integers"),
    [
        (arrow.timestamp("us"), [2**62, -(2**62)]), (arrow.date32(), [2**31 - 1]), (arrow.duration("s"), [2**62]),
        (arrow.time64("ns"), [86_400_000_000_000, -1000]), (arrow.time32("ms"), [86_400_000]),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("column", ["text", "jsonb", "time"])
def test_a_moment_that_pyarrow_cannot_print_is_a_reject(
    database: str, conn: Conn, tmp_path: Path, kind: Any, integers: list[int], column: str
) -> None:
    from pyarrow import parquet

    if column == "time" and not arrow.types.is_time(kind):
        return
    values = arrow.array([*integers, None], arrow.int32() if kind.bit_width == 32 else arrow.int64()).cast(kind)
    parquet.write_table(arrow.table({"n": [*range(len(values))], "v": values}), tmp_path / "f.parquet")
    conn.execute(f"create table f (n int primary key, v {column})".encode())
    assert load(database, tmp_path / "f.parquet", max_rejects=9)["ok"]
    assert conn.execute("select v from f").fetchall() == [(None,)]


@pytest.mark.parametrize("unit", ["ms", "us"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda times: arrow.ListArray.from_arrays([0, 1, 2, 4], times),
        lambda times: arrow.FixedSizeListArray.from_arrays(times.slice(0, 3), 1),
        lambda times: arrow.StructArray.from_arrays([times.slice(0, 3)], ["at"]),
        lambda times: arrow.MapArray.from_arrays([0, 1, 2, 4], arrow.array(["a", "b", "c", "d"]), times),
        lambda times: arrow.MapArray.from_arrays([0, 1, 2, 3], times.slice(0, 3), arrow.array([1, 2, 3])),
        lambda times: arrow.ListArray.from_arrays([0, 1, 2, 3], arrow.StructArray.from_arrays([times], ["at"])),
    ],
)
def test_a_time_beyond_the_day_inside_of_a_value_is_a_reject(wrap: Any, unit: str) -> None:
    day = 86_400 * (1000 if unit == "ms" else 1_000_000)
    integers = arrow.array([0, day, day - 1, None], arrow.int32() if unit == "ms" else arrow.int64())
    kind = arrow.time32(unit) if unit == "ms" else arrow.time64(unit)
    wrapped = wrap(integers.cast(kind))
    assert [isinstance(value, Unreadable) for value in values_of(wrapped)] == [False, True, False]
    assert [isinstance(value, Unreadable) for value in values_of(wrapped.slice(2))] == [False]


def test_a_moment_keeps_its_zone_in_a_column_that_has_one(database: str, conn: Conn, tmp_path: Path) -> None:
    write(tmp_path / "f.parquet", arrow.timestamp("us", "Asia/Tokyo"), [0])
    conn.execute("create table f (n int primary key, v timetz)")
    assert load(database, tmp_path / "f.parquet")["ok"]
    assert conn.execute("select distinct v::text from f").fetchall() == [("09:00:00+09",)]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "+05:30", "No/Where"])
@pytest.mark.parametrize("column", ["timestamptz", "text"])
def test_a_moment_is_the_same_one_in_every_zone(
    database: str, conn: Conn, tmp_path: Path, zone: str, column: str
) -> None:
    from pyarrow import parquet

    # before the zone had whole minutes; the last one of Python, which is none in a zone to the east; and one after it
    seconds = [-9_223_372_036, 253_402_300_799, 253_402_300_800, 0]
    moments = arrow.array(seconds, arrow.int64()).cast(arrow.timestamp("s", zone))
    parquet.write_table(arrow.table({"n": range(4), "v": moments}), tmp_path / "f.parquet")
    conn.execute(f"create table f (n int primary key, v {column})".encode())
    assert load(database, tmp_path / "f.parquet")["ok"]
    found = conn.execute("select extract(epoch from v::timestamptz)::bigint from f order by n").fetchall()
    assert [each for (each,) in found] == seconds


def test_nanoseconds_inside_of_lists_are_cut_as_those_outside(database: str, conn: Conn, tmp_path: Path) -> None:
    from pyarrow import parquet

    moments = arrow.array([[1_700_000_000_123_456_789]], arrow.list_(arrow.int64())).cast(
        arrow.list_(arrow.timestamp("ns"))
    )
    parquet.write_table(arrow.table({"n": [1], "v": moments}), tmp_path / "f.parquet")
    conn.execute("create table f (n int primary key, v timestamp[])")
    assert load(database, tmp_path / "f.parquet")["ok"]
    assert conn.execute("select v::text from f").fetchone() == ('{"2023-11-14 22:13:20.123456"}',)


def test_a_file_of_another_encoding_or_an_option_that_is_not_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="its texts are always UTF-8"):
        read(tmp_path / "f.parquet", encoding="latin1")
