"""A fixed number of daemon threads and a queue of work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from pgonce.core.failures import log_errors

log = logging.getLogger("pgonce")


class DaemonThreadPool:
    """``count`` threads that take work from one queue, in its order.

    All threads are started at once, so that a failure is raised at the start. concurrent.futures starts each thread
    when there is work for it: in a container at its limit of processes that work was lost. Its threads are not daemons:
    a job that hangs would keep the process from ending.
    """

    def __init__(self, count: int, name: str) -> None:
        self._work: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._stopping = False
        self.unfinished = 0
        """The number of actions that are running or waiting for a thread."""
        self.threads = [threading.Thread(target=self._work_off, name=f"{name} {n}", daemon=True) for n in range(count)]

    def start(self) -> None:
        """Start the threads.

        Raises:
            RuntimeError: the system refused one of them.
        """
        for thread in self.threads:
            thread.start()

    def submit(self, action: Callable[..., None], *arguments: Any) -> None:
        """Call ``action`` as soon as a thread is free."""
        with self._lock:
            self.unfinished += 1
        self._work.put((action, arguments))

    def stop(self) -> None:
        """Start no more actions. Each thread ends after its current one."""
        self._stopping = True
        for _ in self.threads:
            self._work.put(None)

    def _work_off(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                if not self._stopping:
                    log_errors(work[0], *work[1])
            except BaseException:  # sys.exit() in a job must not end this thread
                log.exception("unexpected error in a thread of pgonce; it goes on")
            finally:
                with self._lock:
                    self.unfinished -= 1
