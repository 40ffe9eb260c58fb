"""CSV as COPY reads it, from any record on, row by row or in blocks that need no Python per row.

A quote opens or closes wherever it stands, a doubled one inside quotes is a quote, and an empty value is NULL unless
it is quoted. So a line end belongs to a value exactly where an odd number of quotes lies before it in the record: that
is counted and not parsed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pgonce.errors import InvalidArgument
from pgonce.seeds.copy_format import TEXT
from pgonce.seeds.readers.csv_text import as_text, records, values
from pgonce.seeds.readers.file import File, at, offset_of
from pgonce.seeds.source import Cursor, SeedRow, Verdict

BLOCK = 64 * 1024
"""Bytes per read. While a longer one is made ready, the server runs out of rows (bench.imports --only CSV)."""
LONGEST = 256 * 1024 * 1024
"""Bytes of one record. A quote that is never closed makes one of the whole rest of the file."""
BOM = b"\xef\xbb\xbf"


class CsvFile:
    """The source of a seed: a CSV file in UTF-8, with LF or CRLF, with or without a BOM, also as ``.gz``.

    Args:
        path: the file.
        columns: their names, where the file has no header line.
        delimiter: one ASCII character.

    Raises:
        InvalidArgument: that delimiter cannot be; while reading: the file is no such CSV, with the row and byte.
    """

    total = None
    copy_format = TEXT

    def __init__(self, path: str | Path, *, columns: Sequence[str] | None = None, delimiter: str = ",") -> None:
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\\.' or delimiter.isalnum():
            raise InvalidArgument(f"the delimiter must be one ASCII sign, such as , ; | or a tab: not {delimiter!r}")
        self.file = File(Path(path))
        self._delimiter = delimiter
        self._named = tuple(columns) if columns else None

    @property
    def columns(self) -> Sequence[str]:
        """Those given, or those of the header line."""
        return self._header[0]

    @property
    def copy_columns(self) -> Sequence[str]:
        """The same."""
        return self.columns

    @cached_property
    def _header(self) -> tuple[tuple[str, ...], int]:
        """The columns, and the offset of the first row."""
        with self.file.open(0) as reader:
            begin = len(BOM) if reader.read(len(BOM)) == BOM else 0
        if self._named:
            return _distinct(self._named, "columns="), begin
        for block, _ in self._blocks(begin):
            for line in records(block):
                begin += len(line)
                if not line.strip(b"\r\n"):
                    continue
                names = self._values(line, begin - len(line), "the header line")
                return _distinct([name or "" for name in names], f"the header of {self.file.path.name}"), begin
        raise InvalidArgument(f"{self.file.path.name} is empty: not even a header line (or name the columns)")

    def __call__(self, cursor: Cursor | None) -> Iterator[tuple[SeedRow, Cursor]]:
        """The rows behind ``cursor``: lists of str, and None for an empty value without quotes."""
        columns, first = self._header
        offset, row = offset_of(cursor, self.file.path.name)
        end = max(offset, first)
        for block, _ in self._blocks(end):
            for line in records(block):
                start, end = end, end + len(line)
                if not line.strip(b"\r\n"):
                    continue
                row += 1
                values = self._values(line, start, f"row {row:,}")
                if len(values) != len(columns):
                    raise InvalidArgument(
                        f"row {row:,} of {self.file.path.name} (byte {start:,}) has {len(values)} values "
                        f"for {len(columns)} columns"
                    )
                yield values, at(end, row)

    def copy_blocks(self, cursor: Cursor | None) -> Iterator[tuple[bytes, int, Cursor]]:
        """The rows behind ``cursor``, some hundreds at a time, for COPY."""
        _, first = self._header
        offset, row = offset_of(cursor, self.file.path.name)
        for block, end in self._blocks(max(offset, first)):
            data, rows = as_text(block, self._delimiter)
            if rows:
                row += rows
                yield data, rows, at(end, row)

    def fingerprint(self, cursor: Cursor | None) -> Mapping[str, Any]:
        """The file's size, and hashes of its first 64 kB and of the 64 kB before the cursor."""
        return self.file.fingerprint(offset_of(cursor, self.file.path.name)[0], self._shape)

    def same(self, stored: Mapping[str, Any]) -> Verdict:
        """``grown`` when there is only more at the end."""
        return self.file.same(stored, self._shape)

    @property
    def _shape(self) -> dict[str, Any]:
        return {"delimiter": self._delimiter, "columns": list(self._named) if self._named else None}

    def _blocks(self, offset: int) -> Iterator[tuple[bytes, int]]:
        """Whole records from ``offset`` on, many at a time, and the offset behind them."""
        rest = b""
        with self.file.open(offset) as reader:
            # a record longer than a block: read as much again as there is, or copying would be quadratic
            while chunk := reader.read(max(BLOCK, len(rest))):
                rest += chunk
                if cut := record_end(rest):
                    offset += cut
                    yield rest[:cut], offset
                    rest = rest[cut:]
                elif len(rest) > LONGEST:
                    raise self._open_quote(offset)
        if rest.count(b'"') % 2:
            raise self._open_quote(offset)
        if rest:  # no line end at the end of the file
            yield rest, offset + len(rest)

    def _open_quote(self, offset: int) -> InvalidArgument:
        return InvalidArgument(
            f"{self.file.path.name}: a quote is never closed: in the row at byte {offset:,} or soon behind it"
        )

    def _values(self, line: bytes, offset: int, what: str) -> list[str | None]:
        try:
            text = line.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise InvalidArgument(
                f"{what} of {self.file.path.name} (byte {offset + error.start:,}) is not UTF-8: "
                "convert the file with iconv -f LATIN1 -t UTF-8, or whatever it is in"
            ) from error
        if '"' not in text:
            if "\r" in text:
                raise InvalidArgument(
                    f"{what} of {self.file.path.name} (byte {offset:,}) has a CR without LF outside of quotes: "
                    "convert the file with tr '\\r' '\\n'"
                )
            return [value or None for value in text.split(self._delimiter)]
        return values(text, self._delimiter)


def record_end(data: bytes) -> int:
    """How many bytes of ``data``, which begins a record, are whole records; 0 when the first is not complete."""
    cut = data.rfind(b"\n") + 1
    quotes = data.count(b'"', 0, cut)
    while quotes % 2:
        # This line end stands inside quotes. So do all back to the last quote before it: go before that one.
        earlier = data.rfind(b"\n", 0, data.rfind(b'"', 0, cut)) + 1
        quotes -= data.count(b'"', earlier, cut)
        cut = earlier
    return cut


def _distinct(names: Sequence[str], where: str) -> tuple[str, ...]:
    if not all(names):
        raise InvalidArgument(f"a column has no name in {where}")
    if twice := {name for name in names if names.count(name) > 1}:
        raise InvalidArgument(f"two columns have the same name in {where}: {', '.join(sorted(twice))}")
    return tuple(names)
