# Generated from run_async.py by tools/unasync.py: edit that one, then `make generate`.
"""A job's run: the heartbeat beside the work, the fence in front of every commit, and its end."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus

from pgonce.core.call import Call
from pgonce.core.call_batcher import CallBatcher
from pgonce.core.concurrency import CANCELS, repeating, shielded, sleep, time_limit
from pgonce.core.execute import Pool, call, connection, execute, transaction
from pgonce.errors import (
    DatabaseUnavailable,
    InvalidArgument,
    LeaseLost,
    PgonceError,
    RunStopped,
    TransactionBroken,
    is_transient,
    translate,
)
from pgonce.jobs import calls as protocol

BEAT = 15.0
"""Seconds between two heartbeats at most: how long a stop or the progress may go unseen in a run with a wide window."""
PAUSES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between attempts to write a run's end: a restart or a failover is over by then."""


class Run:
    """A run that is ours until it ends or is taken over. Made by ``jobs.run``."""

    def __init__(
        self,
        pool: Pool,
        schema: str,
        call_batcher: CallBatcher,
        run_id: UUID,
        start: protocol.Start,
        timeout: timedelta | None = None,
    ) -> None:
        self.id = run_id
        self.name = start.name
        self.scope = copy(start.scope)
        self.key = start.key
        self.window = start.window
        self.scheduled_for = start.scheduled_for
        """The tick this run is for, in UTC or the zone it was given in; a retry has the tick of the first attempt."""
        self.rows_processed = 0
        self.rows_skipped = 0
        self._pool = pool
        self._call_batcher = call_batcher
        self.schema = schema
        self._timeout = timeout
        self._progress: tuple[int | None, int | None] = (None, None)
        self._lost = False
        self._stopping = False
        self._told = False
        self._interruption: str | None = None
        self._ended = False
        self._last_beat = self._began = time.monotonic()
        self._beating: Connection[Any] | None = None

    @property
    def lost(self) -> bool:
        """Whether the run was taken over, or must be assumed so: no heartbeat got through for a whole window."""
        return self._lost or time.monotonic() - self._last_beat > self.window.total_seconds()

    @property
    def timed_out(self) -> bool:
        """Whether the run's time is over."""
        return self._timeout is not None and time.monotonic() - self._began >= self._timeout.total_seconds()

    @property
    def stop_requested(self) -> bool:
        """Whether the job should end now: somebody asked (``pgonce job stop``), its time is over, or the run is lost.

        A synchronous job looks here in its loop and returns; an asynchronous one is cancelled. One that never looks
        and gets to its end has succeeded.
        """
        self._told = self._told or self._stopping
        return self._told or self.timed_out or self.lost

    def request_stop(self, reason: str) -> None:
        """Ask the job to end now because its process is stopping: the run is closed as failed, and due again.

        One that does not look at ``stop_requested`` and gets to its end has succeeded.
        """
        self._interruption = reason
        self._stopping = True

    def processed(self, rows: int = 1) -> None:
        """Count ``rows`` as processed; written when the run ends."""
        self.rows_processed += int(rows)  # numpy's, too: what the database refuses would end the heartbeats

    def skipped(self, rows: int = 1) -> None:
        """Count ``rows`` as skipped; written when the run ends."""
        self.rows_skipped += int(rows)

    def progress(self, done: int, total: int | None = None) -> None:
        """How far the run is, for ``pgonce job ls``; written with the next heartbeat."""
        self._progress = (int(done), None if total is None else int(total))

    def connection(self) -> AbstractContextManager[Connection[Any]]:
        """A connection of the pool, for reading beside the transactions; what it writes is not fenced."""
        return connection(self._pool)

    @contextmanager
    def transaction(self) -> Iterator[Connection[Any]]:
        """A transaction that commits only while the run is still ours.

        Its last statement is a heartbeat: if a successor has closed the run, there is no row to beat, and all is
        rolled back. If not, the row is locked until the commit, and a successor sees the lock as a sign of life.

        Raises:
            LeaseLost: the run was taken over, or its time is over; nothing of this transaction is written.
            TransactionBroken: the body said COMMIT or ROLLBACK itself; a COMMIT of its own was not fenced.
        """
        with self.unfenced() as conn:
            yield conn
            if conn.info.transaction_status == TransactionStatus.IDLE:  # the client knows: no round trip
                raise TransactionBroken("a job ended run.transaction() inside: leave COMMIT and ROLLBACK to pgonce")
            if not self._beat(conn):
                raise LeaseLost(f"run {self.id} of job {self.name} {self._why()}: this transaction is rolled back")

    @contextmanager
    def unfenced(self) -> Iterator[Connection[Any]]:
        """The same for a body that calls a function with the fence in it, such as advance_seed: one beat is enough."""
        with connection(self._pool) as conn, transaction(conn, f"pgonce {self.id}", self.window):
            yield conn
            if self.timed_out:  # by our own clock: the row is closed a moment later, and until then a beat finds it
                raise LeaseLost(f"run {self.id} of job {self.name} {self._why()}: this transaction is rolled back")

    def _beat(self, conn: Connection[Any]) -> bool:
        # timed from before the statement is sent: the database reads its clock no earlier than that
        started = time.monotonic()
        alive = execute(conn, protocol.beat_job_run(self.id), self.schema)
        self._lost = self._lost or not alive
        self._last_beat = started
        return alive

    def _heartbeat(self) -> bool:
        """One beat beside the work; False when the run is lost.

        On a connection of its own, because the pool's may all be at work; opened at the first beat, a third of the
        window after the start, so that short runs never open one.
        """
        if self.timed_out and not CANCELS:  # the thread goes on; with its beats the run would, too
            self.fail(self._why())
            return not self._ended
        try:
            if self._beating is None or self._beating.closed:
                self._beating = _connect(self._pool)
            started = time.monotonic()
            report = protocol.report_job_run(self.id, self.rows_processed, self.rows_skipped, *self._progress)
            said = execute(self._beating, report, self.schema)
            self._lost = self._lost or said == "lost"
            self._stopping = self._stopping or said == "stopping"
            self._last_beat = started
        except (psycopg.Error, PgonceError):
            self.hush()  # the next beat tries anew, until the window is over
        self._lost = self.lost
        return not self._lost and not (CANCELS and self._stopping)

    def beating(self) -> AbstractContextManager[None]:
        """A heartbeat every third of the window beside the body, and the end of its time."""
        window = self.window.total_seconds()
        every = min(window / 3, BEAT)
        beats = repeating(self._heartbeat, every, window - every)
        return beats if self._timeout is None else self._limited(beats, self._timeout.total_seconds())

    @contextmanager
    def _limited(self, beats: AbstractContextManager[None], seconds: float) -> Iterator[None]:
        with beats, time_limit(None, seconds, self.fail):
            yield

    def hush(self) -> None:
        """Close the heartbeats' connection, if there is one."""
        if self._beating is not None:
            self._beating.close()
            self._beating = None

    def end(self) -> None:
        """End the run as succeeded, with its counts; or as failed, when it was stopped on request.

        Raises:
            RunStopped: it was.
            LeaseLost: it was taken over.
            DatabaseUnavailable: it could not be written for a minute. The run is left to its window: it has not failed,
                and may be recorded already.
        """
        if self._ended:
            return
        if self._told or (CANCELS and self._stopping):
            self.fail("stopped on request")
            raise RunStopped(f"run {self.id} of job {self.name} was stopped on request")
        complete = protocol.complete_job_run(self.id, self.rows_processed, self.rows_skipped)
        try:
            completed = not self.lost and self._asked(complete)
        except DatabaseUnavailable:
            self._ended = True
            raise
        if not completed:
            raise LeaseLost(f"run {self.id} of job {self.name} {self._why()}: its work is not counted")
        self._ended = True

    def fail(self, reason: BaseException | str) -> None:
        """End the run as failed, for a reason or with the traceback of an error; the counts are kept.

        Nothing is raised: the job's own error matters more, and a successor closes a run that is left open.
        """
        if self._ended or self._lost:
            return
        self._ended = True
        cancelled = CANCELS and self._stopping
        if isinstance(reason, BaseException):
            # LeaseLost, too: a transaction may see the end of the time before the timer's thread has woken
            late = isinstance(reason, (TimeoutError, LeaseLost)) and self.timed_out
            reason = self._why() if late else "".join(traceback.format_exception(reason))
        closing = protocol.fail_job_run(self.id, reason)
        if self._interruption and (self._told or cancelled):
            closing = protocol.interrupt_job_run(self.id, self._interruption)
        try:
            shielded(self._asked(closing))
        except (PgonceError, psycopg.Error):
            self._ended = False  # whoever ends it next tries again

    def _asked(self, wanted: Call[bool]) -> bool:
        """What the database says to ``wanted``, which ends the run: again while it is away, for the answer is the same.

        Once on a connection of the pool: after a restart those are all dead, and a job that hangs may hold them.
        """
        beside = self.timed_out
        pauses = iter(PAUSES)
        while True:
            try:
                if beside:
                    return self._beside(wanted)
                if wanted.many:
                    return self._call_batcher.value(wanted)
                return call(self._pool, wanted, self.schema)
            except (PgonceError, psycopg.Error) as error:
                pause = next(pauses, None)
                if pause is None or not is_transient(error):
                    raise
            beside = True
            sleep(pause)

    def _beside(self, wanted: Call[bool]) -> bool:
        """``wanted`` on a connection of its own."""
        try:
            conn = _connect(self._pool)
        except psycopg.Error as error:
            raise translate(error) from error
        try:
            return execute(conn, wanted, self.schema)
        finally:
            conn.close()

    def _why(self) -> str:
        return f"timed out after {self._timeout}" if self._timeout and self.timed_out else "was taken over"


def address(pool: Pool) -> tuple[str, dict[str, Any]]:
    """What the pool connects with, for a connection beside it."""
    if callable(pool.conninfo) or callable(pool.kwargs):
        raise InvalidArgument("the pool's conninfo and kwargs are functions: pgonce needs them as values")
    # a network that swallows packets: TCP would send a heartbeat again for a quarter of an hour
    limits = {"connect_timeout": 5, "tcp_user_timeout": 10_000}
    return pool.conninfo, {**limits, **(pool.kwargs or {}), "autocommit": True}


def _connect(pool: Pool) -> Connection[Any]:
    conninfo, options = address(pool)
    return Connection.connect(conninfo, **options)
