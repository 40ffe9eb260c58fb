"""The calls of ``sql/api/jobs_diagnose.sql``."""

from __future__ import annotations

from uuid import UUID

from pgonce.core.call import Call
from pgonce.core.diagnosis import Diagnosis, read_diagnoses


def diagnose_run(run_id: UUID) -> Call[list[Diagnosis]]:
    """What a run is that has not succeeded; empty for one that has. NotFound: there is no such run."""
    return Call("pgonce_diagnose_run", {"p_run_id": run_id}, read_diagnoses)


def diagnose_job(name: str) -> Call[list[Diagnosis]]:
    """The ticks of a job that nothing started."""
    return Call("pgonce_diagnose_job", {"p_job_name": name}, read_diagnoses)
