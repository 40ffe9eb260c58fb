"""``pgonce job run``: run a job by hand or from cron. The other commands are in job_list.py and job_operate.py."""

from __future__ import annotations

import sys
import time
from typing import Any
from uuid import UUID

import click

from pgonce.app import App
from pgonce.cli.errors import TookTooLong
from pgonce.cli.options import OVERLAP, Database, with_app, with_database, with_scope
from pgonce.cli.output import print_line
from pgonce.cli.signals import Interrupts
from pgonce.cli.skipped import why_skipped
from pgonce.cli.times import took
from pgonce.core import database
from pgonce.core.callables import ensure_awaitable, ensure_result
from pgonce.core.failures import is_success
from pgonce.core.forked_child import ends_forked_child
from pgonce.errors import DatabaseUnavailable, LeaseLost, RunStopped, class_and_line
from pgonce.jobs import calls
from pgonce.jobs.arguments import LONGEST_BACKOFF
from pgonce.jobs.guard import Guard, Run
from pgonce.jobs.guard_async import AsyncGuard, AsyncRun
from pgonce.jobs.registry import Job
from pgonce.jobs.repeated_call import PAUSES


@click.command()
@click.argument("name")
@with_scope
@click.option("--key", help="Runs with different keys may run side by side. [default: the job's]")
@with_app
@with_database
def run(name: str, scope: dict[str, Any], key: str | None, app: App, db: Database) -> None:
    """Run the job NAME now. If it is running, exit with 75.

    A failure is retried as the job's registration says, here or by a worker, whichever comes first.
    SIGTERM, SIGHUP and Ctrl-C end the run as failed.

    Example: pgonce job run birthday_letters --scope '{"batch_number": 3}'
    """
    with Interrupts(name) as interrupts:
        try:
            ended = _attempts(app.get_job(name), {"scope": scope, "key": key}, db, interrupts)
        except SystemExit as error:
            if isinstance(error.code, int) and error.code % 256 == 0 and not is_success(error):
                sys.exit(1)  # of 256, which os.system returns for a command that failed with 1, the system would make 0
            raise
    if ended is None:
        print_line(f"{name}: skipped, {why_skipped(db, name, 'another run is at work')}", err=True)
        sys.exit(OVERLAP)
    print_line(f"{name}: succeeded, {ended.rows_processed:,} processed, {ended.rows_skipped:,} skipped")


def _attempts(job: Job, what: dict[str, Any], db: Database, interrupts: Interrupts) -> Any:
    left, pause = job.retries, job.backoff
    failed: Exception | None = None  # the error of the last run; None: no run has begun, so the next attempt is a start
    last: UUID | None = None  # the last run
    while True:
        begun: list[UUID] = []  # the run, once the database has started it
        retry: calls.Retry | None = None
        try:
            if failed is not None and (retry := _due(job, last, db)) is None:
                left = 0  # a worker has been faster
                raise failed
            return _in_time(job, {**what, "retry": retry}, begun, db, interrupts)
        except RunStopped:
            raise
        except Exception as error:
            failed, last = (error, begun[0]) if begun else (failed, last)
            if left == 0 or not (failed or isinstance(error, DatabaseUnavailable)):
                raise
            print_line(f"{job.name}: failed ({class_and_line(error)}), next attempt in {pause}", err=True)
            db.close()  # the pause may be a day
            time.sleep(pause.total_seconds())
            left, pause = left - 1, min(pause * 2, LONGEST_BACKOFF)


def _in_time(job: Job, start: dict[str, Any], begun: list[UUID], db: Database, interrupts: Interrupts) -> Any:
    began = time.monotonic()
    try:
        if job.is_async:
            return interrupts.run(_perform_async(job, start, begun, db))
        return _perform(job, start, begun, db)
    except (TimeoutError, LeaseLost) as error:  # LeaseLost: a transaction has seen the end of the time before the timer
        if job.timeout is None or time.monotonic() - began < job.timeout.total_seconds():
            raise  # of something that the job has waited for, or of a takeover
        raise TookTooLong(f"the job {job.name} took longer than {took(job.timeout)}") from error


def _perform(job: Job, start: dict[str, Any], begun: list[UUID], db: Database) -> Run | None:
    with database.open_pool(db.url) as pool, Guard(pool, db.schema, PAUSES).begin(job, **start) as run:
        if run is not None:
            begun.append(run.id)
            with ends_forked_child():
                ensure_result(job.function(run))
        return run


async def _perform_async(job: Job, start: dict[str, Any], begun: list[UUID], db: Database) -> AsyncRun | None:
    async with (
        await database.open_async_pool(db.url) as pool,
        AsyncGuard(pool, db.schema, PAUSES).begin(job, **start) as run,
    ):
        if run is not None:
            begun.append(run.id)
            with ends_forked_child():
                await ensure_awaitable(job.function(run))
        return run


def _due(job: Job, failed: UUID | None, db: Database) -> calls.Retry | None:
    return next((each for each in db.call(calls.due_job_retries([job.name])) if each.run_id == failed), None)
