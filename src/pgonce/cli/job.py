"""``pgonce job``: run a job by hand or from cron."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from typing import Any

import click

from pgonce import database
from pgonce._async.jobs import AsyncJobs
from pgonce._sync.jobs import Jobs, Run
from pgonce.app import App, Job
from pgonce.cli.options import OVERLAP, with_app, with_database


@click.group()
def job() -> None:
    """Background jobs that never overlap."""


@job.command()
@click.argument("name")
@click.option("--scope", default="{}", metavar="JSON", help="What the run works on, such as '{\"batch_number\": 3}'.")
@with_app
@with_database
def run(name: str, scope: str, app: App, url: str, schema: str) -> None:
    """Run the job NAME now, unless it is running: then exit with 75."""
    found = app.get_job(name)
    try:
        parsed = json.loads(scope)
    except ValueError as error:
        raise click.BadParameter(f"this is not JSON: {error}", param_hint="--scope") from None
    if not isinstance(parsed, dict):
        raise click.BadParameter("it must be an object, such as '{\"batch_number\": 3}'", param_hint="--scope")
    if inspect.iscoroutinefunction(found.function):
        ended = asyncio.run(_run_async(found, parsed, url, schema))
    else:
        ended = _run(found, parsed, url, schema)
    if ended is None:
        click.echo(f"{name}: skipped, another run is at work", err=True)
        sys.exit(OVERLAP)
    click.echo(f"{name}: succeeded, {ended.rows_processed:,} processed, {ended.rows_skipped:,} skipped")


def _run(job: Job, scope: dict[str, Any], url: str, schema: str) -> Run | None:
    with (
        database.open_pool(url) as pool,
        Jobs(pool, schema=schema).run(job.name, scope=scope, key=job.key, window=job.window) as run,
    ):
        if run is not None:
            job.function(run)
        return run


async def _run_async(job: Job, scope: dict[str, Any], url: str, schema: str) -> Any:
    async with (
        await database.open_async_pool(url) as pool,
        AsyncJobs(pool, schema=schema).run(job.name, scope=scope, key=job.key, window=job.window) as run,
    ):
        if run is not None:
            await job.function(run)
        return run
