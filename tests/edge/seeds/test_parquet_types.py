"""What COPY reads of a Parquet file is what the file's own values are, whatever their type."""

from __future__ import annotations

import datetime as dt
import decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce.seeds.readers import read
from pgonce.seeds.source import BlockSource

arrow = pytest.importorskip("pyarrow", reason="pyarrow missing: pip install 'pgonce[parquet]'")
Conn = psycopg.Connection[Any]

WHEN = dt.datetime(2020, 2, 29, 1, 2, 3, 456789)  # noqa: DTZ001 -- Parquet has both
LEAP = dt.datetime(2020, 2, 29, 23, 59, 59, 999999, dt.UTC)
TEXTS = ["", "a\\b", "a\tb", "a\nb", "a\r\nb", r"\N", r"\.", '"', "nämé 𝄞", "x" * 300_000, None]
KINDS = [  # the type in the file, the column's, values
    (arrow.string(), "text", TEXTS),
    (arrow.large_string(), "text", TEXTS),
    (arrow.string_view(), "text", TEXTS),
    (arrow.dictionary(arrow.int8(), arrow.string()), "text", TEXTS),
    (arrow.binary(), "bytea", [b"", b"\\", b"\x00\xff", None]),
    (arrow.binary(2), "bytea", [b"ab", b"\x00\xff", None]),
    (arrow.bool_(), "boolean", [True, False, None]),
    (arrow.int64(), "bigint", [-(2**63), 2**63 - 1, None]),
    (arrow.uint64(), "numeric", [2**64 - 1, None]),
    (arrow.float64(), "float8", [0.1, -1e300, 5e-324, float("inf"), 123456789.123, None]),
    (arrow.decimal128(30, 10), "numeric", [decimal.Decimal("-0.0000000001"), decimal.Decimal("12.5"), None]),
    (arrow.date32(), "date", [WHEN.date(), dt.date(1, 1, 1), None]),
    (arrow.time64("us"), "time", [WHEN.time(), dt.time(), None]),
    (arrow.time64("ns"), "time", [WHEN.time(), None]),
    (arrow.timestamp("us"), "timestamp", [WHEN, dt.datetime(1, 1, 1), None]),  # noqa: DTZ001
    (arrow.timestamp("ns"), "timestamp", [WHEN, None]),
    (arrow.timestamp("us", "UTC"), "timestamptz", [LEAP, None]),
    (arrow.timestamp("us", "America/New_York"), "timestamptz", [LEAP, None]),
    (arrow.duration("us"), "interval", [dt.timedelta(days=-1, microseconds=1), dt.timedelta(5), None]),
    (arrow.list_(arrow.int32()), "jsonb", [[1, None], [], None]),
    (arrow.null(), "text", [None]),
]


@pytest.mark.parametrize(("kind", "column", "values"), KINDS, ids=[str(kind) for kind, _, _ in KINDS])
def test_blocks_bring_the_values_of_the_file(
    conn: Conn, tmp_path: Path, kind: Any, column: str, values: list[Any]
) -> None:
    from pyarrow import parquet

    # beside another column, for the tabs, and more than once, for blocks and batches
    expected = [(number, value) for number, value in enumerate(values * 3)]
    table = arrow.table({"n": [n for n, _ in expected], "v": arrow.array([v for _, v in expected], kind)})
    parquet.write_table(table, tmp_path / "f.parquet", row_group_size=2 * len(values))
    source = read(tmp_path / "f.parquet")
    assert isinstance(source, BlockSource)
    conn.execute(f"create table f (n int, v {column})".encode())
    with conn.cursor().copy("copy f from stdin") as copy:
        for data, rows, _ in source.copy_blocks(None):
            assert data.count(b"\n") == rows
            copy.write(data)
    assert conn.execute("select n, v from f order by n").fetchall() == expected
