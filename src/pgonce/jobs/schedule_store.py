"""The schedules of a scheduler, and the progress of each through its ticks: in memory and in pgonce_job_schedules."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pgonce.core.database import call_with_timeouts
from pgonce.core.execute import Pool
from pgonce.core.processes import Registration
from pgonce.errors import InvalidArgument
from pgonce.jobs import calls_schedule
from pgonce.jobs.calls_schedule import NextTick, ScheduleRow
from pgonce.jobs.cron import INSTANT, Plan, read_schedule
from pgonce.jobs.registry import Job
from pgonce.jobs.tick_queue import Name

_SECOND = 1.0
_FORGETTABLE = timedelta(days=1)
"""A tick of the last day without a row was forgotten by a failover; an older one may have been purged."""

log = logging.getLogger("pgonce")


class ScheduleStore:
    """The schedules of an app's jobs: those in its code, and those in the database that replace or supplement them."""

    def __init__(self, jobs: Mapping[str, Job], process: Registration) -> None:
        self._jobs = list(jobs.values())
        self._names = list(jobs)
        self._code = {(job.name, job.key): job.plan for job in jobs.values() if job.plan}
        self._slots = {(job.name, job.key): job.slots for job in jobs.values()}
        self._process = process
        self._schema = process.schema
        self._lock = threading.Lock()
        self._done: dict[Name, datetime] = {}
        self._changed: set[Name] = set()
        self._unreadable: dict[Name, str] = {}
        self._registered = False
        self._retired: set[Name] = set()
        self._warned_of: set[Name] = set()
        self._checked_at = float("-inf")
        self._checking = threading.Lock()
        self._has_started = False
        self._together = hashlib.md5(repr(sorted(self._code)).encode(), usedforsecurity=False).hexdigest()
        self.plans: dict[Name, Plan] = dict(self._code)
        """By name and key. Replaced as a whole, and not changed in place."""
        self.scopes: dict[Name, Mapping[str, Any]] = {}
        """The scopes of the runs that an operator's schedule starts."""
        self.since: dict[Name, datetime] = {}
        """Ticks later than this are to be run; a schedule that is new begins now."""

    def refresh(self, pool: Pool, now: datetime) -> bool:
        """Read the schedules in the database. Returns whether something has changed."""
        with self._lock:
            done = dict(self._done)  # copied before the read, which cannot know what is done after it
        reading = calls_schedule.read_job_schedules(self._names)
        rows = call_with_timeouts(pool, reading, self._schema) if self._names else []
        found = {(row.name, row.key): row for row in rows}
        plans, scopes = dict(self._code), {}
        for name, row in found.items():
            if plan := self._plan(name, row):
                plans[name] = plan
                scopes[name] = row.scope
        with self._lock:
            changed = {name for name, plan in plans.items() if self.plans.get(name) != plan or name not in self.since}
            forgotten = {
                name for name in plans.keys() - changed if self._is_forgotten(done.get(name), found.get(name), now)
            }
            since = {name: self._since(name, found.get(name), now) for name in changed | forgotten}
            differs = bool(since) or plans.keys() != self.plans.keys() or scopes != self.scopes
            self.since = {name: since.get(name) or self.since[name] for name in plans}
            self._done = {name: tick for name, tick in self._done.items() if name in plans and name not in since}
            self._changed = (self._changed & plans.keys()) | since.keys()
            self.plans, self.scopes = plans, scopes
            # schedules that are missing, or differ from the code, are registered by the newest start of the app
            self._registered = self._registered and all(
                name in found and (found[name].source != "code" or self._is_own(found[name], plan))
                for name, plan in self._code.items()
            )
        for name in forgotten:
            log.warning("job %s: the database has forgotten its last tick (a failover?): it is run again", name[0])
        return differs

    def _plan(self, name: Name, row: ScheduleRow) -> Plan | None:
        own = self._code.get(name)
        # at its start a process uses its own schedules, and registers them
        if row.source == "code" and (not self._has_started or (own is not None and self._is_own(row, own))):
            return own
        try:
            schedule = read_schedule(row.expression, row.timezone)
        except InvalidArgument as error:
            if self._unreadable.get(name) != row.expression:
                self._unreadable[name] = row.expression
                log.warning("job %s: its schedule in pgonce_job_schedules is ignored: %s", name[0], error)
            return own
        return Plan(schedule, row.catch_up, grace=row.grace)

    @staticmethod
    def _is_own(row: ScheduleRow, plan: Plan) -> bool:
        return (row.expression, row.timezone) == (plan.schedule.expression, plan.schedule.timezone)

    @staticmethod
    def _is_forgotten(done: datetime | None, row: ScheduleRow | None, now: datetime) -> bool:
        # every finished tick has a row
        return (
            done is not None and row is not None and row.next_tick <= done and done > now - _FORGETTABLE
            and (row.fired is None or row.fired < done)
        )  # fmt: skip

    def _since(self, name: Name, row: ScheduleRow | None, now: datetime) -> datetime:
        if row is None:
            return self.since.get(name, now)
        # next_tick, and not only fired: a tick of a time when every worker was down has no row. No later than now: what
        # is planned may be the tick of an expression that was changed since.
        return min(max(filter(None, [row.fired, row.next_tick - INSTANT])), now)

    def is_retired(self, pool: Pool, name: Name) -> bool:
        """Whether a newer start of the app has deleted or changed this schedule.

        The database is asked at most once a second. The upkeep would notice it 15 s later: a job that was renamed would
        fire under both names, and one whose time was changed at both times.
        """
        if name not in self._code:
            return False
        with self._checking:  # all jobs that are due at one moment wait for one answer
            if time.monotonic() - self._checked_at > _SECOND:
                schedules = {each: plan.schedule for each, plan in self.plans.items() if each in self._code}
                retired = calls_schedule.retired_job_schedules(self._process.id, self._process.app, schedules)
                try:
                    self._retired = call_with_timeouts(pool, retired, self._schema)
                finally:  # without a database each of these threads would wait for the one before it, ten seconds each
                    self._checked_at = time.monotonic()
            if name in self._retired and name not in self._warned_of:
                self._warned_of.add(name)
                log.warning(
                    "job %s: a newer start of the app %s has no such schedule, so that this process does not start it:"
                    " see `pgonce ps`", name[0], self._process.app or "without a name",
                )  # fmt: skip
            return name in self._retired

    def pass_over(self, name: Name, tick: datetime) -> None:
        """The tick is not this process's to run: it needs no row."""
        with self._lock:
            if name in self.since:
                self.since[name] = max(tick, self.since[name])

    def mark_done(self, name: Name, tick: datetime) -> None:
        """Note that the tick has a row, whoever wrote it."""
        with self._lock:
            if name in self.since:
                self.since[name] = max(tick, self.since[name])
                self._done[name] = max(tick, self._done.get(name, tick))
                self._changed.add(name)

    def go_back(self, now: datetime) -> None:
        """The database's clock was set back: ticks of the time that comes again are due again, unless they have
        rows."""
        with self._lock:
            self.since = {name: min(tick, now) for name, tick in self.since.items()}
            self._done.clear()

    def write(self, pool: Pool) -> None:
        """Write what has changed: first all schedules, as the newest start of the app, and later only the next ticks.

        With the schedules goes how often the jobs must run.

        Raises:
            DatabaseUnavailable, SchemaError, psycopg.Error: nothing was written; the next call tries again.
        """
        if not self._registered and self._names:
            ticks = [tick for name, plan in self._code.items() if (tick := self._next(name, plan))]
            register = calls_schedule.register_job_schedules(
                self._process.id, self._process.app, self._together, ticks, self._jobs
            )
            self._registered = call_with_timeouts(pool, register, self._schema)
        self._has_started = True
        with self._lock:
            changed, self._changed = self._changed, set()
        try:
            if ticks := [tick for name in changed if (tick := self._next(name, self.plans.get(name)))]:
                call_with_timeouts(pool, calls_schedule.plan_job_ticks(ticks), self._schema)
        except BaseException:
            with self._lock:
                self._changed |= changed
            raise

    def _next(self, name: Name, plan: Plan | None) -> NextTick | None:
        since = self.since.get(name)
        if plan is None or since is None or (tick := plan.schedule.after(since)) is None:
            return None
        return NextTick(*name, plan.schedule, plan.patience, plan.catch_up, tick, self._slots.get(name))
