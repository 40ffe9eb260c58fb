"""The calls of ``sql/api/console_operate.sql`` for jobs and runs: actions with their lines in the audit."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from pgonce.core.call import Call, clean, value
from pgonce.jobs.arguments import read_scope


def _reason(text: str) -> str:
    return clean(text, 1000)


def request_job_run(
    session: UUID, name: str, key: str | None = None, scope: Mapping[str, Any] | None = None, reason: str = ""
) -> Call[UUID]:
    """Request a run, by any worker that has the job.

    Raises:
        InvalidArgument: JSON cannot hold the scope.
    """
    args = {
        "p_session": session,
        "p_job_name": name,
        "p_key": key,
        "p_scope": Jsonb(read_scope(scope or {})),
        "p_reason": _reason(reason),
    }
    return Call("pgonce_console_request_job_run", args, value)


def pause_job(session: UUID, name: str, reason: str, until: datetime | None) -> Call[str | None]:
    """Start no run of this job until then; None: until it is resumed. Returns the pause that this one has replaced."""
    args = {"p_session": session, "p_job_name": name, "p_reason": _reason(reason), "p_until": until}
    return Call("pgonce_console_pause_job", args, value)


def resume_job(session: UUID, name: str, reason: str = "") -> Call[bool]:
    """End the pause of a job. False: it was not paused."""
    args = {"p_session": session, "p_job_name": name, "p_reason": _reason(reason)}
    return Call("pgonce_console_resume_job", args, value)


def stop_run(session: UUID, run_id: UUID, reason: str = "") -> Call[bool]:
    """Ask a run to stop. False: it has ended."""
    return Call(
        "pgonce_console_stop_run", {"p_session": session, "p_run_id": run_id, "p_reason": _reason(reason)}, value
    )


def end_run(session: UUID, run_id: UUID, reason: str) -> Call[bool]:
    """Close a running run as failed, without retry. False: it has ended."""
    return Call(
        "pgonce_console_end_run", {"p_session": session, "p_run_id": run_id, "p_reason": _reason(reason)}, value
    )


def expect_job(
    session: UUID,
    name: str,
    every: timedelta | None,
    grace: timedelta,
    key: str = "",
    reason: str = "",
    within: timedelta | None = None,
) -> Call[None]:
    """From now on the job must run at least that often, and each run take less than ``within``."""
    args = {
        "p_session": session,
        "p_job_name": name,
        "p_every": every,
        "p_grace": grace,
        "p_key": key,
        "p_reason": _reason(reason),
        "p_within": within,
    }
    return Call("pgonce_console_expect_job", args, value)


def forget_job_expectation(session: UUID, name: str, key: str = "", reason: str = "") -> Call[bool]:
    """The job need not run any more. False: it was not expected to."""
    args = {"p_session": session, "p_job_name": name, "p_key": key, "p_reason": _reason(reason)}
    return Call("pgonce_console_forget_job_expectation", args, value)
