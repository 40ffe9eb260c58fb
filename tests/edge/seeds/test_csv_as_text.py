"""The text that is sent to COPY has the values that PostgreSQL itself reads from the CSV, wherever there are quotes."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce.core import database as pools
from pgonce.seeds.readers import read
from pgonce.seeds.readers.csv_text import Dialect, as_text, cut
from pgonce.seeds.seeds import Seeds

Conn = psycopg.Connection[Any]
PIECES = ['"', '""', "a", "b c", "\\", "\t", "\\N", "\\.", "\x01", "é", '"x"', '"a,b"', '"""q"""', '""""', '"\n"']


def copied(conn: Conn, options: str, data: bytes) -> list[Any] | str:
    """The rows that COPY makes of ``data``; ``refused`` when it makes none."""
    conn.execute("truncate lines restart identity")
    try:
        with conn.cursor().copy(f"copy lines (a, b) from stdin (format {options})".encode()) as copy:
            copy.write(data)
    except psycopg.Error:
        return "refused"
    return conn.execute("select a, b from lines order by number").fetchall()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_block_as_text_is_what_copy_reads_in_the_csv(conn: Conn, end: str) -> None:
    conn.execute("create table lines (number serial, a text, b text)")
    chance, compared = random.Random(7), 0
    while compared < 400:
        rows = [
            ",".join("".join(chance.choices(PIECES, k=chance.randint(0, 3))) for _ in range(2))
            for _ in range(chance.randint(1, 3))
        ]
        data = "".join(row + end for row in rows).encode()
        if data.count(b'"') % 2 == 0:
            if any(bad for _, bad in cut(data, Dialect())):  # COPY would drop the quotes, and may join two rows
                assert as_text(data, Dialect()) is None
                continue
            expected = copied(conn, "csv", data)
            if expected == "refused" and end == "\r\n":  # COPY wants all line ends alike, those inside of quotes, too
                continue
            found = as_text(data, Dialect())
            assert found is not None, data
            text, count = found
            assert copied(conn, "text", text) == expected, data
            if expected != "refused":
                assert count == len(expected)
                compared += 1


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_an_empty_line_of_one_column_is_no_row_as_csv_has_it_and_null_has_a_spelling(
    database: str, conn: Conn, tmp_path: Path, end: bytes
) -> None:
    conn.execute("create table wanted (word text); insert into wanted values ('a'), (null), (''), ('b'), (null)")
    file = tmp_path / "a.csv"

    def written(options: str) -> list[dict[str, str]]:
        with conn.cursor().copy(f"copy wanted to stdout (format csv, header{options})".encode()) as copy:
            file.write_bytes(b"".join(copy).replace(b"\n", end))
        with file.open(newline="") as text:
            return list(csv.DictReader(text))

    def loaded(**options: Any) -> list[str | None]:
        conn.execute("drop table if exists words; create table words (word text)")
        with pools.open_pool(database, 3) as pool:
            source = read(file, **options)
            assert Seeds(pool).run(str(options), source, into="words").outcome == "complete"
            assert Seeds(pool).verify(str(options), source, into="words")["ok"]
        return [word for (word,) in conn.execute("select word from words").fetchall()]

    assert [row["word"] for row in written("")] == loaded() == ["a", "", "b"]
    written(", null 'NULL', force_quote *")  # without force_quote an empty text is an empty line then
    assert loaded(nulls=["NULL"]) == ["a", None, "", "b", None]
