"""The time of day as the database has it, for those who wait for it."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)
"""Linux's steady clock, which goes on while the machine is suspended."""


class Clock(Protocol):
    """The time of day, and waiting for it. Tests bring one of their own."""

    def now(self) -> datetime:
        """The time of day."""

    def wait(self, until: datetime, stop: threading.Event) -> None:
        """Until then, or until ``stop``; early rather than late, the caller looks again."""

    def set(self, database_time: datetime) -> None:
        """What the database says it is."""


class DatabaseClock:
    """The database's time of day: what it said last, and the time since then by a clock that nobody sets.

    Not by this machine's time of day: a step of that (NTP, a virtual machine that is resumed) would start ticks
    before their time, or stop all of them, until the next comparison. Where the steady clock stands still while the
    machine is suspended, that is how long its ticks oversleep.
    """

    def __init__(self) -> None:
        self.set(datetime.now(UTC))

    def now(self) -> datetime:
        """The time of day."""
        said, when = self._said
        return said + timedelta(seconds=_steady() - when)

    def wait(self, until: datetime, stop: threading.Event) -> None:
        """Until then, or until ``stop``."""
        stop.wait(max((until - self.now()).total_seconds(), 0))

    def set(self, database_time: datetime) -> None:
        """What the database says it is."""
        self._said = database_time, _steady()


def _steady() -> float:
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)
