"""Parquet through pyarrow, from any row on: only the row group in which an import stopped is read again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from pgonce.errors import InvalidArgument, SourceChanged, first_line
from pgonce.seeds.columns import Column
from pgonce.seeds.readers.descriptor import RawFile
from pgonce.seeds.readers.file import OpenFile
from pgonce.seeds.readers.file_reader import FileReader
from pgonce.seeds.readers.parquet_values import Unreadable, escaped, in_utc, is_typed, plain_columns, pyarrow, values_of
from pgonce.seeds.readers.prefix import Prefix
from pgonce.seeds.readers.unpack import Unpacker
from pgonce.seeds.source import BadRow, Cursor, SeedRow, Verdict

BLOCK = 64 * 1024
"""Bytes of a block, about. While a longer one is made ready, the server runs out of rows, as in CSV."""
ROWS = 4096
"""Rows that are unpacked at a time, at most."""
MAGIC = 8
"""Bytes at the end: the length of the footer, and PAR1."""


class _Footer(NamedTuple):
    """What a file's footer says."""

    names: list[str]
    rows: list[int]
    """Of each row group."""
    ends: list[int]
    """The offset after the last page of each row group."""


class ParquetFile(FileReader):
    """The source of a seed: a Parquet file. Needs pyarrow: ``pip install 'pgonce[parquet]'``.

    Values are those of pyarrow in Python: bytes, Decimal, UUID, datetime, list, dict. A map is a dict; one with a key
    twice is a bad row. Nanoseconds are cut to microseconds.

    The arguments are those of ``read``.

    Raises:
        InvalidArgument: while reading: there is no pyarrow, or the file is not Parquet, or lacks a column.
        SourceChanged: a row group has fewer rows than the file's footer says, or the file was changed meanwhile.
    """

    def __init__(
        self, path: str | Path, *, columns: Sequence[str] | None = None, rename: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(path, columns, rename, Unpacker(Path(path).name, text=False))
        self._footer: tuple[OpenFile, list[int], _Footer] | None = None

    @property
    def columns(self) -> Sequence[str]:
        """Those given, or all of the file, by the table's names."""
        return tuple(self._rename.get(name, name) for name in self._names(self._opened()))

    @property
    def types(self) -> Mapping[str, str]:
        """The type of each column, as pyarrow calls it."""
        opened = self._opened()
        with self._parsed(opened) as file:
            kinds = [str(file.schema_arrow.field(name).type) for name in self._names(opened)]
        return dict(zip(self.columns, kinds, strict=True))

    @property
    def copy_columns(self) -> Sequence[str]:
        """``columns``."""
        return self.columns

    @property
    def total(self) -> int:
        """Rows in the file, as its footer has it."""
        return sum(self._footer_of(self._opened()).rows)

    def progress(self, cursor: Cursor | None) -> float | None:
        """Which share of the rows lies before ``cursor``."""
        group, row = _place(cursor, self.name)
        rows = self._footer_of(self._opened()).rows
        return (sum(rows[:group]) + row) / sum(rows) if sum(rows) else None

    def needs_rows(self, columns: Mapping[str, Column]) -> bool:
        """Whether a column of the table reads another text than pyarrow writes: bytes, lists, a float as JSON."""
        with self._parsed(self._opened()) as file:
            kinds = [file.schema_arrow.field(name).type for name in self._names(self._opened())]
        return any(is_typed(kind, columns[name]) for kind, name in zip(kinds, self.columns, strict=True))

    def __call__(self, cursor: Cursor | None) -> Iterator[tuple[Any, Cursor]]:
        """The rows after ``cursor``, in the order of ``columns``."""
        for batch, group, row, before in self._batches(cursor):
            lists = [values_of(column) for column in batch.columns]
            for number, values in enumerate(zip(*lists, strict=True), 1):
                found: SeedRow | BadRow = values
                if bad := next((value for value in values if isinstance(value, Unreadable)), None):
                    found = BadRow(f"{self.name}, row {before + number:,}: {bad.reason}", str(bad.reason))
                yield found, {"row_group": group, "row": row + number}

    def copy_blocks(self, cursor: Cursor | None) -> Iterator[tuple[Any, int, Cursor]]:
        """The rows after ``cursor`` in COPY's text format, made by pyarrow: no Python for each row.

        Not where ``needs_rows``.
        """
        arrow, join = pyarrow("lib"), pyarrow("compute").binary_join_element_wise
        kind = arrow.large_string()
        nothing, tab, newline = (arrow.scalar(text, kind) for text in ("", "\t", "\n"))
        null: dict[str, str] = {"null_handling": "replace", "null_replacement": r"\N"}
        for batch, group, row, _ in self._batches(cursor):
            first, *rest = (escaped(in_utc(column).cast(kind)) for column in batch.columns)
            # each line after the newline before it: so the lines of the batch lie in memory as COPY has them
            lines = join(join(nothing, first, newline, **null), *rest, tab, **null)
            ends, data = memoryview(lines.buffers()[1]).cast("q"), memoryview(lines.buffers()[2])
            # by its size in memory: a column of few different texts is a hundred times smaller in the file
            step = max(1, BLOCK * batch.num_rows // max(1, batch.nbytes))
            for start in range(0, batch.num_rows, step):
                stop = min(start + step, batch.num_rows)
                block = b"".join((data[ends[start] + 1 : ends[stop]], b"\n"))
                yield block, stop - start, {"row_group": group, "row": row + stop}

    def reread(self) -> Iterator[tuple[Any, ...]]:
        """All rows as pyarrow gives them, by columns of whole batches, for a comparison with the table."""
        with self._parsed(self._opened_to_reread()) as file:
            names = list(self._names(self._opened()))
            for batch in file.iter_batches(columns=names, use_threads=False):
                yield from zip(
                    *(values_of(column) for column in plain_columns(batch.select(names)).columns), strict=True
                )

    def fingerprint(self, cursor: Cursor | None) -> Mapping[str, Any]:
        """Hashes of all bytes up to the end of the cursor's row group, and of the footer.

        Each row group is hashed once, after it was read: 1 GB of a file that is in memory takes a second.

        Raises:
            SourceChanged: what was read is not what the file holds now.
        """
        file = self._opened()
        found = file.fingerprint(self._end_of_group(file, cursor), self._shape(file))
        file.check()  # it was not changed either while it was hashed
        return found

    def same(self, stored: Mapping[str, Any]) -> Verdict:
        """``same`` or ``changed``: a Parquet file cannot grow at its end."""
        file = self._opened_anew()
        try:
            return "same" if file.same(stored, self._shape(file)) == "same" else "changed"
        except InvalidArgument:
            return "changed"  # it is not even a Parquet file any more, or lacks a column

    def _shape(self, file: OpenFile) -> dict[str, Any]:
        size = file.size
        footer = int.from_bytes(file.read_at(max(0, size - MAGIC), 4), "little") + MAGIC
        return {
            "footer": blake2b(file.read_at(max(0, size - footer), footer), digest_size=16).hexdigest(),
            "columns": list(self._names(file)),
            **self._names_shape,
        }

    def _end_of_group(self, opened: OpenFile, cursor: Cursor | None) -> int:
        """The offset after the row group of ``cursor`` and those before it; 0 at the start."""
        if cursor is None:
            return 0
        last, _ = _place(cursor, self.name)
        return min(max(self._footer_of(opened).ends[: last + 1], default=0), opened.size)

    def _footer_of(self, opened: OpenFile) -> _Footer:
        """Read again only after a change: each fingerprint asks for it, and reading it takes some milliseconds."""
        if self._footer is None or self._footer[0] is not opened or self._footer[1] != opened.times:
            times = opened.times
            with self._parsed(opened) as file:
                groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
                rows, ends = [group.num_rows for group in groups], [_end_of(group) for group in groups]
                self._footer = opened, times, _Footer(list(file.schema_arrow.names), rows, ends)
        return self._footer[2]

    def _names(self, opened: OpenFile) -> tuple[str, ...]:
        there = self._footer_of(opened).names
        if twice := {name for name in there if there.count(name) > 1}:
            raise InvalidArgument(f"two columns of {self.name} have the same name: {', '.join(sorted(twice))}")
        wanted = [*(self._named or ()), *self._rename]
        if missing := [name for name in wanted if name not in there]:
            raise InvalidArgument(f"{self.name} has no column {missing[0]}: it has {', '.join(there)}")
        if not (self._named or all(there)):
            raise InvalidArgument(f"a column of {self.name} has no name: name those to import (--columns)")
        return self._named or tuple(there)

    def _batches(self, cursor: Cursor | None) -> Iterator[tuple[Any, int, int, int]]:
        """(record batch of plain types, row group, rows of the group before it, rows of the file before it)."""
        first, done = _place(cursor, self.name)
        opened = self._opened_anew()
        reading = opened.reading = _Reading(opened)
        names = list(self._names(opened))
        with self._parsed(opened, reading) as file:
            about = file.metadata
            before = sum(about.row_group(group).num_rows for group in range(min(first, about.num_row_groups)))
            for group in range(first, about.num_row_groups):
                rows, row = about.row_group(group).num_rows, 0
                size = max(1, min(ROWS, BLOCK * rows // max(1, about.row_group(group).total_byte_size)))
                for batch in file.iter_batches(size, row_groups=[group], columns=names, use_threads=False):
                    skipped = min(max(done - row, 0), batch.num_rows)
                    row += batch.num_rows
                    opened.check(quick=True)
                    if skipped < batch.num_rows:
                        kept = batch.slice(skipped).select(names)
                        start = row - kept.num_rows
                        yield plain_columns(kept), group, start, before + start
                if row != rows:
                    raise SourceChanged(
                        f"{self.name}: row group {group} has {row:,} rows, and the file's footer says {rows:,}: "
                        "the file is damaged: the rows before it are in; make the file anew, and pass --restart"
                    )
                done, before = 0, before + rows
        opened.check(at_end=True)

    @contextmanager
    def _parsed(self, opened: OpenFile, reading: _Reading | None = None) -> Iterator[Any]:
        parquet = pyarrow("parquet")
        source = _Watched(opened, reading) if reading else RawFile(opened)
        try:
            # INT96 counts nanoseconds by default, which wraps outside of 1677 to 2262
            with parquet.ParquetFile(source, coerce_int96_timestamp_unit="us", page_checksum_verification=True) as file:
                yield file
        except (OSError, pyarrow("lib").ArrowException) as error:
            opened.check(at_end=True)
            raise InvalidArgument(f"{self.name} cannot be read as Parquet: {first_line(error)}") from error


class _Reading:
    """What pyarrow has read of a file: the places, and hashes of their bytes."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._ranges: dict[tuple[int, int], bytes] = {}
        self._hashed, self._prefix = file.known or (0, Prefix())
        self.position = 0
        self.is_closed = False

    def add(self, offset: int, data: bytes) -> None:
        self._ranges[offset, len(data)] = blake2b(data, digest_size=16).digest()
        self.position += len(data)

    def is_held_by(self, file: OpenFile) -> bool:
        return all(
            blake2b(file.read_at(*place), digest_size=16).digest() == found
            for place, found in list(self._ranges.items())
        )

    def ends_are_held_by(self, file: OpenFile) -> bool:
        """False: this is asked of a file that has grown, and then its footer is another one."""
        del file
        return False

    def prefix(self, offset: int) -> Prefix | None:
        """The hash of all bytes before ``offset``: pyarrow does not read them in order, so they are read once more."""
        if offset < self._hashed:
            return None
        while data := self._file.read_at(self._hashed, min(offset - self._hashed, 1 << 20)):
            self._prefix.update(data)
            self._hashed += len(data)
        return self._prefix.copy()


class _Watched(RawFile):
    def __init__(self, file: OpenFile, reading: _Reading) -> None:
        super().__init__(file)
        self._reading = reading

    def read(self, size: int = -1) -> bytes:
        offset = self.tell()
        data = super().read(size)
        if size >= 0:  # else it was read in parts
            self._reading.add(offset, data)
        return data


def _end_of(group: Any) -> int:
    """The offset after the last page of a row group."""
    columns = [group.column(place) for place in range(group.num_columns)]
    return max(
        ((each.dictionary_page_offset or each.data_page_offset) + each.total_compressed_size for each in columns),
        default=0,
    )


def _place(cursor: Cursor | None, name: str) -> tuple[int, int]:
    if cursor is None:
        return 0, 0
    match cursor:
        case {"row_group": int(group), "row": int(row)} if group >= 0 and row >= 0:
            return group, row
    raise InvalidArgument(
        f'the checkpoint {cursor!r} is not a place in {name}: it looks like {{"row_group": 3, "row": 1200}}; '
        "another source has run under this name"
    )
