"""One line of the table of benchmarks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """A measured value, and the value that it is compared with.

    Every module of benchmarks has ``run(quick: bool) -> list[Result]``; a quick run measures less of everything.
    """

    name: str
    value: float
    """The median of the rounds."""
    unit: str
    ratio: float | None = None
    """The ratio to the peer that ``limit`` names; None for the peers themselves."""
    limit: str = ""
    """The required ratio or value, and the peer: ">= 1.0 x pgbench, three statements"."""
    ok: bool | None = None
    """Whether the requirement was met; None if nothing is required."""
