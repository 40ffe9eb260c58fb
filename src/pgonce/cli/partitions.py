"""Importing the partitions of a seed with several processes on this machine or with a Dask cluster."""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pgonce.cli.app_loader import load
from pgonce.cli.errors import report
from pgonce.cli.options import Database
from pgonce.cli.output import suggested
from pgonce.cli.signals import handled
from pgonce.core import database
from pgonce.errors import PgonceError
from pgonce.seeds.seed import Seed
from pgonce.seeds.seeds import Progress, SeedResult, Seeds
from pgonce.seeds.seeds_async import AsyncSeeds

LOOK = 0.5
"""Seconds between two reads of the sum of all partitions, for the progress bar."""

WORKERLESS = 300.0
"""Seconds that a cluster may be without a worker: a cluster that first has to start machines takes minutes."""


def run_seeds(db: Database, seed: Seed, verb: str, *arguments: Any, size: int = 10, **options: Any) -> Any:
    """Call a method of Seeds, or of AsyncSeeds for an async generator, with a pool of ``size`` connections.

    Raises:
        PgonceError: the source has exited, as by ``sys.exit(0)``: this command would end with that code.
    """
    try:
        if inspect.isasyncgenfunction(seed.function):
            return asyncio.run(_run_seeds_async(db, seed, verb, arguments, size, options))
        with database.open_pool(db.url, size) as pool:
            return getattr(Seeds(pool, schema=db.schema), verb)(seed, *arguments, **options)
    except SystemExit as error:
        code = "" if error.code is None else f" ({error.code})"
        raise PgonceError(
            f"the source of {seed.name} has exited{code} before its end: the next run resumes after the last batch"
        ) from error


async def _run_seeds_async(
    db: Database, seed: Seed, verb: str, arguments: Sequence[Any], size: int, options: Mapping[str, Any]
) -> Any:
    async with await database.open_async_pool(db.url, size) as pool:
        return await getattr(AsyncSeeds(pool, schema=db.schema), verb)(seed, *arguments, **options)


def never() -> bool:
    """The ``stop`` of a cluster's worker, which is never asked to stop: it is killed, or it ends."""
    return False


@dataclass(frozen=True, slots=True)
class Partitions:
    """The import of a seed with partitions: what each process, on any machine, needs for one of them.

    Args:
        reference: the app, as ``--app`` names it.
        url: the database.
        schema: where pgonce's tables are in it.
        name: the seed's.
        options: fields of the seed that the command has changed, and options of ``Seeds.run``.
    """

    reference: str
    url: str
    schema: str
    name: str
    options: Mapping[str, Any]

    def run(
        self, seed: Seed, *, workers: int, cluster: str | None, restart: bool,
        on_progress: Callable[[Progress], None], stop: Callable[[], bool],
    ) -> SeedResult:  # fmt: skip
        """Import what is left, by so many processes or by the cluster at this address."""
        with database.open_pool(self.url, 2) as pool:
            seeds = Seeds(pool, schema=self.schema)
            at = seeds.checkpoint(self.name)
            if at and at.paused_at:
                return SeedResult("paused", at)
            before = 0 if at is None or restart else at.rows_seen
            if restart and at and not seeds.restart_partitions(seed):
                return SeedResult("overlap", at)
            listed = list(seed.parts())
            begun = seeds.begin_partitions(self.name, listed)
            left = [part.partition for part in begun if part.partition and part.status != "complete"]
            if not self.options.get("accept_change"):
                seeds.check_complete(seed, begun)
            show = _watcher(seeds, self.name, on_progress)
            if cluster:
                self.run_on_cluster(cluster, left, show, stop)
            elif left:
                workers = min(workers, len(left))
                rate = self.options["max_rows_per_second"]
                share = {**self.options, "max_rows_per_second": rate and rate / workers}
                replace(self, options=share).run_here(left, workers, show, stop)
            at = seeds.checkpoint(self.name)
            open_ = [part for part in seeds.partitions(self.name) if part.status != "complete"]
        new_rows = at.rows_seen - before if at else 0
        if at and at.status == "complete":
            return SeedResult("complete", at, new_rows)
        if not stop():
            if gone := [part.partition for part in open_ if part.partition not in listed]:
                raise PgonceError(
                    f"the seed {self.name} has a partition {gone[0]} that is not complete, and lists it no longer: "
                    "list it again, or pass --restart"
                )
            if failed := [part for part in open_ if part.status == "failed"]:
                why = f"partition {failed[0].partition}: {failed[0].error_message}"
                return SeedResult("unfinished", at, new_rows, unfinished=why)
        return SeedResult("paused" if at and at.paused_at else "stopped", at, new_rows)

    def import_one(self, part: str, stop: Callable[[], bool]) -> str:
        """Import one partition to its end. Return "complete", "stopped" or "paused".

        A cluster may run the same partition twice: see ``Seeds.run_partition``.
        """
        fields, rest = dict[str, Any](), dict[str, Any]()
        for option, value in self.options.items():
            (fields if option in Seed.__dataclass_fields__ else rest)[option] = value
        seed = replace(load(self.reference).get_seed(self.name), **fields)
        rest |= {"poll": LOOK, "stop": stop}
        db = Database(self.url, self.schema)
        outcome: str = run_seeds(db, seed, "run_partition", part, size=3, **rest).outcome
        return outcome

    def work(self, parts: Any) -> None:
        """What each process does: import one partition after the other, until it takes None from the queue."""
        received: list[int] = []
        try:
            # The terminal sends SIGINT and SIGHUP to every process; only SIGTERM, which the parent sends, ends this.
            with handled(lambda _: None, ("SIGINT", "SIGHUP")), handled(received.append, ("SIGTERM",)):
                while (part := parts.get()) is not None and not received:
                    self.import_one(part, lambda: bool(received))
        except Exception as error:  # noqa: BLE001 -- printed as the command would print it
            sys.exit(report(error))

    def run_here(self, parts: Sequence[str], workers: int, show: Callable[[], None], stop: Callable[[], bool]) -> None:
        """Import ``parts`` with ``workers`` processes. Threads would not help: each generator keeps a core busy.

        Raises:
            PgonceError: a process ended with an error, which it has printed and recorded with its partition.
        """
        context = multiprocessing.get_context("spawn")
        waiting: Any = context.SimpleQueue()
        for part in [*parts, *[None] * workers]:
            waiting.put(part)
        processes = [
            context.Process(target=self.work, args=(waiting,), name=f"pgonce {number}") for number in range(workers)
        ]
        for process in processes:
            process.start()
        stopping = False
        try:
            while any(process.is_alive() for process in processes):
                processes[0].join(LOOK) if processes[0].is_alive() else time.sleep(LOOK)
                show()
                if stop() and not stopping:
                    stopping = True
                    for process in processes:
                        process.terminate()
        finally:
            for process in processes:
                process.terminate()
                process.join()
        failed = [process.exitcode for process in processes if process.exitcode]
        if failed and not stopping:
            raise PgonceError(
                f"{len(failed)} of {workers} workers ended with an error; their partitions resume: {self._again()}"
            )

    def run_on_cluster(
        self, address: str, parts: Sequence[str], show: Callable[[], None], stop: Callable[[], bool]
    ) -> None:
        """Import ``parts`` on a running Dask cluster. Its workers must import the app and reach the database.

        Dask runs a partition again when its worker dies, and sometimes twice at the same time. Because of each
        partition's claim and checkpoint, every batch is still committed once.

        Raises:
            PgonceError: distributed is not installed; or the workers of one partition died so often that Dask gave up;
                or the cluster had no worker for WORKERLESS seconds. Dask itself would wait for ever. LocalCluster, for
                example, gives up a worker that it finds dead 15 s after a death, even if the worker was restarted in
                between and has died again.
            Exception: an error that a partition raised.
        """
        try:
            from distributed import Client
            from distributed.scheduler import KilledWorker
        except ModuleNotFoundError:
            raise PgonceError("a cluster needs Dask: pip install 'pgonce[cluster]'") from None
        connect: Any = Client
        again = self._again(f" --cluster {address}")
        with connect(address, set_as_default=False) as client:
            futures = [client.submit(self.import_one, part, never, pure=False, retries=2) for part in parts]
            had_worker = time.monotonic()
            while not all(future.done() for future in futures):
                time.sleep(LOOK)
                show()
                if stop():
                    client.cancel(futures)
                    return
                if client.nthreads():
                    had_worker = time.monotonic()
                elif time.monotonic() - had_worker > WORKERLESS:
                    client.cancel(futures)
                    raise PgonceError(
                        f"the cluster has had no worker for {WORKERLESS:.0f} s: start some; "
                        f"all partitions resume where they are: {again}"
                    )
            try:
                client.gather(futures)
            except KilledWorker:
                raise PgonceError(
                    "workers of the cluster died again and again with the same partition "
                    f"(killed, or out of memory: see their logs); all partitions resume where they are: {again}"
                ) from None

    def _again(self, options: str = "") -> str:
        return suggested("seed run", self.name, f" --app {shlex.quote(self.reference)}{options}")


def _watcher(seeds: Seeds, name: str, on_progress: Callable[[Progress], object]) -> Callable[[], None]:
    """Return a function that reports the progress of all partitions together."""
    began, before = time.monotonic(), seeds.checkpoint(name)

    def show() -> None:
        at = seeds.checkpoint(name)
        if at:
            seen = at.rows_seen - (before.rows_seen if before else 0)
            on_progress(Progress(at, seen, time.monotonic() - began))

    return show
