"""What the readers of text files share: one opening per import, a fingerprint, and a last line without a line end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pgonce.errors import InvalidArgument, SourceChanged, SourceUnfinished
from pgonce.seeds.readers.file import OpenFile, Reading, offset_of
from pgonce.seeds.readers.file_reader import FileReader
from pgonce.seeds.readers.unpack import Unpacker
from pgonce.seeds.source import Cursor, Verdict

LONGEST = 256 * 1024 * 1024
"""Bytes of one line or record. A quote that is never closed makes one record of the whole rest of the file."""

ZEROS = "it has zero bytes: it is not text, or is text in UTF-16 without a byte order mark: --encoding utf-16-le"


class TextFile(FileReader):
    """A source that reads one file line by line or record by record."""

    total = None

    def __init__(
        self,
        path: str | Path,
        *,
        columns: Sequence[str] | None = None,
        rename: Mapping[str, str] | None = None,
        encoding: str | None = None,
        complete: bool = False,
    ) -> None:
        super().__init__(path, columns, rename, Unpacker(Path(path).name, encoding))
        self._complete = complete
        self._earlier_size: int | None = None
        self._open_line: int | None = None

    @property
    def size_read(self) -> int:
        """The file's size, when its last row was read. Its present size may be greater."""
        reading = file.reading if (file := self._file) and file.unpacker.is_plain else None
        return reading.position if reading else super().size_read

    def progress(self, cursor: Cursor | None) -> float | None:
        """Which share of the file lies before ``cursor``; None: unknown, as its bytes are not those of its text."""
        file = self._opened()
        if not file.unpacker.is_plain or not file.size:
            return None
        return min(1.0, offset_of(cursor, self.name)[0] / file.size)

    def _opened_for_columns(self) -> OpenFile:
        """The file of the present import; another one after its end, for the next import of the same source."""
        file = self._file
        if file is not None and not file.is_pipe and file.reading is not None and file.reading.is_closed:
            self._file = None
        return self._opened()

    def _begin(self, cursor: Cursor | None) -> tuple[Reading, int, int, int]:
        """The reading from ``cursor`` on, and its offset, row and line.

        Raises:
            SourceChanged: the cursor stands in the middle of a line.
        """
        offset, row, line = offset_of(cursor, self.name)
        file = self._opened_anew()
        self._open_line = None
        reading = Reading(file, offset)
        if offset and file.unpacker.is_plain:
            before, after = file.read_at(offset - 1, 1), file.read_at(offset, 1)
            if not before:
                raise SourceChanged(
                    f"{self.name} is shorter than what was read of it: --restart reads it from its start"
                )
            if before != b"\n" and after not in {b"", b"\n", b"\r"}:
                raise SourceChanged(_became_longer(self.name))
        return reading, offset, row, line

    def _take_open_line(self, rest: bytes, offset: int, line: int) -> bool:
        """Whether the file ends in a line without a line end that counts as whole.

        Raises:
            SourceUnfinished: it may be half a line: the file is still being written, or the pipe's writer has died.
        """
        if not rest.strip(b"\r\n"):
            return False
        file = self._opened()
        if self._complete or file.is_still(self._earlier_size):
            self._open_line = offset + len(rest)
            return True
        why = "its writer may have died" if file.is_pipe else "the file was written less than a minute ago"
        raise SourceUnfinished(
            f"{self.name}, line {line:,}: the last line has no line end, and {why}: this line was left out: pass "
            f"--complete if {'it' if file.is_pipe else 'the file'} is whole, or run the same command again"
        )

    def fingerprint(self, cursor: Cursor | None) -> Mapping[str, Any]:
        """The file's size, and a hash of all that lies before the cursor.

        Raises:
            SourceChanged: what was read is not what the file holds now.
        """
        offset = offset_of(cursor, self.name)[0]
        found = self._opened().fingerprint(offset, self._shape | self._names_shape)
        return found | {"open_line": True} if offset and offset == self._open_line else found

    def same(self, stored: Mapping[str, Any]) -> Verdict:
        """``grown`` when there is only more at the end.

        Raises:
            SourceChanged: the last line had no line end when it was imported, and has become longer.
        """
        self._earlier_size = stored.get("size")
        file = self._opened_anew()
        verdict = file.same(stored, self._shape | self._names_shape)
        if verdict == "grown" and stored.get("open_line"):
            with file.bytes_from(int(stored["offset"])) as stream:
                begin = file.read_from(stream, 1)
            if begin not in {b"", b"\n", b"\r"}:
                raise SourceChanged(_became_longer(self.name))
        return verdict

    @property
    def _shape(self) -> dict[str, Any]:
        """How the file is read: read in another way it is another source."""
        raise NotImplementedError

    def _renamed(self, names: Sequence[str], where: str) -> tuple[str, ...]:
        """The table's columns for the names in the file, each there once.

        Raises:
            InvalidArgument: a name is empty, or there twice, or a name to be replaced is not there.
        """
        if lacking := [name for name in self._rename if name not in names]:
            raise InvalidArgument(f"{self.name} has no column {lacking[0]}: it has {', '.join(names)}")
        if not all(names):
            raise InvalidArgument(f"a column has no name in {where}: give it one there")
        columns = tuple(self._rename.get(name, name) for name in names)
        if twice := {name for name in columns if columns.count(name) > 1}:
            said = f"two columns have the same name in {where}: {', '.join(sorted(twice))}"
            raise InvalidArgument(f"{said}: give each its own there")
        return columns

    def _refuse_header(self, data: bytes, delimiter: str) -> None:
        """Refuse columns that are named although the first line of ``data`` names them: it would be a row."""
        line = data.lstrip(b"\r\n").partition(b"\n")[0].decode("utf-8", "replace").casefold()
        if [name.strip(' \r"') for name in line.split(delimiter)] == [name.casefold() for name in self._named or ()]:
            raise InvalidArgument(f"the first line of {self.name} has the names of the columns: leave --columns out")


def _became_longer(name: str) -> str:
    return (
        f"{name}: the last line had no line end when it was imported, and has become longer since: the row was half of "
        "one: --restart --on-conflict update reads the file from its start and corrects it"
    )
