"""A job's run: the guard, the heartbeat beside the work, and the fence in front of every commit."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg import AsyncConnection

from pgonce._async.execute import Pool, call, connection, execute, transaction
from pgonce._async.waiting import Result, repeating
from pgonce.errors import DatabaseUnavailable, InvalidArgument, LeaseLost, PgonceError
from pgonce.protocol import jobs as protocol
from pgonce.protocol.interval import interval

T = TypeVar("T")


class AsyncRun:
    """A run that is ours until it ends or is taken over. Made by ``jobs.run``."""

    def __init__(self, pool: Pool, schema: str, run_id: UUID, start: protocol.Start) -> None:
        self.id = run_id
        self.name = start.name
        self.scope = dict(start.scope)
        self.key = start.key
        self.window = start.window
        self.rows_processed = 0
        self.rows_skipped = 0
        self._pool = pool
        self._schema = schema
        self._lost = False
        self._last_beat = time.monotonic()
        self._beating: AsyncConnection[Any] | None = None

    @property
    def lost(self) -> bool:
        """Whether the run was taken over, or must be assumed so: no heartbeat got through for a whole window.

        A synchronous job looks here in its loop and stops; an asynchronous one is cancelled.
        """
        return self._lost or time.monotonic() - self._last_beat > self.window.total_seconds()

    def processed(self, rows: int = 1) -> None:
        """Count ``rows`` as processed; written when the run ends."""
        self.rows_processed += rows

    def skipped(self, rows: int = 1) -> None:
        """Count ``rows`` as skipped; written when the run ends."""
        self.rows_skipped += rows

    def connection(self) -> AbstractAsyncContextManager[AsyncConnection[Any]]:
        """A connection of the pool, for reading beside the transactions; what it writes is not fenced."""
        return connection(self._pool)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A transaction that commits only while the run is still ours.

        Its last statement is a heartbeat: if a successor has closed the run, there is no row to beat, and all is
        rolled back. If not, the row is locked until the commit, and a successor sees the lock as a sign of life.

        Raises:
            LeaseLost: the run was taken over; nothing of this transaction is written.
        """
        async with connection(self._pool) as conn, transaction(conn, f"pgonce {self.id}", self.window):
            yield conn
            if not await self._beat(conn):
                raise LeaseLost(f"run {self.id} of job {self.name} was taken over: this transaction is rolled back")

    async def _beat(self, conn: AsyncConnection[Any]) -> bool:
        # timed from before the statement is sent: the database reads its clock no earlier than that
        started = time.monotonic()
        alive = await execute(conn, protocol.beat_job_run(self.id), self._schema)
        self._lost = self._lost or not alive
        self._last_beat = started
        return alive

    async def _heartbeat(self) -> bool:
        """One beat beside the work; False when the run is lost.

        On a connection of its own, because the pool's may all be at work; opened at the first beat, a third of the
        window after the start, so that short runs never open one.
        """
        try:
            if self._beating is None or self._beating.closed:
                self._beating = await _connect(self._pool)
            await self._beat(self._beating)
        except (psycopg.Error, PgonceError):
            await self._close()  # the next beat tries anew, until the window is over
        self._lost = self.lost
        return not self._lost

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """A heartbeat every third of the window beside the body."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close)
            await stack.enter_async_context(repeating(self._heartbeat, self.window.total_seconds() / 3))
            yield

    async def _close(self) -> None:
        if self._beating is not None:
            await self._beating.close()
            self._beating = None

    async def complete(self) -> bool:
        """End the run as succeeded, with its counts; False when it was taken over."""
        end = protocol.complete_job_run(self.id, self.rows_processed, self.rows_skipped)
        return not self._lost and await call(self._pool, end, self._schema)

    async def fail(self, error: BaseException) -> None:
        """End the run as failed, with the traceback of ``error``."""
        reason = "".join(traceback.format_exception(error))
        with suppress(PgonceError, psycopg.Error):  # the job's error matters more; a successor closes the run
            await call(self._pool, protocol.fail_job_run(self.id, reason), self._schema)


async def _connect(pool: Pool) -> AsyncConnection[Any]:
    if callable(pool.conninfo) or callable(pool.kwargs):
        raise InvalidArgument("the pool's conninfo and kwargs are functions: pgonce needs them as values")
    options = {"connect_timeout": 5, **(pool.kwargs or {}), "autocommit": True}
    return await AsyncConnection.connect(pool.conninfo, **options)


class AsyncJobs:
    """Runs that never overlap.

    Args:
        pool: a psycopg pool. In autocommit it saves a round trip; any setting is correct.
        schema: where ``pgonce migrate`` put the tables.
    """

    def __init__(self, pool: Pool, *, schema: str = "public") -> None:
        self._pool = pool
        self._schema = schema

    @asynccontextmanager
    async def run(
        self,
        name: str,
        *,
        scope: Mapping[str, Any] | None = None,
        key: str = "",
        window: timedelta | str = protocol.WINDOW,
        scheduled_for: datetime | None = None,
    ) -> AsyncIterator[AsyncRun | None]:
        """One run of job ``name``, from start to its recorded end; None on overlap.

        ::

            async with jobs.run("stats_cache") as run:
                if run is None:
                    return  # another run is at work; a "skipped" row says which
                ...

        Args:
            name: the job's name.
            scope: what this run works on, such as ``{"user_id": ..., "batch_number": 3}``; for people to read.
            key: runs with different keys may run side by side.
            window: without a heartbeat for this long the run counts as dead. Beats are sent every third of it.
            scheduled_for: the tick this run is for; it fires once over all machines.

        Raises:
            LeaseLost: at the end, when the run was taken over meanwhile.
            Exception: the body's own; the run is recorded as ``failed`` with its traceback.
        """
        start = protocol.Start(name, interval(window, "the window"), key, scope or {}, scheduled_for)
        run_id = await call(self._pool, protocol.start_job_run(start), self._schema)
        if run_id is None:
            yield None
            return
        run = AsyncRun(self._pool, self._schema, run_id, start)
        try:
            async with run.beating():
                yield run
            if not await run.complete():
                raise LeaseLost(f"run {run.id} of job {name} was taken over: another run goes on with its work")
        except (LeaseLost, DatabaseUnavailable):
            raise  # it is not ours to end, or there is nowhere to write: the successor closes it
        except BaseException as error:
            await run.fail(error)
            raise

    def job(
        self, name: str, *, key: str = "", window: timedelta | str = protocol.WINDOW
    ) -> Callable[[Callable[[AsyncRun], Result[T]]], Callable[[], Result[T | None]]]:
        """A decorator: calling the function runs it as job ``name``; on overlap it returns None at once."""

        def decorate(function: Callable[[AsyncRun], Result[T]]) -> Callable[[], Result[T | None]]:
            @functools.wraps(function)
            async def guarded() -> T | None:
                async with self.run(name, key=key, window=window) as run:
                    return None if run is None else await function(run)

            return guarded

        return decorate
