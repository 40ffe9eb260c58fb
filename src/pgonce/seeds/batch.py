"""Decides where a batch ends, how large the next one is, and how long to wait after it. Without a clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import psycopg

from pgonce.errors import DatabaseUnavailable, InvalidArgument, PgonceError, SourceUnfinished, summary
from pgonce.seeds.copy_text import RowFormatter, Unwritable
from pgonce.seeds.prefetch import yield_to_sender
from pgonce.seeds.rejected_row import shown_value
from pgonce.seeds.source import NO_CURSOR, BadRow, BlockSource, Cursor, SeedRow, as_jsonb

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

SMALLEST, LARGEST = 100, 50_000
"""Rows per batch, unless the seed says how many."""
BYTES = 8_000_000
"""A batch of this size ends, however few rows it has, because three batches are in memory at a time."""
UNIT_BYTES = 64_000_000
"""The most bytes of rows that share one cursor, because they are held in memory and committed together."""
SECONDS = 1.0
"""Seconds that a batch should take."""
PART_BYTES = 64_000
"""Bytes of a batch that are sent at a time."""
YIELD_ROWS = 256
"""After this many rows the thread that sends data to the database may run."""


@dataclass(slots=True)
class BatchSizer:
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

    def record(self, rows: int, seconds: float) -> None:
        """A batch of ``rows`` took ``seconds``, from the commit of the one before to its own."""
        wanted = rows * SECONDS / max(seconds, 1e-6)
        # at most four times and at least a quarter: one slow write of the disk must not make all batches small
        self.rows = int(min(max(wanted, self.rows / 4, SMALLEST), self.rows * 4, LARGEST))

    def pause(self, rows: int, seconds: float) -> float:
        """How long to wait, in seconds, when ``rows`` have been done in ``seconds``."""
        return max(0.0, rows / self.limit - seconds) if self.limit else 0.0


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that cannot be split into values, or a row that cannot be written as text for COPY."""

    index: int
    """Its place in the batch."""
    shown: str
    """The record as it was read, or its values in ASCII, as a JSON object."""
    reason: str
    column: str | None = None
    """The column whose value has no text."""


@dataclass(slots=True)
class Batch:
    """Rows that are committed together, ready for COPY, and the cursor after the last of them."""

    columns: Sequence[str]
    cursor: Cursor = None
    parts: list[bytes] = field(default_factory=list)
    rows: int = 0
    """All rows that were read, including the refused ones."""
    cursors: list[Cursor] | None = None
    """The cursor of each row; None if only that of the batch is known."""
    refused: list[Refused] = field(default_factory=list)
    """Rows that are not in ``parts``; their index counts all rows of the batch."""
    fingerprint: Mapping[str, Any] | None = None
    on_first_bytes_sent: Callable[[], None] = lambda: None
    """Called when the server has begun to process it, so that the next batch may be made meanwhile."""

    def cursor_of(self, index: int) -> Cursor:
        """The cursor of one row, or that of the batch if only that is known."""
        return self.cursors[index] if self.cursors else self.cursor


class Builder(Protocol[T_co]):
    """Collects rows in batches to write, or in lists to compare."""

    def add(self, row: SeedRow | BadRow, cursor: Cursor, /) -> T_co | None:
        """Add one row. Returns what is finished, if anything."""
        ...

    def finish(self) -> T_co | None:
        """What is left, if anything."""
        ...


class BatchBuilder:
    """Cuts a stream of (row, cursor) into batches of at least ``sizer.size`` rows, or of BYTES, written as it goes.

    A batch ends only where the cursor changes: rows with one cursor (the verses of a chapter) stay together, because a
    resume after that cursor would lose the rest of them.

    Nothing that the source yields is kept by reference: its rows and cursors may be objects that it uses again.

    Args:
        sizer: says how many rows; asked anew for every batch.
        make_formatter: makes the formatter from the first row.
        after: the cursor of the last row that is in the table, where no key keeps a row from being inserted twice.
    """

    def __init__(
        self, sizer: BatchSizer, make_formatter: Callable[[SeedRow], RowFormatter], after: Cursor | None = None
    ) -> None:
        self._sizer = sizer
        self._make = make_formatter
        self._after = after
        self._formatter: RowFormatter | None = None
        self._cursors: list[Cursor] = []
        self._parts: list[bytes] = []
        self._part = bytearray()
        self._refused: list[Refused] = []
        self._bytes = 0
        self._cursor: Cursor = None
        self._size = sizer.size

    def add(self, row: SeedRow | BadRow, cursor: Cursor) -> Batch | None:
        """Add one row. If it begins a new batch, returns the finished one before it."""
        done = None
        if type(cursor) not in _SCALARS:
            cursor = frozen_cursor(cursor, self._cursor)
        if self._after is not None and cursor == self._after:
            raise InvalidArgument(
                f"the source yields the cursor {json.dumps(cursor)[:200]} again, after which it was asked to resume: "
                "without a key this row would be inserted a second time. Yield only what comes after the cursor"
            )
        if len(self._cursors) >= self._size:
            if cursor is not self._cursor and as_jsonb(cursor) != as_jsonb(self._cursor):
                done = self.finish()
            elif self._bytes >= UNIT_BYTES:
                raise InvalidArgument(
                    f"{len(self._cursors):,} rows ({self._bytes // 1_000_000} MB) have the cursor "
                    f"{json.dumps(cursor)[:200]}: rows with equal cursors are one transaction, so yield a cursor that "
                    "changes more often"
                )
        if isinstance(row, BadRow):
            self._refuse(row.text, row.reason)
        else:
            if self._formatter is None:
                self._formatter = self._make(row)
            try:
                self._formatter.write(row, self._part)
            except Unwritable as error:
                shown = dict(zip(self._formatter.columns, map(shown_value, error.values), strict=False))
                self._refuse(json.dumps(shown), str(error), error.column)
        self._cursors.append(cursor)
        self._cursor = cursor
        if len(self._part) >= PART_BYTES:
            self._end_part()
        return done

    def _end_part(self) -> None:
        self._parts.append(bytes(self._part))
        self._bytes += len(self._part)
        self._part.clear()
        if self._bytes >= BYTES:
            self._size = 1

    def _refuse(self, shown: str, reason: str, column: str | None = None) -> None:
        self._refused.append(Refused(len(self._cursors), shown, reason, column))
        self._bytes += len(shown)

    def finish(self) -> Batch | None:
        """What is left, if anything."""
        if self._part:
            self._end_part()
        done = None
        if self._cursors:
            columns = self._formatter.columns if self._formatter else ()
            done = Batch(columns, self._cursor, self._parts, len(self._cursors), self._cursors, self._refused)
        self._parts, self._cursors, self._refused, self._bytes = [], [], [], 0
        self._size = self._sizer.size
        return done


_SCALARS = frozenset({str, int, float, bool})
_UNCHANGING = _SCALARS | {type(None)}


def frozen_cursor(cursor: Cursor, before: Cursor = None) -> Cursor:
    """A copy that does not change if the source changes its object; ``before`` itself where it is equal.

    Raises:
        InvalidArgument: it is None, {}, or not JSON.
    """
    if type(cursor) is dict and not cursor:
        raise InvalidArgument("a cursor must not be {}, which is that of an import that has not begun")
    if cursor is None:
        raise InvalidArgument(NO_CURSOR)
    try:
        if type(cursor) is dict and _UNCHANGING.issuperset(map(type, (*cursor.values(), *cursor))):
            frozen = cursor.copy()
        else:  # before it is compared: an array's == is not a bool
            frozen = json.loads(json.dumps(cursor, allow_nan=False))
        # {"a": 1} and {"a": True} are equal in Python only
        return before if frozen == before and repr(frozen) == repr(before) else frozen
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the checkpoint is not JSON: {error}") from None


def join_blocks(source: BlockSource, cursor: Cursor | None, sizer: BatchSizer) -> Iterator[Batch]:
    """Batches of at least ``sizer.size`` rows, or of BYTES, from the ready blocks of ``source`` after ``cursor``."""

    def new_batch() -> Batch:
        return Batch(source.copy_columns)

    batch, size = new_batch(), 0
    unfinished: SourceUnfinished | None = None
    try:
        for data, count, batch.cursor in source.copy_blocks(cursor):
            yield_to_sender()
            if isinstance(data, BadRow):
                batch.refused.append(Refused(batch.rows, data.text, data.reason))
                size += len(data.text)
            else:
                batch.parts.append(data)
                size += len(data)
            batch.rows += count
            if batch.rows >= sizer.size or size >= BYTES:
                yield batch
                batch, size = new_batch(), 0
    except SourceUnfinished as error:
        unfinished = error
    if batch.rows:
        yield batch
    if unfinished:
        raise unfinished


def build_batches(rows: Iterable[tuple[SeedRow | BadRow, Cursor]], builder: Builder[T]) -> Iterator[T]:
    """Yield what ``builder`` makes of ``rows``. Raises SourceUnfinished after the last of it."""
    unfinished: SourceUnfinished | None = None
    try:
        for number, pair in enumerate(rows, 1):
            row, cursor = pair
            if done := builder.add(row, cursor):
                yield done
            if number % YIELD_ROWS == 0:
                yield_to_sender()
    except SourceUnfinished as error:
        unfinished = error
    except (TypeError, ValueError) as error:
        if is_unpacking(error):
            raise InvalidArgument(f"{NO_CURSOR} ({error})") from error
        raise
    if done := builder.finish():
        yield done
    if unfinished:
        raise unfinished


def is_unpacking(error: Exception) -> bool:
    """Whether ``error`` was raised by ``for row, cursor in …`` itself: its traceback has no other frame."""
    return error.__traceback__ is not None and error.__traceback__.tb_next is None


@contextmanager
def without_values(table: str) -> Iterator[None]:
    """Say what is wrong in one line: the context of a database error quotes the row that it was at.

    Raises:
        DatabaseUnavailable: the connection was lost.
        PgonceError: any other error of the database.
    """
    try:
        yield
    except psycopg.Error as error:
        kind = DatabaseUnavailable if (error.sqlstate or "08").startswith(("08", "57P0")) else PgonceError
        raise kind(f"a batch cannot be written to {table}: {summary(error)}") from None
