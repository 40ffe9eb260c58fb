"""Files that are damaged, half written, or packed with more than the data."""

from __future__ import annotations

import gzip
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce.errors import InvalidArgument
from pgonce.seeds.readers import read, read_files
from pgonce.seeds.seeds import Seeds

Conn = psycopg.Connection[Any]
pytestmark = pytest.mark.usefixtures("things")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-32", "shift_jis", "gb18030", "utf-8-sig"])
def test_half_a_character_at_the_end_is_half_a_line_in_every_encoding(
    seeds: Seeds, conn: Conn, tmp_path: Path, encoding: str
) -> None:
    file = tmp_path / "a.csv"
    whole = "id,note\n1,a\n2,b日".encode(encoding)
    file.write_bytes(whole[:-1])

    def load(**options: Any) -> Any:
        source = read(file, encoding=encoding, **options)
        return seeds.run("s", source, into="things", key=("id",), max_rejects=1)

    done = load()
    assert (done.outcome, done.checkpoint.rows_seen) == ("unfinished", 1)
    done = load(complete=True)  # no character is made of it
    assert (done.outcome, done.checkpoint.rows_inserted, done.checkpoint.rows_rejected) == ("complete", 1, 1)
    assert conn.execute("select array_agg(note) from things").fetchone() == (["a"],)


@pytest.mark.parametrize(
    ("encoding", "bad"),
    [("utf-8", b"\xff"), ("cp1252", b"\x81"), ("ascii", b"\xe4"), ("utf-16-le", b"\x00\xd8"), ("shift_jis", b"\x80"),
     ("utf-32-le", b"\xff\xff\xff\xff"), ("gb18030", b"\xff")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "jsonl", "copy"])
def test_bytes_that_are_no_character_make_one_bad_row_in_every_encoding(
    seeds: Seeds, conn: Conn, tmp_path: Path, encoding: str, bad: bytes, kind: str
) -> None:
    file = tmp_path / f"a.{kind}"
    lines = {
        "csv": ["id,note", "1,a", "2,b", "3,c"],
        "jsonl": ["", *(json.dumps({"id": n, "note": "abc"[n - 1]}) for n in (1, 2, 3))],
        "copy": ["id\tnote", "1\ta", "2\tb", "3\tc"],
    }[kind]
    raw = [(line + "\n").encode(encoding) for line in lines]
    raw[2] = raw[2].replace("b".encode(encoding), bad)
    file.write_bytes(b"".join(raw))

    def source() -> Any:
        return read(file, encoding=None if encoding == "utf-8" else encoding)

    assert seeds.run("s", source(), into="things", key=("id",), max_rejects=1).outcome == "complete"
    assert conn.execute("select array_agg(note order by id) from things").fetchone() == (["a", "c"],)
    found = seeds.verify("s", source(), into="things", key=("id",), max_rejects=1)
    assert (found["ok"], found["rejected"]) == (True, 1)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_a_byte_order_mark_says_the_encoding(
    seeds: Seeds, conn: Conn, tmp_path: Path, encoding: str, packing: str
) -> None:
    file = tmp_path / f"a.csv{packing}"
    data = "id,note\n1,ä\n".encode(encoding)
    file.write_bytes(gzip.compress(data) if packing else data)
    assert seeds.run("s", read(file), into="things", key=("id",)).outcome == "complete"
    assert conn.execute("select note from things").fetchall() == [("ä",)]
    at = seeds.checkpoint("s")
    assert at
    assert at.progress == (1.0 if encoding == "utf-8-sig" and not packing else None)
    both = read_files([file, file], "both")
    assert seeds.run("both", both, into="things", key=("id",), batch_size=1).outcome == "complete"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "copy"])
@pytest.mark.parametrize("packing", [".gz", ".zip", ".zst", ".xz"])
@pytest.mark.parametrize("encoding", [None, "latin1"])
def test_a_packed_file_whose_name_does_not_say_so_is_refused(
    tmp_path: Path, kind: str, packing: str, encoding: str | None
) -> None:
    file = tmp_path / f"a.{kind}"
    if packing == ".zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.csv", "id,note\n1,a\n")
    elif packing == ".zst":
        zstd = pytest.importorskip("backports.zstd")
        file.write_bytes(zstd.compress(b"id,note\n"))
    else:
        file.write_bytes(gzip.compress(b"id,note\n") if packing == ".gz" else lzma.compress(b"id,note\n"))
    with pytest.raises(InvalidArgument, match=rf"a\.{kind} is packed as \{packing} files are: unpack it first"):
        read(file, encoding=encoding).columns  # noqa: B018


def test_a_zip_whose_file_cannot_be_read_is_said(tmp_path: Path) -> None:
    def columns(flag: int = 0, method: int = 8, *, empty: bool = False) -> Any:
        file = tmp_path / "a.csv.zip"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            if not empty:
                archive.writestr("a.csv", "id,note\n1,a\n")
        raw = bytearray(file.read_bytes())
        for header, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            if (place := raw.find(header)) >= 0:
                raw[place + offset] |= flag
                raw[place + offset + 2] = method
        file.write_bytes(raw)
        return read(file).columns

    assert columns() == ("id", "note")
    with pytest.raises(InvalidArgument, match=r"the \.zip is encrypted: unpack it"):
        columns(flag=1)
    with pytest.raises(InvalidArgument, match=r"the \.zip cannot be read \(.*\): unpack it"):
        columns(method=9)  # deflate64, of Windows
    with pytest.raises(InvalidArgument, match=r"the \.zip has no file in it"):
        columns(empty=True)


def test_what_macos_adds_to_a_zip_is_not_a_second_file(seeds: Seeds, conn: Conn, tmp_path: Path) -> None:
    file = tmp_path / "a.csv.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.csv", "id,note\n1,a\n")
        archive.writestr("__MACOSX/._a.csv", b"\0\5\x16\7")
    source = read(file)
    assert seeds.run("s", source, into="things", key=("id",)).outcome == "complete"
    assert seeds.verify("s", source, into="things", key=("id",))["ok"]


def test_a_bit_that_has_changed_in_a_page_with_a_checksum_stops_the_import(
    seeds: Seeds, conn: Conn, tmp_path: Path
) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "a.parquet"
    parquet.write_table(
        arrow.table({"id": [1, 2], "note": ["remarkable", "b"]}), file, compression="none", write_page_checksum=True,
        use_dictionary=False, write_statistics=False,
    )  # fmt: skip
    file.write_bytes(file.read_bytes().replace(b"remarkable", b"remarkably", 1))
    with pytest.raises(InvalidArgument, match="CRC checksum"):
        seeds.run("s", read(file), into="things", key=("id",))
    assert conn.execute("select count(*) from things").fetchone() == (0,)
