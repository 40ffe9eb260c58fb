"""``pgonce seed``: run and resume imports."""

from __future__ import annotations

import asyncio
import inspect
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pgonce import database
from pgonce._async.seeds import AsyncSeeds
from pgonce._sync.seeds import Progress as Step
from pgonce._sync.seeds import SeedResult, Seeds
from pgonce.app import App, Seed
from pgonce.cli.options import OVERLAP, with_app, with_database

PLAIN_EVERY = 2.0
"""Seconds between two lines where the output is not a terminal."""


@click.group()
def seed() -> None:
    """Imports that resume where they died."""


@seed.command()
@click.argument("name")
@click.option("--restart", is_flag=True, help="Begin at the start; rows that are there are skipped.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Rows per transaction, at least. [default: the seed's]")
@with_app
@with_database
def run(name: str, restart: bool, batch_size: int | None, app: App, url: str, schema: str) -> None:
    """Run the seed NAME, from its last checkpoint on.

    Ctrl-C and SIGTERM finish the batch; a second one ends at once. Nothing is lost either way.
    """
    found = app.get_seed(name)
    options: dict[str, Any] = {
        "into": found.into,
        "key": found.key,
        "columns": found.columns,
        "batch_size": batch_size or found.batch_size,
        "restart": restart,
    }
    with _stopping() as stopped, _progress(found) as on_progress:
        options |= {"on_progress": on_progress, "stop": lambda: bool(stopped)}
        if inspect.isasyncgenfunction(found.function):
            result = asyncio.run(_run_async(found, url, schema, options))
        else:
            with database.open_pool(url) as pool:
                result = Seeds(pool, schema=schema).run(name, found.function, **options)
    _report(name, result, stopped)


async def _run_async(seed: Seed, url: str, schema: str, options: dict[str, Any]) -> Any:
    async with await database.open_async_pool(url) as pool:
        return await AsyncSeeds(pool, schema=schema).run(seed.name, seed.function, **options)


def _report(name: str, result: SeedResult, stopped: list[int]) -> None:
    at = result.checkpoint
    counts = f"{at.rows_inserted:,} inserted, {at.rows_skipped:,} skipped" if at else "no rows yet"
    if result.outcome == "overlap":
        click.echo(f"{name}: skipped, another runner is at work on it", err=True)
        sys.exit(OVERLAP)
    if result.outcome == "stopped":
        click.echo(f"{name}: stopped after a whole batch, {counts}; go on with: pgonce seed run {name}", err=True)
        sys.exit(128 + stopped[0])
    click.echo(f"{name}: complete, {counts}")


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM: the first is remembered, a second one has its usual effect."""
    received: list[int] = []
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def remember(number: int, _frame: object) -> None:
        received.append(number)
        click.echo("stopping after this batch; once more to stop at once", err=True)
        for each, handler in usual.items():
            signal.signal(each, handler)

    for number in usual:
        signal.signal(number, remember)
    try:
        yield received
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


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
            bar.update(task, completed=at.rows_inserted + at.rows_skipped, rate=_rate(step))

        yield show


def _plain(seed: Seed) -> Callable[[Step], None]:
    shown = time.monotonic()

    def show(step: Step) -> None:
        nonlocal shown
        if time.monotonic() - shown >= PLAIN_EVERY:
            shown = time.monotonic()
            done = step.checkpoint.rows_inserted + step.checkpoint.rows_skipped
            of = f" of {seed.total:,}" if seed.total else ""
            click.echo(f"{seed.name}: {done:,}{of} rows, {_rate(step)}", err=True)

    return show


def _rate(step: Step) -> str:
    return f"{step.rows / step.seconds:,.0f} rows/s" if step.seconds else ""
