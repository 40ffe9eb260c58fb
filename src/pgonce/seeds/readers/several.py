"""Several files as one source, in order: the cursor says in which file an import stands, and where in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pgonce.errors import InvalidArgument, SourceChanged
from pgonce.seeds.copy_format import TEXT
from pgonce.seeds.readers.copy_file import CopyTextFile
from pgonce.seeds.readers.csv import CsvFile
from pgonce.seeds.readers.jsonl import JsonLinesFile
from pgonce.seeds.readers.parquet import ParquetFile
from pgonce.seeds.source import Cursor, Verdict


class Files:
    """The rows of several files of one kind and with the same columns, one file after the other.

    Files may be added at the end of the list between two runs. A file that was read to its end and has changed or grown
    since stops the import.

    ``name`` is for messages.

    Raises:
        InvalidArgument: there is no file, or the files are of different kinds; while reading: of different columns.
    """

    def __init__(self, files: Sequence[CopyTextFile | CsvFile | JsonLinesFile | ParquetFile], name: str) -> None:
        if not files:
            raise InvalidArgument(f"no file fits {name}")
        if len({type(file) for file in files}) > 1:
            raise InvalidArgument(
                f"{name}: load files of one kind at a time: these are CSV, JSON Lines and Parquet mixed"
            )
        self.files = files
        self.name = name
        self.json_strings = isinstance(files[0], JsonLinesFile)
        short = [file.path.name for file in files]
        self._names = short if len(set(short)) == len(short) else [str(file.path) for file in files]
        self._ends: dict[int, Cursor] = {}
        self._read: dict[int, Mapping[str, Any]] = {}
        """The fingerprints of files that were read to their ends."""

    @property
    def columns(self) -> Sequence[str]:
        """Those of the first file."""
        return self.files[0].columns

    @property
    def types(self) -> Mapping[str, str]:
        """Those of the first file, where it says them."""
        return getattr(self.files[0], "types", {})

    @property
    def total(self) -> int | None:
        """Rows in all files, where they say it."""
        totals = [file.total for file in self.files]
        return None if any(each is None for each in totals) else sum(each or 0 for each in totals)

    def rename(self, names: Mapping[str, str]) -> None:
        """Give the columns of all files other names."""
        for file in self.files:
            file.rename(names)

    def progress(self, cursor: Cursor | None) -> float | None:
        """Which share of the bytes lies before ``cursor``."""
        number, inner = self._place(cursor)
        share = self.files[number].progress(inner)
        sizes = [file.path.stat().st_size for file in self.files]
        return None if share is None or not sum(sizes) else (sum(sizes[:number]) + share * sizes[number]) / sum(sizes)

    def __call__(self, cursor: Cursor | None) -> Iterator[tuple[Any, Cursor]]:
        """The rows after ``cursor``."""
        for number, file, inner in self._from(cursor):
            for row, at in file(inner):
                yield row, self._cursor(number, at)

    def reread(self) -> Iterator[Any]:
        """All rows of all files, each as `reread` of its reader yields them."""
        for file in self.files:
            yield from file.reread()

    def fingerprint(self, cursor: Cursor | None) -> Mapping[str, Any]:
        """The fingerprints of all files up to the one of the cursor.

        Raises:
            SourceChanged: a file does not hold any more what was read of it.
        """
        number, inner = self._place(cursor)
        for before in range(number):
            if before not in self._read:
                self._read[before] = self.files[before].fingerprint(self._ends.get(before))
        files = [*(self._read[before] for before in range(number)), self.files[number].fingerprint(inner)]
        return {"files": [{"file": name, **found} for name, found in zip(self._names, files, strict=False)]}

    def same(self, stored: Mapping[str, Any]) -> Verdict:
        """``grown`` where files were added at the end, or the last one that was read has grown.

        Raises:
            SourceChanged: the files before the cursor are others, or one of them has grown.
        """
        earlier = stored.get("files") or [{}]
        names = [each.get("file") for each in earlier]
        if not all(map(self._is_file, range(len(names)), names)):
            raise SourceChanged(
                f"{self.name}: the files that were read ({', '.join(map(str, names))}) are no longer the first: "
                "new files must sort after them, or --restart reads all of them"
            )
        verdicts: list[Verdict] = []
        for number, (file, each) in enumerate(zip(self.files, earlier, strict=False)):
            found = {key: value for key, value in each.items() if key != "file"}
            verdicts.append(file.same(found))
            if number < len(earlier) - 1:
                if verdicts[-1] == "grown":
                    raise SourceChanged(
                        f"{file.name} has grown after it was read to its end and another file was begun: "
                        "--restart reads all files again, and skips rows that are there"
                    )
                self._read[number] = found
        if "changed" in verdicts:
            return "changed"
        return "same" if verdicts[-1] == "same" and len(self.files) == len(earlier) else "grown"

    def _from(self, cursor: Cursor | None) -> Iterator[tuple[int, Any, Cursor | None]]:
        first, inner = self._place(cursor)
        columns = tuple(self.columns)
        for number in range(first, len(self.files)):
            file = self.files[number]
            if tuple(file.columns) != columns:
                raise InvalidArgument(
                    f"{file.name} has the columns {', '.join(file.columns)}, and {self.files[0].name} has "
                    f"{', '.join(columns)}: load them one by one, or name the columns"
                )
            self._ends[number] = inner
            yield number, file, inner
            inner = None

    def _cursor(self, number: int, inner: Cursor) -> Cursor:
        self._ends[number] = inner
        return {"file": self._names[number], "number": number + 1, "at": inner}

    def _place(self, cursor: Cursor | None) -> tuple[int, Cursor | None]:
        if cursor is None:
            return 0, None
        match cursor:
            case {"file": str(name), "number": int(number), "at": inner} if self._is_file(number - 1, name):
                return number - 1, inner
        raise InvalidArgument(
            f"the checkpoint {cursor!r} is not a place in {self.name}: its file is not among "
            f"{', '.join(self._names[:5])}: bring it back, or pass --restart"
        )

    def _is_file(self, number: int, name: Any) -> bool:
        """Whether the file in this place may have had this name: its folder does not count."""
        return 0 <= number < len(self._names) and Path(str(name)).name == self.files[number].path.name


class BlockFiles(Files):
    """Files whose rows come in blocks for COPY."""

    copy_format = TEXT

    @property
    def copy_columns(self) -> Sequence[str]:
        """The columns."""
        return self.columns

    def needs_rows(self, columns: Mapping[str, Any]) -> bool:
        """Whether some file needs them."""
        return any(file.needs_rows(columns) for file in self.files if isinstance(file, ParquetFile))

    def copy_blocks(self, cursor: Cursor | None) -> Iterator[tuple[Any, int, Cursor]]:
        """The rows after ``cursor``."""
        for number, file, inner in self._from(cursor):
            for data, rows, at in file.copy_blocks(inner):
                yield data, rows, self._cursor(number, at)
