r"""What psql's ``\copy`` and COPY write without options: their text format, line by line."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from typing import Any

from pgonce.errors import InvalidArgument, SourceUnfinished
from pgonce.seeds.copy_format import copy_values, ends_in_escape, split_unescaped
from pgonce.seeds.readers.file import OpenFile, at
from pgonce.seeds.readers.text_file import LONGEST, TextFile
from pgonce.seeds.source import BadRow, Cursor

BLOCK = 64 * 1024
END = rb"\."
"""A line that ends the data, in files that psql has written for its own standard input."""


class CopyTextFile(TextFile):
    r"""The source of a seed: tabs between values, ``\N`` for NULL, backslash escapes; a byte order mark is left out.

    Without ``columns`` the first line is a header, as COPY writes it with HEADER. The arguments are those of ``read``.
    """

    _header: tuple[OpenFile, tuple[str, ...], int] | None = None

    @property
    def columns(self) -> Sequence[str]:
        """Those given, or those of the header line, by the table's names."""
        return self._renamed(self._header_of(self._opened_for_columns())[1], f"the columns of {self.name}")

    @property
    def copy_columns(self) -> Sequence[str]:
        """``columns``, of the file that is being read."""
        return self._renamed(self._header_of(self._opened())[1], f"the columns of {self.name}")

    def __call__(self, cursor: Cursor | None) -> Iterator[tuple[Any, Cursor]]:
        """The rows after ``cursor`` as texts, None for NULL."""
        width = len(self.copy_columns)
        for lines, end, row in self._blocks(cursor):
            for number, (line, found, place) in enumerate(self._canonical(lines, end, row), row + 1):
                values: Any = found if isinstance(found, BadRow) else copy_values(found)
                if isinstance(values, list) and len(values) != width:
                    values = self._bad(line, number, f"{len(values)} values for {width} columns")
                yield values, at(place, number, number)

    def reread(self) -> Iterator[Any]:
        """All rows as texts; the writer's blocks are parsed by the server alone."""
        return (row for row, _ in self(None))

    def copy_blocks(self, cursor: Cursor | None) -> Iterator[tuple[Any, int, Cursor]]:
        """The rows after ``cursor`` as they stand in the file, each on one line that ends in a newline."""
        for lines, end, row in self._blocks(cursor):
            data = b"".join(lines)
            if data.endswith(b"\n") and b"\r\n" not in data and b"\\\n" not in data:
                yield data, len(lines), at(end, row + len(lines), row + len(lines))
                continue
            good, before = list[bytes](), end - len(data)
            for number, (_, found, place) in enumerate(self._canonical(lines, end, row), row + 1):
                if isinstance(found, bytes):
                    good.append(found)
                else:
                    if good:
                        yield b"".join(good), len(good), at(before, number - 1, number - 1)
                    yield found, 1, at(place, number, number)
                    good = []
                before = place
            if good:
                yield b"".join(good), len(good), at(end, row + len(lines), row + len(lines))

    def _canonical(self, lines: list[bytes], end: int, row: int) -> Iterator[tuple[bytes, bytes | BadRow, int]]:
        r"""Each line as it stands and as COPY would have written it, and the offset after it.

        A line end is ``\n`` or ``\r\n``; one in a value, after a backslash, becomes ``\n`` in two characters.
        """
        place = end - sum(map(len, lines))
        for number, line in enumerate(lines, row + 1):
            place += len(line)
            text = line.removesuffix(b"\n").removesuffix(b"\r")
            if ends_in_escape(text):
                yield line, self._bad(line, number, "a backslash stands alone before the end of the line"), place
            else:
                yield line, text.replace(b"\\\n", rb"\n") + b"\n", place

    def _bad(self, line: bytes, row: int, reason: str) -> BadRow:
        return BadRow(f"{self.name}, row {row:,}: {reason}", line.decode("utf-8", "replace"))

    def _blocks(self, cursor: Cursor | None) -> Iterator[tuple[list[bytes], int, int]]:
        """(lines, offset after them, rows before them).

        Raises:
            SourceUnfinished: more follows a line that ends the data, or the last line may be half of one.
        """
        reading, offset, row, _ = self._begin(cursor)
        with reading:
            begin = self._header_of(reading.file)[2]
            while offset < begin and (skipped := reading.read(begin - offset)):
                offset += len(skipped)
            rest, ended = b"", False
            while not ended:
                chunk = reading.read(max(BLOCK, len(rest)), offset)
                *whole, rest = split_unescaped(rest + chunk, b"\n")
                lines = [line + b"\n" for line in whole]
                if not chunk:
                    ended = True
                    if rest.strip() != END and self._take_open_line(rest, offset, row + 1):
                        lines = [rest]
                last = next((place for place, line in enumerate(lines) if line.rstrip(b"\r\n") == END), None)
                more = last is not None and (len(lines) > last + 1 or bool(rest) or bool(reading.read(1)))
                lines = lines[:last]
                if lines:
                    end = offset + sum(map(len, lines))
                    yield lines, end, row
                    offset, row = end, row + len(lines)
                if more:
                    raise SourceUnfinished(
                        f"{self.name}: the line \\. after row {row:,} ends the data, and what follows it was left out: "
                        "make it a file of its own"
                    )
                ended = ended or last is not None
                if len(rest) > LONGEST:
                    raise InvalidArgument(f"{self.name}, row {row + 1:,}: the line is over 256 MB long")

    def _header_of(self, file: OpenFile) -> tuple[OpenFile, tuple[str, ...], int]:
        if self._header is None or self._header[0] is not file:
            with file.bytes_from(0) as stream:
                begin = file.read_from(stream, 1 << 20)
            mark = len(BOM_UTF8) if begin.startswith(BOM_UTF8) else 0
            if self._named:
                self._refuse_header(begin[mark:], "\t")
                self._header = file, self._named, mark
            else:
                line, end, _ = begin[mark:].partition(b"\n")
                if not end:
                    raise InvalidArgument(f"{self.name} has no header line: name the columns: --columns a,b")
                names = copy_values(line.removesuffix(b"\r"))
                self._header = file, tuple(name or "" for name in names), mark + len(line) + 1
        return self._header

    @property
    def _shape(self) -> dict[str, Any]:
        return {"columns": list(self._named) if self._named else None, "format": "copy"}
