"""The calls of ``sql/api/jobs_ticks.sql``: schedules, and the progress of each through its ticks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from pgonce.core.call import Call, rows_as, value
from pgonce.jobs.cron import CatchUp, Schedule
from pgonce.jobs.registry import Job

AHEAD = timedelta(minutes=5)
"""How far ahead the ticks of a schedule are stored, at least one after the next. If every worker dies, the ticks that
were missed are still known. Twenty rounds of upkeep, which store them, may fail in a row."""
_MOST = 40


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule in the database."""

    name: str
    key: str
    expression: str
    timezone: str
    grace: timedelta
    catch_up: CatchUp
    source: str
    """code or operator."""
    scope: Mapping[str, Any]
    next_tick: datetime
    """The earliest tick that no scheduler had dealt with."""
    fired: datetime | None
    """The last tick with a row."""


@dataclass(frozen=True, slots=True)
class NextTick:
    """What a scheduler says about a schedule."""

    name: str
    key: str
    schedule: Schedule
    grace: timedelta
    catch_up: CatchUp
    tick: datetime
    slots: int | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "job_name": self.name,
            "key": self.key,
            "cron": self.schedule.expression,
            "timezone": self.schedule.timezone,
            "grace": f"{self.grace.days} days {self.grace.seconds} s",
            "catch_up": self.catch_up,
            "next_tick": self.tick.isoformat(),
            "upcoming": [tick.isoformat() for tick in upcoming(self.schedule, self.tick)],
            "slots": self.slots,
        }


def upcoming(schedule: Schedule, after: datetime) -> list[datetime]:
    """The ticks after ``after`` that are written ahead."""
    ticks = schedule.ticks(after)
    first = next(ticks, None)
    if first is None:
        return []
    return [first, *takewhile(lambda tick: tick <= after + AHEAD, ticks)][:_MOST]


def register_job_schedules(
    process: UUID, app: str, together: str, ticks: Sequence[NextTick], jobs: Iterable[Job]
) -> Call[bool]:
    """Register the schedules of a process, and how often its jobs must run.

    False: a newer start of the app is live, and decides.
    """
    expected = [
        {"job_name": job.name, "key": job.key, "every": _seconds(job.expect_every), "grace": _seconds(job.expect_grace)}
        for job in jobs if job.expect_every
    ]  # fmt: skip
    args = {
        "p_process_id": process, "p_app": app, "p_registered_with": together, "p_schedules": _plain(ticks),
        "p_expectations": Jsonb(expected),
    }  # fmt: skip
    return Call("pgonce_register_job_schedules", args, value)


def retired_job_schedules(
    process: UUID, app: str, schedules: Mapping[tuple[str, str], Schedule]
) -> Call[set[tuple[str, str]]]:
    """Which of a process's schedules, by name and key, a newer start of its app has deleted or changed."""
    plain = Jsonb([
        {"job_name": name, "key": key, "cron": each.expression, "timezone": each.timezone}
        for (name, key), each in schedules.items()
    ])  # fmt: skip
    args = {"p_process_id": process, "p_app": app, "p_schedules": plain}
    return Call("pgonce_retired_job_schedules", args, lambda rows: {(name, key) for name, key in rows})


def end_job_schedules(process: UUID) -> Call[int]:
    """A clean stop: delete the row of the process, and the schedules that no other live process of its app has."""
    return Call("pgonce_end_job_schedules", {"p_process_id": process}, value)


def read_job_schedules(names: Sequence[str]) -> Call[list[ScheduleRow]]:
    """The schedules of these jobs."""
    return Call("pgonce_read_job_schedules", {"p_job_names": list(names)}, rows_as(ScheduleRow))


def plan_job_ticks(ticks: Sequence[NextTick]) -> Call[int]:
    """Write the next ticks of existing schedules. Returns how many rows changed."""
    return Call("pgonce_plan_job_ticks", {"p_schedules": _plain(ticks)}, value)


def skip_job_tick(name: str, key: str, tick: datetime, reason: str) -> Call[bool]:
    """Record that a tick will not run. False: it has fired."""
    args = {"p_job_name": name, "p_key": key, "p_scheduled_for": tick, "p_reason": reason}
    return Call("pgonce_skip_job_tick", args, value)


def _seconds(length: timedelta) -> str:
    return f"{length.total_seconds():f} s"


def _plain(ticks: Sequence[NextTick]) -> Jsonb:
    return Jsonb([each.plain() for each in ticks])
