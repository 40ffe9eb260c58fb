"""Threads that do what they are given, in the order in which it came."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import psycopg

from pgonce.errors import PgonceError

log = logging.getLogger("pgonce")


def guarded(action: Callable[..., None], *arguments: Any) -> None:
    """Do it; what it raises is logged, and the thread lives on."""
    try:
        action(*arguments)
    except (PgonceError, psycopg.Error) as error:
        log.warning("%s", (str(error) or type(error).__name__).splitlines()[0])
    except Exception:
        log.exception("the scheduler stumbled")


class Hands:
    """So many threads, and a queue in front of them.

    All are started at once, so that what is wrong is raised then: a thread pool starts each when there is work for it,
    and in a container at its limit of processes the work is what got lost.
    """

    def __init__(self, count: int, name: str) -> None:
        self._work: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._stopping = False
        self.unfinished = 0
        """What is being done or waits for a thread."""
        self.threads = [threading.Thread(target=self._serve, name=f"{name} {n}", daemon=True) for n in range(count)]

    def start(self) -> None:
        """Start them.

        Raises:
            RuntimeError: there cannot be so many.
        """
        for thread in self.threads:
            thread.start()

    def give(self, action: Callable[..., None], *arguments: Any) -> None:
        """Have it done as soon as a thread is free."""
        with self._lock:
            self.unfinished += 1
        self._work.put((action, arguments))

    def stop(self) -> None:
        """Begin nothing more, and end the threads when they have done what they are at."""
        self._stopping = True
        for _ in self.threads:
            self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                if not self._stopping:
                    guarded(work[0], *work[1])
            except BaseException:  # a job may call sys.exit(), which is not for this thread
                log.exception("the scheduler stumbled")
            finally:
                with self._lock:
                    self.unfinished -= 1
