"""The calls of ``sql/api/console_jobs.sql``: what the console shows of jobs and runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from pgonce.core.call import Call, row_or_none, rows_as
from pgonce.jobs.calls import is_slot_key

Kind = Literal["succeeded", "failed", "running", "skipped", "paused", "missed", "late", "overlap"]


@dataclass(frozen=True, slots=True)
class Lane:
    """A job and key: its schedule, its pause and its last run that was not skipped."""

    job_name: str
    key: str
    cron: str | None
    """Five fields or @every; printed as it stands, never expanded. None: it has no schedule."""
    timezone: str | None
    grace: timedelta | None
    next_ticks: Sequence[datetime] | None
    """The ticks that a scheduler has written ahead: at least two."""
    slots: int | None
    paused_at: datetime | None
    paused_until: datetime | None
    paused_because: str | None
    run_id: UUID | None
    status: str | None
    started_at: datetime | None
    duration_ms: int | None
    """Of a running run, so far."""
    process: str | None
    stopping: bool
    next_retry_at: datetime | None


@dataclass(frozen=True, slots=True)
class Mark:
    """What happened at one place of a lane; several runs of one kind that begin at the same place are one mark."""

    job_name: str
    key: str
    kind: Kind
    began_at: datetime
    ended_at: datetime
    """Of a running run, now; of a skipped or missed start, the same as ``began_at`` or when it was given up."""
    runs: int
    run_id: UUID | None
    """The newest of them."""
    blocked_by: UUID | None


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is not as it should be."""

    happened_at: datetime
    job_name: str
    key: str
    kind: str
    run_id: UUID | None
    what: str
    action: str
    command: str | None


@dataclass(frozen=True, slots=True)
class ConsoleRun:
    """A run in the list of its job."""

    id: UUID
    job_name: str
    key: str
    status: str
    started_at: datetime
    ended_at: datetime | None
    duration_ms: int
    """Of a running run, so far."""
    rows_processed: int | None
    rows_skipped: int | None
    progress_done: int | None
    progress_total: int | None
    process: str | None
    attempt: int
    scheduled_for: datetime | None
    stopping: bool
    blocked_by: UUID | None
    blocker_started_at: datetime | None
    next_retry_at: datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Release:
    """When the first process of a release started."""

    release: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class RequestLine:
    """A request for a run, and its outcome."""

    id: UUID
    key: str | None
    requested_at: datetime
    answered_at: datetime | None
    run_id: UUID | None
    """None: nothing was started."""
    answer: str | None
    expired: bool
    """No worker has started it within an hour."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """How often a job must run, and how long a run may take."""

    key: str
    every: timedelta | None
    grace: timedelta
    kept_until: datetime | None
    last_started_at: datetime | None
    within: timedelta | None

    def concerns(self, key: str) -> bool:
        """Whether it is about runs with this key. A slot of the key counts as the key."""
        return not self.key or is_slot_key(key, self.key)


@dataclass(frozen=True, slots=True)
class RunDetail:
    """Everything about one run."""

    id: UUID
    job_name: str
    key: str
    status: str
    scope: Mapping[str, Any] | None
    rows_processed: int | None
    rows_skipped: int | None
    error_message: str | None
    reason: str | None
    """The error's own line."""
    place: str | None
    """Where in the user's code it was raised."""
    started_at: datetime
    ended_at: datetime | None
    duration_ms: int
    window: timedelta
    heartbeat_at: datetime
    dead_after: datetime | None
    """When it counts as dead without another heartbeat; None: it has ended."""
    scheduled_for: datetime | None
    attempt: int
    retries: int | None
    retry_of: UUID | None
    next_retry_at: datetime | None
    blocked_by: UUID | None
    process: str | None
    """host:pid"""
    release: str | None
    app: str | None
    progress_done: int | None
    progress_total: int | None
    progress_at: datetime | None
    transactions: int
    stop_requested_at: datetime | None
    stop_seen: bool | None
    """Whether a heartbeat has been sent since it was asked to stop: with it the process reads the request."""
    usual_from_ms: int | None
    usual_to_ms: int | None
    next_tick: datetime | None


@dataclass(frozen=True, slots=True)
class Blocked:
    """A start that was skipped because of a run."""

    id: UUID
    started_at: datetime
    scheduled_for: datetime | None
    total: int
    """How many there are in all; at most 10,000 are counted."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One of the attempts that belong together."""

    id: UUID
    attempt: int
    status: str
    started_at: datetime
    duration_ms: int | None
    reason: str | None


def job_lanes(
    *,
    find: str | None = None,
    name: str | None = None,
    key: str | None = None,
    after: tuple[str, str] | None = None,
    limit: int = 30,
) -> Call[list[Lane]]:
    """The jobs and keys in order, after a name and key; with ``find`` those whose names contain it.

    ``key``: with ``name``, the key that must not be left out, if it has run.
    """
    after_name, after_key = after or (None, None)
    args = {
        "p_find": find,
        "p_name": name,
        "p_after_name": after_name,
        "p_after_key": after_key,
        "p_limit": limit,
        "p_key": key,
    }
    return Call("pgonce_console_job_lanes", args, rows_as(Lane))


def job_marks(lanes: Sequence[Lane], begin: datetime, end: datetime, marks: int) -> Call[list[Mark]]:
    """What happened to these jobs and keys from ``begin`` to ``end``; runs that begin in one 480th of it are one.

    Of the lanes with the most marks it is a longer part, so that all lanes have about ``marks`` together.
    """
    args = {
        "p_names": [lane.job_name for lane in lanes],
        "p_keys": [lane.key for lane in lanes],
        "p_from": begin,
        "p_until": end,
        "p_marks": marks,
    }
    return Call("pgonce_console_job_marks", args, rows_as(Mark))


def job_troubles() -> Call[list[Trouble]]:
    """What is not as it should be, newest first."""
    return Call("pgonce_console_job_troubles", {}, rows_as(Trouble))


def console_job_runs(
    name: str,
    *,
    key: str | None = None,
    status: str | None = None,
    before: tuple[datetime, UUID] | None = None,
    limit: int = 50,
    ran: bool = False,
) -> Call[list[ConsoleRun]]:
    """The runs of a job, newest first, before a time and id; ``ran``: without those that were skipped."""
    before_at, before_id = before or (None, None)
    args = {
        "p_job_name": name,
        "p_key": key,
        "p_status": status,
        "p_before": before_at,
        "p_before_id": before_id,
        "p_limit": limit,
        "p_ran": ran,
    }
    return Call("pgonce_console_job_runs", args, rows_as(ConsoleRun))


def job_releases(name: str, since: datetime) -> Call[list[Release]]:
    """The release that was at work at ``since``, and those that started after it."""
    args = {"p_job_name": name, "p_since": since}
    return Call("pgonce_console_job_releases", args, rows_as(Release))


def job_requests(name: str) -> Call[list[RequestLine]]:
    """The last requests for runs of a job."""
    return Call("pgonce_console_job_requests", {"p_job_name": name}, rows_as(RequestLine))


def job_expectations(name: str) -> Call[list[Expectation]]:
    """How often a job must run."""
    return Call("pgonce_console_job_expectations", {"p_job_name": name}, rows_as(Expectation))


def run_detail(run_id: UUID) -> Call[RunDetail | None]:
    """Everything about one run; None: there is none."""
    return Call("pgonce_console_run", {"p_run_id": run_id}, row_or_none(RunDetail))


def run_blocks(run_id: UUID) -> Call[list[Blocked]]:
    """The starts that were skipped because of a run, newest first."""
    return Call("pgonce_console_run_blocks", {"p_run_id": run_id}, rows_as(Blocked))


def run_attempts(run_id: UUID) -> Call[list[Attempt]]:
    """The attempts that a run is one of, the first one first."""
    return Call("pgonce_console_run_attempts", {"p_run_id": run_id}, rows_as(Attempt))
