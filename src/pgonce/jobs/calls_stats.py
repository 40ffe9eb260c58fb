"""The calls of ``sql/api/jobs_stats.sql`` and their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pgonce.core.call import Call, value


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
        """The status as people say it."""
        if self.stopping:
            return "stopping"
        return "failed, to be retried" if self.next_retry_at else self.status

    @property
    def progress(self) -> str:
        """How far it is; empty where the job does not say."""
        if self.progress_done is None:
            return ""
        if not self.progress_total:
            return f"{self.progress_done:,}"
        return f"{self.progress_done:,} of {self.progress_total:,} ({self.progress_done / self.progress_total:.0%})"


@dataclass(frozen=True, slots=True)
class Timing:
    """How a job has done in a period; durations in milliseconds, of the runs that succeeded."""

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
    """The median against that of the period before: 0.1 is ten percent slower."""
    rows_per_second: float | None
    last_started_at: datetime | None
    last_failed_at: datetime | None
    last_failure: str | None


def list_job_runs(
    *, name: str | None = None, status: str | None = None, since: datetime | None = None, limit: int = 50
) -> Call[list[RunLine]]:
    """Runs, newest first."""
    args = {"p_job_name": name, "p_status": status, "p_since": since, "p_limit": limit}
    return Call("pgonce_list_job_runs", args, lambda rows: [RunLine(*row) for row in rows])


def get_job_run(run_id: UUID) -> Call[dict[str, Any] | None]:
    """Everything about one run, by column; None when there is none."""
    return Call("pgonce_get_job_run", {"p_run_id": run_id}, value)


def job_timing(name: str | None, period: timedelta) -> Call[list[Timing]]:
    """How each job, or one of them, has done in the last ``period``."""
    return Call(
        "pgonce_job_timing", {"p_job_name": name, "p_period": period}, lambda rows: [Timing(*row) for row in rows]
    )
