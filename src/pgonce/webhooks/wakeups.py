"""Which of a worker's threads are at work: one, a second when its batches are full, the others when these take long."""

from __future__ import annotations

import threading
import time

LONG = 0.05
"""Seconds: whose batch has taken longer waits for something, and another lane can work meanwhile."""


class Wakeups:
    """Wakes lanes, which are threads with a number each."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._work = 0
        self._ended = False
        self._began: dict[int, float] = {}

    def wake(self, threads: int = 1) -> None:
        """There is work, for so many lanes; more of them wake when those take long.

        Not for as many as there are: what comes while a lane works is its next batch, and shares a commit and four
        round trips. Four lanes with small batches handled a third fewer events per second (python -m bench webhooks).
        """
        with self._changed:
            self._work = max(self._work, threads)
            self._changed.notify()

    def end(self) -> None:
        """Wake all lanes, for good."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def begin(self, thread: int) -> None:
        """This lane begins a batch."""
        self._began[thread] = time.monotonic()

    def rest(self, thread: int, seconds: float) -> None:
        """This lane has found nothing to do: wait until it is needed, at most ``seconds``."""
        until = time.monotonic() + seconds
        with self._changed:
            self._began.pop(thread, None)
            self._changed.notify()  # its place is free
            while not self._ended and not self._wanted() and (left := until - time.monotonic()) > 0:
                self._changed.wait(min(left, LONG) if self._work else left)
            self._work = 0  # this lane looks now, for all that was reported until now
            self.begin(thread)

    def _wanted(self) -> bool:
        began = list(self._began.values())
        return self._work > 0 and (len(began) < self._work or time.monotonic() - min(began) > LONG)
