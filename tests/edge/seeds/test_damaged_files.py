"""Files that are damaged, half written, or packed with more than the data."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce.errors import InvalidArgument
from pgonce.seeds.readers import read
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
