"""A diagnosis: what is the matter with a row that is not final, how we know, and what to do.

The functions ``pgonce_diagnose_…`` in ``sql/api`` make them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgonce.core.call import Row


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


def read_diagnoses(rows: Sequence[Row]) -> list[Diagnosis]:
    """The rows of a ``pgonce_diagnose_…`` function."""
    return [Diagnosis(*row) for row in rows]
