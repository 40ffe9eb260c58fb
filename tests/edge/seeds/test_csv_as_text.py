"""The text that is sent to COPY has the values that PostgreSQL itself reads from the CSV, wherever there are quotes."""

from __future__ import annotations

import random
from typing import Any

import psycopg
import pytest

from pgonce.seeds.readers.csv_text import Dialect, as_text, cut

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
