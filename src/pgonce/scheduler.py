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
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import UUID

from pgonce import database
from pgonce._async.jobs import AsyncJobs
from pgonce._sync.execute import call
from pgonce._sync.jobs import Jobs
from pgonce.app import App, Job
from pgonce.clock import Clock, DatabaseClock
from pgonce.errors import PgonceError
from pgonce.hands import Hands, guarded
from pgonce.protocol import jobs as protocol
from pgonce.protocol import stats
from pgonce.protocol.agenda import Agenda, Name
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
        self._since: dict[Name, datetime] = {}
        self._moved: set[Name] = set()
        self._owing: dict[Name, datetime] = {}
        self._at_hand: set[Name] = set()
        self._retrying: set[UUID] = set()
        self._hands = Hands(concurrency, "pgonce job")
        self._loop = threading.Thread(target=self._run, name="pgonce scheduler", daemon=True)

    @property
    def unfinished(self) -> int:
        """Runs that are at work or wait for a thread."""
        return self._hands.unfinished

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
        self._since = dict.fromkeys(names, now) | {
            (each.name, each.key): min(max(each.fired or each.planned, each.planned - _INSTANT), now)
            for each in last
            if each.planned
        }
        self._agenda = Agenda(self._plans, self._since, now)
        self._moved = set(names)
        self._write_plan()
        self._hands.start()
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
        self._hands.stop()
        threads = [self._loop, *self._hands.threads]
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
            guarded(self._look, now)
            if now >= upkeep:
                upkeep = now + UPKEEP_EVERY
                guarded(self._upkeep)
            if now >= replan:
                replan = now + REPLAN_EVERY
                with self._lock:
                    self._moved.update(self._plans)
            self._clock.wait(min(upkeep, self._agenda.next_at or upkeep), self._stop)

    def _look(self, now: datetime) -> None:
        for name, _ in self._agenda.due(now):
            with self._lock:
                self._owing[name] = now
            self._see_to_soon(name)

    def _upkeep(self) -> None:
        self._clock.set(call(self._pool, Call("clock_timestamp", {}, value), "pg_catalog"))
        if closed := call(self._pool, protocol.abandon_job_runs(), self._schema):
            log.warning("%s runs had shown no sign of life for their window: closed as failed", closed)
        for name in list(self._owing):
            self._see_to_soon(name)
        for retry in call(self._pool, protocol.due_job_retries(list(self._app.jobs)), self._schema):
            if retry.run_id not in self._retrying:
                self._retrying.add(retry.run_id)
                self._hands.give(self._retry, retry)
        self._write_plan()

    def _write_plan(self) -> None:
        with self._lock:
            moved, self._moved = self._moved, set()
        ticks = []
        for name in moved:
            plan = self._plans[name]
            if following := plan.cron.after(self._since[name]):
                ticks.append(_next(name, plan, following))
        if ticks:
            call(self._pool, protocol.plan_job_ticks(ticks), self._schema)

    # A tick is not handed to a thread: the job is, and the thread asks, when it has time, what the job owes by then.
    # What was put off, by threads that were busy or a database that was away, is so held to the job's own rule, and
    # what could not be done is simply still owed.

    def _see_to_soon(self, name: Name) -> None:
        with self._lock:
            if name in self._at_hand or name not in self._owing:
                return  # whoever has it looks again before it lets go
            self._at_hand.add(name)
        self._hands.give(self._see_to, name)

    def _see_to(self, name: Name) -> None:
        plan = self._plans[name]
        in_turn = plan.catch_up == "all"  # side by side, all but the first tick would be skipped as overlaps
        has_it, run = True, list[datetime]()

        def begun() -> None:
            nonlocal has_it
            self._dealt_with(name, run.pop(0))
            if not in_turn:
                has_it = False
                self._let_go(name, asked)

        try:
            while has_it and not self._stop.is_set():
                asked = self._owing[name]
                # no earlier than it was asked: a comparison of the clocks may have turned ours back by a little since
                now = max(asked, self._clock.now())
                if not run or now - run[0] > plan.reach:
                    run, given_up = self._agenda.owed(name, self._since[name], now)
                    if given_up:
                        self._give_up(name, given_up)
                if not run:
                    has_it = False
                    self._let_go(name, asked)
                elif in_turn and self._is_at_work(name):
                    self._stop.wait(0.2)
                else:
                    self._perform(self._app.jobs[name[0]], begun, scheduled_for=run[0])
        finally:
            if has_it:  # it still owes what it owed: the next upkeep sees to it
                with self._lock:
                    self._at_hand.discard(name)

    def _let_go(self, name: Name, asked: datetime) -> None:
        with self._lock:
            self._at_hand.discard(name)
            if self._owing[name] == asked:
                del self._owing[name]
                return
        self._see_to_soon(name)

    def _is_at_work(self, name: Name) -> bool:
        # Another scheduler may be at the same backlog: this tick would be skipped as an overlap of its run.
        running = call(self._pool, stats.list_job_runs(name=name[0], status="running", limit=1000), self._schema)
        return any(run.key == name[1] for run in running)

    def _dealt_with(self, name: Name, tick: datetime) -> None:
        with self._lock:
            self._since[name] = max(tick, self._since[name])
            self._moved.add(name)

    def _give_up(self, name: Name, tick: datetime) -> None:
        late = "missed: no scheduler has started it, and it is too late for it now"
        call(self._pool, protocol.skip_job_tick(*name, tick, late), self._schema)
        self._dealt_with(name, tick)

    def _retry(self, retry: protocol.Retry) -> None:
        try:
            self._perform(self._app.jobs[retry.name], lambda: None, retry=retry)
        finally:
            self._retrying.discard(retry.run_id)

    def _perform(self, job: Job, on_start: Callable[[], None], **options: Any) -> None:
        started = False

        def begun() -> None:
            nonlocal started
            started = True
            on_start()

        try:
            if job.is_async:
                asyncio.run(self._perform_async(job, begun, options))
            else:
                Jobs(self._pool, schema=self._schema).perform(job, on_start=begun, **options)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            if not started:  # whatever it was: there is no row of it, so it is still to be done
                raise PgonceError(f"job {job.name} could not be started: {reason}") from error
            log.warning("job %s failed: %s", job.name, reason)

    async def _perform_async(self, job: Job, on_start: Callable[[], None], options: dict[str, Any]) -> None:
        async with await database.open_async_pool(self._url, 4) as pool:
            await AsyncJobs(pool, schema=self._schema).perform(job, on_start=on_start, **options)


def _next(name: Name, plan: Plan, tick: datetime) -> protocol.NextTick:
    # with its jitter a tick may start later and is not missed yet
    return protocol.NextTick(*name, plan.cron.expression, plan.cron.timezone, tick, plan.patience)
