"""The database's time of day, and waiting for a moment of it."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)
"""Linux's monotonic clock that also counts the time in which the machine is suspended."""


class Clock(Protocol):
    """The time of day, and waiting for it. Tests use one of their own."""

    def now(self) -> datetime:
        """The time of day."""

    def wait(self, until: datetime, stop: threading.Event) -> None:
        """Wait until then, or until ``stop``. It may return early: the caller compares the time again."""

    def set(self, database_time: datetime) -> None:
        """Set it to what the database has answered."""


class DatabaseClock:
    """The database's last answer, plus the time since then by a monotonic clock.

    This machine's time of day is not used: a step of it (NTP, a virtual machine that is resumed) would start ticks
    before their time, or hold all of them back, until the next answer. On systems whose monotonic clock stops while the
    machine is suspended, ticks are late by that time.
    """

    def __init__(self) -> None:
        self.set(datetime.now(UTC))

    def now(self) -> datetime:
        """The time of day."""
        time_of_day, at = self._answer
        return time_of_day + timedelta(seconds=_monotonic() - at)

    def wait(self, until: datetime, stop: threading.Event) -> None:
        """Wait until then, or until ``stop``."""
        stop.wait(max((until - self.now()).total_seconds(), 0))

    def set(self, database_time: datetime) -> None:
        """Set it to what the database has answered."""
        self._answer = database_time, _monotonic()


def _monotonic() -> float:
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)
