"""One resume of an import, from its checkpoint to wherever it gets: batch after batch, each in one transaction."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncConnection

from pgonce.core.call import Call
from pgonce.core.concurrency_async import Result, sleep
from pgonce.core.execute_async import Pool, call, execute
from pgonce.errors import InvalidArgument, LeaseLost, PgonceError, SourceChanged, is_transient
from pgonce.jobs.run_async import AsyncRun
from pgonce.seeds import calls as protocol
from pgonce.seeds import calls_operate as seed_control
from pgonce.seeds import rejects_async as rejects
from pgonce.seeds.batch import SMALLEST, Pace, Packed, Packer, join_blocks
from pgonce.seeds.calls import Checkpoint, Cursor, SeedRow
from pgonce.seeds.copy_text import RowFormatter
from pgonce.seeds.source import NO_CURSOR, BlockSource, Fingerprinted
from pgonce.seeds.stream_async import Stream, ahead, packed
from pgonce.seeds.table_loader_async import Loader

T = TypeVar("T")
Source: TypeAlias = Callable[[Cursor | None], Stream[tuple[SeedRow, Cursor]]]
Outcome: TypeAlias = Literal["complete", "stopped", "paused", "overlap"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an import stands after a batch."""

    checkpoint: Checkpoint
    """With the counts over all resumes."""
    rows: int
    """Done by this resume."""
    seconds: float
    """Since this resume began."""


@dataclass(frozen=True, slots=True)
class Options:
    """How an import is done; ``AsyncSeeds.run`` explains each."""

    retries: Sequence[float | None]
    batch_size: int | None = None
    max_rejects: int = 0
    max_rows_per_second: float | None = None
    restart: bool = False
    accept_change: bool = False
    fingerprint: Callable[[Cursor | None], Mapping[str, Any] | None] | None = None
    on_progress: Callable[[Progress], object] | None = None
    stop: Callable[[], bool] = lambda: False


def as_json(value: Any) -> Any:
    """``value`` as it comes back from the database: a tuple as a list."""
    return json.loads(json.dumps(value))


class _Moved(Exception):
    """The checkpoint is not where this batch begins: whoever moved it has counted these rows, so roll back."""


async def steady(pool: Pool, pauses: Sequence[float | None], action: Callable[[], Result[T]]) -> T:
    """``action``, again and again while the database is away or breaks a deadlock; ``pauses`` ends with None."""
    for pause in pauses:
        try:
            return await action()
        except (PgonceError, psycopg.Error) as error:
            if pause is None or not is_transient(error):
                raise
        await sleep(pause or 0)
        await pool.check()  # after a restart all idle connections are dead, not only the one just used
    raise AssertionError("the pauses end with None")


def formatter(loader: Loader, conn: AsyncConnection[Any]) -> Callable[[SeedRow], RowFormatter]:
    """Makes the formatter of a stream from its first row."""
    adapters, table, arrays = conn.adapters, loader.table, loader.facts.arrays

    def make(first: SeedRow) -> RowFormatter:
        if isinstance(first, str):  # a mapping of two columns, unpacked into their names
            raise InvalidArgument(NO_CURSOR)
        columns = list(first) if isinstance(first, Mapping) else list(table.columns or ())
        if not columns:
            raise InvalidArgument(f"rows for {table.name} are sequences, so the seed must name their columns=")
        return RowFormatter(columns, arrays, adapters)

    return make


def batches(
    source: Source, cursor: Cursor | None, pace: Pace, make: Callable[[SeedRow], RowFormatter]
) -> Stream[Packed]:
    """What ``source`` has behind ``cursor``, ready for COPY."""
    offered: object = source
    if isinstance(offered, BlockSource):
        return join_blocks(offered, cursor, pace)
    return packed(source(cursor), Packer(pace, make))


class Import:
    """One resume. ``partition``: of a part of the seed, with a checkpoint of its own."""

    def __init__(
        self, run: AsyncRun, name: str, loader: Loader, pool: Pool, schema: str, options: Options, partition: str | None
    ) -> None:
        self._run = run
        self._name = name
        self._loader = loader
        self._pool = pool
        self._schema = schema
        self._options = options
        self._partition = partition
        self._pace = Pace(options.batch_size, options.max_rows_per_second)
        self._checkpoint: Checkpoint | None = None
        self._seen = self._done = self._rejected = 0
        self._started = time.monotonic()

    async def go(self, source: Source, make: Callable[[SeedRow], RowFormatter]) -> tuple[Outcome, Checkpoint | None]:
        """Import until the end, a pause, or a stop."""
        cursor = await steady(self._pool, self._options.retries, self._begin)
        fingerprint = self._check_source(source)
        if self._checkpoint and self._checkpoint.paused_at:
            return "paused", self._checkpoint
        last = time.monotonic()
        # Few rows per batch are somebody's who watches each: threads would gain nothing, and a source that looks at the
        # database would see its rows later than it may expect.
        in_step = self._pace.size < SMALLEST
        async with ahead(batches(source, cursor, self._pace, make)) as (taken, want):
            async for batch in taken:
                if not in_step:
                    batch.under_way = want
                if fingerprint:
                    batch.fingerprint = fingerprint(batch.cursor)
                at = await self._commit(batch)
                now = time.monotonic()
                self._pace.took(batch.rows, now - last)
                last = now
                if at.paused_at:
                    return "paused", at
                if self._options.stop():
                    return "stopped", at
                if pause := self._pace.pause(self._done, now - self._started):
                    await sleep(pause)
                    last = time.monotonic()
        return "complete", await steady(self._pool, self._options.retries, self._complete)

    async def _begin(self) -> Cursor | None:
        self._checkpoint = await self._current()
        async with self._run.transaction() as tx:
            if self._options.restart and self._partition is None:
                await execute(tx, seed_control.forget_rejects(self._name), self._schema)
            none_new = seed_control.reject_seed_rows(self._name, [], self._partition)
            self._rejected = await execute(tx, none_new, self._schema)
        if self._checkpoint is None or self._options.restart:
            return None
        self._seen = self._checkpoint.rows_seen
        return self._checkpoint.cursor

    async def _current(self) -> Checkpoint | None:
        if self._partition is None:
            return await call(self._pool, protocol.get_checkpoint(self._name), self._schema)
        return await call(self._pool, seed_control.get_partition(self._name, self._partition), self._schema)

    def _check_source(self, source: Source) -> Callable[[Cursor | None], Mapping[str, Any] | None] | None:
        """The function that takes fingerprints, when the source is what it was."""
        offered: object = source
        own = offered if isinstance(offered, Fingerprinted) else None
        take = self._options.fingerprint or (own.fingerprint if own else None)
        before = self._checkpoint
        if take is None or before is None or before.fingerprint is None:
            return take
        if self._options.restart or self._options.accept_change:
            return take
        if own and self._options.fingerprint is None:
            changed = own.same(before.fingerprint) == "changed"
        else:
            changed = as_json(take(before.cursor)) != before.fingerprint
        if changed:
            raise SourceChanged(
                f"the source of {self._name} is not what it was at row {before.rows_seen:,}: begin at the start"
                " (--restart; rows that are there are skipped) or go on at the checkpoint (--accept-change)"
            )
        return take

    async def _commit(self, batch: Packed) -> Checkpoint:
        self._checkpoint = at = await steady(self._pool, self._options.retries, lambda: self._written(batch))
        self._seen += batch.rows
        self._done += batch.rows
        if self._options.on_progress:
            self._options.on_progress(Progress(at, self._done, time.monotonic() - self._started))
        return at

    async def _written(self, batch: Packed) -> Checkpoint:
        """Commit ``batch`` once, by the short way if it can be gone, and return the checkpoint behind it."""
        if self._loader.goes_straight and not batch.refused:
            try:
                return await self._attempt(batch, straight=True)
            except psycopg.Error as error:
                if not rejects.is_row_s_fault(error):
                    raise
        return await self._attempt(batch, straight=False)

    async def _attempt(self, batch: Packed, *, straight: bool) -> Checkpoint:
        """One transaction.

        When the connection is lost during COMMIT nobody knows whether it happened. So the batch is written again as
        it is, and the compare-and-set on its number tells: no row means that it has landed.
        """
        before = self._checkpoint
        number = before.batch if before else 0
        try:
            async with self._run.unfenced() as tx:  # advance_seed is the fence
                room = max(0, self._options.max_rejects - self._rejected)
                await self._loader.begin(tx)
                if straight:
                    counts, refused = await self._loader.write_straight(tx, batch), list[dict[str, Any]]()
                else:
                    counts, refused = await rejects.write(tx, self._loader, batch, seen=self._seen, room=room)
                if counts.seen != batch.rows:
                    raise PgonceError(
                        f"{batch.rows} rows were read and {counts.seen} counted: this batch is rolled back"
                    )
                step = protocol.advance_seed(
                    self._name, self._run.id, number, batch.cursor, counts, batch.fingerprint, self._partition
                )
                landed = await execute(tx, step, self._schema)
                if landed is None:
                    raise _Moved
                rejected = self._rejected
                if refused:
                    stored = seed_control.reject_seed_rows(self._name, refused, self._partition)
                    rejected = await execute(tx, stored, self._schema)
            self._rejected = rejected
        except _Moved:
            found = await self._current()
            if not found or found.batch != number + 1 or found.last_checkpoint != as_json(batch.cursor):
                raise LeaseLost(
                    f"the checkpoint of {self._name} was moved by somebody else: this batch is rolled back"
                ) from None
            landed = found
            self._rejected += landed.rows_rejected - (before.rows_rejected if before else 0)
        inserted = landed.rows_inserted - (before.rows_inserted if before else 0)
        updated = landed.rows_updated - (before.rows_updated if before else 0)
        self._run.processed(inserted + updated)
        self._run.skipped(batch.rows - inserted - updated)
        return landed

    async def _complete(self) -> Checkpoint | None:
        async with self._run.transaction() as tx:
            if self._partition is None:
                done: Checkpoint | None = await execute(tx, protocol.complete_seed(self._name), self._schema)
            else:
                done = await execute(tx, seed_control.complete_partition(self._name, self._partition), self._schema)
            if done and done.rows_seen != self._seen and not self._options.restart:
                raise PgonceError(
                    f"{self._name}: {self._seen:,} rows were seen and {done.rows_seen:,} are counted: somebody else "
                    "has moved its checkpoint; compare table and source with `pgonce seed run --verify`"
                )
        return done

    async def fail(self, reason: str) -> None:
        """Record why it ended."""
        end: Call[Any] = protocol.fail_seed(self._name, reason)
        if self._partition is not None:
            end = seed_control.fail_partition(self._name, self._partition, reason)
        with suppress(PgonceError, psycopg.Error):
            async with self._run.transaction() as tx:
                await execute(tx, end, self._schema)
