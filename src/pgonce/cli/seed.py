"""``pgonce seed``: run and resume imports."""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pgonce.app import App
from pgonce.cli import partitions
from pgonce.cli.options import APP, OVERLAP, with_app, with_database
from pgonce.cli.output import Length
from pgonce.cli.stopping import stopping
from pgonce.core import database
from pgonce.seeds.calls import Checkpoint, Counts
from pgonce.seeds.seed import Seed
from pgonce.seeds.seeds import WINDOW, SeedResult, Seeds
from pgonce.seeds.seeds import Progress as Step
from pgonce.seeds.seeds_async import AsyncSeeds

PLAIN_EVERY = 2.0
"""Seconds between two lines where the output is not a terminal."""


@click.group()
def seed() -> None:
    """Imports that resume where they died."""


@seed.command()
@click.argument("name")
@click.option("--restart", is_flag=True, help="Begin at the start; rows that are there are skipped.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Rows per transaction, at least. [default: the seed's]")
@click.option("--window", type=Length(), help="A runner is dead without a sign of life for this long. [default: 2 min]")
@click.option("--max-rejects", type=click.IntRange(min=0), help="Bad rows to put aside. [default: the seed's, or 0]")
@click.option("--max-rows-per-second", type=click.FloatRange(min=1), help="Not faster than that.")
@click.option("--accept-change", is_flag=True, help="Go on although the source is not what it was.")
@click.option("--dry-run", is_flag=True, help="Do it all in one transaction, constraints too, and roll it back.")
@click.option("--verify", is_flag=True, help="Afterwards compare the table with the source, and keep the proof.")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Processes, for a seed with partitions.")
@click.option("--cluster", metavar="TCP://…", help="A Dask cluster, for a seed with partitions.")
@with_app
@with_database
@click.pass_context
def run(
    ctx: click.Context, name: str, restart: bool, batch_size: int | None, window: timedelta | None,
    max_rejects: int | None, max_rows_per_second: float | None, accept_change: bool, dry_run: bool, verify: bool,
    workers: int, cluster: str | None, app: App, url: str, schema: str,
) -> None:  # fmt: skip
    """Run the seed NAME, from its last checkpoint on.

    Ctrl-C and SIGTERM finish the batch; a second one ends at once. Nothing is lost either way.
    """
    found = app.get_seed(name)
    options: dict[str, Any] = {
        "batch_size": batch_size or found.batch_size,
        "window": window or WINDOW,
        "max_rejects": found.max_rejects if max_rejects is None else max_rejects,
        "max_rows_per_second": max_rows_per_second,
        "accept_change": accept_change,
    }
    if found.partitions is None and (workers > 1 or cluster):
        raise click.UsageError(f"the seed {name} has no partitions: --workers and --cluster need them")
    if dry_run:
        limit = {"max_rejects": options["max_rejects"], "restart": restart}
        counts: Counts = _each_kind(found, url, schema, "rehearse", limit)
        click.echo(f"{name}: nothing was written; it would be {_say(counts)}")
        return
    with stopping("this batch") as stopped, _progress(found) as on_progress:
        if found.partitions is not None:
            reference = ctx.meta[APP]
            work = _Parts(reference, url, schema, name, cluster, workers, restart)
            result = work.run(found, options, on_progress, lambda: bool(stopped))
        else:
            options |= {"on_progress": on_progress, "stop": lambda: bool(stopped)}
            options |= {"restart": restart, "batch_size": options["batch_size"], "fingerprint": found.fingerprint}
            result = _each_kind(found, url, schema, "run", options)
    _report(name, result, stopped)
    if verify:
        _prove(name, _each_kind(found, url, schema, "verify", {}))


def _each_kind(seed: Seed, url: str, schema: str, verb: str, options: dict[str, Any]) -> Any:
    """A method of Seeds, or of AsyncSeeds for an async generator."""
    options = {
        "into": seed.into, "key": seed.key, "columns": seed.columns, "on_conflict": seed.on_conflict, **options,
    }  # fmt: skip
    if inspect.isasyncgenfunction(seed.function):
        return asyncio.run(_async_kind(seed, url, schema, verb, options))
    with database.open_pool(url) as pool:
        return getattr(Seeds(pool, schema=schema), verb)(seed.name, seed.whole(), **options)


async def _async_kind(seed: Seed, url: str, schema: str, verb: str, options: dict[str, Any]) -> Any:
    async with await database.open_async_pool(url) as pool:
        return await getattr(AsyncSeeds(pool, schema=schema), verb)(seed.name, seed.whole(), **options)


@dataclass(frozen=True, slots=True)
class _Parts:
    """A seed with partitions, and who imports them."""

    reference: str
    url: str
    schema: str
    name: str
    cluster: str | None
    workers: int
    restart: bool

    def run(
        self, seed: Seed, options: dict[str, Any], on_progress: Callable[[Step], None], stop: Callable[[], bool]
    ) -> SeedResult:
        with database.open_pool(self.url, 2) as pool:
            seeds = Seeds(pool, schema=self.schema)
            at = seeds.checkpoint(self.name)
            if at and at.paused_at:
                return SeedResult("paused", at)
            if self.restart:
                seeds.reset(self.name)
            begun = seeds.begin_partitions(self.name, list(seed.parts()))
            left = [part.partition for part in begun if part.partition and part.status != "complete"]
            show = partitions.watcher(seeds, self.name, on_progress)
            where = (self.reference, self.url, self.schema, self.name, left)
            if self.cluster:
                partitions.run_on_cluster(self.cluster, *where, options, show, stop)
            elif left:
                partitions.run_here(*where, min(self.workers, len(left)), options, show, stop)
            at = seeds.checkpoint(self.name)
        if at and at.status == "complete":
            return SeedResult("complete", at)
        return SeedResult("paused" if at and at.paused_at else "stopped", at)


def _say(at: Checkpoint | Counts) -> str:
    if isinstance(at, Checkpoint):
        at = Counts(at.rows_inserted, at.rows_skipped, at.rows_updated, at.rows_rejected)
    numbers = {"inserted": at.inserted, "updated": at.updated, "skipped": at.skipped, "rejected": at.rejected}
    return ", ".join(f"{count:,} {what}" for what, count in numbers.items() if count or what in {"inserted", "skipped"})


def _report(name: str, result: SeedResult, stopped: list[int]) -> None:
    counts = _say(result.checkpoint) if result.checkpoint else "no rows yet"
    if result.outcome == "overlap":
        click.echo(f"{name}: skipped, another runner is at work on it", err=True)
        sys.exit(OVERLAP)
    if result.outcome == "paused":
        click.echo(f"{name}: paused, {counts}; go on with: pgonce seed resume {name}, and run it", err=True)
        sys.exit(OVERLAP)
    if result.outcome == "stopped":
        click.echo(f"{name}: stopped after a whole batch, {counts}; go on with: pgonce seed run {name}", err=True)
        sys.exit(128 + stopped[0] if stopped else 1)
    click.echo(f"{name}: complete, {counts}")


def _prove(name: str, proof: dict[str, Any]) -> None:
    said = f"{proof['keys']:,} keys in the source, {proof['found']:,} in the table, {proof['equal']:,} equal"
    if not proof["ok"]:
        click.echo(f"{name}: NOT verified: {said}, {proof['rejected']:,} rejected", err=True)
        sys.exit(1)
    click.echo(f"{name}: verified: {said}")


@contextmanager
def _progress(seed: Seed) -> Iterator[Callable[[Step], None]]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(seed)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f} rows  {task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(seed.name, total=seed.total, rate="")

        def show(step: Step) -> None:
            at = step.checkpoint
            bar.update(task, completed=at.rows_seen, rate=_rate(step))

        yield show


def _plain(seed: Seed) -> Callable[[Step], None]:
    shown = time.monotonic()

    def show(step: Step) -> None:
        nonlocal shown
        if time.monotonic() - shown >= PLAIN_EVERY:
            shown = time.monotonic()
            done = step.checkpoint.rows_seen
            of = f" of {seed.total:,}" if seed.total else ""
            click.echo(f"{seed.name}: {done:,}{of} rows, {_rate(step)}", err=True)

    return show


def _rate(step: Step) -> str:
    return f"{step.rows / step.seconds:,.0f} rows/s" if step.seconds else ""
