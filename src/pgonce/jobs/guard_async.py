"""Jobs: the guard that prevents overlapping runs."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pgonce.core.call import Call
from pgonce.core.call_batcher_async import AsyncCallBatcher
from pgonce.core.callables import ensure_awaitable
from pgonce.core.concurrency_async import CANCELS, Result, running_loop
from pgonce.core.execute_async import Pool, call
from pgonce.core.failures import is_success
from pgonce.core.interval import interval
from pgonce.core.registration import check_count, check_function, check_name, check_pool, check_schema
from pgonce.core.telemetry import working
from pgonce.core.with_block import AsyncWithBlock
from pgonce.errors import DatabaseUnavailable, NotFound, PgonceError
from pgonce.jobs import calls
from pgonce.jobs.calls_operate import EXPECT_GRACE, expect_job
from pgonce.jobs.lost_starts import KEPT, LostStart, lost_starts
from pgonce.jobs.pool_address import place_of
from pgonce.jobs.registry import Job
from pgonce.jobs.repeated_call_async import call_repeatedly
from pgonce.jobs.run_async import AsyncRun

__all__ = ["AsyncJobs", "AsyncRun"]

T = TypeVar("T")

log = logging.getLogger("pgonce")

SHORT_PAUSES = (0.2, 1.0, 3.0)
"""Seconds between attempts to start a run after the first answer was lost: the next start in this process closes it."""


class AsyncGuard:
    """Starts runs and follows them to their ends, for `AsyncJobs`, the scheduler and the commands.

    Args:
        pool: as of `AsyncJobs`.
        schema: where ``pgonce migrate`` put the tables.
        pauses: seconds between attempts to start a run after the first answer was lost.

    Raises:
        InvalidArgument: the pool's ``conninfo`` or ``kwargs`` is a function.
    """

    def __init__(self, pool: Pool, schema: str, pauses: Iterable[float] = SHORT_PAUSES) -> None:
        self._place = place_of(pool, schema)  # refused now, and not at the first heartbeat
        self._pool = pool
        self._schema = schema
        self._pauses = pauses
        self._call_batcher = AsyncCallBatcher(pool, schema, self._unclaimed)

    async def _unclaimed(self, started: Any) -> None:
        if isinstance(started, UUID):  # nobody holds it: it would block its successors for a whole window
            fail = calls.fail_job_run(started, "cancelled before it had begun")
            with suppress(PgonceError, psycopg.Error):
                await call_repeatedly(self._pool, self._schema, fail, self._call_batcher)

    def begin(
        self,
        job: Job,
        *,
        scope: Mapping[str, Any] | None = None,
        key: str | None = None,
        scheduled_for: datetime | None = None,
        retry: calls.Retry | None = None,
        request: UUID | None = None,
    ) -> AbstractAsyncContextManager[AsyncRun | None]:
        """A run of a registered job, as its registration says; None on overlap. Raises as ``AsyncJobs.run``.

        Args:
            job: the job.
            scope: what the run works on.
            key: in place of the job's own.
            scheduled_for: the tick this run is for.
            retry: a failed run whose next attempt this is.
            request: an operator's request that this run answers; its scope and key are the request's.
        """
        if retry is not None:
            stored = calls.Start(retry.name, retry.window, retry.key, retry.scope, retry.scheduled_for, stored=True)
            return self.start(stored, job.timeout, partial(calls.retry_job_run, retry.run_id, job.slots))
        start = calls.Start(
            job.name, job.window, job.key if key is None else key, scope or {}, scheduled_for, job.retries, job.backoff,
            job.slots,
        )  # fmt: skip
        by = None if request is None else partial(calls.start_requested_job_run, request, start)
        return self.start(start, job.timeout, by)

    @asynccontextmanager
    async def start(
        self,
        start: calls.Start,
        timeout: timedelta | None = None,
        by: Callable[[UUID], Call[UUID | None]] | None = None,
    ) -> AsyncIterator[AsyncRun | None]:
        """A run, from its start to its recorded end; None on overlap. ``by`` starts it; otherwise `start_job_run`."""
        run_id = await self._begin(by or partial(calls.start_job_run, start), start)
        if run_id is None:
            yield None
            return
        run = AsyncRun(self._pool, self._schema, self._call_batcher, run_id, start, timeout)
        ids = {"run_id": str(run_id), "job": run.name}
        try:
            with working(f"run {run.name}", "internal", ids, _trigger(start)):
                async with run.beating(), run.within_timeout():
                    yield run
            await run.end()
        except SystemExit as error:  # its exit code says success to cron: so must the row
            await (run.end() if is_success(error) else run.fail(error))
            raise
        except BaseException as error:
            # The run is closed also after an error that says "lost" or "unavailable". Such an error may be of something
            # else than this run, and a run that is left open blocks its successors for a whole window.
            await run.fail(error)
            raise
        finally:
            run.close()

    async def _begin(self, by: Callable[[UUID], Call[UUID | None]], start: calls.Start) -> UUID | None:
        """The id of the run that ``by`` starts; None on overlap."""
        running_loop()
        for run_id, lost in list(lost_starts.items()):
            if (lost.place, lost.start.name, lost.start.key) != (self._place, start.name, start.key):
                continue
            closed = await close_lost_start(self._pool, self._schema, run_id)
            # what another scope or tick asked for is not this run's retry
            if closed and (lost.start.scope, lost.start.scheduled_for) == (start.scope, start.scheduled_for):
                again = await self._send(partial(calls.retry_job_run, run_id, start.slots), start)
                if again is not None:
                    return again
        return await self._send(by, start)

    async def _send(self, by: Callable[[UUID], Call[UUID | None]], start: calls.Start) -> UUID | None:
        run_id = uuid4()
        wanted = by(run_id)
        try:
            return await self._call_batcher.value(wanted)
        except DatabaseUnavailable as error:
            if isinstance(error.__cause__, PoolTimeout | TimeoutError):  # it was not sent
                raise
        # Its answer was lost. The same id again is the same run, whether it has been started or not.
        found = None
        try:
            found = await call_repeatedly(self._pool, self._schema, wanted, self._call_batcher, self._pauses)
        finally:
            if found is None:  # also where the server is still busy with the first one
                lost_starts[run_id] = LostStart(self._place, start, time.monotonic())
        return found


class AsyncJobs:
    """Runs that never overlap.

    Args:
        pool: a psycopg pool. In autocommit it saves a round trip; any setting is correct. Its ``conninfo`` and
            ``kwargs`` must be values, not functions: heartbeats open a connection of their own with them.
        schema: where ``pgonce migrate`` put the tables.

    Raises:
        InvalidArgument: the pool's ``conninfo`` or ``kwargs`` is a function.
    """

    def __init__(self, pool: Pool, *, schema: str = "public") -> None:
        check_pool(pool, AsyncConnectionPool, "AsyncJobs")
        check_schema(schema)
        self._guard = AsyncGuard(pool, schema)
        self._pool = pool
        self._schema = schema
        self._promises: set[tuple[Any, ...]] = set()

    def run(
        self,
        name: str,
        *,
        scope: Mapping[str, Any] | None = None,
        key: str = "",
        window: timedelta | str = calls.WINDOW,
        scheduled_for: datetime | None = None,
        retries: int = 0,
        backoff: timedelta | str = calls.BACKOFF,
        timeout: timedelta | str | None = None,
        slots: int | None = None,
        expect_every: timedelta | str | None = None,
        expect_grace: timedelta | str = EXPECT_GRACE,
    ) -> AbstractAsyncContextManager[AsyncRun | None]:
        """One run of job ``name``, from start to its recorded end; None on overlap.

        ::

            async with jobs.run("stats_cache") as run:
                if run is None:
                    return  # another run is at work; a "skipped" row says which
                ...

        Args:
            name: the job's name.
            scope: what this run works on, such as ``{"user_id": ..., "batch_number": 3}``; for people to read. A UUID,
                a date or time and a Decimal are written as text.
            key: runs with different keys may run side by side.
            window: without a heartbeat for this long the run counts as dead. Beats are sent every third of it, and at
                least every 15 s.
            scheduled_for: the tick this run is for; it fires once over all machines.
            retries: how often a failure is retried, by a worker whose app has the job.
            backoff: the time before the first retry, at most a day; it doubles with each, up to a day.
            timeout: after this long the run has failed; see ``run.stop_requested``.
            slots: at most this many runs of the job and key at once, 1 to 1000.
            expect_every: from this call on the job must start at least this often, whoever starts it; otherwise it is
                alerted as missed. Written once for each object of this class.
            expect_grace: how long after ``expect_every`` the alert is sent.

        Raises:
            InvalidArgument: an argument that the database cannot hold; the message names it.
            LeaseLost: at the end, when the run was taken over meanwhile.
            RunStopped: at the end, when somebody asked for it.
            TimeoutError: its time was over.
            Exception: the body's own; the run is recorded as ``failed`` with its traceback.
        """
        length, pause = interval(window, "the window"), interval(backoff, "the backoff")
        start = calls.Start(name, length, key, {} if scope is None else scope, scheduled_for, retries, pause, slots)
        limit = None if timeout is None else interval(timeout, "the timeout")
        started = self._guard.start(start, limit)
        if expect_every is not None:
            every, grace = interval(expect_every, "expect_every"), interval(expect_grace, "expect_grace")
            started = self._expected(started, expect_job(name, every, grace, key))
        return AsyncWithBlock(started, f'jobs.run("{name}")', "run")

    @asynccontextmanager
    async def _expected(
        self, started: AbstractAsyncContextManager[AsyncRun | None], expected: Call[None]
    ) -> AsyncIterator[AsyncRun | None]:
        # before the start, so that a skipped run registers the expectation, too
        promise = tuple(expected.args.values())
        if promise not in self._promises:
            await call(self._pool, expected, self._schema)
            self._promises.add(promise)
        async with started as run:
            yield run

    def job(
        self,
        name: str,
        *,
        key: str = "",
        window: timedelta | str = calls.WINDOW,
        slots: int | None = None,
        expect_every: timedelta | str | None = None,
        expect_grace: timedelta | str = EXPECT_GRACE,
    ) -> Callable[[Callable[[AsyncRun], Result[T]]], Callable[[], Result[T | None]]]:
        """A decorator: calling the function runs it as job ``name``; on overlap it returns None at once."""
        check_name(name, "@jobs.job", "the job's name", "stats_cache")
        interval(window, f"the window of job {name}")
        if slots is not None:
            check_count(slots, f"slots of job {name}", 1, calls.MOST_SLOTS)
        more: dict[str, Any] = {"slots": slots, "expect_every": expect_every, "expect_grace": expect_grace}

        def decorate(function: Callable[[AsyncRun], Result[T]]) -> Callable[[], Result[T | None]]:
            plain = "" if CANCELS else "make it plain, or use the asynchronous class"
            check_function(function, f"the function of job {name}", ("run",), plain=plain)

            @functools.wraps(function)
            async def guarded() -> T | None:
                async with self.run(name, key=key, window=window, **more) as run:
                    return None if run is None else await ensure_awaitable(function(run))

            vars(guarded).pop("__wrapped__")  # frameworks would read its signature, and pass a run
            return guarded

        return decorate


async def close_lost_start(pool: Pool, schema: str, run_id: UUID, send: Callable[..., Result[Any]] = call) -> bool:
    """Close the run of one of the `lost_starts`, if there is one: nothing was run, and it is due again.

    If it raises, it is to be called again. A thread that must not wait for a row's lock passes `call_with_timeouts`.
    """
    try:
        closing = calls.interrupt_job_run(run_id, "the answer to its start was lost: nothing was run")
        closed: bool = await send(pool, closing, schema)
    except NotFound:  # the server may still be busy with it
        lost = lost_starts.get(run_id)
        if lost is not None and time.monotonic() < lost.sent + KEPT:
            return False
        closed = False
    lost = lost_starts.pop(run_id, None)
    if closed and lost is not None:
        log.warning("job %s: the answer to the start of run %s was lost: it is started again", lost.start.name, run_id)
    return closed


def _trigger(start: calls.Start) -> dict[str, str]:
    return {} if start.scheduled_for is None else {"faas.trigger": "timer", "faas.time": str(start.scheduled_for)}
