# Generated from seeds_async.py by tools/unasync.py: edit that one, then `make generate`.
"""Imports that resume where they ended: rows and checkpoint are committed in one transaction, batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Unpack

from psycopg_pool import ConnectionPool

from pgonce.core import process
from pgonce.core.concurrency import sleep
from pgonce.core.execute import Pool, call, execute, own_connection
from pgonce.core.failures import traceback_of
from pgonce.core.registration import check_pool, check_schema
from pgonce.errors import DatabaseUnavailable, InvalidArgument, LeaseLost
from pgonce.jobs.guard import Jobs
from pgonce.jobs.run import Run
from pgonce.seeds import calls, calls_operate, rejects, same_source, verify
from pgonce.seeds.batch import without_values
from pgonce.seeds.calls import Checkpoint, Reject
from pgonce.seeds.calls_operate import BatchTime, Rehearsed, RejectGroup, Resume
from pgonce.seeds.importer import Import, Source, WentBack, check_overlap, retry_transient
from pgonce.seeds.rejected_row import RejectedRow
from pgonce.seeds.run_options import Outcome, Progress, RunOptions, SeedResult
from pgonce.seeds.seed import Seed, SeedOptions, part_of, seed_of, sources_of
from pgonce.seeds.sequences import sequences_behind
from pgonce.seeds.table import check_table
from pgonce.seeds.table_loader import TableLoader

__all__ = ["RUNNER", "WINDOW", "Seeds", "Progress", "SeedResult", "Source"]

logger = logging.getLogger("pgonce.seeds")

RUNNER = "seed_runner"
"""The job that every import is a run of, with the seed's name as its key: one runner per seed."""
_WENT_BACK = "seed %s: the database has lost batches that it had confirmed (a crash, a failover): resuming after row %d"
WINDOW = timedelta(minutes=2)
"""How long an import may go without a heartbeat. It is short, so that a killed import can be resumed soon."""


class Seeds:
    """Imports with a checkpoint.

    Each method that needs to know the import takes a `Seed`, or in its place the seed's name, its source and the fields
    of `Seed` as keyword arguments.

    Args:
        pool: a psycopg pool. In autocommit it saves a round trip; any setting is correct.
        schema: where ``pgonce migrate`` put the tables.
    """

    def __init__(self, pool: Pool, *, schema: str = "public") -> None:
        check_pool(pool, ConnectionPool, "Seeds")
        check_schema(schema)
        self._pool = pool
        self._schema = schema
        self._jobs = Jobs(pool, schema=schema)

    def checkpoint(self, name: str, partition: str | None = None) -> Checkpoint | None:
        """The checkpoint of seed ``name``, or of one of its partitions; None when it has never run."""
        return call(self._pool, calls.get_checkpoint(name, partition), self._schema)

    def run(
        self,
        seed: Seed | str,
        source: Source | None = None,
        *,
        max_rows_per_second: float | None = None,
        window: timedelta | str = WINDOW,
        restart: bool = False,
        accept_change: bool = False,
        partition: str | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        stop: Callable[[], bool] = lambda: False,
        **options: Unpack[SeedOptions],
    ) -> SeedResult:
        """Import what the source yields, from the last checkpoint on.

        The next batch is taken from the source while the database writes this one; from a synchronous source in a
        thread of its own. Rows and cursors are copied when they are yielded: the source may use its objects again.

        Args:
            seed: the seed, or its name.
            source: the source, where ``seed`` is a name; see `Seed`.
            max_rows_per_second: the most rows to write per second.
            window: without a heartbeat for this long a runner is dead; one killed on this machine is known at once.
            restart: begin at the start; what is there already is skipped, and the counters begin anew.
            accept_change: resume at the checkpoint although the source's fingerprint has changed.
            partition: import ``source`` as this part, with a checkpoint of its own; ``begin_partitions`` first.
            on_progress: called after every batch; a crash of the server may still forget the last batches.
            stop: called after every batch, and while one has to wait; if it returns True the run ends, and can resume.
            options: the fields of `Seed`, where ``seed`` is a name.

        Returns:
            Its ``outcome`` is ``complete``; ``unfinished``: the source ended too early, with half a line for example,
            what is whole is in, and the next run resumes there; ``stopped``; ``paused``; or ``overlap``: another runner
            has the seed.

        Raises:
            SchemaError: no such table, or the key is not unique.
            RowRejected: one row more than ``max_rejects`` was refused.
            SourceChanged: the source is not what it was; TableChanged: nor is the table.
            LeaseLost: another runner took over; its batch and ours did not mix.
            Exception: the source's own, or the database's; the seed is ``failed`` and resumes at its checkpoint.
        """
        found = seed_of(seed, source, options)
        if not callable(found.function):
            raise InvalidArgument(f'seed {found.name} has no source: pass app.get_seed("{found.name}")')
        if found.partitions is not None:
            if partition is None:  # it would be complete without them
                raise InvalidArgument(f"seed {found.name} has partitions: import each of seed.parts() by run_partition")
            if source is None:
                found = replace(found, function=found.source(part_of(found, partition)))
        run_options = RunOptions(restart, accept_change, partition, max_rows_per_second, on_progress, stop)
        name, key = found.name, found.name if partition is None else f"{found.name}/{partition}"
        loader = self._open(found)
        self.release_dead(name, key)
        importing: Import | None = None
        resumed = rows = 0
        while True:
            at = self.checkpoint(name, partition)
            begin = 0 if at is None or run_options.restart else at.rows_seen
            scope = {"seed_name": name, "process": process.identity(), "from_row": begin}
            try:
                with self._jobs.run(RUNNER, key=key, scope=scope, window=window) as run:
                    if run is None:
                        check_overlap(self._pool, self._schema, RUNNER, name, key)
                        return SeedResult("overlap", at)
                    importing = Import(run, loader, self._pool, self._schema, run_options)
                    outcome, checkpoint = self._import(importing, run)
                    return SeedResult(
                        outcome, checkpoint, rows + importing.rows, importing.sequences, found.set_sequences, resumed,
                        importing.unfinished,
                    )  # fmt: skip
            except WentBack:
                now = self.checkpoint(name, partition)
                if importing:
                    resumed, rows = resumed + 1, rows + importing.rows
                    if importing.restarted_at and now and now.started_at >= importing.restarted_at:
                        run_options = replace(run_options, restart=False)
                logger.warning(_WENT_BACK, key, now.rows_seen if now else 0)

    def _import(self, importing: Import, run: Run) -> tuple[Outcome, Checkpoint | None]:
        try:
            return importing.run()
        except LeaseLost:
            if call(self._pool, calls_operate.run_exists(run.id), self._schema):
                raise
            raise WentBack from None  # its start was lost with the batches
        except (WentBack, DatabaseUnavailable):
            raise
        except SystemExit as error:  # a source that exits, with whatever code, has not come to its end
            run.fail(error)
            raise
        except Exception as error:
            importing.fail(traceback_of(error))
            raise

    def run_partition(
        self, seed: Seed, partition: str, *, poll: float = 0.5, stop: Callable[[], bool] = lambda: False, **options: Any
    ) -> SeedResult:
        """Import one partition of ``seed`` to its end, wherever this is called: in a task of Dask, Ray or Spark.

        An engine may run a task twice, at once or one after the other: the second call waits while another runner is
        at work on the partition, takes over when that one died, and commits no batch a second time.

        Args:
            seed: the seed, with its ``partitions``.
            partition: the partition's name, as `Seed.parts` has it.
            poll: seconds between two checks of a partition that another runner imports.
            stop: called after every batch and every check; when it returns True the call ends.
            options: as for ``run``.

        Returns:
            Its ``outcome`` is ``complete``, ``unfinished``, ``stopped`` or ``paused``.

        Raises:
            NotFound: the seed has no such partition.
            InvalidArgument: ``restart``, which each of the calls would do: ``restart_partitions`` comes before them.
        """
        if options.get("restart"):
            raise InvalidArgument("a partition may be run twice: call restart_partitions(seed) once, before its tasks")
        source = seed.source(part_of(seed, partition))
        self.begin_partitions(seed.name, list(seed.parts()))
        while not stop():
            at = self.checkpoint(seed.name, partition)
            if at and at.status == "complete":
                if not options.get("accept_change"):
                    self.check_complete(seed, [at])
                return SeedResult("complete", at)
            if f"{seed.name}/{partition}" not in self.alive(seed.name):
                result = self.run(seed, source, partition=partition, stop=stop, **options)
                if result.outcome != "overlap":
                    return result
            sleep(poll)
        return SeedResult("stopped", self.checkpoint(seed.name, partition))

    def check_complete(self, seed: Seed, parts: Iterable[Checkpoint]) -> None:
        """Refuse a table that cannot have the rows of complete parts, which no run looks at again.

        Raises:
            TableChanged: it is another table, or empty. An application may have deleted the rows of one part.
        """
        if done := [at for at in parts if at.status == "complete" and at.target]:
            loader = self._open(seed)
            with own_connection(self._pool) as conn:
                for at in done:
                    loader.check_target(conn, replace(at, target={**at.target, "keys": []}))

    def release_dead(self, name: str, key: str | None = None) -> None:
        """Close runs whose process was killed on this machine: no need to wait for a window to pass.

        ``key``: the seed's name, or name/partition; None: all of the seed's.
        """
        for runner in call(self._pool, calls_operate.get_runners(name), self._schema):
            if key in {None, runner.key} and process.is_gone(runner.scope.get("process") or {}):
                for _ in range(20):  # its last transaction may still be at work in the server
                    if call(self._pool, calls_operate.release_runner(runner.run_id), self._schema):
                        break
                    sleep(0.1)

    def pause(self, name: str) -> None:
        """Request the runner to stop after its batch; no run until ``resume``. NotFound when the seed has never run."""
        call(self._pool, calls_operate.pause_seed(name), self._schema)

    def resume(self, name: str) -> None:
        """Undo ``pause``. NotFound when the seed has never run."""
        call(self._pool, calls_operate.resume_seed(name), self._schema)

    def reset(self, name: str) -> bool:
        """Forget checkpoint, partitions and rejects, not rows. False: it has never run. LeaseLost: a runner has it."""
        # a runner that was killed after its last batch: no successor would close its run
        self.release_dead(name)
        return call(self._pool, calls_operate.reset_seed(name), self._schema)

    def rejects(self, name: str, after: int = 0, limit: int = 1000) -> list[Reject]:
        """Rows that the table refused, after id ``after``, oldest first."""
        return call(self._pool, calls_operate.get_rejects(name, after, limit), self._schema)

    def reject_groups(self, name: str) -> list[RejectGroup]:
        """The rejected rows by reason and column, the most frequent first."""
        return call(self._pool, calls_operate.group_rejects(name), self._schema)

    def resumes(self, name: str, limit: int = 60) -> list[Resume]:
        """The runs of the seed and its partitions, newest first: when and where each began and ended, and why."""
        return call(self._pool, calls_operate.get_resumes(name, limit), self._schema)

    def batch_times(self, name: str, partition: str | None = None) -> list[BatchTime]:
        """When each of the last 60 batches was committed, oldest first."""
        return call(self._pool, calls_operate.get_batches(name, partition), self._schema)

    def begin_partitions(self, name: str, partitions: Sequence[str]) -> list[Checkpoint]:
        """Make checkpoints for the parts that are new; where all of them stand."""
        return call(self._pool, calls_operate.begin_partitions(name, partitions), self._schema)

    def restart_partitions(self, seed: Seed) -> bool:
        """Forget where the partitions stand, and begin the counters anew; rows and sums of all time stay.

        False: a runner is at work on the seed.

        Raises:
            InvalidArgument: there is no key by which rows that are there could be skipped, and there are rows.
        """
        loader = self._open(seed)
        self.release_dead(seed.name)
        if self.alive(seed.name):
            return False
        with self._jobs.run(RUNNER, key=seed.name, scope={"process": process.identity()}, window=WINDOW) as run:
            if run is None:
                return False
            with run.unfenced() as tx:  # restart_seed is the fence
                loader.check_restart(tx)
                execute(tx, calls.restart_seed(seed.name, None, run.id), self._schema)
        return True

    def alive(self, name: str) -> set[str]:
        """The keys of runners that are alive: the seed's name, or name/partition."""
        runners = call(self._pool, calls_operate.get_runners(name), self._schema)
        return {each.key for each in runners if each.alive and not process.is_gone(each.scope.get("process") or {})}

    def all(self) -> list[Checkpoint]:
        """Where all seeds stand, the newest first."""
        return call(self._pool, calls_operate.get_seeds(), self._schema)

    def partitions(self, name: str) -> list[Checkpoint]:
        """Where the parts of a seed stand; empty for one that has none."""
        return call(self._pool, calls_operate.get_partitions(name), self._schema)

    def rehearse(
        self,
        seed: Seed | str,
        source: Source | Mapping[str, Source] | None = None,
        *,
        restart: bool = False,
        accept_change: bool = False,
        **options: Unpack[SeedOptions],
    ) -> Rehearsed:
        """A dry run: what ``run`` would count or raise, by doing it in one transaction that is rolled back.

        ``source``: of a seed with partitions a mapping, with the source of each; those that are complete are left out.
        """
        found, sources = sources_of(seed, source, options)
        left = list[tuple[Source, Checkpoint | None]]()
        whole = self.checkpoint(found.name)
        if not restart:
            same_source.check_form(whole, self.partitions(found.name), in_parts=None not in sources)
        for part, each in sources.items():
            at = None if restart else self.checkpoint(found.name, part)
            if part is None or at is None or at.status != "complete":
                left.append((each, at))
            elif not accept_change:
                self.check_complete(found, [at])
        kept = 0 if restart else call(self._pool, calls_operate.count_rejects(found.name), self._schema)
        again = restart and whole is not None
        return verify.rehearse(self._pool, left, found, again=again, accept_change=accept_change, kept=kept)

    def verify(
        self, seed: Seed | str, source: Source | Mapping[str, Source] | None = None, **options: Unpack[SeedOptions]
    ) -> dict[str, Any]:
        """Compare the table with the whole source, and keep the result with the checkpoint; ``ok`` says how it went.

        The source is read again from its start, through the library of its format, and compared value by value. Only
        the rejected rows are left out.

        ``source``: of a seed with partitions a mapping, with the source of each; what they hold together is compared.

        Returns:
            ``rows`` of the source, ``rejected`` among them, ``keys`` of the others, of which ``found`` in the table,
            ``equal``, ``different`` and ``missing``; ``extra`` rows of the table that the source does not have, which
            other sources may have brought; ``examples`` of keys that are different or missing; and ``ok``: none is.

        Raises:
            TableChanged: the seed was imported into another table.
        """
        found, sources = sources_of(seed, source, options)
        loader, at = self._open(found), self.checkpoint(found.name)
        for each in [at, *self.partitions(found.name)]:
            loader.check_table_of(each)
        rejected = dict[str | None, dict[int, RejectedRow]]()
        last = 0
        while page := self.rejects(found.name, last):
            last = page[-1].id
            for reject in page:
                kept = RejectedRow(reject.row, reject.line)
                rejected.setdefault(reject.partition or None, {})[reject.row_number] = kept
        result = verify.compare(self._pool, sources, found, rejected)
        if at and at.rows_seen and not result["rows"]:
            result |= {"ok": False, "error": f"the source has no row now, and the import has read {at.rows_seen:,}"}
        if at and call(self._pool, calls_operate.set_seed_proof(at, result), self._schema) is None:
            result |= {"ok": False, "error": "the import went on meanwhile: run --verify again when it has ended"}
        return result

    def _open(self, seed: Seed) -> TableLoader:
        with own_connection(self._pool) as conn:
            return TableLoader(seed, check_table(conn, seed), conn.adapters)

    def retry_rejects(self, seed: Seed | str, **options: Unpack[SeedOptions]) -> tuple[int, int] | None:
        """Try the rejected rows again, after the table, or what it refers to, was changed; (accepted, refused).

        Each row in a transaction of its own. A row whose key is in the table by now is accepted and counted as skipped:
        what is there is newer. None: another runner is at work on the seed.

        Raises:
            TableChanged: the rows were rejected for another table, or it has lost those of the last batch.
        """
        found = seed_of(seed, None, options)
        if found.on_conflict == "update":
            found = replace(found, on_conflict="skip")
        loader, name = self._open(found), found.name
        for at in [self.checkpoint(name), *self.partitions(name)]:
            loader.check_table_of(at)
            with own_connection(self._pool) as conn:
                loader.check_target(conn, at)
        self.release_dead(name, name)
        scope = {"seed_name": name, "process": process.identity(), "retries": "rejects"}
        with self._jobs.run(RUNNER, key=name, scope=scope, window=WINDOW) as run:
            if run is None:
                return None
            accepted = refused = last = 0
            while page := self.rejects(name, last):
                for reject in page:
                    last = reject.id
                    again = partial(rejects.retry, run, loader, reject, self._schema)
                    with without_values(found.into):
                        done = retry_transient(self._pool, again)
                    accepted, refused = accepted + done, refused + (not done)
            if found.set_sequences:
                with own_connection(self._pool) as conn, conn.transaction():
                    sequences_behind(conn, loader.facts, is_set=True)
            run.processed(accepted)
            run.skipped(refused)
            return accepted, refused
