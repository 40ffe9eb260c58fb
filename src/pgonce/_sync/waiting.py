"""The few things that wait differently in the two worlds; its twin is written by hand, too."""

from __future__ import annotations

import heapq
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeAlias, TypeVar

from psycopg import Connection

from pgonce.protocol.ahead import Ahead
from pgonce.protocol.pack import Packed, Packer, pack
from pgonce.protocol.source import Cursor, SeedRow

T = TypeVar("T")
Result: TypeAlias = Annotated[T, "returned as it is"]
"""What a function of the user's returns in this world."""
Stream: TypeAlias = Iterable[T]
"""What a source of rows may be in this world."""
CANCELS = False
"""Whether `repeating` cancels the body; a thread can only be told."""


class _Alarm:
    """Calls functions when their time has come, in one thread for the whole process; each must return at once."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int]] = []
        self._calls: dict[int, Callable[[], None]] = {}
        self._last = 0
        self._thread: threading.Thread | None = None

    def set(self, seconds: float, call: Callable[[], None]) -> int:
        """Call after ``seconds``; the number is for ``cancel``."""
        with self._changed:
            self._last += 1
            self._calls[self._last] = call
            heapq.heappush(self._heap, (time.monotonic() + seconds, self._last))
            if self._thread is None or not self._thread.is_alive():  # the first one, or this is a forked child
                self._thread = threading.Thread(target=self._run, name="pgonce alarm", daemon=True)
                self._thread.start()
            elif self._heap[0][1] == self._last:
                self._changed.notify()
            return self._last

    def cancel(self, number: int) -> None:
        """It is not called any more; if it is being called, wait for its end."""
        with self._changed:
            self._calls.pop(number, None)

    def _run(self) -> None:
        with self._changed:
            while True:
                if not self._heap:
                    self._changed.wait()
                elif (left := self._heap[0][0] - time.monotonic()) > 0:
                    self._changed.wait(left)
                else:
                    _, number = heapq.heappop(self._heap)
                    if call := self._calls.pop(number, None):
                        call()


_alarm = _Alarm()


@contextmanager
def repeating(action: Callable[[], bool], seconds: float) -> Iterator[None]:
    """Run ``action`` every ``seconds`` beside the body, in a thread, until it returns False.

    A thread cannot be cancelled: the body looks at ``run.lost``, and its transactions refuse to commit. The thread is
    started when the first call is due: starting one for each short run cost more than the run.
    """
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def begin() -> None:
        threads.append(threading.Thread(target=repeat, name="pgonce heartbeat", daemon=True))
        threads[0].start()

    def repeat() -> None:
        while not ended.is_set() and action():
            ended.wait(seconds)

    number = _alarm.set(seconds, begin)
    try:
        yield
    finally:
        ended.set()
        _alarm.cancel(number)
        for thread in threads:
            thread.join()


def packed(stream: Stream[tuple[SeedRow, Cursor]], packer: Packer) -> Stream[Packed]:
    """The batches that ``packer`` makes of ``stream``."""
    return pack(stream, packer)


@contextmanager
def ahead(items: Stream[T]) -> Iterator[tuple[Iterator[T], Callable[[], None]]]:
    """``items``, made in a thread when they are asked for, or one ahead, from the call of the second function on."""
    thread = Ahead(lambda: iter(items))
    try:
        yield _taken(thread), thread.want
    finally:
        thread.close()


def _taken(thread: Ahead[T]) -> Iterator[T]:
    while item := thread.take():
        yield item[0]


def shielded(done: T) -> T:
    """What is done cannot be stopped; the other world has cancellations."""
    return done


def sleep(seconds: float) -> None:
    """Wait for ``seconds``."""
    time.sleep(seconds)


@contextmanager
def time_limit(
    conn: Connection[Any] | None, seconds: float | None, expired: Callable[[BaseException], None]
) -> Iterator[None]:
    """After ``seconds`` cut the connection and call ``expired``; the body ends with a TimeoutError when it ends.

    A thread cannot be interrupted. But its transaction can be ended from outside: the server sees the connection
    close, rolls back and frees the rows, and nothing that the body still does is written.
    """
    if seconds is None:
        yield
        return
    error = TimeoutError(f"the handler took longer than {seconds:g} s")
    over = threading.Event()

    def cut() -> None:
        over.set()
        if conn is not None and not conn.closed:
            with socket.socket(fileno=os.dup(conn.fileno())) as wire:
                wire.shutdown(socket.SHUT_RDWR)
        expired(error)

    timer = threading.Timer(seconds, cut)
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
    if over.is_set():
        _close(conn)
        raise error


def _close(conn: Connection[Any] | None) -> None:
    if conn is not None:
        conn.close()


def asked_to_stop(_: BaseException) -> bool:
    """Whether somebody cancelled this thread; nobody can."""
    return False
