"""The scheduler: starts each job at its ticks, retries what has failed, and closes what has died.

Any number of schedulers may run. There is no leader: each of them tries each tick, and the tick is a unique column, so
one start wins and the others read one row. A scheduler that is stopped, slow or wrong about the time can therefore
neither double a tick nor hold one back.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import UUID

import psycopg

from pgonce import database
from pgonce._async.jobs import AsyncJobs
from pgonce._sync.execute import call
from pgonce._sync.jobs import Jobs
from pgonce.app import App, Job
from pgonce.clock import Clock, DatabaseClock
from pgonce.errors import DatabaseUnavailable, PgonceError
from pgonce.protocol import jobs as protocol
from pgonce.protocol import stats
from pgonce.protocol.agenda import Agenda, Due, Name
from pgonce.protocol.call import Call, value
from pgonce.protocol.cron import Plan
from pgonce.service import Service

UPKEEP_EVERY = timedelta(seconds=15)
"""Between two sweeps, looks for retries and comparisons of the clocks; also how long a suspended machine oversleeps."""
REPLAN_EVERY = timedelta(minutes=10)
"""Between two writings of all that is planned, should somebody have deleted it."""
_INSTANT = timedelta(microseconds=1)

log = logging.getLogger("pgonce")


class Scheduler(Service):
    """Runs the jobs of an app at their ticks, in threads; asynchronous ones in an event loop of their own.

    Args:
        app: the jobs.
        url: the database.
        schema: where ``pgonce migrate`` put the tables.
        concurrency: how many runs at once. A tick that finds no free thread waits; other schedulers may take it.
        clock: the time of day; the database's.
    """

    def __init__(
        self, app: App, url: str, *, schema: str = "public", concurrency: int = 16, clock: Clock | None = None
    ) -> None:
        self._app = app
        self._plans = {(job.name, job.key): job.plan for job in app.jobs.values() if job.plan}
        self._url = url
        self._schema = schema
        self._concurrency = concurrency
        self._clock = clock or DatabaseClock()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._unfinished = 0
        self._moved: dict[Name, datetime] = {}
        self._again: list[tuple[Name, datetime]] = []
        self._backlog: dict[Name, deque[datetime]] = {}
        self._retrying: set[UUID] = set()
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="pgonce job")
        self._loop = threading.Thread(target=self._run, name="pgonce scheduler", daemon=True)

    @property
    def unfinished(self) -> int:
        """Runs that are at work or wait for a thread."""
        return self._unfinished

    def start(self) -> Self:
        """Begin, with the ticks that have passed since each job's last one.

        Raises:
            DatabaseUnavailable, SchemaError: now, rather than at the first tick.
        """
        self._pool = database.open_pool(self._url, self._concurrency + 2)
        names = list(self._plans)
        last = call(self._pool, protocol.last_job_ticks(names), self._schema)
        if names:
            self._clock.set(last[0].clock)
            call(self._pool, protocol.forget_job_schedules(names), self._schema)
        now = self._clock.now()
        # planned, and not only fired: a tick that came while everybody was down is owed, though the job never ran.
        # No later than now: what is planned may be the tick of a cron expression that was changed since.
        self._since = {
            (each.name, each.key): min(max(each.fired or each.planned, each.planned - _INSTANT), now)
            for each in last
            if each.planned
        }
        self._agenda = Agenda(self._plans, self._since, now)
        self._moved = {name: self._since.get(name, now) for name in names}
        self._write_plan()
        self._loop.start()
        return self

    def stop(self, timeout: float | None = None) -> bool:
        """Start nothing more, and wait for what is at work.

        Args:
            timeout: seconds to wait; None is for ever.

        Returns:
            Whether all has ended. What has not is closed by another scheduler's sweep when this process is gone.
        """
        self._stop.set()
        until = None if timeout is None else time.monotonic() + timeout
        self._loop.join(timeout)
        self._threads.shutdown(wait=False, cancel_futures=True)
        threads = [self._loop, *self._threads._threads]  # noqa: SLF001 -- shutdown() itself knows no timeout
        for thread in threads:
            thread.join(None if until is None else max(until - time.monotonic(), 0))
        ended = not any(thread.is_alive() for thread in threads)
        if ended:
            self._pool.close()
        return ended

    def _run(self) -> None:
        upkeep = replan = self._clock.now()
        while not self._stop.is_set():
            now = self._clock.now()
            for due in self._agenda.due(now):
                self._deal_with(due)
            if now >= upkeep:
                upkeep = now + UPKEEP_EVERY
                self._guarded(self._upkeep)
            if now >= replan:
                replan = now + REPLAN_EVERY
                with self._lock:
                    self._moved = {name: self._since[name] for name in self._plans if name in self._since} | self._moved
            self._clock.wait(min(upkeep, self._agenda.next_at or upkeep), self._stop)

    def _upkeep(self) -> None:
        self._clock.set(call(self._pool, Call("clock_timestamp", {}, value), "pg_catalog"))
        if closed := call(self._pool, protocol.abandon_job_runs(), self._schema):
            log.warning("%s runs had shown no sign of life for their window: closed as failed", closed)
        again, self._again = self._again, []
        for name, tick in again:
            if self._clock.now() - tick <= self._plans[name].reach:
                self._submit(self._tick, name, tick)
        for retry in call(self._pool, protocol.due_job_retries(list(self._app.jobs)), self._schema):
            if retry.run_id not in self._retrying:
                self._retrying.add(retry.run_id)
                self._submit(self._retry, retry)
        self._write_plan()

    def _write_plan(self) -> None:
        with self._lock:
            moved, self._moved = self._moved, {}
        ticks = []
        for name, since in moved.items():
            self._since[name] = since
            plan = self._plans[name]
            if following := plan.cron.after(since):
                ticks.append(_next(name, plan, following))
        if ticks:
            call(self._pool, protocol.plan_job_ticks(ticks), self._schema)

    def _deal_with(self, due: Due) -> None:
        if due.given_up:
            self._submit(self._give_up, due.name, due.given_up)
        if self._plans[due.name].catch_up != "all":
            for tick in due.run:
                self._submit(self._tick, due.name, tick)
            return
        with self._lock:  # every tick in its turn: side by side, all but the first would be skipped as overlaps
            waiting = self._backlog.get(due.name)
            self._backlog.setdefault(due.name, deque()).extend(due.run)
        if waiting is None:
            self._submit(self._work_off, due.name)

    def _submit(self, action: Callable[..., None], *arguments: Any) -> None:
        with self._lock:
            self._unfinished += 1

        def act() -> None:
            try:
                self._guarded(action, *arguments)
            finally:
                with self._lock:
                    self._unfinished -= 1

        self._threads.submit(act)

    @staticmethod
    def _guarded(action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(*arguments)
        except (PgonceError, psycopg.Error) as error:
            log.warning("%s", str(error).splitlines()[0])
        except Exception:
            log.exception("the scheduler stumbled")

    def _dealt_with(self, name: Name, tick: datetime) -> None:
        with self._lock:
            self._moved[name] = max(tick, self._moved.get(name, tick))

    def _tick(self, name: Name, tick: datetime) -> None:
        started = False

        def on_start() -> None:
            nonlocal started
            started = True
            self._dealt_with(name, tick)

        try:
            self._perform(self._app.jobs[name[0]], on_start, scheduled_for=tick)
        except (DatabaseUnavailable, psycopg.OperationalError):
            if started:
                raise
            self._again.append((name, tick))  # the database was away: the tick has no row yet

    def _work_off(self, name: Name) -> None:
        while not self._stop.is_set():
            with self._lock:
                if not self._backlog[name]:
                    del self._backlog[name]
                    return
                tick = self._backlog[name][0]
            # Another scheduler may be at the same backlog: wait for its run to end, else this tick would be skipped.
            running = call(self._pool, stats.list_job_runs(name=name[0], status="running", limit=1000), self._schema)
            if any(run.key == name[1] for run in running):
                self._stop.wait(0.2)
                continue
            self._guarded(self._tick, name, tick)
            with self._lock:
                self._backlog[name].popleft()

    def _retry(self, retry: protocol.Retry) -> None:
        try:
            self._perform(self._app.jobs[retry.name], lambda: None, retry=retry)
        finally:
            self._retrying.discard(retry.run_id)

    def _give_up(self, name: Name, tick: datetime) -> None:
        late = "missed: no scheduler was there, and it is too late for it now"
        call(self._pool, protocol.skip_job_tick(*name, tick, late), self._schema)
        self._dealt_with(name, tick)

    def _perform(self, job: Job, on_start: Callable[[], None], **options: Any) -> None:
        try:
            if job.is_async:
                asyncio.run(self._perform_async(job, on_start, options))
            else:
                Jobs(self._pool, schema=self._schema).perform(job, on_start=on_start, **options)
        except (DatabaseUnavailable, psycopg.OperationalError):
            raise
        except Exception as error:  # noqa: BLE001 -- the run's row has the traceback; the scheduler goes on
            log.warning("job %s failed: %s", job.name, f"{type(error).__name__}: {error}".splitlines()[0])

    async def _perform_async(self, job: Job, on_start: Callable[[], None], options: dict[str, Any]) -> None:
        async with await database.open_async_pool(self._url, 4) as pool:
            await AsyncJobs(pool, schema=self._schema).perform(job, on_start=on_start, **options)


def _next(name: Name, plan: Plan, tick: datetime) -> protocol.NextTick:
    # with its jitter a tick may start later and is not missed yet
    return protocol.NextTick(*name, plan.cron.expression, plan.cron.timezone, tick, plan.patience)
