"""Timers, time limits and waits, which differ in async code: ``concurrency_async.py`` is written by hand, too."""

from __future__ import annotations

import inspect
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import Context, copy_context
from typing import Annotated, Any, TypeAlias, TypeVar

import psycopg
from psycopg import Connection

from pgonce.core import event_loop
from pgonce.core.failures import log_errors
from pgonce.core.lent_connection import CANCEL
from pgonce.core.lent_connection import cut as cut_off

T = TypeVar("T")
Result: TypeAlias = Annotated[T, "returned as it is"]
"""What a user's function returns."""
Lock = threading.Lock
CANCELS = False
"""Whether `repeating` cancels the body; a thread cannot be cancelled."""
LEAVE = 5.0
"""Seconds that the end of a run waits for a heartbeat that hangs."""


class _Alarm:
    """Calls functions at given times, in one thread for the whole process. Each function must return at once.

    Most calls are cancelled long before they are due. The thread wakes for the earliest call, and sleeps until the
    next one that is left. A heap would keep the cancelled calls of the last 15 s, and each would wake the thread.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()  # continued in a forked child, which may cancel a call of its parent's
        self.forget()

    def forget(self) -> None:
        """Forget all calls.

        Called in a forked child, which has no thread, and whose lock may have been held at the fork.
        """
        self._calling = threading.Condition(threading.Lock())
        self._calls: dict[int, tuple[float, Callable[[], None]]] = {}
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None

    # A short run takes no lock: eight threads waited for it three times per run. The thread that pops a call runs it.

    def set(self, seconds: float, call: Callable[[], None]) -> int:
        """Call after ``seconds``; the number is for ``cancel``."""
        number, due = next(self._numbers), time.monotonic() + seconds
        self._calls[number] = due, call
        if due < self._wakes_at:  # read after the call is there: the thread sets it to infinity before it looks
            with self._calling:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="pgonce alarm", daemon=True)
                    self._thread.start()
                self._wakes_at = min(self._wakes_at, due)
                self._calling.notify()
        return number

    def cancel(self, number: int) -> None:
        """Cancel the call. If it is running, wait for its end."""
        if self._calls.pop(number, None) is None:
            with self._calling:
                self._calls.pop(number, None)  # it could not be called and was put off

    def _run(self) -> None:
        with self._calling:
            while True:
                asked, self._wakes_at = self._wakes_at, math.inf
                now = time.monotonic()
                for number, (due, _) in self._calls.copy().items():
                    if due <= now and (found := self._calls.pop(number, None)):
                        self._call(number, found[1])
                earliest = min((due for due, _ in self._calls.copy().values()), default=math.inf)
                # The thread wakes at `asked` even if that call was cancelled: if it slept longer, every short run
                # would have to wake it.
                self._wakes_at = min(earliest, asked if asked > now else math.inf)
                # a wait of more than threading.TIMEOUT_MAX is refused
                self._calling.wait(min(self._wakes_at - now, 3600.0))

    def _call(self, number: int, call: Callable[[], None]) -> None:
        try:
            call()
        except RuntimeError:  # no thread can be started now: a run without heartbeats would be taken over
            self._calls[number] = (time.monotonic() + 1, call)


alarm = _Alarm()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=alarm.forget)


class repeating:  # noqa: N801 -- a function to its callers
    """Run ``action`` every ``seconds`` during the body, in a thread, until it returns False.

    The body cannot be cancelled: it reads ``run.lost``, and its transactions refuse to commit. The thread is started
    when the first call is due: starting one for each short run cost more than the run.
    """

    def __init__(self, action: Callable[[], bool], seconds: float, _patience: float) -> None:
        self._action = action
        self._seconds = seconds
        self._repeats: tuple[threading.Thread, threading.Event] | None = None

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        if thread := self.stop():
            thread.join(LEAVE)

    def begin(self) -> None:
        """Call the action for the first time in ``seconds``."""
        self._number = alarm.set(self._seconds, self._begin)

    def stop(self) -> threading.Thread | None:
        """Stop calling the action. Returns the thread that may be in its last call, if there is one."""
        alarm.cancel(self._number)
        if self._repeats is None:  # after the cancel: the thread has been started, or never will be
            return None
        thread, ended = self._repeats
        ended.set()
        return thread

    def _begin(self) -> None:
        ended = threading.Event()
        thread = threading.Thread(target=self._repeat, args=[ended], name="pgonce heartbeat", daemon=True)
        thread.start()
        self._repeats = thread, ended

    def _repeat(self, ended: threading.Event) -> None:
        # an action that raises is repeated, too: the run would go on without heartbeats, and nobody would notice
        while not ended.is_set() and log_errors(self._action) is not False:
            ended.wait(self._seconds)


class meanwhile(repeating):  # noqa: N801 -- its twin is a function
    """Run ``action`` every ``seconds`` during the body, in a thread, until it returns False."""

    def __init__(self, action: Callable[[], bool], seconds: float) -> None:
        super().__init__(action, seconds, seconds)


in_thread = meanwhile
"""Its twin runs a plain function in a thread; there, ``meanwhile`` runs a coroutine in the event loop."""


def wait_until_free(_lock: object) -> None:
    """Do nothing: no other code closes what a thread leaves behind."""


def finish(result: object) -> None:
    """If the result of a callback is a coroutine, run it to its end in the event loop of the async handlers."""
    if inspect.iscoroutine(result):
        (event_loop.of_worker.get() or event_loop.background()).run(result)


def isolated(work: Callable[[], T], context: Context | None = None) -> T:
    """The result of ``work()``, called in ``context``, or in a copy of this thread's.

    A context variable that it sets, such as a tenant, does not reach what the thread does next.
    """
    return (context or copy_context()).run(work)


def call_in_loop(_loop: None, done: T, _seconds: float) -> T:
    """Return ``done``: synchronous code needs no event loop."""
    return done


def running_loop() -> Any:
    """None: synchronous code has no event loop."""
    return None


def shielded(done: T) -> T:
    """Return ``done``: only asynchronous code has cancellations."""
    return done


def or_undone(done: T, _undo: Callable[[T, BaseException], object]) -> T:
    """Return ``done``: only asynchronous code has cancellations."""
    return done


def sleep(seconds: float) -> None:
    """Wait for ``seconds``."""
    time.sleep(seconds)


def time_limit(
    conn: Connection[Any] | None, seconds: float | None, expired: Callable[[BaseException], None]
) -> AbstractContextManager[None]:
    """After ``seconds``, cut the connection and call ``expired``. When the body ends, raise TimeoutError.

    A thread cannot be interrupted. But its transaction can be ended from outside: the server sees the connection
    close, rolls back and frees the rows, and nothing that the body still does is written. While a statement runs the
    server does not look at the connection, so the statement is cancelled first.
    """
    return _NO_LIMIT if seconds is None else _time_limit(conn, seconds, expired)


_NO_LIMIT = nullcontext()


@contextmanager
def _time_limit(
    conn: Connection[Any] | None, seconds: float, expired: Callable[[BaseException], None]
) -> Iterator[None]:
    error = TimeoutError(f"the time limit of {seconds:g} s is over")
    over = threading.Event()

    def cut() -> None:
        over.set()
        if conn is not None and not conn.closed:
            with suppress(OSError, psycopg.Error):  # the server has closed it, or is closing it
                conn.cancel_safe(timeout=CANCEL)
            cut_off(conn)
        log_errors(expired, error)

    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except BaseException as cause:
        if not over.is_set():
            raise
        _close(conn)
        raise error from cause
    finally:
        timer.cancel()
        if timer.is_alive():
            timer.join()  # `expired` may still be recording the end; the caller would close its pool
    if over.is_set():
        _close(conn)
        raise error


def _close(conn: Connection[Any] | None) -> None:
    if conn is not None:
        conn.close()


def asked_to_stop(error: BaseException) -> bool:
    """Whether this is Ctrl-C. Python raises it in the main thread; in another one it is a function's own."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
