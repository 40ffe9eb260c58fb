"""Reads CSV from any record on, row by row, or in blocks without Python code for each row.

The rules are those of RFC 4180 and of COPY, with one exception: a quote in the middle of a value and text after a
closing quote are errors of that record. COPY takes ``1,5" pipe`` and ``2,3" nail`` for one row, and drops the quotes.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pgonce.errors import InvalidArgument, SourceChanged
from pgonce.seeds.readers.csv_text import NEVER_CLOSED, Dialect, as_text, cut, record_end, records, values
from pgonce.seeds.readers.file import OpenFile, Reading, at
from pgonce.seeds.readers.text_file import LONGEST, ZEROS, TextFile
from pgonce.seeds.source import BadRow, Cursor, SeedRow

BLOCK = 64 * 1024
"""Bytes per read. While a larger block is converted, the server would wait for rows (bench.imports --only CSV)."""
_EXCEL = re.compile(rb'"?sep=([ -~\t])"?\r?\n')
"""A first line that Excel writes and reads, and no other program knows."""

T = TypeVar("T")


class _Header(NamedTuple):
    file: OpenFile
    names: tuple[str, ...]
    """As the file has them."""
    bytes_: bytes
    """What lies before the first row."""
    lines: int

    @property
    def end(self) -> int:
        """The offset of the first row."""
        return len(self.bytes_)


class _Piece(NamedTuple):
    """Whole records, or one bad record."""

    data: bytes
    bad: str | None
    begin: int
    end: int
    line: int
    """Of the first record."""
    lines: int
    """Line ends in it."""


class CsvFile(TextFile):
    """The source of a seed: a CSV file with LF or CRLF, with or without a byte order mark, plain or packed.

    The arguments are those of ``read``.

    Raises:
        InvalidArgument: that delimiter, quote or encoding cannot be; while reading: a quote is never closed, or the
            file has no header line.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        columns: Sequence[str] | None = None,
        delimiter: str = ",",
        quote: str | None = '"',
        nulls: Sequence[str] = ("",),
        force_null: bool = False,
        rename: Mapping[str, str] | None = None,
        encoding: str | None = None,
        complete: bool = False,
    ) -> None:
        super().__init__(path, columns=columns, rename=rename, encoding=encoding, complete=complete)
        self._dialect = Dialect(delimiter, quote, tuple(nulls), force_null)
        self._header: _Header | None = None

    @property
    def columns(self) -> Sequence[str]:
        """Those given, or those of the header line, by the table's names."""
        return self._by_table(self._header_of(self._opened_for_columns()))

    @property
    def copy_columns(self) -> Sequence[str]:
        """``columns``, of the file that is being read."""
        return self._by_table(self._header_of(self._opened()))

    def _by_table(self, header: _Header) -> tuple[str, ...]:
        where = "the columns that were named" if self._named else f"the header of {self.name}"
        if any("\0" in name for name in header.names):
            raise InvalidArgument(f"{where}: {ZEROS}")
        return self._renamed(header.names, where)

    def __call__(self, cursor: Cursor | None) -> Iterator[tuple[Any, Cursor]]:
        """The rows after ``cursor``: lists of str, and None for NULL."""

        def rows_of(data: bytes) -> list[tuple[bytes, int]] | None:
            if as_text(data, self._dialect) is None:
                return None
            return [(each, each.count(b"\n")) for each in records(data, self._dialect)]

        for piece, found, row in self._pieces(cursor, rows_of):
            width = len(self.copy_columns)
            if found is None:
                yield self._bad(piece), at(piece.end, row + 1, piece.line + piece.lines - 1)
                continue
            end, line, number = piece.begin, piece.line, row
            for record, lines in found:
                # the last record may have no line end in the file
                end, first, line = min(end + len(record), piece.end), line, line + lines
                if not record.strip(b"\r\n"):
                    continue
                number += 1
                yield self._row(record, first, width), at(end, number, line - 1)

    def copy_blocks(self, cursor: Cursor | None) -> Iterator[tuple[Any, int, Cursor]]:
        """The rows after ``cursor``, some hundreds at a time, for COPY; a bad record by itself."""
        for piece, found, row in self._pieces(cursor, lambda data: as_text(data, self._dialect)):
            place = piece.line + piece.lines - 1
            if found is None:
                yield self._bad(piece), 1, at(piece.end, row + 1, place)
            elif found[1]:
                yield *found, at(piece.end, row + found[1], place)

    def _bad(self, piece: _Piece) -> BadRow:
        reason = f"{self.name}, line {piece.line:,}: {piece.bad}"
        if "quote" in (piece.bad or ""):
            reason += " (where quotes are text: --quote none)"
        return BadRow(reason, piece.data.decode("utf-8", "replace").rstrip("\r\n"))

    def _row(self, record: bytes, line: int, width: int) -> SeedRow | BadRow:
        try:
            found = values(record.decode().removesuffix("\n").removesuffix("\r"), self._dialect)
        except UnicodeDecodeError as error:
            reason = f"not UTF-8 (byte {error.start} of the record): {_ENCODING}"
            return self._bad(_Piece(record, reason, 0, 0, line, 0))
        if len(found) != width:
            return self._bad(_Piece(record, f"{len(found)} values for {width} columns", 0, 0, line, 0))
        return found

    def _pieces(
        self, cursor: Cursor | None, convert: Callable[[bytes], T | None]
    ) -> Iterator[tuple[_Piece, T | None, int]]:
        """Pieces of the file: its records, what ``convert`` makes of them, and how many rows come before.

        A bad record is a piece of its own, with None in place of what ``convert`` makes.

        Raises:
            InvalidArgument: a quote is never closed.
            SourceChanged: what was read is not what the file holds now.
        """
        reading, offset, row, line = self._begin(cursor)
        with reading:
            header = self._header_of(reading.file)
            self._by_table(header)  # a header that cannot be is refused before the first row
            if offset < header.end:
                self._skip_header(reading, header)
                offset, line = header.end, header.lines
            rest = b""
            while True:
                # a record longer than a block: read as much again as there is, or copying would be quadratic
                chunk = reading.read(max(BLOCK, len(rest)), offset)
                rest += chunk
                if not chunk:
                    if not self._take_open_line(rest, offset, line + 1):
                        return
                    rest += b"\n"
                for data, bad, found in self._divided(rest, convert):
                    end, lines = offset + len(data) - (not chunk), data.count(b"\n")
                    yield _Piece(data, bad, offset, end, line + 1, lines), found, row
                    row += 1 if found is None else self._rows(found)
                    offset, line = end, line + lines
                    rest = rest[len(data) :]
                if not chunk and not rest:
                    return
                if not chunk or len(rest) > LONGEST:
                    raise InvalidArgument(
                        f"{self.name}: {NEVER_CLOSED}: in the row at line {line + 1:,} (byte {offset:,}) or soon after"
                    )

    def _divided(
        self, data: bytes, convert: Callable[[bytes], T | None]
    ) -> Iterator[tuple[bytes, str | None, T | None]]:
        """Runs of good records, and bad ones one by one; what is left at the end is not complete."""
        good = record_end(data, self._dialect.grammar.quote)
        if good and (found := convert(data[:good])) is not None:
            yield data[:good], None, found
        else:
            good = 0
        if data.find(b"\n", good) < 0:
            return
        rest, begin, end = data[good:], 0, 0
        for stop, bad in cut(rest, self._dialect):
            if bad is not None:
                if begin < end:
                    yield rest[begin:end], None, convert(rest[begin:end])
                yield rest[end:stop], bad, None
                begin = stop
            end = stop
        if begin < end:
            yield rest[begin:end], None, convert(rest[begin:end])

    @staticmethod
    def _rows(found: Any) -> int:
        return int(found[1]) if isinstance(found, tuple) else sum(bool(each.strip(b"\r\n")) for each, _ in found)

    def _skip_header(self, reading: Reading, header: _Header) -> None:
        skipped = b""
        while len(skipped) < header.end and (data := reading.read(header.end - len(skipped))):
            skipped += data
        if skipped != header.bytes_:
            raise SourceChanged(f"the header of {self.name} was changed while it was read: run the same command again")

    def _header_of(self, file: OpenFile) -> _Header:
        """The columns, and where the first row begins."""
        if self._header is None or self._header.file is not file:
            self._header = self._read_header(file)
        return self._header

    def _read_header(self, file: OpenFile) -> _Header:
        data = b""
        with file.bytes_from(0) as stream:
            while len(data) <= LONGEST and (more := file.read_from(stream, max(BLOCK, len(data)))):
                data += more
                begin = self._begin_of_records(data)
                if self._named:
                    self._refuse_header(data[begin:], self._dialect.delimiter)
                    return _Header(file, self._named, data[:begin], data.count(b"\n", 0, begin))
                if found := self._first_record(file, data, begin):
                    return found
        if found := self._first_record(file, data + b"\n", self._begin_of_records(data)):
            return found._replace(bytes_=data)
        if self._named:
            return _Header(file, self._named, b"", 0)
        raise InvalidArgument(
            f"{self.name}: {NEVER_CLOSED}: in the header line"
            if data.strip(BOM_UTF8 + b"\r\n")
            else f"{self.name} is empty: it does not even have a header line (or name the columns: --columns)"
        )

    def _begin_of_records(self, data: bytes) -> int:
        """The offset after a byte order mark and Excel's line that names the delimiter.

        Raises:
            InvalidArgument: it names another one.
        """
        begin = len(BOM_UTF8) if data.startswith(BOM_UTF8) else 0
        told = _EXCEL.match(data, begin)
        if told is None:
            return begin
        if told[1].decode() != self._dialect.delimiter:
            named = "tab" if told[1] == b"\t" else told[1].decode()
            raise InvalidArgument(
                f"{self.name} begins with Excel's line sep={named}, so its delimiter is another one: pass --delimiter "
                f"{shlex.quote(named)}"
            )
        return told.end()

    def _first_record(self, file: OpenFile, data: bytes, begin: int) -> _Header | None:
        for stop, bad in cut(data[begin:], self._dialect):
            end = begin + stop
            line = data[begin:end].lstrip(b"\r\n")
            if not line:
                continue
            if bad is not None:
                raise InvalidArgument(f"{self.name}: the header line has {bad}")
            try:
                names = values(line.decode().removesuffix("\n").removesuffix("\r"), self._dialect)
            except UnicodeDecodeError as error:
                raise InvalidArgument(f"the header line of {self.name} is not UTF-8: {_ENCODING}") from error
            return _Header(file, tuple(name or "" for name in names), data[:end], data.count(b"\n", 0, end))
        return None

    def reread(self) -> Iterator[list[str | None] | BadRow]:
        """All rows as Python's csv module reads them, for a comparison that does not share this file's code.

        The module does not tell whether an empty value was quoted, and forgives quotes in wrong places.
        """
        csv.field_size_limit(sys.maxsize)
        grammar, dialect = self._dialect.grammar, self._dialect
        stream = self._opened_to_reread().bytes_from(0)
        with io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="\n") as text:
            lines = _Lines(text)
            shape: dict[str, Any] = {"quotechar": dialect.quote} if dialect.quote else {"quoting": csv.QUOTE_NONE}
            rows = csv.reader(lines, delimiter=dialect.delimiter, **shape)
            skip_header = self._named is None
            for number, row in enumerate(_without_errors(rows)):
                raw = lines.take()
                if not row or (number == 0 and _EXCEL.match(raw.encode(errors="surrogateescape"))):
                    continue
                if skip_header:
                    skip_header = False
                elif not _is_well_formed(raw, row, dialect):
                    yield BadRow("it is not CSV", raw)
                elif grammar.nulls.isdisjoint(row):
                    yield list(row)
                else:
                    told = values(raw.removesuffix("\n").removesuffix("\r"), dialect)
                    own = told if len(told) == len(row) else row
                    yield [None if mine is None else value for value, mine in zip(row, own, strict=True)]

    @property
    def _shape(self) -> dict[str, Any]:
        dialect = self._dialect
        shape: dict[str, Any] = {
            "delimiter": dialect.delimiter,
            "columns": list(self._named) if self._named else None,
        }
        if (dialect.quote, tuple(dialect.nulls), dialect.force_null) != ('"', ("",), False):
            shape |= {"quote": dialect.quote, "nulls": list(dialect.nulls), "force_null": dialect.force_null}
        return shape


def _is_well_formed(raw: str, row: Sequence[str], dialect: Dialect) -> bool:
    """Whether ``raw`` is ``row`` written as CSV, each value in quotes or without any, with one line end at its end."""
    quote, line = dialect.quote, raw.removesuffix("\n").removesuffix("\r")
    if not quote or quote not in line:
        return "\r" not in line
    place = 0
    for value in row:
        quoted = quote + value.replace(quote, quote * 2) + quote
        is_quoted = line.startswith(quoted, place)
        if not is_quoted and (not line.startswith(value, place) or quote in value or "\r" in value):
            return False
        place += len(quoted if is_quoted else value) + 1
        if line[place - 1 : place] not in {dialect.delimiter, ""}:
            return False
    return place == len(line) + 1


class _Lines:
    """Lines, and those that were taken since the last look."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for line in self._text:
            self._taken.append(line)
            yield line

    def take(self) -> str:
        taken, self._taken = "".join(self._taken), []
        return taken


def _without_errors(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """A record that the module refuses (a CR without LF) as one value: it is a reject, and its number counts."""
    while True:
        try:
            yield next(rows)
        except csv.Error:
            yield ["\r"]
        except StopIteration:
            return


_ENCODING = "say which encoding it is in, such as --encoding cp1252 (Excel's)"
