"""``pgonce job stop | end | pause | resume | request | schedule | expect``: what an operator does at run time."""

from __future__ import annotations

import sys
import time
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import click

from pgonce.cli.actor import audited, session
from pgonce.cli.job_list import RunId, find_run
from pgonce.cli.options import OVERLAP, Database, as_json, with_database, with_scope
from pgonce.cli.output import Length, Moment, in_line, print_json, print_line, print_table, when
from pgonce.cli.times import exactly
from pgonce.core import processes
from pgonce.core.execute import call
from pgonce.errors import InvalidArgument, NotFound
from pgonce.jobs import calls_console_operate as operate
from pgonce.jobs import calls_operate
from pgonce.jobs.calls import NOW
from pgonce.jobs.calls_operate import Answer
from pgonce.jobs.calls_stats import list_job_runs
from pgonce.jobs.cron import CatchUp, Cron, Every, Schedule, read_plan


@click.command()
@click.argument("run", type=RunId())
@with_database
def stop(run: str, db: Database) -> None:
    """Request a RUN to stop. It notices at its next heartbeat; pending retries are cancelled.

    Example: pgonce job stop 4f0c
    """
    run_id = find_run(db, run)
    if not db.call(operate.stop_run(session(db), run_id)):
        raise InvalidArgument(f"run {run_id} has ended")
    click.echo(f"{run_id}: asked to stop")


@click.command()
@click.argument("run", type=RunId())
@click.option("--reason", required=True, metavar="TEXT", help="Why; it becomes part of the run's error message.")
@with_database
def end(run: str, reason: str, db: Database) -> None:
    """Close a RUN that hangs or whose process is gone.

    It has failed, without retry; the next start is a new run.

    This is safe even if its process is alive: nothing that it still writes through the run is committed.

    Example: pgonce job end 4f0c --reason 'the host is gone'
    """
    run_id = find_run(db, run)
    if not db.call(operate.end_run(session(db), run_id, reason)):
        raise InvalidArgument(f"run {run_id} has ended")
    click.echo(f"{run_id}: ended")


@click.command()
@click.argument("name")
@click.option("--reason", required=True, metavar="TEXT", help="Why; it is stored with each skipped start.")
@click.option("--until", metavar="WHEN", help="When it ends by itself: '2 hours' (from now), 2026-11-23T06:00.")
@with_database
def pause(name: str, reason: str, until: str | None, db: Database) -> None:
    """Pause the job NAME: no run starts until it is resumed. Runs in progress continue.

    Example: pgonce job pause backup --reason 'the disk is full' --until 4h
    """
    end_of_pause = None if until is None else _later(until, db)
    replaced = db.call(operate.pause_job(session(db), name, reason, end_of_pause))
    scheduled = {each.job_name for each in db.call(calls_operate.list_job_schedules())}
    is_known = db.call(list_job_runs(name=name, limit=1)) or name in scheduled or name in _running_jobs(db)
    print_line(f"{name}: paused{f' until {when(end_of_pause)} UTC' if end_of_pause else ''}")
    if replaced:
        print_line(f"before, it was {replaced}", err=True)
    if not is_known:
        print_line(f"{name} has never run, and no worker or schedule has it: see pgonce job ls for its name", err=True)


def _later(text: str, db: Database) -> datetime:
    """A time in the future: a length of time from now, or a date. Now is the database's: ours may be wrong."""
    try:
        return call(db.pool, NOW, "pg_catalog") + Length().convert(text, None, None)
    except OverflowError:
        raise InvalidArgument(f"{text} from now is after the year 9999: leave --until out") from None
    except click.BadParameter:
        moment: datetime = Moment("from now").convert(text, None, None)
        return moment


@click.command()
@click.argument("name")
@with_database
def resume(name: str, db: Database) -> None:
    """End the pause of the job NAME.

    Example: pgonce job resume nightly_backup
    """
    if not db.call(operate.resume_job(session(db), name)):
        raise InvalidArgument(f"job {name} is not paused")
    print_line(f"{name}: resumed")


@click.command()
@click.argument("name")
@with_scope
@click.option("--key", help="Runs with different keys may run side by side. [default: the job's]")
@click.option(
    "--wait", default=30, show_default=True, type=click.IntRange(min=0), metavar="SECONDS", help="For the answer."
)
@with_database
def request(name: str, scope: dict[str, Any], key: str | None, wait: int, db: Database) -> None:
    """Request a run of the job NAME from any worker that has it. If it is running, exit with 75.

    A worker answers within about 15 s. The command does not wait for the end of the run. If no running worker has the
    job, it exits with 1; the request stays for an hour, for a worker that starts by then. Until a worker has answered,
    the same request again is the first one.

    Example: pgonce job request birthday_letters --key eu
    """
    request_id = db.call(operate.request_job_run(session(db), name, key, scope))
    answer = _answer(db, request_id, 0)
    if not answer.answered and name not in (running := _running_jobs(db)):
        raise NotFound(f"{name}: requested, but no running worker has this job: {_listed(running)}")
    answer = answer if answer.answered else _answer(db, request_id, wait)
    if not answer.answered:
        print_line(f"{name}: requested; no worker has taken it up within {wait} s: see pgonce ps", err=True)
    elif answer.run_id is None:
        print_line(f"{name}: skipped, {answer.text}", err=True)
        sys.exit(OVERLAP)
    else:
        print_line(f"{name}: run {answer.run_id} {answer.text}")


def _running_jobs(db: Database) -> list[str]:
    """The jobs of the processes that start jobs, and were seen in the last minute."""
    lines = db.call(processes.list_processes())
    return sorted({job for line in lines if line.live and "jobs" in line.does for job in line.jobs})


def _listed(names: list[str]) -> str:
    if not names:
        return "no worker runs, see `pgonce ps`"
    more = f" and {len(names) - 10} others" if len(names) > 10 else ""
    return f"those that run have {', '.join(names[:10])}{more}"


def _answer(db: Database, request_id: UUID, wait: int) -> Answer:
    until = time.monotonic() + wait
    while True:
        answer = db.call(calls_operate.get_job_request(request_id))
        if answer.answered or time.monotonic() >= until:
            return answer
        time.sleep(0.5)


@click.command()
@click.argument("name", required=False)
@click.option("--cron", metavar="FIELDS", help="Five fields, '0 6 * * *', or @hourly, @daily, @weekly, @monthly.")
@click.option("--every", metavar="INTERVAL", help="In place of --cron: '90 minutes'.")
@click.option("--timezone", default="UTC", show_default=True, help="Where the hours of --cron are.")
@click.option("--key", default="", help="A job may have one schedule for each key. [default: the empty key]")
@with_scope
@click.option(
    "--catch-up", type=click.Choice(["none", "last", "all"]), default="none", show_default=True,
    help="Which ticks are run that came while no worker was there.",
)  # fmt: skip
@click.option(
    "--grace", default="5 minutes", show_default=True, metavar="INTERVAL", help="A tick that starts later was missed.",
)  # fmt: skip
@click.option("--remove", is_flag=True, help="Delete the schedule.")
@as_json
@with_database
def schedule(
    name: str | None,
    cron: str | None,
    every: str | None,
    timezone: str,
    key: str,
    scope: dict[str, Any],
    catch_up: CatchUp,
    grace: str,
    remove: bool,
    json_: bool,
    db: Database,
) -> None:
    """Write a schedule of the job NAME, or list all.

    Without NAME all schedules are listed.

    Workers that have the job use it within 30 s. It replaces a schedule with the same key in their code.

    Example: pgonce job schedule birthday_letters --cron '0 6 * * *'
    """
    given = [option for option, each in {"--cron": cron, "--every": every, "--remove": remove}.items() if each]
    if name is None and given:
        raise click.UsageError(f"{given[0]} needs the NAME of a job")
    if name is not None and len(given) != 1:
        raise click.UsageError("pass --cron or --every, or --remove")
    if name is None:
        _list_schedules(db, json_)
    elif remove:
        forget = calls_operate.unschedule_job(name, key)
        if not audited(db, forget, "unschedule", "job", name, lambda done: "no schedule" if done else None):
            raise NotFound(f"job {name} has no schedule{f' with the key {key}' if key else ''}")
        print_line(f"{name}: schedule deleted")
    else:
        chosen: Schedule = Every.read(every) if every is not None else Cron(cron or "", timezone)
        plan = read_plan(f"of job {name}", chosen, catch_up, "1 day", None, grace)
        tick = chosen.after(call(db.pool, NOW, "pg_catalog"))  # of a clock that is wrong, it would be a missed tick
        if tick is None:
            raise InvalidArgument(f"{chosen.expression} has no tick in the next 50 years")
        wanted = calls_operate.schedule_job(name, key, chosen, tick, plan.grace, catch_up, scope)
        audited(db, wanted, "schedule", "job", name, lambda _: f"{chosen.expression} {chosen.timezone}")
        print_line(f"{name}: next run {when(tick)} UTC")
        if name not in (running := _running_jobs(db)):
            print_line(f"{name}: no running worker has this job: {_listed(running)}", err=True)


def _list_schedules(db: Database, json_: bool) -> None:
    lines = db.call(calls_operate.list_job_schedules())
    if json_:
        print_json(lines)
        return
    print_table(
        ["job", "key", "schedule", "timezone", "next (UTC)", "from", "scope"],
        [
            (each.job_name, each.key, each.cron, each.timezone, when(each.next_tick),
             each.app or each.source, in_line(each.scope) if each.scope else "")
            for each in lines
        ],
        "no job is scheduled",
        "scope",
    )  # fmt: skip


@click.command()
@click.argument("name")
@click.option("--every", type=Length(), metavar="INTERVAL", help="It must run at least this often: '1 day'.")
@click.option(
    "--grace", default="5 minutes", show_default=True, type=Length(), metavar="INTERVAL", help="Alert this much later."
)
@click.option("--key", default="", help="Only runs with this key count. [default: all of the job's]")
@click.option("--within", type=Length(), metavar="INTERVAL", help="A run must take less than this: '20 minutes'.")
@click.option("--never", is_flag=True, help="Nothing is expected of it any more.")
@with_database
def expect(
    name: str,
    every: timedelta | None,
    grace: timedelta,
    key: str,
    within: timedelta | None,
    never: bool,
    db: Database,
) -> None:
    """Alert when the job NAME runs too seldom or too long.

    It does not matter who starts the job: cron, for example.

    Example: pgonce job expect backup --every '1 day' --within '20 minutes'
    """
    if never == (every is not None or within is not None):
        raise click.UsageError("pass --every or --within, or --never")
    if not never:
        db.call(operate.expect_job(session(db), name, every, grace, key, within=within))
        limits = [f"every {exactly(every)}, alerted {exactly(grace)} later"] if every else []
        limits += [f"in less than {exactly(within)}"] if within else []
        print_line(f"{name}: expected {', '.join(limits)}")
    elif db.call(operate.forget_job_expectation(session(db), name, key)):
        print_line(f"{name}: no longer expected")
    else:
        raise NotFound(f"job {name} is not expected to run")
