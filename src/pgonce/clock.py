"""The time of day as the database has it, for those who wait for it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """The time of day, and waiting for it. Tests bring one of their own."""

    def now(self) -> datetime:
        """The time of day."""

    def wait(self, until: datetime, stop: threading.Event) -> None:
        """Until then, or until ``stop``; early rather than late, the caller looks again."""

    def set(self, database_time: datetime) -> None:
        """What the database says it is."""


class DatabaseClock:
    """The database's time of day: this machine's, and how far that is off."""

    def __init__(self) -> None:
        self._offset = timedelta()

    def now(self) -> datetime:
        """By the wall clock and not the monotonic one, which stands still while a machine is suspended."""
        return datetime.now(UTC) + self._offset

    def wait(self, until: datetime, stop: threading.Event) -> None:
        """Until then, or until ``stop``."""
        stop.wait(max((until - self.now()).total_seconds(), 0))

    def set(self, database_time: datetime) -> None:
        """What the database says it is."""
        self._offset = database_time - datetime.now(UTC)
