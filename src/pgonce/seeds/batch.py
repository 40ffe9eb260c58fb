"""Where a batch ends, how large the next one is, and how long to wait behind it: all without a clock of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pgonce.errors import InvalidArgument
from pgonce.seeds.copy_format import TEXT
from pgonce.seeds.copy_text import Refused, RowFormatter
from pgonce.seeds.prefetch import give_way
from pgonce.seeds.source import NO_CURSOR, BlockSource, CopyFormat, Cursor, SeedRow

SMALLEST, LARGEST = 100, 50_000
"""Rows per batch, unless the seed says how many."""
BYTES = 8_000_000
"""A batch that holds so much ends, however few rows it has: three are in memory at a time."""
SECONDS = 1.0
"""What a batch should take."""
CHUNK_ROWS, CHUNK_BYTES = 256, 64_000
"""Rows that are formatted at a time: enough to spread the cost, few enough that rows of a megabyte do not pile up."""


@dataclass(slots=True)
class Pace:
    """How many rows the next batch has.

    Args:
        fixed: rows per batch, at least; None: as many as take about a second.
    """

    fixed: int | None = None
    limit: float | None = None
    """Rows per second at most: then no batch is larger than what a second allows."""
    rows: int = 1000

    @property
    def size(self) -> int:
        """Rows of the next batch, at least."""
        wanted = self.fixed or self.rows
        return max(1, min(wanted, int(self.limit))) if self.limit else wanted

    def took(self, rows: int, seconds: float) -> None:
        """A batch of ``rows`` took so long, from the one before it to its commit."""
        wanted = rows * SECONDS / max(seconds, 1e-6)
        # at most four times and at least a quarter: one hiccup of the disk is no reason to crawl
        self.rows = int(min(max(wanted, self.rows / 4, SMALLEST), self.rows * 4, LARGEST))

    def pause(self, rows: int, seconds: float) -> float:
        """How long to wait, in seconds, when ``rows`` have been done in ``seconds``."""
        return max(0.0, rows / self.limit - seconds) if self.limit else 0.0


@dataclass(slots=True)
class Packed:
    """Rows that are committed together, ready for COPY, and the cursor behind the last of them."""

    columns: Sequence[str]
    cursor: Cursor = None
    parts: list[bytes] = field(default_factory=list)
    rows: int = 0
    """All that were seen, the refused ones too."""
    cursors: list[Cursor] | None = None
    """Of each row; None where only the batch's is known."""
    refused: list[Refused] = field(default_factory=list)
    """Rows that are not in ``parts``, because they have no text; their index counts all rows of the batch."""
    format: CopyFormat = TEXT
    fingerprint: Mapping[str, Any] | None = None
    under_way: Callable[[], None] = lambda: None
    """Called when its first bytes have gone: the server is busy, and the next batch may be made."""

    def cursor_of(self, index: int) -> Cursor:
        """Of one row, or of the batch where that is all that is known."""
        return self.cursors[index] if self.cursors else self.cursor


class Packer:
    """Cuts a stream of (row, cursor) into batches of at least ``pace.size`` rows, or of BYTES, formatted as it goes.

    A cut is made only where the cursor changes: rows of one cursor (the verses of a chapter) are one unit, or a
    resume behind that cursor would lose the rest of them.

    Args:
        pace: says how many rows; asked anew for every batch.
        formatter: makes the formatter from the first row.
    """

    def __init__(self, pace: Pace, formatter: Callable[[SeedRow], RowFormatter]) -> None:
        self._pace = pace
        self._make = formatter
        self._formatter: RowFormatter | None = None
        self.unformatted: list[SeedRow] = []
        self._cursors: list[Cursor] = []
        self._parts: list[bytes] = []
        self._refused: list[Refused] = []
        self._bytes = 0
        self._cursor: Cursor = None
        self._chunk = 1
        self._size = pace.size

    def add(self, row: SeedRow, cursor: Cursor) -> Packed | None:
        """Take one row; the finished batch before it, where this row begins a new one."""
        done = None
        if len(self._cursors) >= self._size and cursor != self._cursor:
            done = self.finish()
        self.unformatted.append(row)
        self._cursors.append(cursor)
        self._cursor = cursor
        if len(self.unformatted) >= self._chunk:
            self._format()
        return done

    def _format(self) -> None:
        if self._formatter is None:
            self._formatter = self._make(self.unformatted[0])
        before = len(self._cursors) - len(self.unformatted)
        data, refused = self._formatter.format(self.unformatted)
        self._parts.append(data)
        self._refused += [Refused(before + bad.index, bad.row, bad.reason) for bad in refused]
        self._bytes += len(data)
        self._chunk = max(1, min(self._chunk * 2, CHUNK_ROWS, CHUNK_BYTES * len(self.unformatted) // max(len(data), 1)))
        self.unformatted = []
        if self._bytes >= BYTES:
            self._size = 1

    def finish(self) -> Packed | None:
        """What is left, if anything."""
        if self.unformatted:
            self._format()
        done = None
        if self._cursors and self._formatter:
            done = Packed(
                self._formatter.columns, self._cursor, self._parts, len(self._cursors), self._cursors, self._refused
            )
        self._parts, self._cursors, self._refused, self._bytes = [], [], [], 0
        self._size = self._pace.size
        return done


def join_blocks(source: BlockSource, cursor: Cursor | None, pace: Pace) -> Iterator[Packed]:
    """Batches of at least ``pace.size`` rows, or of BYTES, from the ready blocks of ``source`` behind ``cursor``."""
    parts: list[bytes] = []
    rows = size = 0
    last: Cursor = None
    for data, count, last in source.copy_blocks(cursor):
        give_way()
        parts.append(data)
        rows += count
        size += len(data)
        if rows >= pace.size or size >= BYTES:
            yield Packed(source.copy_columns, last, parts, rows, format=source.copy_format)
            parts, rows, size = [], 0, 0
    if rows:
        yield Packed(source.copy_columns, last, parts, rows, format=source.copy_format)


def pack(rows: Iterable[tuple[SeedRow, Cursor]], packer: Packer) -> Iterator[Packed]:
    """The batches that ``packer`` makes of ``rows``."""
    try:
        for row, cursor in rows:
            if done := packer.add(row, cursor):
                yield done
            if not packer.unformatted:
                give_way()
    except (TypeError, ValueError) as error:
        if is_unpacking(error):
            raise InvalidArgument(f"{NO_CURSOR} ({error})") from error
        raise
    if done := packer.finish():
        yield done


def is_unpacking(error: Exception) -> bool:
    """Whether ``error`` is of ``for row, cursor in …`` itself: it has been in no other frame."""
    return error.__traceback__ is not None and error.__traceback__.tb_next is None
