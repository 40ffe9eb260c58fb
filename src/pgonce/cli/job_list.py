"""``pgonce job ls | stats``: how jobs and their runs stand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click

from pgonce.cli.options import Database, as_json, with_database
from pgonce.cli.output import Length, Moment, print_json, print_line, print_table, suggested
from pgonce.cli.times import ago, coming, span, took
from pgonce.cli.watch import watchable
from pgonce.errors import NotFound
from pgonce.jobs import calls_operate
from pgonce.jobs import calls_stats as stats

STATES = ["running", "succeeded", "failed", "skipped"]
ORDINALS = {2: "second", 3: "third", 4: "fourth", 5: "fifth"}
SIGNS = {"running": "● running", "succeeded": "✔ succeeded", "failed": "✗ failed", "skipped": "○ skipped"}


class RunId(click.ParamType):  # type: ignore[type-arg] # generic only in newer releases of click
    """A run's id, or its first few digits."""

    name = "run"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Its hexadecimal digits."""
        digits = str(value).lower().replace("-", "")
        if not 4 <= len(digits) <= 32 or not set(digits) <= set("0123456789abcdef"):
            self.fail(
                f'"{value}" is not the id of a run, nor its first four or more digits; '
                "pgonce job ls --job NAME lists them",
                param,
                ctx,
            )
        return digits


def find_run(db: Database, digits: str) -> UUID:
    """The run whose id begins with these digits.

    Raises:
        NotFound: there is none, or there are several.
    """
    found = db.call(calls_operate.match_job_runs(digits))
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"there is no job run {UUID(digits) if len(digits) == 32 else digits}")
    raise NotFound(f"several runs begin with {digits}: {', '.join(map(str, found))}")


@click.command("ls")
@click.option("--job", "name", metavar="NAME", help="Runs of this job.")
@click.option("--status", type=click.Choice(STATES), help="Runs with this status.")
@click.option("--since", type=Moment(), help="Runs that started since: '2 hours', 2026-11-23.")
@click.option("--limit", type=click.IntRange(1, 2**31 - 1), help="So many runs. [default: 50]")
@as_json
@watchable
@with_database
def list_(
    name: str | None, status: str | None, since: datetime | None, limit: int | None, json_: bool, db: Database
) -> None:
    """List the jobs, each with its last run.

    With an option or --json it lists the runs, newest first. Times are in UTC.

    Example: pgonce job ls --job birthday_letters --status failed --since 2d
    """
    runs = json_ or name is not None or status is not None or since is not None or limit is not None
    if not runs:
        _print_jobs(db.call(stats.list_jobs()))
        return
    lines = db.call(stats.list_job_runs(name=name, status=status, since=since, limit=limit or 50))
    if json_:
        print_json(lines)
        return
    if name is not None and not (lines or db.call(stats.list_job_runs(name=name, limit=1))):
        _print_job_without_runs(name, db)
        return
    now = datetime.now(UTC)
    print_table(
        ["run", "job", "state", "started", "took", "rows", "progress", "reason"],
        [
            (str(r.id)[:8], named(r.job_name, r.key), _sign(r.state, r.status), ago(r.started_at, now),
             took(r.duration_ms), f"{r.rows_processed:,}" if r.rows_processed else "", r.progress, r.reason)
            for r in lines
        ],
        "no such runs",
        "reason",
    )  # fmt: skip


def named(name: str, key: str) -> str:
    """The name and the key of a job, for people."""
    return f"{name} {key}".rstrip()


def _sign(state: str, status: str) -> str:
    return "! silent" if state == "silent" else SIGNS[status].replace(status, state)


def _print_jobs(lines: list[stats.JobLine]) -> None:
    """Those at work first, then those that did not run or failed."""
    now = datetime.now(UTC)
    lines = sorted(lines, key=lambda job: (job.status != "running", job.missed is None, job.status != "failed"))
    print_table(
        ["job", "state", "started", "took", "usual", "next (UTC)", "note"],
        [
            (named(job.job_name, job.key), _state(job), ago(job.started_at, now), took(job.duration_ms) or "–",
             "" if job.usual_from_ms is None or job.usual_to_ms is None else span(job.usual_from_ms, job.usual_to_ms),
             coming(job.next_tick, now), _note(job, now))
            for job in lines
        ],
        "no job has run, and none is scheduled",
        "note",
    )  # fmt: skip
    failed = next((job for job in lines if job.status == "failed" and job.run_id), None)
    if failed:
        click.echo(f"look: {suggested('job show', str(failed.run_id)[:8])}")


def _print_job_without_runs(name: str, db: Database) -> None:
    lines = [job for job in db.call(stats.list_jobs()) if job.job_name == name]
    if not lines:
        hint = "it is not scheduled or expected either, see `pgonce job ls` for its name"
    else:
        _print_jobs(lines)
        hint = "`pgonce ps` shows whether a worker has it; if another program starts it, such as cron, look there"
    print_line(f"{name} has never run: {hint}", err=True)


def _state(job: stats.JobLine) -> str:
    if job.paused is not None and job.status != "running":
        return "○ paused"
    if job.missed is not None:
        return "! missed"
    if job.status == "running" and job.reason:
        return "! silent"
    return "○ new" if job.status is None else SIGNS[job.status]


def _note(job: stats.JobLine, now: datetime) -> str:
    notes = []
    if job.paused is not None:
        notes.append(f"until {coming(job.paused_until, now)}: {job.paused}" if job.paused_until else job.paused)
    if job.missed is not None:
        notes.append(job.missed)
    if job.stopping:
        notes.append("asked to stop")
    if job.blocks:
        notes.append(f"blocks {job.blocks} {'start' if job.blocks == 1 else 'starts'}")
    if job.status == "running" and job.progress_done is not None:
        progress = stats.describe_progress(job.progress_done, job.progress_total)
        notes.append(progress if job.progress_at is None else f"{progress}, {ago(job.progress_at, now)}")
    if job.attempt and job.attempt > 1:
        notes.append(ORDINALS.get(job.attempt, f"{job.attempt}th") + " attempt")
    if job.next_retry_at:
        notes.append("to be retried")
    if job.reason:
        notes.append(job.reason)
    return ", ".join(notes)


@click.command("stats")
@click.argument("name", required=False)
@click.option(
    "--since", default="7 days", show_default=True, type=Length(), metavar="INTERVAL", help="Over this long, until now."
)
@as_json
@with_database
def stats_(name: str | None, since: timedelta, json_: bool, db: Database) -> None:
    """Show how often jobs ran and succeeded, and how long it took.

    The trend is the change against the period before.

    Example: pgonce job stats birthday_letters --since '30 days'
    """
    lines = db.call(stats.job_timing(name, since))
    if json_:
        print_json(lines)
        return
    now = datetime.now(UTC)
    print_table(
        ["job", "runs", "skipped", "success", "p50", "p95", "p99", "max", "trend", "rows/s", "last failure"],
        [
            (t.job_name, t.runs, t.skipped or "", _percent(t.success_rate), took(t.p50_ms), took(t.p95_ms),
             took(t.p99_ms), took(t.max_ms), _percent(t.trend, "+"),
             "" if t.rows_per_second is None else f"{t.rows_per_second:,.1f}",
             "" if t.last_failed_at is None else f"{ago(t.last_failed_at, now)}  {t.last_failure or ''}".rstrip())
            for t in lines
        ],
        "no runs in that time",
        "last failure",
    )  # fmt: skip


def _percent(share: float | None, sign: str = "") -> str:
    return "" if share is None else f"{share * 100:{sign}.1f} %"
