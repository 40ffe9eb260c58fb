"""Services: objects that run in their own threads until they are stopped."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Self


class Service(ABC):
    """A ``with`` block starts it and stops it at the end; the end waits as long as the stop takes."""

    @abstractmethod
    def start(self) -> Self:
        """Start. Errors of the configuration are raised here, not in a thread."""

    @abstractmethod
    def stop(self, timeout: float | None = None) -> bool:
        """Stop. Return whether it ended within ``timeout`` seconds (None: wait for ever)."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def stop_all(services: Sequence[Service], timeout: float | None = None) -> bool:
    """Stop all services in parallel, within one time limit. In sequence each would need a limit of its own.

    ``timeout``: seconds for all of them; None: wait for ever.

    Returns:
        Whether all have ended.

    Raises:
        Exception: the first error that a service raised while it stopped.
    """
    ended: list[bool] = []
    errors: list[Exception] = []

    def stop(service: Service) -> None:
        try:
            ended.append(service.stop(timeout))
        except Exception as error:  # noqa: BLE001 -- raised below
            errors.append(error)

    threads = [threading.Thread(target=stop, args=[service], daemon=True) for service in services]
    for thread in threads:
        thread.start()
    # a service may still have to record in the database that it has stopped; CLOSING limits that time
    join_all(threads, None if timeout is None else timeout + CLOSING)
    if errors:
        raise errors[0]
    return len(ended) == len(services) and all(ended)


def join_all(threads: Sequence[threading.Thread], timeout: float | None) -> bool:
    """Wait for the ends of all threads, within one time limit. Return whether all have ended.

    ``timeout``: seconds for all of them; None: wait for ever.
    """
    until = None if timeout is None else time.monotonic() + timeout
    for thread in threads:
        thread.join(None if until is None else max(until - time.monotonic(), 0))
    return not any(thread.is_alive() for thread in threads)


CLOSING = 3.0
"""Seconds after the time limit in which services may record their end. With 25 s the sum is below Kubernetes' 30 s."""
REPEATED = 0.5
"""Seconds in which a further signal is the same request. ``timeout`` sends SIGTERM to its command and then to the group
of both; npm and process managers pass on a Ctrl-C that has reached the command already."""


class StopRequests:
    """Tells a request to stop from the same one, passed on: both are signals."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def is_new(self) -> bool:
        """Whether a signal that comes now is a request of its own."""
        now = time.monotonic()
        if now - self._last <= REPEATED:
            return False
        self._last = now
        return True
