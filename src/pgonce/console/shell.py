"""The frame of every page: the counts in the navigation, the state in title and icon, the clocks in the footer."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from starlette.requests import Request

from pgonce.console.reads import reading
from pgonce.console.templating import count
from pgonce.core.facts import Counts, get_counts

HOLDS = 1.0
"""Seconds for which one answer is reused, for all viewers."""


@dataclass(frozen=True, slots=True)
class Shell:
    """What the frame shows."""

    counts: Counts
    now: datetime
    """By the database's clock."""
    ahead: timedelta
    """How far the database's clock is ahead of this machine's."""

    @property
    def stuck(self) -> int:
        """Runs and imports."""
        return self.counts.stuck_runs + self.counts.stuck_imports

    @property
    def title(self) -> str:
        """What the title says of the state: "● 17 dead, 1 stuck – "."""
        said = [f"{count(self.counts.dead)} dead"] if self.counts.dead else []
        said += [f"{count(self.stuck)} stuck"] if self.stuck else []
        return f"● {', '.join(said)} – " if said else ""

    @property
    def icon(self) -> Literal["bad", "ok"]:
        """Which icon the tab has."""
        return "bad" if self.title else "ok"

    @property
    def drift(self) -> str:
        """The difference of the clocks: "0.04 s ahead"."""
        seconds = self.ahead.total_seconds()
        return f"{abs(seconds):.2f} s {'ahead' if seconds >= 0 else 'behind'}"


class ShellCache:
    """One answer per `HOLDS`: a hundred open tabs ask the database once a second, also while it does not answer.

    Requests that arrive while the database is being asked share its answer or its error. With a lock they would ask one
    after the other, and each would wait for a connection of its own: of 20 tabs the last one would wait for minutes.
    """

    def __init__(self) -> None:
        self._read_at = float("-inf")
        self._counts: Counts | None = None
        self._ahead = timedelta()
        self._being_read: asyncio.Task[Counts] | None = None

    async def get(self, request: Request) -> Shell:
        """The frame's values.

        Raises:
            PgonceError: the database cannot be reached, or takes too long.
        """
        counts = self._counts
        if counts is None or time.monotonic() - self._read_at > HOLDS:
            if self._being_read is None or self._being_read.done():
                self._being_read = asyncio.create_task(self._read(request))
                self._being_read.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may wait
            counts = await asyncio.shield(self._being_read)
        return Shell(counts, datetime.now(UTC) + self._ahead, self._ahead)

    async def _read(self, request: Request) -> Counts:
        began = datetime.now(UTC)
        async with reading(request) as read:
            counts = await read(get_counts())
        ended = datetime.now(UTC)
        self._counts, self._ahead = counts, counts.now - (began + (ended - began) / 2)
        self._read_at = time.monotonic()
        return counts
