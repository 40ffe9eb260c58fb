"""Ready-made sources: the rows of a CSV, JSON Lines or Parquet file, by path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pgonce.errors import InvalidArgument
from pgonce.seeds.readers.csv import CsvFile
from pgonce.seeds.readers.jsonl import JsonLinesFile
from pgonce.seeds.readers.parquet import ParquetFile

DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read(
    path: str | Path, *, columns: Sequence[str] | None = None, delimiter: str | None = None
) -> CsvFile | JsonLinesFile | ParquetFile:
    """The file at ``path`` as the source of a seed; nothing is opened before the import begins.

    Args:
        path: ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson``, each also with ``.gz`` behind it, or ``.parquet``.
        columns: their names. CSV: the file has no header line then. JSON Lines: the keys to import, where the first
            line does not have them all. Parquet: those to import.
        delimiter: of a CSV file, one ASCII character; the default is a comma, and a tab for ``.tsv``.

    Raises:
        InvalidArgument: no reader knows such a file, or there is a delimiter where none belongs.
    """
    path = Path(path)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in DELIMITERS:
        return CsvFile(path, columns=columns, delimiter=delimiter or DELIMITERS[suffix])
    if delimiter is not None:
        raise InvalidArgument(f"{path.name} is no CSV file: it has no delimiter")
    if suffix in {".jsonl", ".ndjson"}:
        return JsonLinesFile(path, columns=columns)
    if path.suffix.lower() == ".parquet":
        return ParquetFile(path, columns=columns)
    raise InvalidArgument(
        f"{path.name}: nothing here reads {suffix or 'a file without a suffix'}; "
        "it should end in .csv, .tsv, .jsonl or .ndjson (also with .gz) or in .parquet"
    )
