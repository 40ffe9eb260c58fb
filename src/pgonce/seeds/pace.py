"""How fast an import is, and how long it will take, as far as its batches show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

STALLED_AFTER = 10
"""An import stands still if no batch was committed for this many times the usual time between two."""
_LEAST_STALL = timedelta(seconds=30)
_STEADY = 3
"""Rates whose 90 % point is more than this many times their 10 % point are not steady: a time left would be a guess."""
_FEW = 5


@dataclass(frozen=True, slots=True)
class Pace:
    """The rate of an import, from its last 60 batches."""

    rates: tuple[float, ...]
    """Rows per second of each batch, the oldest first."""
    rate: float | None
    """Rows per second over these batches; None: fewer than two."""
    stalled_for: timedelta | None
    """The time since the last commit, if it is unusually long; None: batches are committed, or nobody imports it."""
    left: tuple[timedelta, timedelta] | None
    """The shortest and the longest time left; None: it cannot be said."""
    why_unknown: str | None
    """Why there is no time left; None where there is one, or where none is expected."""


def pace(
    rows: Sequence[int],
    times: Sequence[datetime],
    *,
    running_since: datetime | None,
    seen: int,
    total: int | None,
    now: datetime,
) -> Pace:
    """The pace of an import.

    ``rows`` and ``times`` are those of its last batches, the oldest first; ``running_since``: None if it does not run.
    """
    # A batch's time is from the commit before it. What was committed before this run began is not part of its pace.
    spans = [
        (count, (after - before).total_seconds())
        for before, after, count in zip(times, times[1:], rows[1:], strict=False)
        if running_since is None or before >= running_since
    ]
    rates = tuple(count / seconds for count, seconds in spans if seconds > 0)
    spent = sum(seconds for _, seconds in spans)
    rate = sum(count for count, _ in spans) / spent if spent > 0 else None
    last = times[-1] if times else None
    stalled = None if running_since is None else _stalled([seconds for _, seconds in spans], last, running_since, now)
    left, why = None, None
    if running_since is not None and total is not None and stalled is None:
        left, why = _left(rates, running_since, seen, total, now)
    return Pace(rates, rate, stalled, left, why)


def _stalled(
    seconds: Sequence[float], last: datetime | None, running_since: datetime, now: datetime
) -> timedelta | None:
    silence = now - max(last or running_since, running_since)
    usual = timedelta(seconds=median(seconds)) if seconds else timedelta()
    return silence if silence > max(STALLED_AFTER * usual, _LEAST_STALL) else None


def _left(
    rates: Sequence[float], running_since: datetime, seen: int, total: int, now: datetime
) -> tuple[tuple[timedelta, timedelta] | None, str | None]:
    if seen > total:
        return None, "it has read more rows than the source said"
    if seen < total / 10 and now - running_since < timedelta(seconds=30):
        return None, "it has just begun"
    if len(rates) < _FEW:
        return None, "too few batches"
    ordered = sorted(rates)
    slow, fast = ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]
    if slow <= 0 or fast > _STEADY * slow:
        return None, "the rate is not steady"
    return (timedelta(seconds=(total - seen) / fast), timedelta(seconds=(total - seen) / slow)), None
