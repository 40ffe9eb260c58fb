"""What the readers of all formats share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pgonce.errors import InvalidArgument
from pgonce.seeds.readers.file import OpenFile, text_of
from pgonce.seeds.readers.unpack import Unpacker


class FileReader:
    """A source with a path, and names of columns.

    ``columns`` are names as the reader understands them; ``rename``: the table's column for a name in the file.
    """

    def __init__(
        self, path: str | Path, columns: Sequence[str] | None, rename: Mapping[str, str] | None, unpacker: Unpacker
    ) -> None:
        self.path = Path(path)
        self._unpacker = unpacker
        self._named = tuple(columns) if columns else None
        self._rename = dict(rename or {})
        self._file: OpenFile | None = None

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return "standard input" if str(self.path) == "-" else text_of(self.path.name)

    @property
    def columns(self) -> Sequence[str]:
        """The names of the columns, by the table's names."""
        raise NotImplementedError

    def check_columns(self, known: Collection[str], table: str) -> None:
        """Refuse a file of which a column is in the name of its folder."""
        refuse_folders(self, [self.path], known, table)

    @property
    def _names_shape(self) -> dict[str, Any]:
        """Into which columns of the table the values go: part of how the file is read."""
        return {"map": dict(self._rename) or None}

    @property
    def size_read(self) -> int:
        """The file's size, when its last row was read."""
        return self._file.size if self._file else 0

    def _new_file(self) -> OpenFile:
        return OpenFile(self.path, self._unpacker.fresh())

    def _opened(self) -> OpenFile:
        """The file of the present import, or of the next one."""
        if self._file is None:
            self._file = self._new_file()
        return self._file

    def _opened_anew(self) -> OpenFile:
        """The file for a new reading: opened again, unless that was done just now and nothing was read yet."""
        file = self._file
        # the bytes of a pipe come only once
        if file is not None and not file.is_pipe and (file.reading is not None or file.is_replaced()):
            self._file = None
        return self._opened()

    def _opened_to_reread(self) -> OpenFile:
        """The file for a reading from the start, beside that of the import."""
        return self._file if self._file is not None and self._file.is_pipe else self._new_file()

    def release(self) -> None:
        """Close the file until it is needed again: of several files only those under way are open."""
        if self._file is not None and not self._file.is_pipe:
            self._file.close()
            self._file = None

    def rename(self, names: Mapping[str, str]) -> None:
        """Give columns other names. ``names``: the new name for each old one, as ``columns`` has it."""
        in_file = {column: name for name, column in self._rename.items()}
        self._rename |= {in_file.get(old, old): new for old, new in names.items()}


def refuse_folders(source: Any, paths: Iterable[Path], known: Collection[str], table: str) -> None:
    """Refuse files of which a column is in the name of their folder, as Hive and Spark write them: ``day=2026-11-29``.

    Args:
        source: has the columns of the files.
        paths: the files.
        known: the columns of the table.
        table: its name, for the message.

    Raises:
        InvalidArgument: the column would be left empty.
    """
    for path in paths:
        for folder in path.parts[:-1]:
            column, sign, _ = folder.partition("=")
            if sign and column in known and column not in source.columns:
                raise InvalidArgument(
                    f"column {column} of {table} is in the name of the folder {folder}, and not in {path.name}: make "
                    "the value the column's default, and load the file from inside of the folder, with a --name of its "
                    "own"
                )
