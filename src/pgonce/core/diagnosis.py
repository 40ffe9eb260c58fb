"""A diagnosis: what is the matter with a row that is not final, how we know, and what to do.

The functions in ``sql/api/webhooks_diagnose.sql``, ``jobs_diagnose.sql`` and ``seeds_diagnose.sql`` make it.
"""

from __future__ import annotations

from dataclasses import dataclass


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
