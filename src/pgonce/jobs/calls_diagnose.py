"""The calls of ``sql/api/jobs_diagnose.sql``."""

from __future__ import annotations

from uuid import UUID

from pgonce.core.call import Call, rows_as
from pgonce.core.diagnosis import Diagnosis


def diagnose_run(run_id: UUID) -> Call[list[Diagnosis]]:
    """The diagnosis of a run; empty if it has succeeded. NotFound: there is no such run."""
    return Call("pgonce_diagnose_run", {"p_run_id": run_id}, rows_as(Diagnosis))


def diagnose_job(name: str) -> Call[list[Diagnosis]]:
    """The ticks of a job that nothing started."""
    return Call("pgonce_diagnose_job", {"p_job_name": name}, rows_as(Diagnosis))
