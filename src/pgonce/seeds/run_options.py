"""What is asked of one run of a seed, and what the run reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pgonce.errors import InvalidArgument
from pgonce.seeds.calls import Checkpoint

Outcome: TypeAlias = Literal["complete", "unfinished", "stopped", "paused", "overlap"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an import stands after a batch."""

    checkpoint: Checkpoint
    """With the counts over all resumes."""
    rows: int
    """Done by this resume."""
    seconds: float
    """Since this resume began."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What belongs to one run of a seed and not to the seed; ``AsyncSeeds.run`` explains each."""

    restart: bool = False
    accept_change: bool = False
    partition: str | None = None
    max_rows_per_second: float | None = None
    on_progress: Callable[[Progress], object] | None = None
    stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        rate: Any = self.max_rows_per_second
        if rate is not None and not (isinstance(rate, int | float) and 0 < rate < math.inf):
            raise InvalidArgument(f"max_rows_per_second must be a number above 0, not {rate!r}: None for no limit")


@dataclass(frozen=True, slots=True)
class SeedResult:
    """How a run of an import ended."""

    outcome: Outcome
    checkpoint: Checkpoint | None
    new_rows: int = 0
    """Rows that this run took from the source."""
    sequences: Mapping[str, int] = field(default_factory=dict)
    """Sequences whose next number is taken by a row, with the greatest value of their column."""
    were_set: bool = False
    """Whether ``set_sequences`` has set them to it."""
    resumed: int = 0
    """How often the database went back to an older state (a crash or a failover), and the run resumed from there."""
    unfinished: str | None = None
    """Why the source ended before its end, and what to do: of the outcome ``unfinished``."""
