"""``pgonce job``: run a job by hand or from cron, and look at what has run."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import click

from pgonce.app import App
from pgonce.cli.errors import TookTooLong
from pgonce.cli.options import OVERLAP, as_json, with_app, with_database
from pgonce.cli.output import Length, Moment, in_line, print_json, print_table, when
from pgonce.cli.signals import Interrupts
from pgonce.core import database
from pgonce.core.callables import ensure_awaitable, ensure_result
from pgonce.core.execute import call
from pgonce.errors import DatabaseUnavailable, InvalidArgument, NotFound, RunStopped
from pgonce.jobs import calls as protocol
from pgonce.jobs import calls_stats as stats
from pgonce.jobs.guard import Jobs, Run
from pgonce.jobs.guard_async import AsyncJobs, AsyncRun
from pgonce.jobs.registry import Job

STATES = ["running", "succeeded", "failed", "skipped"]


class Scope(click.ParamType):  # type: ignore[type-arg] # generic only in newer releases of click
    """A JSON object."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """The object."""
        if isinstance(value, dict):
            return value
        try:
            parsed = json.loads(value)
        except ValueError as error:
            self.fail(f"this is not JSON: {error}", param, ctx)
        if not isinstance(parsed, dict):
            self.fail("it must be an object, such as '{\"batch_number\": 3}'", param, ctx)
        return parsed


with_scope = click.option(
    "--scope", type=Scope(), default={}, metavar="JSON", help="What the run works on, such as '{\"batch_number\": 3}'."
)


@click.group()
def job() -> None:
    """Background jobs that never overlap."""


@job.command()
@click.argument("name")
@with_scope
@click.option("--key", help="Runs with different keys may run side by side. [default: the job's]")
@with_app
@with_database
def run(name: str, scope: dict[str, Any], key: str | None, app: App, url: str, schema: str) -> None:
    """Run the job NAME now, unless it is running: then exit with 75.

    A failure is retried as the job's registration says, here or by a worker, whichever comes first.
    SIGTERM, SIGHUP and Ctrl-C end the run as failed.
    """
    with Interrupts(name) as interrupts:
        ended = _attempts(app.get_job(name), {"scope": scope, "key": key}, url, schema, interrupts)
    if ended is None:
        click.echo(f"{name}: skipped, another run is at work", err=True)
        sys.exit(OVERLAP)
    click.echo(f"{name}: succeeded, {ended.rows_processed:,} processed, {ended.rows_skipped:,} skipped")


def _attempts(job: Job, what: dict[str, Any], url: str, schema: str, interrupts: Interrupts) -> Any:
    left, pause = job.retries, job.backoff
    failed: Exception | None = None  # of a run: what comes next is its retry; as long as none has begun, a start
    while True:
        begun: list[bool] = []  # whether the database has decided about the start
        retry: protocol.Retry | None = None
        try:
            if failed is not None and (retry := _due(job, what["key"], url, schema)) is None:
                left = 0  # a worker has been faster
                raise failed
            return _in_time(job, {**what, "retry": retry}, begun, url, schema, interrupts)
        except RunStopped:
            raise
        except Exception as error:
            failed = error if begun else failed
            if left == 0 or not (failed or isinstance(error, DatabaseUnavailable)):
                raise
            click.echo(f"{job.name}: failed ({_line(error)}), next attempt in {pause}", err=True)
            time.sleep(pause.total_seconds())
            left, pause = left - 1, pause * 2


def _in_time(job: Job, start: dict[str, Any], begun: list[bool], url: str, schema: str, interrupts: Interrupts) -> Any:
    began = time.monotonic()
    try:
        if job.is_async:
            return interrupts.run(_perform_async(job, start, begun, url, schema))
        return _perform(job, start, begun, url, schema)
    except TimeoutError as error:
        if job.timeout is None or time.monotonic() - began < job.timeout.total_seconds():
            raise  # of something that the job has waited for
        raise TookTooLong(f"the job {job.name} took longer than {took(job.timeout)}") from error


def _perform(job: Job, start: dict[str, Any], begun: list[bool], url: str, schema: str) -> Run | None:
    with database.open_pool(url) as pool, Jobs(pool, schema=schema).begin(job, **start) as run:
        begun.append(True)
        if run is not None:
            ensure_result(job.function(run))
        return run


async def _perform_async(job: Job, start: dict[str, Any], begun: list[bool], url: str, schema: str) -> AsyncRun | None:
    async with (
        await database.open_async_pool(url) as pool,
        AsyncJobs(pool, schema=schema).begin(job, **start) as run,
    ):
        begun.append(True)
        if run is not None:
            await ensure_awaitable(job.function(run))
        return run


def _due(job: Job, key: str | None, url: str, schema: str) -> protocol.Retry | None:
    with database.open_pool(url, 1) as pool:
        due = call(pool, protocol.due_job_retries([job.name]), schema)
    return next((each for each in due if each.key == (job.key if key is None else key)), None)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


@job.command("ls")
@click.option("--job", "name", metavar="NAME", help="Runs of this job.")
@click.option("--status", type=click.Choice(STATES))
@click.option("--since", type=Moment(), help="Started since: '2 hours', 2026-11-23.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(min=1))
@as_json
@with_database
def list_(
    name: str | None, status: str | None, since: datetime | None, limit: int, json_: bool, url: str, schema: str
) -> None:
    """List runs, newest first.

    Example: pgonce job ls --job birthday_letters --status failed --since '2 days'
    """
    wanted = stats.list_job_runs(name=name, status=status, since=since, limit=limit)
    with database.open_pool(url, 1) as pool:
        lines = call(pool, wanted, schema)
    if json_:
        print_json(lines)
        return
    print_table(
        ["run", "job", "key", "state", "started (UTC)", "took", "processed", "skipped", "progress", "reason"],
        [
            (r.id, r.job_name, r.key, r.state, when(r.started_at), took(r.duration_ms),
             r.rows_processed or "", r.rows_skipped or "", r.progress, r.reason)
            for r in lines
        ],
        "no such runs",
        "reason",
    )  # fmt: skip


def took(length: timedelta | int | None) -> str:
    """A length of time (an int: milliseconds) as people read it."""
    if length is None:
        return ""
    milliseconds = length if isinstance(length, int) else length // timedelta(milliseconds=1)
    if milliseconds < 10_000:
        return f"{milliseconds / 1000:.3g} s"
    return str(timedelta(seconds=milliseconds // 1000))


@job.command()
@click.argument("run_id", metavar="RUN", type=click.UUID)
@as_json
@with_database
def show(run_id: UUID, json_: bool, url: str, schema: str) -> None:
    """Everything about one run: scope, counts, progress, what blocked it, traceback."""
    with database.open_pool(url, 1) as pool:
        found = call(pool, stats.get_job_run(run_id), schema)
    if found is None:
        raise NotFound(f"there is no job run {run_id}")
    if json_:
        print_json(found)
        return
    traceback = found.pop("error_message")
    for name, value in found.items():
        if value not in (None, {}, ""):
            click.echo(f"{name:17} {in_line(value) if isinstance(value, dict) else value}")
    if traceback:
        click.echo(f"\nreason\n{traceback}")


@job.command()
@click.argument("run_id", metavar="RUN", type=click.UUID)
@with_database
def stop(run_id: UUID, url: str, schema: str) -> None:
    """Ask a run to end; it learns it at its next heartbeat. Its retries are called off."""
    with database.open_pool(url, 1) as pool:
        asked = call(pool, protocol.stop_job_run(run_id), schema)
    if not asked:
        raise InvalidArgument(f"run {run_id} has ended")
    click.echo(f"{run_id}: asked to stop")


@job.command("stats")
@click.argument("name", required=False)
@click.option(
    "--since", default="7 days", show_default=True, type=Length(), metavar="INTERVAL", help="Over this long, until now."
)
@as_json
@with_database
def stats_(name: str | None, since: timedelta, json_: bool, url: str, schema: str) -> None:
    """Runs, success rate and durations of the jobs, and the trend against as long a time before.

    Example: pgonce job stats birthday_letters --since '30 days'
    """
    with database.open_pool(url, 1) as pool:
        lines = call(pool, stats.job_timing(name, since), schema)
    if json_:
        print_json(lines)
        return
    print_table(
        ["job", "runs", "skipped", "success", "p50", "p95", "p99", "max", "trend", "rows/s", "last failure (UTC)"],
        [
            (t.job_name, t.runs, t.skipped or "", _percent(t.success_rate), took(t.p50_ms), took(t.p95_ms),
             took(t.p99_ms), took(t.max_ms), _percent(t.trend, "+"), t.rows_per_second, _failure(t))
            for t in lines
        ],
        "no runs in that time",
        "last failure (UTC)",
    )  # fmt: skip


def _percent(share: float | None, sign: str = "") -> str:
    return "" if share is None else f"{share:{sign}.1%}"


def _failure(timing: stats.Timing) -> str:
    return f"{when(timing.last_failed_at)} {timing.last_failure or ''}".strip()
