"""A run of a job: its heartbeats during the work, the fence before every commit, and its end."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, IsolationLevel
from psycopg.pq import TransactionStatus

from pgonce.core.call import Call
from pgonce.core.call_batcher_async import AsyncCallBatcher
from pgonce.core.concurrency_async import CANCELS, call_in_loop, repeating, running_loop, shielded, time_limit
from pgonce.core.connection_reset_async import lent, resetting
from pgonce.core.execute_async import LOST, Pool, call, connection, execute, is_usual, only_in, transaction, translated
from pgonce.core.failures import traceback_of
from pgonce.core.lent_connection import close_for_good, was_lost
from pgonce.core.with_block import AsyncWithBlock
from pgonce.errors import (
    DatabaseUnavailable,
    LeaseLost,
    NotFound,
    PgonceError,
    RunStopped,
    TransactionBroken,
    first_line,
)
from pgonce.jobs import calls
from pgonce.jobs.heartbeat import HeartbeatSender, warn_if_beat_is_late
from pgonce.jobs.pool_address import heartbeat_address
from pgonce.jobs.repeated_call_async import PAUSES, call_repeatedly

log = logging.getLogger("pgonce")

BEAT = 15.0
"""The most seconds between two heartbeats, and so until a stop or progress is noticed in a run with a wide window."""
_ENDED = "a job ended run.transaction() inside, or sent RESET ALL there: leave COMMIT and ROLLBACK to pgonce"


class AsyncRun:
    """A run that is ours until it ends or is taken over. Made by ``jobs.run``.

    Attributes:
        id, name, key, scope, window, scheduled_for: as it was started; a retry has the tick of the first attempt.
        rows_processed, rows_skipped: the counts so far.
    """

    def __init__(
        self,
        pool: Pool,
        schema: str,
        call_batcher: AsyncCallBatcher,
        run_id: UUID,
        start: calls.Start,
        timeout: timedelta | None = None,
    ) -> None:
        self.id = run_id
        self.name = start.name
        self.scope = start.scope
        self.key = start.key
        self.window = start.window
        self.scheduled_for = start.scheduled_for
        self.rows_processed = 0
        self.rows_skipped = 0
        self._counting = threading.Lock()
        self._pool = pool
        self._call_batcher = call_batcher
        self.schema = schema
        self._timeout = timeout
        self._progress: tuple[int | None, int | None] = (None, None)
        self._lost = self._stopping = self._stop_seen = self._silence_seen = False
        self._interruption: str | None = None
        self._ended = self._beats_apart = False
        self._unwritten: str | None = None
        self._last_beat = self._began = time.monotonic()
        self._confirmed = 0
        self._loop = running_loop()
        self._pid = os.getpid()
        self._sender = HeartbeatSender(partial(heartbeat_address, pool), schema, self._call_on_pool)

    @property
    def lost(self) -> bool:
        """Whether another client ended the run, or may have: no heartbeat reached the database for a whole window."""
        self._silence_seen |= self._is_silent
        lost = self._lost or self._is_silent
        self._stop_seen |= lost
        return lost

    @property
    def _is_silent(self) -> bool:
        # the parent of a forked child sends the heartbeats
        return not self._is_inherited and time.monotonic() - self._last_beat > self.window.total_seconds()

    @property
    def _is_inherited(self) -> bool:
        """Whether this is a forked child of the process that the run belongs to."""
        return os.getpid() != self._pid

    @property
    def timed_out(self) -> bool:
        """Whether the run's time is over."""
        return self._timeout is not None and time.monotonic() - self._began >= self._timeout.total_seconds()

    @property
    def stop_requested(self) -> bool:
        """Whether the job should end now: somebody requested it (``pgonce job stop``), its time is over, or it is lost.

        A synchronous job reads this in its loop and returns; an asynchronous one is cancelled. A job that never reads
        it and gets to its end has succeeded.
        """
        self._stop_seen = self._stop_seen or self._stopping or self.timed_out or self.lost
        return self._stop_seen

    def request_stop(self, reason: str) -> None:
        """Ask the job to end now because its process is stopping: the run is closed as failed, and due again.

        A job that does not check ``stop_requested`` and reaches its end has succeeded.
        """
        self._interruption = reason
        self._stopping = True

    def processed(self, rows: int = 1) -> None:
        """Count ``rows`` as processed, in any thread; written with each heartbeat and transaction, and at the end."""
        more = int(rows)  # numpy's, too: what the database refuses would end the heartbeats
        with self._counting:  # threads that read the same sum at once would lose counts
            self.rows_processed += more

    def skipped(self, rows: int = 1) -> None:
        """Count ``rows`` as skipped, in any thread; written as those of ``processed``."""
        more = int(rows)
        with self._counting:
            self.rows_skipped += more

    def progress(self, done: int, total: int | None = None) -> None:
        """Report the progress, for ``pgonce job ls``; written with the next heartbeat."""
        self._progress = (int(done), None if total is None else int(total))

    @AsyncWithBlock.made_by("run.connection()", "conn")
    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection of the pool, for reading; what it writes is not fenced.

        Raises:
            LeaseLost: this is a forked child of the process that the run belongs to.
            DatabaseUnavailable: outside of autocommit, the connection was lost in the body, which did not say so.
            PgonceError: the body caught an error of its transaction, which cannot commit any more.
        """
        self._refuse_in_child()
        async with connection(self._pool) as conn, resetting(conn, self._pool):
            async with lent(conn) as theirs:
                try:
                    yield theirs
                finally:
                    self._detach_in_child(conn)
            if was_lost(conn) and not theirs.autocommit:  # psycopg would leave out the COMMIT, and raise nothing
                raise DatabaseUnavailable(LOST)
            if conn.info.transaction_status == TransactionStatus.INERROR:  # the server's answer to COMMIT is ROLLBACK
                raise PgonceError("a database error in run.connection() was caught: call rollback() after it")

    @AsyncWithBlock.made_by("run.transaction()", "tx")
    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A transaction that commits only while the run is still ours.

        Its last statement is a heartbeat: if a successor has closed the run, there is no row to update, and all is
        rolled back. If not, the row is locked until the commit, and a successor takes the lock for a heartbeat.
        The same statement numbers the transaction and writes the counts, so that they are what was committed.

        Raises:
            LeaseLost: the run was taken over, or its time is over, or this is a forked child of the process that the
                run belongs to, or the database has lost transactions of the run that it had confirmed (a failover to
                a standby that lagged); nothing of this transaction is written.
            TransactionBroken: the body sent COMMIT or ROLLBACK itself; a COMMIT of its own was not fenced.
        """
        async with self.unfenced(resets=True) as conn:
            async with lent(conn) as tx:
                try:
                    yield tx
                finally:
                    self._detach_in_child(conn)  # before a connection that is left busy is closed
            self._refuse_in_child()
            fence = calls.fence_job_run(self.id, *self._figures())
            started = time.monotonic()  # before the statement is sent: the database reads its clock no earlier
            same = only_in(self._session, fence.statement(self.schema))
            is_ours = await execute(conn, fence, self.schema, statement=same)
            if is_ours is None:
                raise TransactionBroken(_ENDED)
            if not is_ours:
                self._lost = True
                why = await self._lost_because(conn)
                raise LeaseLost(f"{why}: this transaction is rolled back")
            self._last_beat = started
        self._confirmed += 1

    @asynccontextmanager
    async def unfenced(self, *, resets: bool = False) -> AsyncIterator[AsyncConnection[Any]]:
        """``transaction`` for a body that calls a function which contains the fence, such as advance_seed.

        Args:
            resets: whether the connection is reset afterwards, because code of the user's gets it.
        """
        self._refuse_in_child()
        async with connection(self._pool) as conn, resetting(conn, self._pool) if resets else nullcontext():
            await self._keep_heartbeats_apart(conn)
            async with transaction(conn, self._session, self.window):
                try:
                    yield conn
                finally:
                    self._detach_in_child(conn)
                if self.timed_out:  # by our own clock: the row is closed a moment later, until then a beat finds it
                    raise LeaseLost(f"{self._title} timed out after {self._timeout}: this transaction is rolled back")

    async def _keep_heartbeats_apart(self, conn: AsyncConnection[Any]) -> None:
        """Before a transaction that keeps one snapshot: see jobs_fence.sql. Elsewhere this costs no round trip."""
        level = conn.isolation_level
        if self._beats_apart or level in {IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED}:
            return
        if level is not None or not await is_usual(conn):
            await execute(conn, calls.keep_heartbeats_apart(self.id), self.schema)
            await conn.commit()  # no round trip in autocommit
            self._beats_apart = True

    def _refuse_in_child(self) -> None:
        if self._is_inherited:
            raise LeaseLost(
                f"{self._title} belongs to process {self._pid}, and this is its forked child {os.getpid()}:"
                " start a run of its own here, on a pool of its own"
            )

    def _detach_in_child(self, conn: AsyncConnection[Any]) -> None:
        """Cut a forked child off the connection: its COMMIT or ROLLBACK would go out on its parent's socket."""
        if self._is_inherited and not conn.closed:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                os.dup2(ours.fileno(), conn.fileno())
            close_for_good(conn)  # or a statement that a thread of the parent executes would be cancelled

    def _send_heartbeat(self) -> bool:
        """One heartbeat, in the thread that sends them; False when the body should end."""
        if self.timed_out and not CANCELS:  # the thread of the job goes on; with its heartbeats the run would, too
            return not call_in_loop(self._loop, self._fail_late(), self.window.total_seconds())
        wanted = calls.report_job_run(self.id, *self._figures())
        started = time.monotonic()
        try:
            answer = self._sender.send(wanted, self._every)
        except NotFound:  # a failover has lost its start, or somebody has deleted its row
            self._lost = True
        except (psycopg.Error, PgonceError) as error:
            # the next one is sent a third of a window later, and after a window without any the run counts as lost
            log.warning("%s: a heartbeat could not be sent: %s", self._title, first_line(error))
        else:
            self._lost = self._lost or answer == "lost"
            self._stopping = self._stopping or answer == "stopping"
            warn_if_beat_is_late(self._title, time.monotonic() - self._last_beat, self.window)
            self._last_beat = started
        # Reading `self.lost` records that the job has seen the stop: here a job in a thread has not.
        return not (self.lost or self._stopping) if CANCELS else not (self._lost or self._is_silent)

    async def _fail_late(self) -> bool:
        """End the run because its time is over. Return whether it has ended."""
        await self.fail(self._timed_out_because())
        return self._ended

    async def _execute_on_pool(self, wanted: Call[Any], seconds: float) -> Any:
        async with translated(self._pool.connection(seconds)) as conn:
            return await execute(conn, wanted, self.schema)

    def _call_on_pool(self, wanted: Call[Any], seconds: float) -> Any:
        try:
            return call_in_loop(self._loop, self._execute_on_pool(wanted, seconds), seconds)
        except TimeoutError as error:
            raise DatabaseUnavailable(f"there was no connection for {seconds:g} s") from error

    @property
    def _every(self) -> float:
        """Seconds from one heartbeat to the next."""
        return min(self.window.total_seconds() / 3, BEAT)

    def beating(self) -> AbstractAsyncContextManager[None]:
        """Send a heartbeat every third of the window during the body."""
        return repeating(self._send_heartbeat, self._every, self.window.total_seconds() - self._every)

    def within_timeout(self) -> AbstractAsyncContextManager[object]:
        """End the run when its time is over."""
        return time_limit(None, None if self._timeout is None else self._timeout.total_seconds(), self.fail)

    def close(self) -> None:
        """Close the connection of the heartbeats, after the last one."""
        self._sender.close()

    async def end(self) -> None:
        """End the run as succeeded, with its counts; or as failed, when it was stopped.

        In a forked child of the process that the run belongs to this does nothing.

        Raises:
            RunStopped: somebody requested it.
            LeaseLost: it was taken over; or its heartbeats did not get through and the body was stopped for it; or the
                database has lost transactions of the run: then it has failed, and is retried if it has retries.
            DatabaseUnavailable: it could not be written for a minute. The run is left to its window: it has not failed,
                and may be recorded already.
        """
        if self._ended or self._is_inherited:
            return
        if self._unwritten is not None:
            await self.fail(self._unwritten)
            return
        was_stopped = CANCELS or self._stop_seen
        if was_stopped and self._stopping:
            why = self._interruption or "stopped on request"
            await self.fail(why)
            raise RunStopped(f"{self._title}: {why}")
        if was_stopped and (self._is_silent or self._silence_seen) and not self._lost:
            silent = f"no heartbeat reached the database for {self.window}"
            await self.fail(silent)
            raise LeaseLost(f"{self._title} was stopped: {silent}")
        complete = calls.complete_job_run(self.id, self.rows_processed, self.rows_skipped, self._confirmed)
        try:
            completed = not self._lost and await self._record_end(complete)
        except DatabaseUnavailable:
            self._ended = True
            raise
        except NotFound:
            completed = False
        if not completed:
            self._ended = True
            why = await self._lost_because()
            raise LeaseLost(f"{why}: its work is not counted")
        self._ended = True

    async def fail(self, reason: BaseException | str) -> None:
        """End the run as failed, for a reason or with the traceback of an error; the counts are kept.

        Nothing is raised: the job's own error matters more, and a successor closes a run that is left open. A failure
        that could not be written is written by the next call of this or ``end``, with its first reason.
        """
        if self._ended or self._is_inherited:
            return
        self._ended = True
        if self._lost:
            await shielded(self._lost_because())
            return
        # LeaseLost, too: a transaction may see the end of the time before the timer's thread has woken
        late = isinstance(reason, (TimeoutError, LeaseLost)) and self.timed_out
        # an error, too, that a job raises without having looked: the stop may have reached its child process
        was_stopped = CANCELS or self._stop_seen or (isinstance(reason, BaseException) and not late)
        if isinstance(reason, BaseException):
            reason = self._timed_out_because() if late else traceback_of(reason)
        reason = self._unwritten or reason
        closing = calls.fail_job_run(self.id, reason)
        if self._interruption and was_stopped:
            closing = calls.interrupt_job_run(self.id, self._interruption)
        try:
            # silent: the database has been unavailable for a whole window, so the caller should not wait any longer
            await shielded(self._record_end(closing, once=self._is_silent))
        except (PgonceError, psycopg.Error):
            self._ended = False  # whoever ends it next tries again
            self._unwritten = reason

    async def _record_end(self, wanted: Call[bool], *, once: bool = False) -> bool:
        own = self.timed_out or self._is_silent  # a job that hangs may hold the pool's connections
        pauses = () if once else PAUSES
        return await call_repeatedly(self._pool, self.schema, wanted, self._call_batcher, pauses, on_own_connection=own)

    def _figures(self) -> tuple[int, int, int, int | None, int | None]:
        return self._confirmed, self.rows_processed, self.rows_skipped, *self._progress

    @property
    def _session(self) -> str:
        """What the session is called during a transaction of the run."""
        return f"pgonce {self.id}"

    @property
    def _title(self) -> str:
        return f"run {self.id} of job {self.name}"

    def _timed_out_because(self) -> str:
        return f"timed out after {self._timeout}"

    async def _lost_because(self, conn: AsyncConnection[Any] | None = None) -> str:
        """Who ended the run, as its row has it. Without ``conn`` this records that the process worked until now."""
        if self.timed_out:
            return f"{self._title} {self._timed_out_because()}"
        why = calls.explain_job_run_end(self.id) if conn else calls.note_lost_job_run(self.id)
        try:
            found = await (execute(conn, why, self.schema) if conn else call(self._pool, why, self.schema))
        except (PgonceError, psycopg.Error):
            found = None
        return f"{self._title} {found or 'has been ended by somebody else'}"
