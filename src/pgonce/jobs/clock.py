"""A clock that follows the database's time, and waiting until a given time."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)
"""Linux's monotonic clock that also counts the time in which the machine is suspended."""


class Clock(Protocol):
    """Gives the current time and waits until a given one. Tests have their own implementation."""

    def now(self) -> datetime:
        """The current time."""

    def wait(self, until: datetime, stop: threading.Event) -> None:
        """Wait until then, or until ``stop`` is set. It may return early, so the caller checks the time again."""

    def set(self, database_time: datetime) -> None:
        """Set the clock to the time that the database has returned."""


class DatabaseClock:
    """The time of the database's last answer, plus the time since then on a monotonic clock.

    This machine's own time is not used. If it jumped (NTP, a virtual machine that is resumed), ticks would start early
    or late until the database's next answer. On systems whose monotonic clock stops while the machine is suspended,
    ticks are late by that time.
    """

    def __init__(self) -> None:
        self.set(datetime.now(UTC))

    def now(self) -> datetime:
        """The current time."""
        time_of_day, at = self._answer
        return time_of_day + timedelta(seconds=_monotonic() - at)

    def wait(self, until: datetime, stop: threading.Event) -> None:
        """Wait until then, or until ``stop`` is set."""
        stop.wait(max((until - self.now()).total_seconds(), 0))

    def set(self, database_time: datetime) -> None:
        """Set the clock to the time that the database has returned."""
        self._answer = database_time, _monotonic()


def _monotonic() -> float:
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)
