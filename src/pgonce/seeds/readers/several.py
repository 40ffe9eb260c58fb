"""Several files as one source, in order: the cursor says in which file an import stands, and where in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any, TypeVar

from pgonce.errors import InvalidArgument, SourceChanged
from pgonce.seeds.readers.copy_file import CopyTextFile
from pgonce.seeds.readers.csv import CsvFile
from pgonce.seeds.readers.descriptor import is_settled, stat_of
from pgonce.seeds.readers.file import advice, text_of
from pgonce.seeds.readers.file_reader import refuse_folders
from pgonce.seeds.readers.jsonl import NO_SUCH_KEY, JsonLinesFile
from pgonce.seeds.readers.parquet import ParquetFile
from pgonce.seeds.source import Cursor, Verdict

T = TypeVar("T")


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
        for file in files:
            if isinstance(file, JsonLinesFile):
                file.is_alone = len(files) == 1
        short = [file.name for file in files]
        self._names = short if len(set(short)) == len(short) else [text_of(str(file.path)) for file in files]
        self._columns: tuple[str, ...] | None = None
        self._ends: dict[int, Cursor] = {}
        self._sizes: dict[int, int] = {}
        """Of files that were read to their ends, at that moment."""
        self._read: dict[int, Mapping[str, Any]] = {}
        """The fingerprints of files that were read to their ends."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of the first file, which is closed by the time that others are read."""
        if self._columns is None:
            columns = tuple(self.files[0].columns)
            self._refuse_unknown_keys()
            self._columns = columns
        return self._columns

    def _refuse_unknown_keys(self) -> None:
        """Refuse a named key that no line of any JSON Lines file has. One that a whole file lacks is NULL there."""
        first, is_read = self.files[0], False
        if not isinstance(first, JsonLinesFile):
            return
        lacking = set(first.named)
        for file in self.files:
            if not lacking:
                return
            if isinstance(file, JsonLinesFile) and (found := file.lacking(lacking)) is not None:
                lacking, is_read = found, True
        if lacking and is_read:
            raise InvalidArgument(f"{self.name}: no line of the files has the key {min(lacking)!r}: {NO_SUCH_KEY}")

    @property
    def types(self) -> Mapping[str, str]:
        """Those of the first file, where it says them."""
        return getattr(self.files[0], "types", {})

    @property
    def total(self) -> int | None:
        """Rows in all files, where they say it."""
        totals = list(self._each(lambda file: file.total))
        return None if any(each is None for each in totals) else sum(each or 0 for each in totals)

    def rename(self, names: Mapping[str, str]) -> None:
        """Give the columns of all files other names."""
        self._columns = None
        for file in self.files:
            file.rename(names)

    def check_columns(self, known: Collection[str], table: str) -> None:
        """Refuse files of which a column is in the name of their folder."""
        refuse_folders(self, [file.path for file in self.files], known, table)

    def progress(self, cursor: Cursor | None) -> float | None:
        """Which share of the bytes lies before ``cursor``; None: unknown, for example because a file is a pipe."""
        number, inner = self._place(cursor)
        share = self.files[number].progress(inner)
        try:
            sizes = [file.path.stat().st_size for file in self.files]
        except OSError:
            return None
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
            file.release()

    def fingerprint(self, cursor: Cursor | None) -> Mapping[str, Any]:
        """The fingerprints of all files up to the one of the cursor.

        Raises:
            SourceChanged: a file does not hold any more what was read of it.
        """
        number, inner = self._place(cursor)
        for before in range(number):
            if before in self._read:
                self._check_again(before)
                continue
            file = self.files[before]
            self._read[before] = found = file.fingerprint(self._ends.get(before))
            if found["size"] != self._sizes.get(before, found["size"]):
                raise SourceChanged(_has_grown(file.name))
            file.release()
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
                file.release()
                if verdicts[-1] == "grown":
                    raise SourceChanged(_has_grown(file.name))
                self._read[number] = found
        if "changed" in verdicts:
            return "changed"
        return "same" if verdicts[-1] == "same" and len(self.files) == len(earlier) else "grown"

    def _check_again(self, number: int) -> None:
        """Compare a file that was read to its end, if there is any sign of a change since then.

        Raises:
            SourceChanged: it holds something else now, or more.
        """
        file, found = self.files[number], self._read[number]
        try:
            now = file.path.stat()
        except OSError:  # a file that was only removed has not changed
            return
        if found.get("stat") == stat_of(now) or not S_ISREG(now.st_mode):  # a pipe cannot be read again
            return
        verdict = file.same({key: value for key, value in found.items() if key != "file"})
        file.release()
        if verdict == "changed":
            raise SourceChanged(advice(f"{file.name} was changed after it was read"))
        if verdict == "grown":
            raise SourceChanged(_has_grown(file.name))
        # not yet settled: one more change might leave its times as they are, so it is compared at the next batch, too
        self._read[number] = {**found, "stat": stat_of(now) if is_settled(now) else None}

    def _each(self, look: Callable[[Any], T]) -> Iterator[T]:
        """What ``look`` finds in each file, with one open at a time."""
        for file in self.files:
            yield look(file)
            file.release()

    def _from(self, cursor: Cursor | None) -> Iterator[tuple[int, Any, Cursor | None]]:
        first, inner = self._place(cursor)
        self._columns = None
        columns = self.columns
        for number in range(first, len(self.files)):
            file = self.files[number]
            if tuple(file.columns) != columns:
                named = ", or name the columns (--columns)" if isinstance(file, JsonLinesFile | ParquetFile) else ""
                raise InvalidArgument(
                    f"{file.name} has the columns {', '.join(file.columns)}, and {self.files[0].name} has "
                    f"{', '.join(columns)}: load them one by one{named}"
                )
            self._ends[number] = inner
            yield number, file, inner
            self._sizes[number] = file.size_read
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
        return 0 <= number < len(self._names) and Path(str(name)).name == self.files[number].name


class BlockFiles(Files):
    """Files whose rows come in blocks for COPY."""

    @property
    def copy_columns(self) -> Sequence[str]:
        """The columns."""
        return self.columns

    def needs_rows(self, columns: Mapping[str, Any]) -> bool:
        """Whether some file needs them."""
        return isinstance(self.files[0], ParquetFile) and any(self._each(lambda file: file.needs_rows(columns)))

    def copy_blocks(self, cursor: Cursor | None) -> Iterator[tuple[Any, int, Cursor]]:
        """The rows after ``cursor``."""
        for number, file, inner in self._from(cursor):
            for data, rows, at in file.copy_blocks(inner):
                yield data, rows, self._cursor(number, at)


def _has_grown(name: str) -> str:
    return (
        f"{name} has grown after it was read to its end and another file was begun: --restart reads all files again, "
        "and skips rows that are there"
    )
