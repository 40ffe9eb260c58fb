"""What is asked of one run of a seed, and what the run reports while it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pgonce.errors import InvalidArgument
from pgonce.seeds.calls import Checkpoint


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
