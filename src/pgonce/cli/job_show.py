"""``pgonce job show``: everything about one run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from pgonce.cli.job_list import SIGNS, RunId, find_run, named
from pgonce.cli.options import Database, as_json, with_database
from pgonce.cli.output import in_line, print_diagnosis, print_fields, print_json, print_line, when
from pgonce.cli.times import ago, took
from pgonce.core.adapters import read_time
from pgonce.errors import NotFound
from pgonce.jobs import calls_stats as stats
from pgonce.jobs.calls_diagnose import diagnose_run


@click.command()
@click.argument("run", type=RunId())
@as_json
@with_database
def show(run: str, json_: bool, db: Database) -> None:
    """Show everything about one RUN.

    That is its scope, counts, progress and process, what blocked it, and its traceback. Times are in UTC.

    RUN is its id, or the id's first four or more digits.

    Example: pgonce job show 4f0c
    """
    run_id = find_run(db, run)
    found = db.call(stats.get_job_run(run_id))
    if found is None:
        raise NotFound(f"there is no job run {run}")
    diagnosis = db.call(diagnose_run(run_id))
    if json_:
        print_json({**found, "diagnosis": diagnosis})
        return
    now = datetime.now(UTC)
    stopping = found["status"] == "running" and found["stop_requested_at"]
    state = f"{SIGNS[found['status']]}{', asked to stop' if stopping else ''}"
    print_line(f"{named(found['job_name'], found['key'])}  {_short(found['id'])}  {state}")
    print_fields(_fields(found, now))
    if found["error_message"]:
        click.echo("\nreason")
        for line in found["error_message"].splitlines():
            print_line(line)
    print_diagnosis(diagnosis)


def _fields(run: dict[str, Any], now: datetime) -> Iterator[tuple[str, str]]:
    """What there is to say about the run, by name."""
    started, ended = _time(run["started_at"]), _time(run["completed_at"])
    assert started is not None, "the column is not null"  # noqa: S101
    running = run["status"] == "running"
    yield "run", run["id"]
    yield "tick", when(_time(run["scheduled_for"] or run["for_tick"]))
    yield "started", f"{when(started)}, {ago(started, now)}"
    if running:
        yield "at work for", took(now - started)
        beat = _time(run["heartbeat_at"])
        yield "heartbeat", f"{ago(beat, now)}; without one for {_window(run['run_window'])} the run counts as dead"
    elif ended is not None and run["status"] != "skipped":
        yield "ended", f"{when(ended)}, after {took(run['duration_ms']) or '–'}"
    if run["worked_until"]:
        yield "worked until", f"{when(_time(run['worked_until']))}, after the run was closed; what it wrote was refused"
    yield "progress", _progress(run, now)
    if run["rows_processed"] or run["rows_skipped"]:
        yield "rows", f"{run['rows_processed'] or 0:,} processed, {run['rows_skipped'] or 0:,} skipped"
    if run["retries"] or run["attempt"] > 1:
        of = f" of {run['retries'] + 1}" if run["retries"] else ""
        after = f", after run {_short(run['retry_of'])}" if run["retry_of"] else ""
        yield "attempt", f"{run['attempt']}{of}{after}"
    yield "process", run["process"] or ""
    yield "scope", in_line(run["scope"]) if run["scope"] else ""
    yield "blocked by", f"run {_short(run['blocked_by'])}" if run["blocked_by"] else ""
    yield "transactions", f"{run['transactions']:,} committed" if run["transactions"] else ""


def _progress(run: dict[str, Any], now: datetime) -> str:
    figure = stats.describe_progress(run["progress_done"], run["progress_total"])
    if not figure:
        return ""
    return f"{figure}, {ago(_time(run['progress_at']), now)}" if run["progress_at"] else figure


def _time(text: str | None) -> datetime | None:
    return None if text is None else read_time(text)


def _window(text: str) -> str:
    """An interval of PostgreSQL, in its usual style, as a length of time; as it is where it has other parts."""
    hours, _, rest = text.partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return took(timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds)))
    except ValueError:
        return text


def _short(run_id: str) -> str:
    return run_id[:8]
