r"""Files in COPY's text format: each is read as COPY reads it, and the comparison reads it by code of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce.core import database as pools
from pgonce.errors import InvalidArgument
from pgonce.seeds.readers import copy_file, jsonl, read
from pgonce.seeds.seeds import Seeds

Conn = psycopg.Connection[Any]
MANY = 20_000
FILES = {
    "a line end in a value": b"1\ta\\\nb\n2\tc\n",
    "a backslash and a line end in a value": b"1\ta\\\\\\\nb\n2\tc\n",
    "a value that ends in a backslash": b"1\ta\\\\\n2\tb\\\\\n",
    "a tab in a value": b"1\ta\\\tb\n2\tc\n",
    "hexadecimal digits": b"1\t\\x41\\x4\n2\t\\xg\n",
    "octal digits": b"1\t\\101\\60\\7x\\8\n2\t\\501\n",
    "a character of two bytes by its digits": b"1\t\\303\\251\n2\t\\xC3\\xa9\n",
    "letters": b"1\t\\v\\f\\b\\r\\n\\t\\q\n",
    "NULL, and what looks like it": b"1\t\\N\n2\t\\Nx\n3\t\\\\N\n4\tx\\N\n",
    "ends of Windows": b"1\ta\r\n2\tb\r\n\\.\r\n",
    "ends of Windows, without the last": b"1\ta\r\n2\tb",
    "many lines that go on": b"".join(b"%d\tone\\\ntwo\n" % n for n in range(MANY)),
    "many lines of Windows": b"".join(b"%d\tline\r\n" % n for n in range(MANY)),
}
NEEDS_US = {
    "a byte order mark": (b"\xef\xbb\xbf1\ta\n2\tb\n", ["1 a", "2 b"], []),
    "ends of both kinds": (b"1\ta\n2\tb\r\n3\tc\n", ["1 a", "2 b", "3 c"], []),
    "half an escape at the end": (b"1\ta\n2\tb\\", ["1 a"], ["a backslash stands alone before the end of the line"]),
    "an escape of Windows' line end": (
        b"1\ta\\\r\n2\tb\r\n", ["2 b"], ["a backslash stands alone before the end of the line"],
    ),
}  # fmt: skip


@pytest.fixture
def seeds(database: str, conn: Conn) -> Iterator[Seeds]:
    conn.execute("create table wanted (id int primary key, v text)")
    conn.execute("create table things (like wanted including all)")
    with pools.open_pool(database, 3) as pool:
        yield Seeds(pool)


def load(seeds: Seeds, path: Path, **options: Any) -> dict[str, Any]:
    source = read(path, format="copy", complete=True, **options)
    to: dict[str, Any] = {"into": "things", "key": ("id",), "max_rejects": 9}
    assert seeds.run("s", source, stop=lambda: True, batch_size=MANY // 3, **to).outcome in {"stopped", "complete"}
    assert seeds.run("s", source, **to).outcome == "complete"
    return seeds.verify("s", source, **to)


@pytest.mark.parametrize("header", [b"", b"id\tv\n"])
@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_a_file_is_read_as_copy_reads_it(seeds: Seeds, conn: Conn, tmp_path: Path, data: bytes, header: bytes) -> None:
    if header and b"\r\n" in data:
        header = header.replace(b"\n", b"\r\n")
    path = tmp_path / "f.txt"
    path.write_bytes(header + data)
    with conn.cursor().copy("copy wanted from stdin with (encoding 'UTF8')") as copy:
        copy.write(data)
    found = load(seeds, path, columns=None if header else ("id", "v"))
    assert conn.execute("table wanted except table things").fetchall() == []
    count = data.count(b"\n") // 2 if b"two" in data else len(conn.execute("table wanted").fetchall())
    assert (found["ok"], found["equal"], found["rejected"]) == (True, count, 0)


@pytest.mark.parametrize("suffix", ["copy", "jsonl"])
def test_a_line_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(copy_file, "LONGEST", 200_000)
    monkeypatch.setattr(jsonl, "LONGEST", 200_000)
    first = {"copy": b"1\ta\n2\t", "jsonl": b'{"id": 1, "v": "a"}\n{"id": 2, "v": "'}[suffix]
    path = tmp_path / f"f.{suffix}"
    path.write_bytes(first + b"x" * 1_000_000)
    with pytest.raises(InvalidArgument, match="the line is over 256 MB long"):
        list(read(path, columns=("id", "v"), complete=True)(None))


@pytest.mark.parametrize(("data", "rows", "reasons"), NEEDS_US.values(), ids=NEEDS_US)
def test_what_copy_refuses_is_read_or_a_reject(
    seeds: Seeds, conn: Conn, tmp_path: Path, data: bytes, rows: list[str], reasons: list[str]
) -> None:
    path = tmp_path / "f.txt"
    path.write_bytes(data)
    found = load(seeds, path, columns=("id", "v"))
    assert conn.execute("select id || ' ' || v from things order by id").fetchall() == [(row,) for row in rows]
    assert [each.reason.partition(": ")[2] for each in seeds.reject_groups("s")] == reasons
    assert (found["ok"], found["rejected"]) == (True, len(reasons))
