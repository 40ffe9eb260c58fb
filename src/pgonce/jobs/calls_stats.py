"""The calls of ``sql/api/jobs_stats.sql`` and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pgonce.core.call import Call, Row, rows_as, value


def describe_progress(done: int | None, total: int | None) -> str:
    """The progress of a run: "340 of 1,000 (34 %)"; empty if the job does not report it."""
    if done is None:
        return ""
    return f"{done:,} of {total:,} ({done / total * 100:.0f} %)" if total else f"{done:,}"


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run in a list."""

    id: UUID
    job_name: str
    key: str
    status: str
    scope: Mapping[str, Any] | None
    attempt: int
    scheduled_for: datetime | None
    started_at: datetime
    heartbeat_at: datetime
    duration_ms: int | None
    """Of a running one, so far."""
    rows_processed: int | None
    rows_skipped: int | None
    progress_done: int | None
    progress_total: int | None
    stopping: bool
    next_retry_at: datetime | None
    reason: str | None
    """The error's own line: of a traceback the exception, of a command its last line on stderr."""

    @property
    def state(self) -> str:
        """The status, or more exactly: stopping, to be retried."""
        if self.stopping:
            return "stopping"
        if self.status == "running" and self.reason:
            return "silent"
        return "failed, to be retried" if self.next_retry_at else self.status

    @property
    def progress(self) -> str:
        """Its progress; empty if the job does not report it."""
        return describe_progress(self.progress_done, self.progress_total)


@dataclass(frozen=True, slots=True)
class Timing:
    """Statistics of a job in a period. The durations are those of successful runs, in milliseconds."""

    job_name: str
    runs: int
    succeeded: int
    failed: int
    skipped: int
    running: int
    success_rate: float | None
    """0 to 1, of those that have ended."""
    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None
    max_ms: int | None
    previous_p50_ms: int | None
    trend: float | None
    """The median compared with that of the previous period: 0.1 is ten percent slower."""
    rows_per_second: float | None
    last_started_at: datetime | None
    last_failed_at: datetime | None
    last_failure: str | None


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job in a list, with its last run that was not skipped; durations in milliseconds."""

    job_name: str
    key: str
    run_id: UUID | None
    status: str | None
    started_at: datetime | None
    duration_ms: int | None
    usual_from_ms: int | None
    """One in ten of the last successful runs was shorter; None if there are fewer than five."""
    usual_to_ms: int | None
    """One in ten was longer."""
    next_tick: datetime | None
    attempt: int | None
    next_retry_at: datetime | None
    stopping: bool
    progress_done: int | None
    progress_total: int | None
    progress_at: datetime | None
    process: str | None
    blocks: int | None
    """Starts that were skipped because of this run."""
    paused: str | None
    """The reason."""
    paused_until: datetime | None
    missed: str | None
    """The reason."""
    reason: str | None
    """The error's own line."""


def list_jobs() -> Call[list[JobLine]]:
    """The jobs, by their last start."""
    return Call("pgonce_list_jobs", {}, rows_as(JobLine))


@dataclass(frozen=True, slots=True)
class MissedTick:
    """A tick that did not run in time."""

    job_name: str
    key: str
    scheduled_for: datetime
    missed_at: datetime
    reason: str


def missed_ticks() -> Call[list[MissedTick]]:
    """The ticks that were missed in 24 hours, the newest 1,000."""
    return Call("pgonce_console_missed_ticks", {}, rows_as(MissedTick))


def urgent_jobs(limit: int, missed: Sequence[MissedTick]) -> Call[list[JobLine]]:
    """The jobs that run, then those that missed a tick, then those that failed, then the newest."""
    reasons = {(tick.job_name, tick.key): tick.reason for tick in reversed(missed)}
    names = list(reasons)[-limit:]
    args = {"p_limit": limit, "p_names": [name for name, _ in names], "p_keys": [key for _, key in names]}

    def read(rows: Sequence[Row]) -> list[JobLine]:
        lines = rows_as(JobLine)(rows)
        return [replace(line, missed=reasons.get((line.job_name, line.key))) for line in lines]

    return Call("pgonce_console_urgent_jobs", args, read)


def list_job_runs(
    *, name: str | None = None, status: str | None = None, since: datetime | None = None, limit: int = 50
) -> Call[list[RunLine]]:
    """Runs, newest first."""
    args = {"p_job_name": name, "p_status": status, "p_since": since, "p_limit": limit}
    return Call("pgonce_list_job_runs", args, rows_as(RunLine))


def get_job_run(run_id: UUID) -> Call[dict[str, Any] | None]:
    """Everything about one run, by column; None when there is none."""
    return Call("pgonce_get_job_run", {"p_run_id": run_id}, value)


def job_timing(name: str | None, period: timedelta) -> Call[list[Timing]]:
    """The statistics of each job, or of one of them, in the last ``period``."""
    return Call("pgonce_job_timing", {"p_job_name": name, "p_period": period}, rows_as(Timing))


def count_job_day() -> Call[bool]:
    """Add the totals of one more day to those that ``job_timing`` reads. True: there is another one to add."""
    return Call("pgonce_count_job_day", {}, value)
