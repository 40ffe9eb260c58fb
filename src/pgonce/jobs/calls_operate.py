"""The calls of ``sql/api/jobs_operate.sql``: what an operator does with jobs at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from pgonce.core.call import Call, column, row_as, rows_as, value
from pgonce.jobs.arguments import read_scope
from pgonce.jobs.calls_schedule import upcoming
from pgonce.jobs.cron import CatchUp, Schedule

EXPECT_GRACE = timedelta(minutes=5)
"""How long after its expected interval a job is alerted as missed."""


@dataclass(frozen=True, slots=True)
class Request:
    """A requested run that no worker has started yet."""

    id: UUID
    name: str
    key: str | None
    """None: the job's own."""
    scope: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What has become of a request."""

    answered: bool
    run_id: UUID | None
    """None: nothing was started."""
    text: str | None


@dataclass(frozen=True, slots=True)
class ScheduleLine:
    """A schedule in a list."""

    job_name: str
    key: str
    cron: str
    timezone: str
    next_tick: datetime
    source: str
    """code or operator."""
    app: str
    scope: Mapping[str, Any]


def match_job_runs(digits: str) -> Call[list[UUID]]:
    """The first few runs whose ids begin with these hexadecimal digits."""
    first, last = UUID(hex=digits.ljust(32, "0")), UUID(hex=digits.ljust(32, "f"))
    args = {"p_first": first, "p_last": last}
    return Call("pgonce_match_job_runs", args, column)


def open_job_requests(names: Sequence[str]) -> Call[list[Request]]:
    """The requests for runs of these jobs that no worker has started yet."""
    return Call("pgonce_open_job_requests", {"p_job_names": list(names)}, rows_as(Request))


def get_job_request(request: UUID) -> Call[Answer]:
    """What has become of a request."""
    return Call("pgonce_get_job_request", {"p_request_id": request}, row_as(Answer))


def schedule_job(
    name: str,
    key: str,
    schedule: Schedule,
    tick: datetime,
    grace: timedelta,
    catch_up: CatchUp,
    scope: Mapping[str, Any],
) -> Call[None]:
    """Write a schedule, which workers that have the job use.

    Raises:
        InvalidArgument: JSON cannot hold the scope.
    """
    args = {
        "p_job_name": name,
        "p_key": key,
        "p_cron": schedule.expression,
        "p_timezone": schedule.timezone,
        "p_next_tick": tick,
        "p_upcoming": upcoming(schedule, tick),
        "p_grace": grace,
        "p_catch_up": catch_up,
        "p_scope": Jsonb(read_scope(scope)),
    }
    return Call("pgonce_schedule_job", args, value)


def unschedule_job(name: str, key: str) -> Call[bool]:
    """Delete a schedule. False: there is none."""
    return Call("pgonce_unschedule_job", {"p_job_name": name, "p_key": key}, value)


def list_job_schedules() -> Call[list[ScheduleLine]]:
    """The schedules of all jobs, by name."""
    return Call("pgonce_list_job_schedules", {}, rows_as(ScheduleLine))


def expect_job(name: str, every: timedelta, grace: timedelta, key: str = "") -> Call[None]:
    """From now on the job must run at least that often, whoever starts it."""
    args = {"p_job_name": name, "p_every": every, "p_grace": grace, "p_key": key}
    return Call("pgonce_expect_job", args, value)
