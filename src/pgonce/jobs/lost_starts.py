"""The starts of this process whose answers were lost: each may have left a run that nobody holds."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from pgonce.jobs.calls import Start

KEPT = 60.0
"""Seconds after which a start that has left no run will leave none."""


@dataclass(frozen=True, slots=True)
class LostStart:
    """A start that was sent again and again, and not answered."""

    place: str
    """Database and schema."""
    start: Start
    sent: float
    """When, on the monotonic clock."""


lost_starts: dict[UUID, LostStart] = {}
"""By the id of the run. Other threads change it: iterate over a copy."""
