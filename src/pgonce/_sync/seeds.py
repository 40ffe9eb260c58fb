# Generated from ../_async/seeds.py by tools/unasync.py: edit that one, then `make generate`.
"""An import that resumes where it died: rows and checkpoint in one transaction, batch by batch."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeAlias

import psycopg

from pgonce._sync import load
from pgonce._sync.execute import Pool, call, connection, execute
from pgonce._sync.jobs import Jobs, Run
from pgonce._sync.waiting import Stream, iterate, sleep
from pgonce.errors import DatabaseUnavailable, LeaseLost, PgonceError
from pgonce.protocol import seeds as protocol
from pgonce.protocol.seeds import Batch, Batcher, Checkpoint, Cursor, SeedRow

Source: TypeAlias = Callable[[Cursor | None], Stream[tuple[SeedRow, Cursor]]]

RUNNER = "seed_runner"
"""The job that every import is a run of, with the seed's name as its key: one runner per seed."""
WINDOW = timedelta(minutes=2)
"""Sign of life that an import must show: short, so that a killed one can be resumed soon."""


RETRIES = (0.1, 0.5, 2.0, 5.0, None)
"""Seconds between the attempts at a batch while the database is away or refuses it (a restart, a deadlock)."""


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
class SeedResult:
    """How a run of an import ended."""

    outcome: Literal["complete", "stopped", "overlap"]
    checkpoint: Checkpoint | None


class Seeds:
    """Imports with a checkpoint.

    Args:
        pool: a psycopg pool. In autocommit it saves a round trip; any setting is correct.
        schema: where ``pgonce migrate`` put the tables.
    """

    def __init__(self, pool: Pool, *, schema: str = "public") -> None:
        self._pool = pool
        self._schema = schema
        self._jobs = Jobs(pool, schema=schema)

    def checkpoint(self, name: str) -> Checkpoint | None:
        """Where seed ``name`` stands; None when it has never run."""
        return call(self._pool, protocol.get_checkpoint(name), self._schema)

    def run(
        self,
        name: str,
        source: Source,
        *,
        into: str,
        key: Sequence[str],
        columns: Sequence[str] | None = None,
        batch_size: int = 5000,
        window: timedelta | str = WINDOW,
        restart: bool = False,
        on_progress: Callable[[Progress], object] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> SeedResult:
        """Import what ``source`` yields, from the last checkpoint on.

        Args:
            name: the seed's name.
            source: called with the last checkpoint's cursor (None at the start); yields ``(row, cursor)``. A row is
                a mapping of columns, or a sequence in the order of ``columns``; its cursor, where to resume behind it.
                Rows with equal cursors are never cut apart.
            into: the table, with or without its schema.
            key: the columns of a unique index that tell which rows are there already: those are skipped, and counted.
            batch_size: rows per transaction, at least; a batch ends only where the cursor changes.
            window: without a sign of life for this long a runner counts as dead.
            restart: begin at the start; what is there already is skipped.
            on_progress: called after every batch.
            stop: asked after every batch; True ends the run there, and the next one resumes.

        Returns:
            ``complete``, ``stopped``, or ``overlap`` when another runner is at work on this seed.

        Raises:
            SchemaError: no such table, or the key is not unique.
            LeaseLost: another runner took over; its batch and ours did not mix.
            Exception: the source's own, or the database's; the seed is ``failed`` and resumes at its checkpoint.
        """
        table = load.Table(into, tuple(key), columns)
        with connection(self._pool) as conn:
            load.check(conn, table)
        with self._jobs.run(RUNNER, key=name, scope={"seed_name": name}, window=window) as run:
            if run is None:
                return SeedResult("overlap", self.checkpoint(name))
            try:
                importing = _Import(run, name, table, self._pool, self._schema)
                importing.begin(restart=restart)
                return importing.go(source, batch_size, on_progress, stop)
            except (LeaseLost, DatabaseUnavailable):
                raise
            except Exception as error:
                reason = "".join(traceback.format_exception(error))
                with suppress(PgonceError, psycopg.Error):
                    with run.transaction() as tx:
                        execute(tx, protocol.fail_seed(name, reason), self._schema)
                raise


class _Import:
    """One resume of a seed, from its checkpoint to wherever it gets."""

    def __init__(self, run: Run, name: str, table: load.Table, pool: Pool, schema: str) -> None:
        self._run = run
        self._name = name
        self._table = table
        self._pool = pool
        self._schema = schema
        self._checkpoint: Checkpoint | None = None
        self._cursor: Cursor | None = None
        self._started = time.monotonic()

    def begin(self, *, restart: bool) -> None:
        self._checkpoint = call(self._pool, protocol.get_checkpoint(self._name), self._schema)
        if self._checkpoint and not restart:
            self._cursor = self._checkpoint.cursor

    def go(
        self,
        source: Source,
        batch_size: int,
        on_progress: Callable[[Progress], object] | None,
        stop: Callable[[], bool],
    ) -> SeedResult:
        batcher = Batcher(lambda: batch_size)
        for row, cursor in iterate(source(self._cursor)):
            batch = batcher.add(row, cursor)
            if batch:
                self._commit(batch, on_progress)
                if stop():
                    return SeedResult("stopped", self._checkpoint)
        if last := batcher.finish():
            self._commit(last, on_progress)
        with self._run.transaction() as tx:
            done = execute(tx, protocol.complete_seed(self._name), self._schema)
        return SeedResult("complete", done)

    def _commit(self, batch: Batch, on_progress: Callable[[Progress], object] | None) -> None:
        before = self._checkpoint.rows_inserted if self._checkpoint else 0
        self._checkpoint = self._written(batch)
        inserted = self._checkpoint.rows_inserted - before
        self._run.processed(inserted)
        self._run.skipped(len(batch.rows) - inserted)
        if on_progress:
            done = self._run.rows_processed + self._run.rows_skipped
            on_progress(Progress(self._checkpoint, done, time.monotonic() - self._started))

    def _written(self, batch: Batch) -> Checkpoint:
        """Commit ``batch`` once and return the checkpoint behind it.

        When the connection is lost during COMMIT nobody knows whether it happened. So the batch is written again as
        it is, and the compare-and-set on its number tells: no row means that it has landed.
        """
        number = self._checkpoint.batch if self._checkpoint else 0
        for pause in RETRIES:
            try:
                with self._run.transaction() as tx:
                    inserted = load.insert(tx, self._table, batch.rows)
                    counts = (inserted, len(batch.rows) - inserted)
                    step = protocol.advance_seed(self._name, self._run.id, number, batch.cursor, *counts)
                    landed = execute(tx, step, self._schema)
                    if landed is not None:
                        return landed
            except (DatabaseUnavailable, psycopg.OperationalError):
                if pause is None:
                    raise
                sleep(pause)
                continue
            landed = call(self._pool, protocol.get_checkpoint(self._name), self._schema)
            if landed and landed.batch == number + 1:
                return landed
            break
        raise LeaseLost(f"the checkpoint of {self._name} was moved by somebody else: this batch is rolled back")
