"""One resume of an import, from its checkpoint on: batch after batch, each in one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sized
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

import psycopg

from pgonce.core.concurrency_async import Result, sleep
from pgonce.core.execute_async import Pool, call, execute, own_connection
from pgonce.core.telemetry import working
from pgonce.errors import (
    InvalidArgument,
    LeaseLost,
    PgonceError,
    RowRejected,
    SourceUnfinished,
    is_transient,
)
from pgonce.jobs.calls_stats import list_job_runs
from pgonce.jobs.run_async import AsyncRun
from pgonce.seeds import calls, calls_operate
from pgonce.seeds import rejects_async as rejects
from pgonce.seeds.batch import SMALLEST, Batch, BatchBuilder, BatchSizer, join_blocks, without_values
from pgonce.seeds.calls import Checkpoint, Counts, Cursor, SeedRow
from pgonce.seeds.copy_text import RowFormatter
from pgonce.seeds.run_options import Outcome, Progress, RunOptions
from pgonce.seeds.same_source import check_source
from pgonce.seeds.seed import Fingerprint
from pgonce.seeds.sequences_async import sequences_behind
from pgonce.seeds.source import NO_CURSOR, BlockSource, as_jsonb, check_columns
from pgonce.seeds.stream_async import Stream, batches_of, prefetched
from pgonce.seeds.table_loader_async import Last, TableLoader

T = TypeVar("T")
Source: TypeAlias = Callable[[Cursor | None], Stream[tuple[SeedRow, Cursor]]]


RETRIES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, *[5.0] * 16, None)
"""Seconds between the attempts at a batch while the database is unavailable: a failover takes about a minute."""
LOOK = 0.2
"""Seconds between two calls of ``stop`` while the next batch has to wait."""


class WentBack(Exception):
    """The database is in an older state than it had confirmed: after a crash, or a failover that lost commits."""


class _Moved(Exception):
    """The checkpoint is not where this batch begins: these rows are counted already, so roll back."""


async def check_overlap(pool: Pool, schema: str, job: str, name: str, key: str) -> None:
    """Check that the run that holds the key of an import of seed ``name`` is of the same seed.

    Raises:
        InvalidArgument: it is of another one: a partition "b" of seed "a" and a seed "a/b" have one key.
    """
    for run in await call(pool, list_job_runs(name=job, status="running", limit=1000), schema):
        other = (run.scope or {}).get("seed_name", name)
        if run.key == key and other != name:
            raise InvalidArgument(
                f"seed {name} cannot be imported beside seed {other}: the key of both runs is {key}, because a"
                " partition's is seed/partition. Give one of the seeds another name, or import one after the other"
            )


async def retry_transient(pool: Pool, action: Callable[[], Result[T]]) -> T:
    """Repeat ``action`` while the database is unavailable or ends a deadlock."""
    for pause in RETRIES:
        try:
            return await action()
        except (PgonceError, psycopg.Error) as error:
            if pause is None or not is_transient(error):
                raise
        await sleep(pause or 0)
        await pool.check()  # after a restart all idle connections are dead, not only the one just used
    raise AssertionError("RETRIES ends with None")


def _formatter(loader: TableLoader, source: Source) -> Callable[[SeedRow], RowFormatter]:
    """Makes the formatter of a stream from its first row."""
    seed, facts = loader.seed, loader.facts
    json_strings = bool(getattr(source, "json_strings", False))

    def make(first: SeedRow) -> RowFormatter:
        if isinstance(first, str):  # a mapping of two columns, unpacked into their names
            raise InvalidArgument(NO_CURSOR)
        columns = list(first) if isinstance(first, Mapping) else list(seed.named_columns or ())
        if not columns:
            raise InvalidArgument(f"rows for {seed.into} are sequences, so the seed must name their columns=")
        found = facts.find(columns, seed.into, seed.key)
        return RowFormatter(found, json_strings=json_strings, adapters=loader.adapters)

    return make


def batches(loader: TableLoader, source: Source, cursor: Cursor | None, sizer: BatchSizer) -> Stream[Batch]:
    """What ``source`` has after ``cursor``, ready for COPY."""
    check_columns(source, loader.facts.columns, loader.seed.into, loader.seed.columns)
    offered: object = source
    if isinstance(offered, BlockSource):
        loader.facts.find(offered.copy_columns, loader.seed.into, loader.seed.key)
        needs_rows = getattr(source, "needs_rows", None)
        if needs_rows is None or not needs_rows(loader.facts.columns):
            return join_blocks(offered, cursor, sizer)
    builder = BatchBuilder(sizer, _formatter(loader, source), None if loader.seed.key else cursor)
    return batches_of(source(cursor), builder)


class Import:
    """One resume of a seed, or of one of its partitions."""

    def __init__(self, run: AsyncRun, loader: TableLoader, pool: Pool, schema: str, options: RunOptions) -> None:
        self._run = run
        self._seed = loader.seed
        self._source: Source = self._seed.function
        self._loader = loader
        self._pool = pool
        self._schema = schema
        self._options = options
        self._sizer = BatchSizer(self._seed.batch_size, options.max_rows_per_second)
        self._checkpoint: Checkpoint | None = None
        self._seen = self._rejected = 0
        self._last: Last | None = None
        """Of the last batch that this run has committed."""
        self.rows = 0
        """Rows of this resume."""
        self.restarted_at: datetime | None = None
        self.sequences = dict[str, int]()
        self.unfinished: str | None = None
        """Why the source ended before its end."""
        self._started = time.monotonic()

    async def run(self) -> tuple[Outcome, Checkpoint | None]:
        """Import until the end, a pause, or a stop."""
        cursor = await retry_transient(self._pool, self._begin)
        if self._checkpoint and self._checkpoint.paused_at:
            return await self._stopped("paused", self._checkpoint)
        accept = self._options.accept_change
        fingerprint = check_source(self._seed, self._source, self._checkpoint, accept_change=accept)
        try:
            if stopped := await self._batches(cursor, fingerprint):
                return stopped
        except SourceUnfinished as error:
            return await self._unfinished(str(error))
        if accept and not self.rows and cursor is not None:
            await retry_transient(self._pool, lambda: self._accept(cursor, fingerprint))
        done = await retry_transient(self._pool, self._complete)
        self.sequences = await retry_transient(self._pool, self._sequences)
        return "complete", done

    async def _accept(self, cursor: Cursor, fingerprint: Fingerprint | None) -> None:
        """Keep source and table as they are now, where no batch does it: else the next run would refuse them again."""
        at, facts = self._checkpoint, self._loader.facts
        columns = (at.target if at and at.target else {}).get("columns", ())
        target = facts.target(name for name in columns if name in facts.columns)
        step = calls.advance_seed(
            self._seed.name, self._options.partition, self._run.id, at.batch if at else 0, cursor, Counts(),
            fingerprint(cursor) if fingerprint else None, {**target, "keys": None}, self._share(cursor),
        )  # fmt: skip
        async with self._run.unfenced() as tx:  # advance_seed is the fence
            await execute(tx, step, self._schema)

    async def _sequences(self) -> dict[str, int]:
        is_set = self._seed.set_sequences
        async with own_connection(self._pool) as conn:
            try:
                async with conn.transaction():
                    return await sequences_behind(conn, self._loader.facts, is_set=is_set)
            except psycopg.Error as error:  # the rows are in; only what was asked for may fail
                if is_set or is_transient(error):
                    raise
                return {}

    async def _batches(
        self, cursor: Cursor | None, fingerprint: Fingerprint | None
    ) -> tuple[Outcome, Checkpoint | None] | None:
        """Commit what the source has after ``cursor``, batch by batch; None at its end."""
        last = time.monotonic()
        # A source with few rows per batch is read in step with the commits: threads would gain nothing, and a source
        # that reads the database would see its own rows later than it may expect.
        in_step = self._sizer.size < SMALLEST
        stream = batches(self._loader, self._source, cursor, self._sizer)
        async with prefetched(stream) as (taken, want):
            async for batch in taken:
                if not in_step:
                    batch.on_first_bytes_sent = want
                if fingerprint:
                    batch.fingerprint = fingerprint(batch.cursor)
                at = await self._commit(batch)
                now = time.monotonic()
                self._sizer.record(batch.rows, now - last)
                if at.paused_at:
                    return await self._stopped("paused", at)
                until = now + self._sizer.pause(self.rows, now - self._started)
                while not (is_stopped := self._options.stop()) and (left := until - time.monotonic()) > 0:
                    await sleep(min(left, LOOK))
                if is_stopped:
                    return await self._stopped("stopped", at)
                last = time.monotonic()
        return None

    async def _stopped(self, outcome: Outcome, at: Checkpoint) -> tuple[Outcome, Checkpoint]:
        """Keep with the run why it ended."""
        with suppress(PgonceError, psycopg.Error):
            await call(self._pool, calls_operate.note_seed_end(self._run.id, outcome, at.rows_seen), self._schema)
        return outcome, at

    async def _unfinished(self, reason: str) -> tuple[Outcome, Checkpoint | None]:
        """The import has failed, and so has its run; the next one resumes after the last whole row."""
        self.unfinished = reason
        leave = calls.leave_seed(self._seed.name, self._options.partition, reason)

        async def left() -> Checkpoint | None:
            async with self._run.transaction() as tx:
                await execute(tx, calls_operate.note_seed_end(self._run.id, "unfinished", self._seen), self._schema)
                return await execute(tx, leave, self._schema)

        at = await retry_transient(self._pool, left)
        await self._run.fail(reason)
        return "unfinished", at

    async def _begin(self) -> Cursor | None:
        self._checkpoint = at = await self._current()
        if at is not None and not at.paused_at:
            if self._options.restart:
                async with self._run.unfenced() as tx:  # restart_seed is the fence
                    await self._loader.check_restart(tx)
                    restart = calls.restart_seed(self._seed.name, self._options.partition, self._run.id)
                    self._checkpoint = at = await execute(tx, restart, self._schema)
                self.restarted_at = at.started_at if at else None
            elif not self._options.accept_change:
                async with own_connection(self._pool) as conn:
                    await self._loader.check_target(conn, at)
        total = self._total()
        if total is not None:
            await call(self._pool, calls_operate.set_seed_total(self._seed.name, total), self._schema)
        self._rejected = await call(self._pool, calls_operate.count_rejects(self._seed.name), self._schema)
        if self._checkpoint is None:
            return None
        self._seen = self._checkpoint.rows_seen
        return self._checkpoint.cursor

    def _total(self) -> int | None:
        """How many rows the whole seed has, where it or its source says so."""
        if self._seed.total is not None or self._options.partition is not None:
            return self._seed.total
        source: object = self._source
        total: int | None = getattr(source, "total", None)
        return len(source) if total is None and isinstance(source, Sized) else total

    def _share(self, cursor: Cursor) -> float | None:
        """The share of the source before ``cursor``, where it says so."""
        progress: Callable[[Cursor], float | None] | None = getattr(self._source, "progress", None)
        return progress(cursor) if progress else None

    async def _current(self) -> Checkpoint | None:
        return await call(self._pool, calls.get_checkpoint(self._seed.name, self._options.partition), self._schema)

    async def _commit(self, batch: Batch) -> Checkpoint:
        span = working("write batch", "internal", {"import": self._seed.name}, {"pgonce.rows": batch.rows})
        with span, without_values(self._seed.into):
            self._checkpoint = at = await retry_transient(self._pool, lambda: self._written(batch))
        self._seen += batch.rows
        self.rows += batch.rows
        if self._options.on_progress:
            self._options.on_progress(Progress(at, self.rows, time.monotonic() - self._started))
        return at

    async def _written(self, batch: Batch) -> Checkpoint:
        """Commit ``batch`` once, without savepoints if possible, and return the checkpoint after it."""
        if self._loader.copies_straight and not batch.refused:
            try:
                return await self._attempt(batch, straight=True)
            except psycopg.Error as error:
                if not rejects.is_row_fault(error):
                    raise
        return await self._attempt(batch, straight=False)

    async def _attempt(self, batch: Batch, *, straight: bool) -> Checkpoint:
        """One transaction.

        When the connection is lost during COMMIT, the outcome is unknown. So the same batch is written again, and the
        compare-and-set on its number decides: no row means that it was committed the first time.
        """
        before = self._checkpoint
        number = before.batch if before else 0
        name, partition, share = self._seed.name, self._options.partition, self._share(batch.cursor)
        try:
            async with self._run.unfenced() as tx:  # advance_seed is the fence
                room = max(0, self._seed.max_rejects - self._rejected)
                await self._loader.begin(tx)
                if straight:
                    counts, refused = await self._loader.write_straight(tx, batch), list[dict[str, Any]]()
                else:
                    counts, refused = await rejects.write(tx, self._loader, batch, seen=self._seen, room=room)
                if counts.seen != batch.rows:
                    raise PgonceError(
                        f"{batch.rows} rows were read and {counts.seen} counted: this batch is rolled back"
                    )
                is_continued = await self._loader.check_batch(tx, batch, self._last)
                target = self._loader.target(batch, {each["row_number"] - self._seen - 1 for each in refused})
                step = calls.advance_seed(
                    name, partition, self._run.id, number, batch.cursor, counts, batch.fingerprint, target, share
                )
                # Not synced: a crash of the server may forget the last batches, each with its checkpoint, and the
                # import resumes before them. The commit that completes the seed waits until all are on disk.
                advanced = await execute(tx, step, self._schema, synced=False)
                if advanced is None:
                    raise _Moved
                if not (is_continued or self._options.accept_change):
                    raise self._loader.emptied()
                rejected = self._rejected
                if refused:
                    stored = calls_operate.reject_seed_rows(name, refused, partition)
                    rejected = await execute(tx, stored, self._schema)
                    if rejected > self._seed.max_rejects:
                        raise RowRejected(
                            f"all partitions of {name} together have more than {self._seed.max_rejects} rows that "
                            f"do not fit into {self._seed.into}"
                        )
            self._rejected, self._last = rejected, (target, self._loader.files)
        except (_Moved, RowRejected) as error:
            found = await self._current()
            # The rows of an attempt whose answer was lost may be there: then they do not fit a second time.
            if isinstance(error, RowRejected) and (found.batch if found else 0) <= number:
                raise
            self._last = None
            advanced = self._committed(found, batch, number)
            self._rejected += advanced.rows_rejected - (before.rows_rejected if before else 0)
        inserted = advanced.total_inserted - (before.total_inserted if before else 0)
        updated = advanced.total_updated - (before.total_updated if before else 0)
        self._run.processed(inserted + updated)
        self._run.skipped(batch.rows - inserted - updated)
        return advanced

    def _committed(self, found: Checkpoint | None, batch: Batch, number: int) -> Checkpoint:
        """``found``, if it is the checkpoint after ``batch``: an earlier attempt has committed it.

        Raises:
            WentBack: the database has lost earlier batches.
            LeaseLost: another client has moved the checkpoint.
        """
        if (found.batch if found else 0) < number:
            raise WentBack from None
        if not found or found.batch != number + 1 or as_jsonb(found.last_checkpoint) != as_jsonb(batch.cursor):
            raise LeaseLost(
                f"the checkpoint of {self._seed.name} was moved by another client: this batch is rolled back"
            ) from None
        return found

    async def _complete(self) -> Checkpoint | None:
        name = self._seed.name
        async with self._run.transaction() as tx:
            await execute(tx, calls_operate.note_seed_end(self._run.id, "complete", self._seen), self._schema)
            done = await execute(tx, calls.complete_seed(name, self._options.partition), self._schema)
            if done and self._checkpoint and done.batch < self._checkpoint.batch:
                raise WentBack
            if done and done.rows_seen != self._seen:
                raise PgonceError(
                    f"{name}: {self._seen:,} rows were seen and {done.rows_seen:,} are counted: another client "
                    "has moved its checkpoint; compare table and source with --verify"
                )
        return done

    async def fail(self, reason: str) -> None:
        """Record why it ended."""
        end = calls.fail_seed(self._seed.name, self._options.partition, reason)
        with suppress(PgonceError, psycopg.Error):
            async with self._run.transaction() as tx:
                await execute(tx, calls_operate.note_seed_end(self._run.id, "failed", self._seen), self._schema)
                await execute(tx, end, self._schema)
