"""The calls of ``sql/api/jobs_guard.sql`` and ``jobs_schedule.sql``, where the transition tables are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from pgonce.core.call import Call, clean, value
from pgonce.errors import InvalidArgument

WINDOW = "15 minutes"
"""Without a heartbeat for this long a run counts as dead (the specification's "last N minutes")."""
BACKOFF = timedelta(minutes=1)
"""Before the first retry; it doubles with each."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a run is started with."""

    name: str
    window: timedelta
    key: str = ""
    """Runs with different keys may run side by side."""
    scope: Mapping[str, Any] = field(default_factory=dict)
    """What the run works on; for people to read."""
    scheduled_for: datetime | None = None
    """The tick; it fires once over all machines."""
    retries: int = 0
    """How often a failure is retried."""
    backoff: timedelta = BACKOFF


@dataclass(frozen=True, slots=True)
class Retry:
    """A failed run whose retry is due."""

    run_id: UUID
    name: str
    key: str
    scope: Mapping[str, Any]
    window: timedelta


@dataclass(frozen=True, slots=True)
class LastTick:
    """What the database knows about a job's ticks."""

    name: str
    key: str
    fired: datetime | None
    """The last tick with a row."""
    planned: datetime | None
    """The earliest one that no scheduler had dealt with."""
    clock: datetime
    """The database's time of day."""


@dataclass(frozen=True, slots=True)
class NextTick:
    """What a scheduler says about a job."""

    name: str
    key: str
    cron: str
    timezone: str
    tick: datetime
    grace: timedelta


def start_job_run(start: Start) -> Call[UUID | None]:
    """Start a run: its id, which is its token; None on overlap, or when its tick has fired."""
    if start.scheduled_for is not None and start.scheduled_for.tzinfo is None:
        raise InvalidArgument("scheduled_for has no time zone: a tick is a moment, not a wall clock's reading")
    args = {
        "p_job_name": start.name,
        "p_scope": Jsonb(dict(start.scope)),
        "p_window": start.window,
        "p_key": start.key,
        "p_scheduled_for": start.scheduled_for,
    }
    if start.retries:
        args |= {"p_retries": start.retries, "p_backoff": start.backoff}
    return Call(
        "start_job_run", args, value, null_unsynced=True, many=None if start.retries else "pgonce_start_job_runs"
    )


def beat_job_run(run_id: UUID) -> Call[bool]:
    """A sign of life; as the last statement of a transaction, the fence. False: taken over or ended."""
    return Call("beat_job_run", {"p_run_id": run_id}, value)


def report_job_run(
    run_id: UUID, rows_processed: int, rows_skipped: int, done: int | None, total: int | None
) -> Call[Literal["running", "stopping", "lost"]]:
    """A sign of life that also writes the counts and the progress."""
    args = {
        "p_run_id": run_id,
        "p_rows_processed": _held(rows_processed),
        "p_rows_skipped": _held(rows_skipped),
        "p_progress_done": None if done is None else _held(done, 63),
        "p_progress_total": None if total is None else _held(total, 63),
    }
    return Call("pgonce_report_job_run", args, value)


def complete_job_run(run_id: UUID, rows_processed: int = 0, rows_skipped: int = 0) -> Call[bool]:
    """End the run as succeeded. True also when repeated; False: it was taken over or has failed."""
    args = {"p_run_id": run_id, "p_rows_processed": _held(rows_processed), "p_rows_skipped": _held(rows_skipped)}
    return Call("complete_job_run", args, value, many="pgonce_complete_job_runs")


def fail_job_run(run_id: UUID, error_message: str) -> Call[bool]:
    """End the run as failed. True also when repeated; False: it was taken over or has ended."""
    return Call("fail_job_run", {"p_run_id": run_id, "p_error_message": clean(error_message)}, value)


def stop_job_run(run_id: UUID) -> Call[bool]:
    """Ask a run to end, and call off its retries. False: it has ended."""
    return Call("pgonce_stop_job_run", {"p_run_id": run_id}, value)


def abandon_job_runs() -> Call[int]:
    """The sweep: close every run that shows no sign of life. How many."""
    return Call("pgonce_abandon_job_runs", {}, value)


def due_job_retries(names: Sequence[str]) -> Call[list[Retry]]:
    """The failed runs of these jobs whose retry is due."""
    return Call("pgonce_due_job_retries", {"p_job_names": list(names)}, lambda rows: [Retry(*row) for row in rows])


def retry_job_run(run_id: UUID) -> Call[UUID | None]:
    """Start the next attempt of a failed run; None: there is nothing to retry, or not now."""
    return Call("pgonce_retry_job_run", {"p_run_id": run_id}, value)


def skip_job_tick(name: str, key: str, tick: datetime, reason: str) -> Call[bool]:
    """Record that a tick is not going to run. False: it has fired."""
    args = {"p_job_name": name, "p_key": key, "p_scheduled_for": tick, "p_reason": reason}
    return Call("pgonce_skip_job_tick", args, value)


def last_job_ticks(jobs: Sequence[tuple[str, str]]) -> Call[list[LastTick]]:
    """What the database knows about the ticks of these jobs, by name and key."""
    return Call("pgonce_last_job_ticks", _names(jobs), lambda rows: [LastTick(*row) for row in rows])


def forget_job_schedules(jobs: Sequence[tuple[str, str]]) -> Call[int]:
    """Delete the schedules that were planned together with these jobs', by name and key, and are none of theirs."""
    return Call("pgonce_forget_job_schedules", _names(jobs), value)


def plan_job_ticks(ticks: Sequence[NextTick], app: str) -> Call[int]:
    """Write what is next for each job of ``app``. How many rows changed."""
    args = _names([(each.name, each.key) for each in ticks]) | {
        "p_crons": [each.cron for each in ticks],
        "p_timezones": [each.timezone for each in ticks],
        "p_next_ticks": [each.tick for each in ticks],
        "p_graces": [each.grace for each in ticks],
        "p_app": app,
    }
    return Call("pgonce_plan_job_ticks", args, value)


def _held(count: int, bits: int = 31) -> int:
    """``count``, or the largest that its column holds: a heartbeat that is refused for it would lose the run."""
    return min(count, (1 << bits) - 1)


def _names(jobs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {"p_job_names": [name for name, _ in jobs], "p_keys": [key for _, key in jobs]}
