"""The next ticks of many jobs. Without a clock: the time is an argument."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import TypeAlias

from pgonce.jobs.cron import INSTANT, Plan

Name: TypeAlias = tuple[str, str]
"""A job's name and key."""
_AGAIN = timedelta(minutes=1)
"""The time until a job whose next tick could not be computed is tried again."""


class TickQueue:
    """The next tick of every job, in a heap, so that the first one is found fast even among ten thousand jobs.

    Args:
        plans: the jobs.
        since: the last tick of each that is done; ticks between it and now are due at once.
        now: where jobs that are new begin.
    """

    def __init__(self, plans: Mapping[Name, Plan], since: Mapping[Name, datetime], now: datetime) -> None:
        self._plans = plans
        self._heap: list[tuple[datetime, Name, datetime]] = []
        for name, plan in plans.items():
            self._push(name, plan.schedule.after(since.get(name, now)))

    def _push(self, name: Name, tick: datetime | None) -> None:
        if tick is not None:
            heapq.heappush(self._heap, (tick + self._plans[name].delay(*name, tick), name, tick))

    @property
    def next_at(self) -> datetime | None:
        """When something is due next."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: datetime) -> Iterator[tuple[Name, datetime]]:
        """Each job that has a tick due by ``now``, with the first such tick, which is not yielded again."""
        while self._heap and self._heap[0][0] <= now:
            _, name, tick = heapq.heappop(self._heap)
            yield name, tick
            try:
                following = self._plans[name].schedule.after(tick)
                if following is not None and following <= now:  # the machine was suspended, or the clock was set
                    following = self._plans[name].schedule.after(self._passed(name, now))
                self._push(name, following)
            except Exception:  # without an entry the job would never be due again
                heapq.heappush(self._heap, (now + _AGAIN, name, tick))
                raise

    def overdue(self, name: Name, since: datetime, now: datetime) -> tuple[list[datetime], datetime | None]:
        """The due ticks after ``since`` that the job's plan wants to run, and the last tick that it gives up."""
        return self._plans[name].overdue(since, self._passed(name, now))

    def _passed(self, name: Name, now: datetime) -> datetime:
        """The moment up to which a job's ticks are due: ``now``, unless the last one's jitter is not over."""
        plan = self._plans[name]
        if plan.jitter:
            last = plan.schedule.last(now - plan.jitter, now)
            if last is not None and last + plan.delay(*name, last) > now:
                return last - INSTANT
        return now
