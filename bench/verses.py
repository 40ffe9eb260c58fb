"""The rows to import, with a body of 150 bytes and a key of four columns, from a generator or a file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Row = tuple[str, int, int, int, str]

COLUMNS = ("version", "book", "chapter", "verse", "body")
KEY = COLUMNS[:4]
TABLE = """
create table if not exists verses (
  version text not null, book integer not null, chapter integer not null, verse integer not null, body text not null,
  primary key (version, book, chapter, verse))
"""
BODY = ("In the beginning was the line, and the line was with COPY. " * 3)[:150]
_AT_A_TIME = 50_000


def row(number: int) -> Row:
    """Row ``number``, from 0."""
    return ("WEB", number // 10_000, number // 100 % 100, number % 100, BODY)


def source(start: int, stop: int) -> Callable[[int | None], Iterator[tuple[Any, int]]]:
    """A seed's source: the rows from ``start`` to before ``stop``."""

    def rows(cursor: int | None) -> Iterator[tuple[Any, int]]:
        for number in range(start if cursor is None else cursor + 1, stop):
            yield row(number), number

    return rows


def write(path: Path, rows: int) -> Path:
    """A file of ``rows`` rows: .copy (COPY's text format), .csv or .parquet."""
    if path.suffix == ".parquet":
        _write_parquet(path, rows)
        return path
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".copy":
            file.writelines("\t".join(map(str, row(number))) + "\n" for number in range(rows))
        else:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(COLUMNS)
            lines.writerows(row(number) for number in range(rows))
    return path


def _write_parquet(path: Path, rows: int) -> None:
    import pyarrow as pa  # not at the top: it would add 50 MB to every contender's memory
    from pyarrow import parquet

    kinds = pa.schema(list(zip(COLUMNS, (pa.string(), *[pa.int32()] * 3, pa.string()), strict=True)))
    with parquet.ParquetWriter(path, kinds) as file:
        for start in range(0, rows, _AT_A_TIME):
            columns = zip(*map(row, range(start, min(start + _AT_A_TIME, rows))), strict=True)
            file.write_table(pa.table(list(map(list, columns)), schema=kinds))
