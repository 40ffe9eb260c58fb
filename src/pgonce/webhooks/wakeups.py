"""Decides how many of a worker's threads are awake: one; two if batches are full; more if batches take long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

LONG = 0.05
"""Seconds. A thread whose batch takes longer is waiting for something, so another thread can work meanwhile."""


class Wakeups:
    """Wakes threads, each known by a number."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wanted_threads = 0
        self._ended = False
        self._began: dict[int, float] = {}
        self._poller: int | None = None
        """The resting thread that claims when its time is over. The others wait until they are needed."""

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
        """Called by a thread that has found nothing to do: wait until it is needed.

        The only waiting thread waits for ``seconds``. If each of four idle threads looked every second,
        that would be four transactions per second and process.
        """
        with self._changed:
            self._began.pop(thread, None)
            self._changed.notify()  # one thread fewer is working
            until = time.monotonic() + seconds
            while not self._ended and not self._is_needed():
                if self._poller is None:
                    self._poller, until = thread, time.monotonic() + seconds
                left = until - time.monotonic() if self._poller == thread else seconds
                if left <= 0:
                    break
                self._changed.wait(min(left, LONG) if self._wanted_threads else left)
            if self._poller == thread:
                self._poller = None
                self._changed.notify()  # another resting thread looks in its place
            self._wanted_threads = 0  # this thread looks now, for all that was reported until now
            self.begin(thread)

    def busy(self) -> int:
        """How many threads are at work."""
        return len(self._began)

    def _is_needed(self) -> bool:
        began = list(self._began.values())
        wanted = self._wanted_threads
        return wanted > 0 and (len(began) < wanted or time.monotonic() - min(began) > LONG)


class Rests:
    """The waits of the tasks in an event loop that have found nothing to do.

    All end when work is reported. Without a report the longest one ends from time to time, so that one task looks for
    all.
    """

    def __init__(self) -> None:
        self.ended = 0
        """How many times work was reported."""
        self._resting: deque[asyncio.Future[None]] = deque()

    async def rest(self, known: int) -> None:
        """Wait, unless work was reported since ``ended`` was ``known``."""
        if self.ended == known:
            self._resting.append(asyncio.get_running_loop().create_future())
            await self._resting[-1]

    def end_all(self) -> None:
        """Report work."""
        self.ended += 1
        while self._resting:
            self._end_one()

    @asynccontextmanager
    async def polling(self, pause: Callable[[], float]) -> AsyncIterator[None]:
        """During the block, end one wait every ``pause()`` seconds."""

        async def poll() -> None:
            while True:
                await asyncio.sleep(pause())
                if self._resting:
                    self._end_one()

        task = asyncio.create_task(poll())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def _end_one(self) -> None:
        future = self._resting.popleft()
        if not future.done():
            future.set_result(None)
