"""One line of the table of benchmarks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured, and what it is compared with.

    Every module of benchmarks has ``run(quick: bool) -> list[Result]``; quick runs less of everything.
    """

    name: str
    value: float
    """The median of the rounds."""
    unit: str
    ratio: float | None = None
    """To what ``limit`` names; None for the peers themselves."""
    limit: str = ""
    """What was asked of the ratio or the value, and against whom: ">= 1.0 x pgbench, three statements"."""
    ok: bool | None = None
    """Whether it was met; None where nothing was asked."""
