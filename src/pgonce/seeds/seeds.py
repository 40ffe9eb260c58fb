# Generated from seeds_async.py by tools/unasync.py: edit that one, then `make generate`.
"""Imports that resume where they died: rows and checkpoint in one transaction, batch by batch."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pgonce.core import process
from pgonce.core.concurrency import sleep
from pgonce.core.execute import Pool, call, connection
from pgonce.errors import DatabaseUnavailable, InvalidArgument, LeaseLost
from pgonce.jobs.guard import Jobs
from pgonce.seeds import calls as protocol
from pgonce.seeds import calls_operate as seed_control
from pgonce.seeds import verify as proof
from pgonce.seeds.calls import Checkpoint, Counts, Cursor, Reject
from pgonce.seeds.importer import Import, Options, Outcome, Progress, Source, formatter
from pgonce.seeds.rejects import retry
from pgonce.seeds.table_loader import Loader, OnConflict, Table, check

__all__ = ["RUNNER", "WINDOW", "Seeds", "Progress", "SeedResult", "Source"]

RUNNER = "seed_runner"
"""The job that every import is a run of, with the seed's name as its key: one runner per seed."""
WINDOW = timedelta(minutes=2)
"""Sign of life that an import must show: short, so that a killed one can be resumed soon."""


RETRIES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, *[5.0] * 16, None)
"""Seconds between the attempts at a batch while the database is away or refuses it: a failover takes about a minute."""


@dataclass(frozen=True, slots=True)
class SeedResult:
    """How a run of an import ended."""

    outcome: Outcome
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

    def checkpoint(self, name: str, partition: str | None = None) -> Checkpoint | None:
        """Where seed ``name``, or a part of it, stands; None when it has never run."""
        if partition is not None:
            return call(self._pool, seed_control.get_partition(name, partition), self._schema)
        return call(self._pool, protocol.get_checkpoint(name), self._schema)

    def run(
        self,
        name: str,
        source: Source,
        *,
        into: str,
        key: Sequence[str],
        columns: Sequence[str] | None = None,
        on_conflict: OnConflict = "skip",
        batch_size: int | None = None,
        max_rejects: int = 0,
        max_rows_per_second: float | None = None,
        window: timedelta | str = WINDOW,
        restart: bool = False,
        accept_change: bool = False,
        fingerprint: Callable[[Cursor | None], Mapping[str, Any] | None] | None = None,
        partition: str | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> SeedResult:
        """Import what ``source`` yields, from the last checkpoint on.

        The source is advanced one batch ahead of the database; a synchronous one in a thread of its own.

        Args:
            name: the seed's name.
            source: called with the last checkpoint's cursor (None at the start); yields ``(row, cursor)``. A row is
                a mapping of columns, or a sequence in the order of ``columns``; its cursor, where to resume behind it.
                Rows with equal cursors are never cut apart. More that it may offer: ``pgonce.protocol.source``.
            into: the table, with or without its schema.
            key: the columns of a unique index that tell which rows are there already.
            on_conflict: what becomes of those: ``skip`` them (and count), ``update`` them with the row's other
                columns, or ``fail``, which makes each a bad row.
            batch_size: rows per transaction, at least; a batch ends only where the cursor changes. None: as many as
                take about a second, from 100 to 50,000. Either way a batch of 8 MB ends.
            max_rejects: so many rows that the table refuses are kept in seed_rejects and left out, over all resumes;
                the next one ends the import.
            max_rows_per_second: not faster than that.
            window: without a sign of life for this long a runner counts as dead; on its own machine a killed one is
                known at once.
            restart: begin at the start; what is there already is skipped.
            accept_change: go on at the checkpoint although the source's fingerprint is another one.
            fingerprint: what the source looks like up to a cursor, as a JSON object; kept with each checkpoint and
                compared before a resume. None: the source's own, if it has one.
            partition: import this part of the seed only, with a checkpoint of its own; ``begin_partitions`` first.
            on_progress: called after every batch.
            stop: asked after every batch; True ends the run there, and the next one resumes.

        Returns:
            ``complete``; ``stopped``; ``paused`` when ``pause`` was called; or ``overlap`` when another runner is at
            work on this seed.

        Raises:
            SchemaError: no such table, or the key is not unique.
            RowRejected: one row more than ``max_rejects`` was refused.
            SourceChanged: the source is not what it was.
            LeaseLost: another runner took over; its batch and ours did not mix.
            Exception: the source's own, or the database's; the seed is ``failed`` and resumes at its checkpoint.
        """
        if (batch_size is not None and batch_size < 1) or (
            max_rows_per_second is not None and max_rows_per_second <= 0
        ):
            raise InvalidArgument("the batch size and the rows per second must be at least 1")
        table = Table(into, tuple(key), columns or getattr(source, "columns", None), on_conflict)
        with connection(self._pool) as conn:
            loader = Loader(table, check(conn, table))
            make = formatter(loader, conn)
        options = Options(
            RETRIES,
            batch_size,
            max_rejects,
            max_rows_per_second,
            restart,
            accept_change,
            fingerprint,
            on_progress,
            stop,
        )
        whose = name if partition is None else f"{name}/{partition}"
        self._release_dead(name, whose)
        scope = {"seed_name": name, "process": process.identity()}
        with self._jobs.run(RUNNER, key=whose, scope=scope, window=window) as run:
            if run is None:
                return SeedResult("overlap", self.checkpoint(name, partition))
            importing = Import(run, name, loader, self._pool, self._schema, options, partition)
            try:
                return SeedResult(*importing.go(source, make))
            except (LeaseLost, DatabaseUnavailable):
                raise
            except Exception as error:
                importing.fail("".join(traceback.format_exception(error)))
                raise

    def _release_dead(self, name: str, whose: str | None = None) -> None:
        """Let go of runners whose process was killed on this machine: no need to wait for a window to pass.

        ``whose``: the seed's name, or name/partition; None: all of the seed's.
        """
        for runner in call(self._pool, seed_control.get_runners(name), self._schema):
            if whose in {None, runner.key} and process.is_gone(runner.scope.get("process") or {}):
                for _ in range(20):  # its last transaction may still be at work in the server
                    if call(self._pool, seed_control.release_runner(runner.run_id), self._schema):
                        break
                    sleep(0.1)

    def pause(self, name: str) -> None:
        """Ask the runner to stop behind its batch; the seed does not run until ``resume``."""
        call(self._pool, seed_control.pause_seed(name), self._schema)

    def resume(self, name: str) -> None:
        """Take ``pause`` back. NotFound when the seed has never run."""
        call(self._pool, seed_control.resume_seed(name), self._schema)

    def reset(self, name: str) -> bool:
        """Forget checkpoint, partitions and rejects; its rows stay. False: it has never run.

        Raises:
            LeaseLost: a runner is at work on it.
        """
        # one that was killed behind its last batch: nobody starts it again, who would take over from it
        self._release_dead(name)
        return call(self._pool, seed_control.reset_seed(name), self._schema)

    def rejects(self, name: str, after: int = 0, limit: int = 1000) -> list[Reject]:
        """Rows that the table refused, behind id ``after``, oldest first."""
        return call(self._pool, seed_control.get_rejects(name, after, limit), self._schema)

    def begin_partitions(self, name: str, partitions: Sequence[str]) -> list[Checkpoint]:
        """Make checkpoints for the parts that are new; where all of them stand."""
        return call(self._pool, seed_control.begin_partitions(name, partitions), self._schema)

    def alive(self, name: str) -> set[str]:
        """Whose runners show signs of life: the seed's name, or name/partition; not those whose process is gone."""
        runners = call(self._pool, seed_control.get_runners(name), self._schema)
        return {each.key for each in runners if each.alive and not process.is_gone(each.scope.get("process") or {})}

    def all(self) -> list[Checkpoint]:
        """Where all seeds stand, the newest first."""
        return call(self._pool, seed_control.get_seeds(), self._schema)

    def partitions(self, name: str) -> list[Checkpoint]:
        """Where the parts of a seed stand; empty for one that has none."""
        return call(self._pool, seed_control.get_partitions(name), self._schema)

    def rehearse(
        self,
        name: str,
        source: Source | Mapping[str, Source],
        *,
        into: str,
        key: Sequence[str],
        columns: Sequence[str] | None = None,
        on_conflict: OnConflict = "skip",
        max_rejects: int = 0,
        restart: bool = False,
    ) -> Counts:
        """A dry run: everything that ``run`` would do, in one transaction that is rolled back; what it would count.

        ``source``: of a seed with partitions a mapping, with the source of each; those that are complete are left out.
        """
        sources = dict(source) if isinstance(source, Mapping) else {None: source}
        table = Table(into, tuple(key), columns or getattr(source, "columns", None), on_conflict)
        left = list[tuple[Source, Cursor | None]]()
        for part, each in sources.items():
            at = None if restart else self.checkpoint(name, part)
            if part is None or at is None or at.status != "complete":
                left.append((each, at.cursor if at else None))
        return proof.rehearse(self._pool, left, table, max_rejects)

    def verify(
        self,
        name: str,
        source: Source | Mapping[str, Source],
        *,
        into: str,
        key: Sequence[str],
        columns: Sequence[str] | None = None,
        on_conflict: OnConflict = "skip",
    ) -> dict[str, Any]:
        """Compare the table with the whole source, and keep the proof with the checkpoint; ``ok`` says how it went.

        ``source``: of a seed with partitions a mapping, with the source of each; what they hold together is compared.
        """
        sources = list(source.values()) if isinstance(source, Mapping) else [source]
        table = Table(into, tuple(key), columns or getattr(source, "columns", None), on_conflict)
        stored = call(self._pool, seed_control.reject_seed_rows(name, [], None), self._schema)
        found = proof.compare(self._pool, sources, table, stored)
        call(self._pool, seed_control.set_seed_proof(name, found), self._schema)
        return found

    def retry_rejects(
        self, name: str, *, into: str, key: Sequence[str], on_conflict: OnConflict = "skip"
    ) -> tuple[int, int] | None:
        """Try the rejected rows again, now that the table, or what it refers to, is another; (accepted, refused).

        Each row in a transaction of its own. None: another runner is at work on the seed.
        """
        table = Table(into, tuple(key), (), on_conflict)
        with connection(self._pool) as conn:
            loader = Loader(table, check(conn, table))
        self._release_dead(name, name)
        with self._jobs.run(RUNNER, key=name, scope={"seed_name": name, "retries": "rejects"}) as run:
            if run is None:
                return None
            accepted = refused = last = 0
            while page := self.rejects(name, last):
                for reject in page:
                    last = reject.id
                    if retry(run, loader, reject, self._schema):
                        accepted += 1
                    else:
                        refused += 1
            run.processed(accepted)
            run.skipped(refused)
            return accepted, refused
