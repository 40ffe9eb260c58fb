"""A diagnosis: what is the matter with a row that is not final, how we know, and what to do.

The functions in ``sql/api/webhooks_diagnose.sql``, ``jobs_diagnose.sql`` and ``seeds_diagnose.sql`` make it.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from pgonce.core.call import Call, rows_as


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is the matter with one row."""

    kind: str
    """A stable name, such as "dead" or "no_worker"."""
    needs_person: bool
    """Nothing happens by itself."""
    cause: str
    evidence: str
    action: str
    command: str | None
    """What does it; it may be pasted into a shell."""


def diagnose_webhook(event_id: str) -> Call[list[Diagnosis]]:
    """The diagnosis of an event; empty if it has succeeded, or if its handler ignored it."""
    return Call("pgonce_diagnose_webhook", {"p_stripe_event_id": event_id}, rows_as(Diagnosis))


def diagnose_run(run_id: UUID) -> Call[list[Diagnosis]]:
    """The diagnosis of a run; empty if it has succeeded. NotFound: there is no such run."""
    return Call("pgonce_diagnose_run", {"p_run_id": run_id}, rows_as(Diagnosis))


def diagnose_job(name: str) -> Call[list[Diagnosis]]:
    """The ticks of a job that nothing started."""
    return Call("pgonce_diagnose_job", {"p_job_name": name}, rows_as(Diagnosis))


def diagnose_seed(name: str) -> Call[list[Diagnosis]]:
    """The diagnosis of an import; empty if it is complete. NotFound: it has never run."""
    return Call("pgonce_diagnose_seed", {"p_seed_name": name}, rows_as(Diagnosis))
