"""The scheduler: starts each job at its ticks, retries failed runs, and closes the runs of dead processes.

Any number of schedulers may run. There is no leader: each of them tries each tick, and the tick is a unique column, so
one start wins and the others read one row. Therefore a scheduler that is stopped or slow, or has a wrong time, can
neither run a tick twice nor prevent one.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import UUID

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from pgonce.core import database
from pgonce.core.database import call_with_timeouts
from pgonce.core.failures import log_errors
from pgonce.core.processes import Registration
from pgonce.core.registration import check_app, check_count, check_schema
from pgonce.core.service import Service, join_all
from pgonce.errors import DatabaseUnavailable, PgonceError
from pgonce.jobs import calls, calls_operate, calls_schedule
from pgonce.jobs import calls_stats as stats
from pgonce.jobs.calls import is_slot_key
from pgonce.jobs.clock import Clock, DatabaseClock
from pgonce.jobs.executor import Executor
from pgonce.jobs.registry import Job, JobRegistry
from pgonce.jobs.schedule_store import ScheduleStore
from pgonce.jobs.thread_pool import DaemonThreadPool
from pgonce.jobs.tick_queue import Name, TickQueue

UPKEEP_EVERY = timedelta(seconds=15)
"""Time between two rounds of upkeep: dead runs, retries, requests, schedules, and the comparison of the clocks. Also
how late a machine that was suspended may notice a tick."""
COUNT_EVERY = 3600.0
"""Seconds between two checks whether a day has ended, so that its runs are counted."""
_STEP = timedelta(seconds=1)
"""If the database's clock goes back by no more than this between two comparisons, it does not count as set back."""
STOPPED = "worker stopped"
"""The reason of a run that was closed because its process was stopping."""

log = logging.getLogger("pgonce")


class Scheduler(Service):
    """Runs the jobs of an app at their ticks: in threads, asynchronous ones in the event loop of the process.

    Args:
        app: the jobs.
        url: the database.
        schema: where ``pgonce migrate`` put the tables.
        concurrency: how many runs at once. A tick that finds no free thread waits; other schedulers may take it.
        clock: the time of day; the database's.
        pool: connections that it shares with other services: two of them are this one's, for its own statements. It
            stays open. The runs have connections of their own, however many they take.
    """

    def __init__(
        self,
        app: JobRegistry,
        url: str,
        *,
        schema: str = "public",
        concurrency: int = 16,
        clock: Clock | None = None,
        pool: ConnectionPool[psycopg.Connection[Any]] | None = None,
    ) -> None:
        check_app(app, JobRegistry, "Scheduler")
        database.check_text(url)
        check_schema(schema)
        check_count(concurrency, "concurrency of Scheduler", 1)
        self._app = app
        self._url = url
        self._schema = schema
        self._concurrency = concurrency
        self._clock = clock or DatabaseClock()
        self._shared_pool = pool
        self._stop = threading.Event()
        self._died: BaseException | None = None
        self._lock = threading.Lock()
        self._new_schedules = threading.Event()
        self._due: dict[Name, datetime] = {}  # when the queue reported it
        self._in_progress: set[Name] = set()
        self._wanted: set[UUID] = set()
        self._count_at = 0.0
        self._threads = DaemonThreadPool(concurrency, "pgonce job")
        # The upkeep uses the database, which may hang. The thread that starts the ticks does not.
        self._own = [
            threading.Thread(target=self._run_to_the_end, args=[work], name=f"pgonce {name}", daemon=True)
            for name, work in {"scheduler": self._run_ticks, "upkeep": self._run_upkeep}.items()
        ]

    @property
    def unfinished(self) -> int:
        """Runs that are at work or wait for a thread."""
        return self._threads.unfinished

    def start(self) -> Self:
        """Start the jobs that are registered by now, beginning with the ticks since each job's last one.

        Raises:
            DatabaseUnavailable, SchemaError: now, and not at the first tick.
            RuntimeError: the system refused a thread.
        """
        # not in __init__: `FastAPI(lifespan=lifespan(Scheduler(app, url)))` stands above the decorators
        jobs = self._app.jobs
        self._process = Registration(
            "jobs",
            self._schema,
            self._app.name,
            jobs=list(jobs),
            content=[f"{job.name} {job.key} {job.plan and job.plan.schedule}" for job in jobs.values()],
            capacity=self._concurrency,
        )
        self._store = ScheduleStore(jobs, self._process)
        self._pool = self._shared_pool or database.open_pool(self._url, 2)
        self._run_pool = database.open_pool(self._url, self._concurrency + 2, least=0)
        try:
            self._process.register(self._pool)
            self._clock.set(call_with_timeouts(self._pool, calls.NOW, "pg_catalog"))
            now = self._clock.now()
            self._store.refresh(self._pool, now)
            self._queue = TickQueue(self._store.plans, self._store.since, now)
            self._executor = Executor(
                self._run_pool, self._url, self._schema, closing=self._pool, on_error=self._app.on_error
            )
            with suppress(psycopg.errors.LockNotAvailable):  # somebody's psql holds it: the upkeep tries again
                self._store.write(self._pool)
            self._threads.start()
        except BaseException:
            self._threads.stop()
            self._close_pools()  # left to the garbage collector they would complain about their threads
            raise
        try:
            for thread in self._own:
                thread.start()
        except BaseException:  # the first one is at work
            self.stop()
            raise
        self._app.schedulers.add(self)
        return self

    def stop(self, timeout: float | None = None) -> bool:
        """Stop starting runs, ask the running ones to end, and wait for them.

        A synchronous run finds ``run.stop_requested``, an asynchronous one is cancelled. One that does not look and
        gets to its end in time has succeeded. Runs that have not ended after ``timeout`` are closed as failed ("worker
        stopped") and are due again: another worker that has the job starts them anew. What they still write through the
        run is refused.

        Args:
            timeout: seconds to wait; None is for ever.

        Returns:
            Whether all have ended by themselves.

        Raises:
            PgonceError: all has ended, and the scheduler's own thread before it was asked to.
        """
        self._stop.set()
        self._threads.stop()
        self._executor.request_stop(STOPPED)
        started = [thread for thread in [*self._own, *self._threads.threads] if thread.ident]
        ended = join_all(started, timeout)
        if not ended:
            self._executor.close_runs(STOPPED)
        with suppress(PgonceError, psycopg.Error):  # the database is away: the row goes after a day of silence
            self._store.write(self._pool)
            call_with_timeouts(self._pool, calls_schedule.end_job_schedules(self._process.id), self._schema)
        if ended:
            self._app.schedulers.discard(self)
            self._close_pools()
            if self._died:
                raise PgonceError(f"the scheduler has died: {self._died!r}") from self._died
        return ended

    def _close_pools(self) -> None:
        self._run_pool.close()
        if self._shared_pool is None:
            self._pool.close()

    def _run_to_the_end(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            # A process whose scheduler has died looks alive, but runs no jobs. It must end, so that it is restarted.
            log.critical("the scheduler has died: this process ends", exc_info=error)
            self._died = self._died or error
            os.kill(os.getpid(), signal.SIGTERM)

    # The thread that starts the ticks.

    def _run_ticks(self) -> None:
        before = self._clock.now()
        while not self._stop.is_set():
            now = self._clock.now()
            if now < before - _STEP:
                log_errors(self._go_back, now)
            elif self._new_schedules.is_set():
                log_errors(self._renew_queue, now)
            before = now
            log_errors(self._start_due, now)
            soon = now + UPKEEP_EVERY
            self._clock.wait(min(soon, self._queue.next_at or soon), self._stop)

    def _go_back(self, now: datetime) -> None:
        log.warning("the database's clock was set back to %s", now)
        self._store.go_back(now)
        with self._lock:
            self._due = {name: min(reported, now) for name, reported in self._due.items()}
        self._renew_queue(now)

    def _renew_queue(self, now: datetime) -> None:
        self._new_schedules.clear()
        self._queue = TickQueue(self._store.plans, self._store.since, now)

    def _start_due(self, now: datetime) -> None:
        for name, _ in self._queue.due(now):
            with self._lock:
                self._due[name] = now
            self._submit(name)

    # The upkeep.

    def _run_upkeep(self) -> None:
        while not self._stop.is_set():
            log_errors(self._upkeep)
            self._clock.wait(self._clock.now() + UPKEEP_EVERY, self._stop)

    def _upkeep(self) -> None:
        self._compare_clocks()  # the rest only if it succeeds: without a database each would wait for one
        for duty in (
            self._beat, self._sweep, self._executor.close_lost_starts, self._submit_due, self._start_retries,
            self._start_requests, self._update_schedules, self._count_runs,
        ):  # fmt: skip
            if not self._stop.is_set():  # each may hang for a while
                log_errors(duty)

    def _compare_clocks(self) -> None:
        # A failover cuts every connection, and the pool notices each of them at its next use. If each cost one round of
        # upkeep, ticks that are due would wait for minutes.
        for left in reversed(range(self._pool.max_size)):
            try:
                self._clock.set(call_with_timeouts(self._pool, calls.NOW, "pg_catalog"))
                return
            except DatabaseUnavailable as error:
                if not left or isinstance(error.__cause__, PoolTimeout | TimeoutError):
                    raise

    def _beat(self) -> None:
        running = self._executor.running
        self._process.beat(self._pool, len(running), running)

    def _sweep(self) -> None:
        if closed := call_with_timeouts(self._pool, calls.abandon_job_runs(), self._schema):
            log.warning("%s runs had shown no sign of life for their window: closed as failed", closed)

    def _submit_due(self) -> None:
        for name in list(self._due):
            self._submit(name)

    def _start_retries(self) -> None:
        for retry in call_with_timeouts(self._pool, calls.due_job_retries(list(self._app.jobs)), self._schema):
            self._submit_once(retry.run_id, self._app.jobs[retry.name], retry=retry)

    def _start_requests(self) -> None:
        for each in call_with_timeouts(self._pool, calls_operate.open_job_requests(list(self._app.jobs)), self._schema):
            self._submit_once(each.id, self._app.jobs[each.name], request=each.id, key=each.key, scope=each.scope)

    def _update_schedules(self) -> None:
        if self._store.refresh(self._pool, self._clock.now()):
            self._new_schedules.set()
        self._store.write(self._pool)

    def _count_runs(self) -> None:
        if time.monotonic() < self._count_at:
            return
        self._count_at = time.monotonic() + COUNT_EVERY  # also if it fails
        # one day at a time: at first there are 62 of them, and the rest of the upkeep must not wait
        if call_with_timeouts(self._pool, stats.count_job_day(), self._schema):
            self._count_at = 0.0

    # The threads of the jobs get a job, not a tick. When a thread is free, it looks which of the job's ticks are
    # due by then. So the job's own rule applies to a tick that was delayed by busy threads or by the database, and one
    # that could not be started is simply still due.

    def _submit(self, name: Name) -> None:
        with self._lock:
            if name in self._in_progress or name not in self._due:
                return  # the thread that has it looks again before it releases it
            self._in_progress.add(name)
        self._threads.submit(self._run_due, name)

    def _run_due(self, name: Name) -> None:
        """Run the ticks of a job that are due: the first one, or with catch_up "all" one after the other."""
        released = False
        ticks: list[datetime] = []
        try:
            while not (self._stop.is_set() or released):
                reported = self._due[name]
                plan = self._store.plans.get(name)
                if plan is not None:
                    ticks = self._due_ticks(name, ticks, plan.reach, reported)
                if plan is None or not ticks:
                    released = True
                    self._release(name, reported)
                elif self._store.is_retired(self._run_pool, name):
                    self._store.pass_over(name, ticks.pop())
                    ticks.clear()
                elif plan.catch_up == "all" and self._is_busy(name):
                    self._stop.wait(0.2)  # at once, all but the first of its ticks would be skipped as overlaps
                else:
                    execution = self._executor.start(
                        self._app.jobs[name[0]], key=name[1], scope=self._store.scopes.get(name), scheduled_for=ticks[0]
                    )
                    self._store.mark_done(name, ticks.pop(0))
                    if plan.catch_up != "all":  # its next tick may come while this run is at work, and is skipped
                        released = True
                        self._release(name, reported)
                    if execution is not None:
                        self._executor.finish(execution)
        finally:
            if not released:  # it is still due: the next upkeep submits it
                with self._lock:
                    self._in_progress.discard(name)

    def _due_ticks(self, name: Name, ticks: list[datetime], reach: timedelta, reported: datetime) -> list[datetime]:
        # not before it was reported due: a comparison of the clocks may have turned ours back by a little since
        now = max(reported, self._clock.now())
        if ticks and now - ticks[0] <= reach:
            return ticks
        ticks, given_up = self._queue.overdue(name, self._store.since[name], now)
        if given_up:
            reason = "missed: no scheduler has started it, and it is too late for it now"
            call_with_timeouts(self._run_pool, calls_schedule.skip_job_tick(*name, given_up, reason), self._schema)
            self._store.mark_done(name, given_up)
        return ticks

    def _release(self, name: Name, reported: datetime) -> None:
        with self._lock:
            self._in_progress.discard(name)
            if self._due[name] == reported:
                del self._due[name]
                return
        self._submit(name)

    def _is_busy(self, name: Name) -> bool:
        # Another scheduler may be at the same backlog: this tick would be skipped as an overlap of its run.
        running = call_with_timeouts(
            self._run_pool, stats.list_job_runs(name=name[0], status="running", limit=1000), self._schema
        )
        return sum(is_slot_key(run.key, name[1]) for run in running) >= (self._app.jobs[name[0]].slots or 1)

    def _submit_once(self, wanted: UUID, job: Job, **options: Any) -> None:
        """Start the run that ``options`` name in a thread, unless a thread is already starting it."""
        if wanted not in self._wanted:
            self._wanted.add(wanted)
            self._threads.submit(self._run_wanted, wanted, job, options)

    def _run_wanted(self, wanted: UUID, job: Job, options: dict[str, Any]) -> None:
        try:
            execution = self._executor.start(job, **options)
            if execution is not None:
                self._executor.finish(execution)
        finally:
            self._wanted.discard(wanted)
