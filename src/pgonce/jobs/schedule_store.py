"""How far each job is with its ticks, kept in job_schedules: a tick that nobody ran can be named in SQL."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta

from pgonce.core.database import patiently
from pgonce.core.execute import Pool
from pgonce.jobs import calls as protocol
from pgonce.jobs.clock import Clock
from pgonce.jobs.cron import Plan
from pgonce.jobs.tick_queue import Name

_INSTANT = timedelta(microseconds=1)


class Schedules:
    """The last tick of each job that was dealt with, here and in the database.

    Args:
        plans: the jobs.
        schema: where ``pgonce migrate`` put the tables.
    """

    def __init__(self, plans: Mapping[Name, Plan], schema: str) -> None:
        self._plans = plans
        self._schema = schema
        self._lock = threading.Lock()
        self._moved: set[Name] = set()
        self._forgotten = False
        self._app = hashlib.md5(repr(sorted(plans)).encode(), usedforsecurity=False).hexdigest()
        self.since: dict[Name, datetime] = {}
        """What is owed came after this; a job that is new owes nothing."""

    def read(self, pool: Pool, clock: Clock) -> None:
        """Where the jobs were left, and what time it is."""
        names = list(self._plans)
        last = patiently(pool, protocol.last_job_ticks(names), self._schema)
        if last:
            clock.set(last[0].clock)
        now = clock.now()
        # planned, and not only fired: a tick that came while everybody was down is owed, though the job never ran.
        # No later than now: what is planned may be the tick of a cron expression that was changed since.
        self.since = dict.fromkeys(names, now) | {
            (each.name, each.key): min(max(filter(None, [each.fired, each.planned - _INSTANT])), now)
            for each in last
            if each.planned
        }
        self.review()

    def review(self) -> None:
        """Write all of them next time, should somebody have deleted one."""
        with self._lock:
            self._moved.update(self._plans)

    def dealt_with(self, name: Name, tick: datetime) -> None:
        """The tick has a row, whosever."""
        with self._lock:
            self.since[name] = max(tick, self.since[name])
            self._moved.add(name)

    def go_back(self, now: datetime) -> None:
        """It is earlier than it was: of what is to come a tick that was dealt with has its row, another one is owed."""
        with self._lock:
            self.since = {name: min(tick, now) for name, tick in self.since.items()}

    def write(self, pool: Pool) -> None:
        """Tell the database what has changed."""
        if not self._forgotten and self._plans:  # before the first of these is written: it says whose it was
            patiently(pool, protocol.forget_job_schedules(list(self._plans)), self._schema)
            self._forgotten = True
        with self._lock:
            moved, self._moved = self._moved, set()
        try:
            if ticks := [tick for name in moved if (tick := self._next(name))]:
                patiently(pool, protocol.plan_job_ticks(ticks, self._app), self._schema)
        except BaseException:
            with self._lock:
                self._moved |= moved
            raise

    def _next(self, name: Name) -> protocol.NextTick | None:
        plan = self._plans[name]
        tick = plan.cron.after(self.since[name])
        if tick is None:
            return None
        return protocol.NextTick(*name, plan.cron.expression, plan.cron.timezone, tick, plan.patience)
