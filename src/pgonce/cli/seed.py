"""``pgonce seed``: run and resume imports."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import click

from pgonce.app import App
from pgonce.cli.options import APP, Database, with_app, with_database
from pgonce.cli.output import Length, suggested
from pgonce.cli.partitions import Partitions, run_seeds
from pgonce.cli.progress import Import, unknown
from pgonce.cli.signals import stopping_after_batch
from pgonce.seeds.seed import OnConflict
from pgonce.seeds.seeds import WINDOW, Seeds


@click.command()
@click.argument("name")
@click.option("--restart", is_flag=True, help="Begin at the start; rows whose key is in the table are skipped.")
@click.option(
    "--on-conflict",
    type=click.Choice(["skip", "update", "fail"]),
    help="A row whose key is in the table: leave the table's, overwrite it, or take the new one for a bad row. "
    "[default: the seed's]",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Rows per transaction, at least. [default: the seed's]")
@click.option("--window", type=Length(), help="Without a heartbeat for this long a runner is dead. [default: 2 min]")
@click.option("--max-rejects", type=click.IntRange(min=0), help="Bad rows that may be left out. [default: the seed's]")
@click.option(
    "--max-rows-per-second",
    type=click.FloatRange(min=1),
    help="Write at most this many rows per second; on a cluster, of each partition.",
)
@click.option("--accept-change", is_flag=True, help="Resume even though the source has changed since the checkpoint.")
@click.option("--set-sequences", is_flag=True, help="At the end set the table's sequences to the greatest value.")
@click.option("--allow-unlogged", is_flag=True, help="Write to a table that a crash of the server empties.")
@click.option("--dry-run", is_flag=True, help="Write everything in one transaction and roll it back.")
@click.option("--verify", is_flag=True, help="Afterwards compare the table with the source, and store the result.")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Processes, for a seed with partitions.")
@click.option("--cluster", metavar="TCP://…", help="A Dask cluster, for a seed with partitions.")
@with_app
@with_database
@click.pass_context
def run(
    ctx: click.Context, name: str, restart: bool, on_conflict: OnConflict | None, batch_size: int | None,
    window: timedelta | None,
    max_rejects: int | None, max_rows_per_second: float | None, accept_change: bool,
    set_sequences: bool, allow_unlogged: bool, dry_run: bool, verify: bool,
    workers: int, cluster: str | None, app: App, db: Database,
) -> None:  # fmt: skip
    """Run the seed NAME. It resumes at its last checkpoint.

    Ctrl-C, SIGTERM and SIGHUP end the run after the current batch, a second one at once. No row is lost either
    way: the same command resumes.

    Exit codes: 0 complete, 1 failed, 75 another runner is at work or the seed is paused, 128 + n stopped by signal n.

    Example: pgonce seed run psalms --app shop:app --verify
    """
    found = app.get_seed(name)
    share = getattr(found.function, "progress", unknown)
    named = ctx.get_parameter_source("app") == click.core.ParameterSource.COMMANDLINE
    app_option = f" --app {shlex.quote(ctx.meta[APP])}" if named else ""

    def again(options: str = "") -> str:
        return suggested("seed run", name, app_option + options)

    shown = Import(name, f"{name} → {found.into}", again, found.total, share)
    fields: dict[str, Any] = {
        "on_conflict": on_conflict or found.on_conflict,
        "batch_size": batch_size or found.batch_size,
        "max_rejects": found.max_rejects if max_rejects is None else max_rejects,
        "set_sequences": set_sequences or found.set_sequences,
        "allow_unlogged": allow_unlogged or found.allow_unlogged,
    }
    found = replace(found, **fields)
    options: dict[str, Any] = {
        "window": window or WINDOW, "max_rows_per_second": max_rows_per_second, "accept_change": accept_change,
    }  # fmt: skip
    if found.partitions is None and (workers > 1 or cluster):
        raise click.UsageError(f"the seed {name} has no partitions: --workers and --cluster need them")
    if dry_run:
        once = {"restart": restart, "accept_change": accept_change}
        shown.report_dry_run(run_seeds(db, found, "rehearse", **once))
        return
    began = time.monotonic()
    with stopping_after_batch() as stopped, shown.shown() as on_progress:
        if found.partitions is not None:
            work = Partitions(ctx.meta[APP], db.url, db.schema, name, options | fields)
            result = work.run(
                found, workers=workers, cluster=cluster, restart=restart, on_progress=on_progress,
                stop=lambda: bool(stopped),
            )  # fmt: skip
        else:
            options |= {"restart": restart, "on_progress": on_progress, "stop": lambda: bool(stopped)}
            result = run_seeds(db, found, "run", **options)
    seconds = time.monotonic() - began
    rejects = Seeds(db.pool, schema=db.schema).reject_groups(name)
    shown.report(result, seconds, rejects, stopped, were_set=found.set_sequences)
    if verify:
        shown.report_proof(run_seeds(db, found, "verify"), has_key=bool(found.key))
