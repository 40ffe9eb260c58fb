"""What is due when, for many jobs at once. Pure: it is told the time and asked what to do next."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from pgonce.protocol.cron import Plan

Name: TypeAlias = tuple[str, str]
"""A job's name and key."""
_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Due:
    """What to do about a job's ticks."""

    name: Name
    run: list[datetime]
    """To be run, in this order; more than one only where all are caught up."""
    given_up: datetime | None
    """The last one that is not going to run; it is only written down."""


class Agenda:
    """The next tick of every job, in a heap: what to wait for is on top, with ten jobs or with ten thousand.

    Args:
        plans: the jobs.
        since: the last tick of each that was dealt with; what it owes since then is due at once.
        now: from where on, for jobs that are new.
    """

    def __init__(self, plans: Mapping[Name, Plan], since: Mapping[Name, datetime], now: datetime) -> None:
        self._plans = plans
        self._heap: list[tuple[datetime, Name, datetime]] = []
        for name, plan in plans.items():
            self._push(name, plan.cron.after(since.get(name, now)))

    def _push(self, name: Name, tick: datetime | None) -> None:
        if tick is not None:
            heapq.heappush(self._heap, (tick + self._plans[name].delay(*name, tick), name, tick))

    @property
    def next_at(self) -> datetime | None:
        """When something is due next."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: datetime) -> list[Due]:
        """Everything that is due by ``now``, the earliest first; it is not returned again."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            _, name, tick = heapq.heappop(self._heap)
            plan = self._plans[name]
            following = plan.cron.after(tick)
            if now - tick <= plan.patience and (following is None or following > now):  # on time, as nearly always
                found.append(Due(name, [tick], None))
            else:
                run, given_up = plan.owed(tick - _INSTANT, self._passed(name, now))
                found.append(Due(name, run, given_up))
                following = plan.cron.after(max([tick, *run, *([given_up] if given_up else [])]))
            self._push(name, following)
        return found

    def _passed(self, name: Name, now: datetime) -> datetime:
        """The moment up to which the job's ticks are due: ``now``, unless the last one waits for the end of its jitter."""
        plan = self._plans[name]
        if plan.jitter:
            last = plan.cron.last(now - plan.jitter, now)
            if last is not None and last + plan.delay(*name, last) > now:
                return last - _INSTANT
        return now
