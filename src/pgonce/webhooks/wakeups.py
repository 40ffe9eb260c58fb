"""Which of a worker's threads are awake: one, a second one when its batches are full, others when batches take long."""

from __future__ import annotations

import threading
import time

LONG = 0.05
"""Seconds: a thread whose batch has taken longer waits for something, and another one can work meanwhile."""


class Wakeups:
    """Wakes threads, each known by a number."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wanted_threads = 0
        self._ended = False
        self._began: dict[int, float] = {}

    def wake(self, threads: int = 1) -> None:
        """Report work for ``threads`` threads; more of them wake if the batches of these take long.

        Not for all threads: what arrives while a thread works is its next batch, and shares its round trips and its
        wait for the disk. Four threads with small batches handled a third fewer events per second (python -m bench
        webhooks).
        """
        with self._changed:
            self._wanted_threads = max(self._wanted_threads, threads)
            self._changed.notify()

    def end(self) -> None:
        """Wake all threads, for good."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def begin(self, thread: int) -> None:
        """This thread begins a batch."""
        self._began[thread] = time.monotonic()

    def rest(self, thread: int, seconds: float) -> None:
        """This thread has found nothing to do: wait until it is needed, at most ``seconds``."""
        until = time.monotonic() + seconds
        with self._changed:
            self._began.pop(thread, None)
            self._changed.notify()  # one thread fewer is at work
            while not self._ended and not self._is_needed() and (left := until - time.monotonic()) > 0:
                self._changed.wait(min(left, LONG) if self._wanted_threads else left)
            self._wanted_threads = 0  # this thread looks now, for all that was reported until now
            self.begin(thread)

    def busy(self) -> int:
        """How many threads are at work."""
        return len(self._began)

    def _is_needed(self) -> bool:
        began = list(self._began.values())
        wanted = self._wanted_threads
        return wanted > 0 and (len(began) < wanted or time.monotonic() - min(began) > LONG)
