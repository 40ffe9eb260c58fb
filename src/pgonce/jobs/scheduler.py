"""The scheduler: starts each job at its ticks, retries what has failed, and closes what has died.

Any number of schedulers may run. There is no leader: each of them tries each tick, and the tick is a unique column, so
one start wins and the others read one row. A scheduler that is stopped, slow or wrong about the time can therefore
neither double a tick nor hold one back.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Self
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from pgonce.core import database
from pgonce.core.call import Call, value
from pgonce.core.database import patiently
from pgonce.core.processes import Registration
from pgonce.core.service import Service
from pgonce.errors import DatabaseUnavailable, PgonceError
from pgonce.jobs import calls as protocol
from pgonce.jobs import calls_stats as stats
from pgonce.jobs.clock import Clock, DatabaseClock
from pgonce.jobs.executor import Performing
from pgonce.jobs.registry import JobRegistry
from pgonce.jobs.schedule_store import Schedules
from pgonce.jobs.thread_pool import Hands, guarded
from pgonce.jobs.tick_queue import Agenda, Name

UPKEEP_EVERY = timedelta(seconds=15)
"""Between two sweeps, looks for retries and comparisons of the clocks; also how long a suspended machine oversleeps."""
REVIEW_EVERY = 40
"""Rounds of upkeep, some ten minutes, between two writings of all that is planned."""
_STEP = timedelta(seconds=1)
"""By so much the clock may go back in a comparison, and nobody has set the database's."""

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
        self, app: JobRegistry, url: str, *, schema: str = "public", concurrency: int = 16, clock: Clock | None = None
    ) -> None:
        self._app = app
        self._plans = {(job.name, job.key): job.plan for job in app.jobs.values() if job.plan}
        self._url = url
        self._schema = schema
        self._concurrency = concurrency
        self._clock = clock or DatabaseClock()
        self._stop = threading.Event()
        self._died: BaseException | None = None
        self._lock = threading.Lock()
        self._schedules = Schedules(self._plans, schema)
        self._owing: dict[Name, datetime] = {}
        self._at_hand: set[Name] = set()
        self._retrying: set[UUID] = set()
        self._runs = Performing(url, schema)
        self._hands = Hands(concurrency, "pgonce job")
        self._process = Registration(
            "jobs",
            schema,
            app.name,
            jobs=list(app.jobs),
            content=[f"{job.name} {job.key} {job.plan and job.plan.cron}" for job in app.jobs.values()],
            capacity=concurrency,
        )
        # The upkeep asks the database, which may hang; what starts the ticks asks nobody.
        self._own = [
            threading.Thread(target=self._to_the_end, args=[work], name=f"pgonce {name}", daemon=True)
            for name, work in {"scheduler": self._run, "upkeep": self._keep_up}.items()
        ]

    @property
    def unfinished(self) -> int:
        """Runs that are at work or wait for a thread."""
        return self._hands.unfinished

    def start(self) -> Self:
        """Begin, with the ticks that have passed since each job's last one.

        Raises:
            DatabaseUnavailable, SchemaError: now, rather than at the first tick.
            RuntimeError: so many threads cannot be had.
        """
        self._pool = database.open_pool(self._url, self._concurrency + 2)
        try:
            self._process.register(self._pool)
            self._schedules.read(self._pool, self._clock)
            self._agenda = Agenda(self._plans, self._schedules.since, self._clock.now())
            with suppress(psycopg.errors.LockNotAvailable):  # somebody's psql has it: the upkeep will try again
                self._schedules.write(self._pool)
            self._hands.start()
        except BaseException:
            self._hands.stop()
            self._pool.close()  # left to the garbage collector it would complain about its threads
            raise
        for thread in self._own:
            thread.start()
        return self

    def stop(self, timeout: float | None = None) -> bool:
        """Start nothing more, and wait for what is at work.

        Args:
            timeout: seconds to wait; None is for ever.

        Returns:
            Whether all has ended. What has not is closed by another scheduler's sweep when this process is gone.

        Raises:
            PgonceError: all has ended, and the scheduler's own thread before it was asked to.
        """
        self._stop.set()
        until = None if timeout is None else time.monotonic() + timeout
        self._hands.stop()
        threads = [*self._own, *self._hands.threads]
        for thread in threads:
            thread.join(None if until is None else max(until - time.monotonic(), 0))
        ended = not any(thread.is_alive() for thread in threads)
        if ended:
            with suppress(PgonceError, psycopg.Error):  # the row goes after a day of silence
                self._process.end(self._pool)
            self._pool.close()
            if self._died:
                raise PgonceError(f"the scheduler has died: {self._died!r}") from self._died
        return ended

    def _to_the_end(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            # A process without its scheduler looks alive, and no job runs: it has to end, so that it is started anew.
            log.critical("the scheduler has died: this process ends", exc_info=error)
            self._died = self._died or error
            os.kill(os.getpid(), signal.SIGTERM)

    def _run(self) -> None:
        before = self._clock.now()
        while not self._stop.is_set():
            now = self._clock.now()
            if now < before - _STEP:
                guarded(self._go_back, now)
            before = now
            guarded(self._look, now)
            soon = now + UPKEEP_EVERY
            self._clock.wait(min(soon, self._agenda.next_at or soon), self._stop)

    def _go_back(self, now: datetime) -> None:
        log.warning("the database's clock was set back to %s", now)
        self._schedules.go_back(now)
        with self._lock:
            self._owing = {name: min(asked, now) for name, asked in self._owing.items()}
        self._agenda = Agenda(self._plans, self._schedules.since, now)

    def _look(self, now: datetime) -> None:
        for name, _ in self._agenda.due(now):
            with self._lock:
                self._owing[name] = now
            self._see_to_soon(name)

    def _keep_up(self) -> None:
        for number in itertools.count(1):
            guarded(self._upkeep)
            if number % REVIEW_EVERY == 0:
                self._schedules.review()
            self._clock.wait(self._clock.now() + UPKEEP_EVERY, self._stop)
            if self._stop.is_set():
                return

    def _upkeep(self) -> None:
        self._compare_clocks()  # the rest only if it succeeds: without a database each would wait for one
        for duty in (self._beat, self._sweep, self._see_to_the_rest, self._look_for_retries, self._write):
            if not self._stop.is_set():  # each may hang for a while
                guarded(duty)

    def _compare_clocks(self) -> None:
        # A failover cuts every connection, and the pool's say so at their next use, one by one: were each to cost a
        # round, what is owed would wait for minutes.
        for left in reversed(range(self._concurrency + 2)):
            try:
                self._clock.set(patiently(self._pool, Call("clock_timestamp", {}, value), "pg_catalog"))
                return
            except DatabaseUnavailable as error:
                if not left or isinstance(error.__cause__, PoolTimeout | TimeoutError):
                    raise

    def _beat(self) -> None:
        self._process.beat(self._pool, self._hands.unfinished)

    def _sweep(self) -> None:
        if closed := patiently(self._pool, protocol.abandon_job_runs(), self._schema):
            log.warning("%s runs had shown no sign of life for their window: closed as failed", closed)

    def _see_to_the_rest(self) -> None:
        for name in list(self._owing):
            self._see_to_soon(name)

    def _look_for_retries(self) -> None:
        for retry in patiently(self._pool, protocol.due_job_retries(list(self._app.jobs)), self._schema):
            if retry.run_id not in self._retrying:
                self._retrying.add(retry.run_id)
                self._hands.give(self._retry, retry)

    def _write(self) -> None:
        self._schedules.write(self._pool)

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
            self._schedules.dealt_with(name, run.pop(0))
            if not in_turn:
                has_it = False
                self._let_go(name, asked)

        try:
            while has_it and not self._stop.is_set():
                asked = self._owing[name]
                # no earlier than it was asked: a comparison of the clocks may have turned ours back by a little since
                now = max(asked, self._clock.now())
                if not run or now - run[0] > plan.reach:
                    run, given_up = self._agenda.owed(name, self._schedules.since[name], now)
                    if given_up:
                        self._give_up(name, given_up)
                if not run:
                    has_it = False
                    self._let_go(name, asked)
                elif in_turn and self._is_at_work(name):
                    self._stop.wait(0.2)
                else:
                    self._runs.perform(self._pool, self._app.jobs[name[0]], begun, scheduled_for=run[0])
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
        running = patiently(self._pool, stats.list_job_runs(name=name[0], status="running", limit=1000), self._schema)
        return any(run.key == name[1] for run in running)

    def _give_up(self, name: Name, tick: datetime) -> None:
        late = "missed: no scheduler has started it, and it is too late for it now"
        patiently(self._pool, protocol.skip_job_tick(*name, tick, late), self._schema)
        self._schedules.dealt_with(name, tick)

    def _retry(self, retry: protocol.Retry) -> None:
        try:
            self._runs.perform(self._pool, self._app.jobs[retry.name], lambda: None, retry=retry)
        finally:
            self._retrying.discard(retry.run_id)
