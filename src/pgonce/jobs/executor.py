"""Runs registered jobs in this process, synchronous or not. Each run is two calls, ``start`` and ``finish``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import psycopg

from pgonce.core import database, event_loop
from pgonce.core.callables import ensure_awaitable, ensure_result
from pgonce.core.concurrency import isolated
from pgonce.core.database import call_with_timeouts
from pgonce.core.execute import Pool
from pgonce.core.failures import ErrorHook, is_success, log_failure
from pgonce.core.forked_child import ends_forked_child
from pgonce.errors import PgonceError, RunStopped, class_and_line
from pgonce.jobs import calls
from pgonce.jobs.guard import Guard, Run, close_lost_start
from pgonce.jobs.guard_async import AsyncGuard, AsyncRun
from pgonce.jobs.lost_starts import lost_starts
from pgonce.jobs.pool_address import place_of
from pgonce.jobs.registry import Job

log = logging.getLogger("pgonce")

_STOPPED = (RunStopped, asyncio.CancelledError, CancelledError)


@dataclass(eq=False, frozen=True, slots=True)
class Execution:
    """A run that has started, and whose function has not been called yet or has not ended."""

    job: Job
    run: Run | AsyncRun
    finish: Callable[[], Any]
    request_stop: Callable[[str], Any]


class _AsyncBody:
    """The function of an asynchronous run, at work in the event loop of the process."""

    def __init__(self, run: AsyncRun) -> None:
        self.run = run
        self._task = asyncio.current_task()

    async def call(self, function: Callable[[AsyncRun], Any]) -> None:
        """Call the function, once."""
        try:
            with ends_forked_child():
                await ensure_awaitable(function(self.run))
        finally:
            self._task = None

    def request_stop(self, reason: str) -> None:
        """Cancel the function; called in the event loop. If it has returned, the end of the run is being recorded.

        A cancellation then would leave the run to be closed as failed and due again, though its work is done.
        """
        if self._task is not None:
            self.run.request_stop(reason)
            self._task.cancel()


class Executor:
    """Starts and finishes runs. The failure of a run is recorded in its row and in the log.

    Args:
        pool: for synchronous runs.
        url: the database; an asynchronous run has connections of its own, in the process's event loop.
        schema: where ``pgonce migrate`` put the tables.
        closing: for closing runs that do not end, and may hold all connections of ``pool``.
        on_error: of the app.
    """

    def __init__(self, pool: Pool, url: str, schema: str, closing: Pool, on_error: ErrorHook | None = None) -> None:
        self._pool = pool
        self._closing = closing
        self._url = url
        self._schema = schema
        self._on_error = on_error
        self._stop_reason: str | None = None
        self._running: set[Execution] = set()

    @property
    def running(self) -> list[str]:
        """The runs in progress, as text."""
        return [f"{each.job.name} {str(each.run.id)[:8]}" for each in self._running.copy()]

    def start(self, job: Job, **options: Any) -> Execution | None:
        """Let the database decide whether a run starts; ``options`` are those of ``Guard.begin``. None: it does not.

        Raises:
            PgonceError: it could not decide, or its answer was lost. It must be started again.
        """
        try:
            execution = self._start_async(job, options) if job.is_async else self._start_sync(job, options)
        except Exception as error:
            raise PgonceError(f"job {job.name} could not be started: {class_and_line(error)}") from error
        if execution is not None:
            self._running.add(execution)
            if self._stop_reason is not None:
                execution.request_stop(self._stop_reason)
        return execution

    def close_lost_starts(self) -> None:
        """Close the runs whose starts were not answered. Such a run would block its job for a whole window."""
        place = place_of(self._closing, self._schema)
        for run_id in [each for each, lost in list(lost_starts.items()) if lost.place == place]:
            close_lost_start(self._closing, self._schema, run_id, call_with_timeouts)

    def finish(self, execution: Execution) -> None:
        """Call the job's function, and wait for the recorded end of the run."""
        try:
            execution.finish()
        except SystemExit as error:  # ends the run, and neither this thread nor the process
            if not is_success(error):
                log_failure(f"job {execution.job.name}", error)
        except BaseException as error:  # noqa: BLE001 -- whatever the job raises, KeyboardInterrupt too: it ends the run
            job, run = execution.job.name, execution.run
            if isinstance(error, _STOPPED) and run.stop_requested:
                log.info("job %s: run %s was stopped", job, run.id)
            else:
                log_failure(f"job {job}", error, {"job": job, "run_id": str(run.id)}, run, self._on_error)
        finally:
            self._running.discard(execution)

    def request_stop(self, reason: str) -> None:
        """Ask all runs to end now, also those that start from now on: asynchronous ones are cancelled."""
        self._stop_reason = reason
        for execution in self._running.copy():
            execution.request_stop(reason)

    def close_runs(self, reason: str) -> None:
        """Close the runs that have not ended, as failed and due again; what they still write is refused."""
        for execution in self._running.copy():
            with suppress(PgonceError, psycopg.Error):  # else another worker closes it after its window
                call_with_timeouts(self._closing, calls.interrupt_job_run(execution.run.id, reason), self._schema)
                log.warning("job %s: run %s did not end in time: closed", execution.job.name, execution.run.id)

    def _start_sync(self, job: Job, options: dict[str, Any]) -> Execution | None:
        stack = ExitStack()
        run = stack.enter_context(Guard(self._pool, self._schema).begin(job, **options))
        if run is None:
            stack.close()
            return None

        def finish() -> None:
            with stack, ends_forked_child():
                isolated(lambda: ensure_result(job.function(run)))

        return Execution(job, run, finish, run.request_stop)

    def _start_async(self, job: Job, options: dict[str, Any]) -> Execution | None:
        loop = event_loop.background()
        started: Future[_AsyncBody | None] = Future()
        ended = loop.submit(self._run_async(job, started, options))
        body = started.result()
        if body is None:
            return None

        def request_stop(reason: str) -> None:
            loop.loop.call_soon_threadsafe(body.request_stop, reason)

        return Execution(job, body.run, ended.result, request_stop)

    async def _run_async(self, job: Job, started: Future[Any], options: dict[str, Any]) -> None:
        # a run must begin and end in one task, because a lost run cancels that task
        try:
            async with await database.open_async_pool(self._url, 4) as pool:
                async with AsyncGuard(pool, self._schema).begin(job, **options) as run:
                    body = None if run is None else _AsyncBody(run)
                    started.set_result(body)
                    if body is not None:
                        await body.call(job.function)
        except SystemExit as error:
            if not is_success(error):
                raise
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)
