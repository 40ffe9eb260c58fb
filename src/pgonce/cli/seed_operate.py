"""``pgonce seed`` for operators: show, pause, resume and reset imports, and retry rejected rows."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click

from pgonce.app import App
from pgonce.cli.actor import session
from pgonce.cli.options import OVERLAP, Database, as_json, with_app, with_database
from pgonce.cli.output import in_line, print_diagnosis, print_json, print_line, print_table, suggested
from pgonce.cli.times import ago
from pgonce.cli.times import took as took_
from pgonce.cli.watch import watchable
from pgonce.errors import NotFound
from pgonce.seeds import calls_console_operate as operate
from pgonce.seeds.calls import Checkpoint
from pgonce.seeds.calls_diagnose import diagnose_seed
from pgonce.seeds.calls_operate import Resume
from pgonce.seeds.seeds import Seeds

HEADINGS = ("seed", "state", "inserted", "updated", "skipped", "rejected", "last batch", "at")
RUNS = ("run", "partition", "ended", "from row", "to row", "took", "process", "because")
REJECTS = 20
"""Rejected rows that ``show`` prints, the first."""
RESUMES = 5
"""Runs that ``show`` prints, the newest first; all with --json."""
SIGNS = {
    "complete": "✔ complete", "failed": "✗ failed", "in_progress": "● in progress", "paused": "○ paused",
    "idle": "○ no runner",
}  # fmt: skip


def _unknown(name: str) -> NotFound:
    return NotFound(f"the seed {name!r} has never run here")


def _line(at: Checkpoint, alive: set[str]) -> tuple[object, ...]:
    """``alive``: the keys of the runs that import the seed or a partition of it."""
    status = "paused" if at.paused_at else at.status
    if status == "in_progress" and not (f"{at.seed_name}/{at.partition}" in alive if at.partition else alive):
        status = "idle"
    others = (at.rows_updated, at.rows_skipped, at.rows_rejected)
    numbers = (f"{at.rows_inserted:,}", *(f"{count:,}" if count else "" for count in others))
    cursor = in_line(at.last_checkpoint)[:80] if at.last_checkpoint else ""
    return (at.partition or at.seed_name, SIGNS[status], *numbers, ago(at.last_updated_at, datetime.now(UTC)), cursor)


def _resume_line(run: Resume) -> tuple[object, ...]:
    rows = "" if run.from_row is None else f"{run.from_row:,}"
    to = "" if run.to_row is None else f"{run.to_row:,}"
    because = (run.reason or "").strip().splitlines()
    took = took_(run.ended_at - run.started_at) if run.ended_at else ""
    at = ago(run.started_at, datetime.now(UTC))
    return (at, run.partition or "", run.outcome, rows, to, took, run.process or "", because[-1] if because else "")


@click.command("ls")
@as_json
@watchable
@with_database
def list_(json_: bool, db: Database) -> None:
    """List all imports that have ever run, with state and counts."""
    seeds = Seeds(db.pool, schema=db.schema)
    found = seeds.all()
    if json_:
        print_json(found)
    else:
        lines = (_line(at, seeds.alive(at.seed_name) if at.status == "in_progress" else set()) for at in found)
        print_table(HEADINGS, lines, "no import has run yet", "at")


@click.command()
@click.argument("name")
@as_json
@with_database
def show(name: str, json_: bool, db: Database) -> None:
    """Show everything about the seed NAME.

    That is its state, partitions, first rejected rows, last error and last verification.

    Example: pgonce seed show people:people.csv
    """
    seeds = Seeds(db.pool, schema=db.schema)
    at = seeds.checkpoint(name)
    if at is None:
        raise _unknown(name)
    parts, rejected = seeds.partitions(name), seeds.rejects(name, limit=REJECTS + 1)
    diagnosis = db.call(diagnose_seed(name))
    resumes, batches = seeds.resumes(name), seeds.batch_times(name) if json_ else []
    if json_:
        shown = {"seed": at, "partitions": parts, "rejects": rejected[:REJECTS], "diagnosis": diagnosis}
        print_json({**shown, "resumes": resumes, "batches": batches})
        return
    alive = seeds.alive(name)
    print_table(HEADINGS, (_line(each, alive) for each in [at, *parts]), "", "at")
    print_diagnosis(diagnosis)
    if at.verified:
        click.echo()
        print_line(f"verified: {in_line(at.verified)}", len("verified: "))
    if at.error_message:
        click.echo()
        for line in at.error_message.splitlines():
            print_line(line)
    if resumes:
        click.echo("")
        print_table(RUNS, map(_resume_line, resumes[:RESUMES]), "", "because")
    if rejected:
        click.echo("")
        lines = (
            (each.row_number, each.partition, in_line(each.cursor), each.error.split(" Failing row")[0])
            for each in rejected[:REJECTS]
        )
        print_table(("row", "partition", "cursor", "rejected because"), lines, "", "rejected because")
        if len(rejected) > REJECTS:
            click.echo(f"more: {suggested('seed rejects', name)}")


@click.command()
@click.argument("name")
@with_database
def pause(name: str, db: Database) -> None:
    """Pause the seed NAME after its current batch.

    It does not run until it is resumed.

    Example: pgonce seed pause psalms
    """
    db.call(operate.pause_seed(session(db), name))
    print_line(f"{name}: paused; continue with: {suggested('seed resume', name)}")


@click.command()
@click.argument("name")
@with_database
def resume(name: str, db: Database) -> None:
    """End the pause of the seed NAME.

    Its next run resumes at its checkpoint.

    Example: pgonce seed resume psalms
    """
    db.call(operate.resume_seed(session(db), name))
    print_line(f"{name}: may run again, by the command that has run it before")


@click.command()
@click.argument("name")
@with_database
def reset(name: str, db: Database) -> None:
    """Delete the checkpoint of the seed NAME.

    Its counters and rejected rows are deleted, too. The rows in its table stay.

    Example: pgonce seed reset psalms
    """
    Seeds(db.pool, schema=db.schema).release_dead(name)
    if not db.call(operate.reset_seed(session(db), name)):
        raise _unknown(name)
    print_line(f"{name}: the next run starts from the beginning")


@click.command("retry-rejects")
@click.argument("name")
@with_app
@with_database
def retry_rejects(name: str, app: App, db: Database) -> None:
    """Retry the rejected rows of the seed NAME.

    This is for after the table, or a table that it refers to, was fixed.

    A row whose key is in the table by now is not written; it is counted as skipped.

    Example: pgonce seed retry-rejects psalms --app shop:app
    """
    found = app.get_seed(name)
    db.call(operate.retry_seed_rejects(session(db), name))
    done = Seeds(db.pool, schema=db.schema).retry_rejects(found)
    if done is None:
        print_line(f"{name}: skipped, another runner is at work on it", err=True)
        sys.exit(OVERLAP)
    accepted, refused = done
    print_line(f"{name}: {accepted:,} accepted, {refused:,} still rejected")
    sys.exit(1 if refused else 0)
