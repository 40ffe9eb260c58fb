"""Services: what runs in threads of its own until it is stopped."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Self


class Service(ABC):
    """``with`` starts it, and stops it at the end, for as long as that takes."""

    @abstractmethod
    def start(self) -> Self:
        """Begin. What is wrong is raised now, and not in a thread."""

    @abstractmethod
    def stop(self, timeout: float | None = None) -> bool:
        """End. Whether it has ended within ``timeout`` seconds (None: wait for ever)."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def stop_all(services: Sequence[Service], timeout: float | None = None) -> bool:
    """Stop all of them at once, within one time limit: one after the other, each would need a limit of its own.

    Args:
        services: those that have started.
        timeout: seconds for all of them; None: wait for ever.

    Returns:
        Whether all have ended.

    Raises:
        Exception: what the first of them raised.
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
    # a service may need the database to say that it has stopped; that, too, has a limit
    until = None if timeout is None else time.monotonic() + timeout + CLOSING
    for thread in threads:
        thread.join(None if until is None else max(until - time.monotonic(), 0))
    if errors:
        raise errors[0]
    return len(ended) == len(services) and all(ended)


CLOSING = 3.0
"""Seconds beyond the time limit in which services may record their end: with 25 s below Kubernetes' 30."""
