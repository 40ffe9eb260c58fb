"""Ready-made sources: the rows of a CSV, JSON Lines or Parquet file, by path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pgonce.errors import InvalidArgument
from pgonce.seeds.readers.copy_file import CopyTextFile
from pgonce.seeds.readers.csv import CsvFile
from pgonce.seeds.readers.descriptor import is_a_folder
from pgonce.seeds.readers.jsonl import JsonLinesFile
from pgonce.seeds.readers.parquet import ParquetFile
from pgonce.seeds.readers.several import BlockFiles, Files
from pgonce.seeds.readers.unpack import PACKED

FileSource: TypeAlias = CopyTextFile | CsvFile | JsonLinesFile | ParquetFile
DELIMITERS = {".csv": ",", ".tsv": "\t"}
LINES = {".jsonl", ".ndjson"}
WAYS_OUT = {
    ".xlsx": "save the sheet as CSV (UTF-8) and load that",
    ".xls": "save the sheet as CSV (UTF-8) and load that",
    ".ods": "save the sheet as CSV (UTF-8) and load that",
    ".json": "make one object per line of it: jq -c '.[]' x.json > x.jsonl; or it has one already: --format jsonl",
    ".sql": "it is for psql",
}


def read_files(paths: Sequence[str | Path], name: str, **options: Any) -> Files:
    """Several files as one source, in this order; ``options`` as of ``read``.

    Args:
        paths: the files.
        name: for messages: the pattern, for example.
        options: as of ``read``.

    Raises:
        InvalidArgument: there is no file, or the files are of several kinds; or as ``read`` raises it.
    """
    found = [read(path, **options) for path in paths]
    return (Files if any(isinstance(each, JsonLinesFile) for each in found) else BlockFiles)(found, name)


def read(
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    delimiter: str | None = None,
    quote: str | None = '"',
    nulls: Sequence[str] = ("",),
    force_null: bool = False,
    rename: Mapping[str, str] | None = None,
    encoding: str | None = None,
    complete: bool = False,
    format: str | None = None,  # noqa: A002 -- the option's name
) -> FileSource:
    """The file at ``path`` as the source of a seed; nothing is opened before the import begins.

    Args:
        path: ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson`` or ``.parquet``; the texts also packed, with ``.gz``,
            ``.bz2``, ``.xz``, ``.zst`` or ``.zip`` after it. ``-`` is the standard input.
        columns: their names. CSV: the file has no header line then. JSON Lines: the keys to import, where the first
            line does not have them all. Parquet: those to import.
        delimiter: of a CSV file, one ASCII character; the default is a comma, and a tab for ``.tsv``.
        quote: of a CSV file, one ASCII character; None: it has no quotes.
        nulls: how a CSV file writes NULL, without quotes.
        force_null: NULL may be quoted, too: for files whose values are all quoted.
        rename: the table's column for a name in the file.
        encoding: of the text, such as cp1252; None: UTF-8, or UTF-16 or UTF-32 with a byte order mark.
        complete: the last line is whole, also without a line end.
        format: csv, tsv, jsonl, parquet, or copy (what COPY writes without options), where the name does not say it.

    Raises:
        InvalidArgument: no reader knows such a file, or an option does not belong to it.
    """
    path = Path(path)
    name = path.name.lower()
    for packing in PACKED:
        name = name.removesuffix(packing)
    suffix = f".{format}" if format else Path(name).suffix
    if suffix in DELIMITERS:
        return CsvFile(
            path, columns=columns, delimiter=delimiter or DELIMITERS[suffix], quote=quote, nulls=nulls,
            force_null=force_null, rename=rename, encoding=encoding, complete=complete,
        )  # fmt: skip
    if delimiter is not None or quote != '"' or tuple(nulls) != ("",) or force_null:
        raise InvalidArgument(f"{path.name} is not a CSV file: it has no delimiter, no quotes and no spelling of NULL")
    if suffix == ".copy":
        return CopyTextFile(path, columns=columns, rename=rename, encoding=encoding, complete=complete)
    if suffix in LINES:
        return JsonLinesFile(path, columns=columns, rename=rename, encoding=encoding, complete=complete)
    if suffix == ".parquet" and path.suffix.lower() not in PACKED:
        if encoding is not None:
            raise InvalidArgument(f"{path.name} is a Parquet file: its texts are always UTF-8")
        return ParquetFile(path, columns=columns, rename=rename)
    if path.is_dir():
        raise InvalidArgument(is_a_folder(path))
    raise InvalidArgument(
        f"{path.name}: no reader knows {suffix or 'a file without a suffix'}: "
        + (
            WAYS_OUT.get(suffix)
            or f"the name should end in .csv, .tsv, .jsonl or .ndjson (also with {', '.join(PACKED)}) or in .parquet, "
            "or say what it is: --format csv"
        )
    )
