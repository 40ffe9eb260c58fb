"""When a job runs: a cron expression in a time zone, and what becomes of ticks that nobody was there for. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from pgonce.core.interval import interval
from pgonce.errors import InvalidArgument

CatchUp = Literal["none", "last", "all"]


@dataclass(frozen=True, slots=True)
class Cron:
    """Five fields (minute, hour, day of month, month, day of week) read in a time zone, by the rules of Debian's cron.

    When summer time begins, a job at a fixed hour inside the skipped one runs when that hour is over; when it ends, it
    runs in the first of the two. A job with a ``*`` in minute or hour goes by elapsed time (cron(8) of Debian).

    Raises:
        InvalidArgument: the expression or the zone cannot be read, or there is no such day.
    """

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if len(self.expression.split()) != 5:
            raise InvalidArgument(
                f'cron "{self.expression}" has not five fields: write minute hour day month weekday, like "0 6 * * *"'
            )
        try:
            ZoneInfo(self.timezone)
        except (LookupError, ValueError, OSError):
            raise InvalidArgument(
                f'there is no time zone "{self.timezone}": write one like "America/New_York"'
            ) from None
        try:
            exists = self.after(datetime(2000, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise InvalidArgument(f'cron "{self.expression}" cannot be read: {str(error).lower()}') from None
        if exists is None:
            raise InvalidArgument(f'cron "{self.expression}" never comes: there is no such day')

    def after(self, moment: datetime) -> datetime | None:
        """The first tick later than ``moment``, in UTC; None if there is none in 50 years."""
        return next(self.ticks(moment), None)

    def ticks(self, after: datetime) -> Iterator[datetime]:
        """All ticks later than ``after``, in UTC, in order, none twice."""
        last = after.astimezone(UTC)
        for local in CronSim(self.expression, last.astimezone(ZoneInfo(self.timezone))):
            # In UTC: two moments of one zone are compared by their wall clocks, and in the hour that comes twice
            # the simulation steps back to the first one. Two ticks of a skipped hour fall on the same moment.
            tick = local.astimezone(UTC)
            if tick > last:
                last = tick
                yield tick

    def between(self, after: datetime, until: datetime) -> list[datetime]:
        """The ticks in (after, until]."""
        return list(takewhile(lambda tick: tick <= until, self.ticks(after)))

    def last(self, after: datetime, until: datetime) -> datetime | None:
        """The last tick in (after, until]. Looks back further and further: a year has half a million minutes."""
        for days in (1 / 24, 1, 32, 400, 20_000):
            start = max(after, until - timedelta(days=days))
            if found := self.between(start, until):
                return found[-1]
            if start == after:
                return None
        return None


_INSTANT = timedelta(microseconds=1)
_FOR_EVER = timedelta(days=36_500)
"""A longer length of time ends here: Python's dates, and PostgreSQL's, end before "999999 days" ago or ahead."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A job's cron expression and its policy for ticks that are late."""

    cron: Cron
    catch_up: CatchUp = "none"
    window: timedelta = timedelta(days=1)
    """With ``last`` and ``all``: ticks older than this are given up."""
    jitter: timedelta = timedelta()
    grace: timedelta = timedelta(minutes=5)
    """A tick may start this long after its jitter; then it was missed."""

    @property
    def patience(self) -> timedelta:
        """How late a tick may be and is not missed: one that its jitter has put off is not late yet."""
        return self.grace + self.jitter

    @property
    def reach(self) -> timedelta:
        """How late a tick may be and still be run."""
        return self.patience if self.catch_up == "none" else max(self.window, self.grace) + self.jitter

    def owed(self, after: datetime, now: datetime) -> tuple[list[datetime], datetime | None]:
        """The ticks in (after, now] that are to be run now, and the last one that is given up.

        Ticks older than ``reach`` are given up; of the others the last one runs, or with ``all`` each of them.
        """
        first = self.cron.after(after)
        if first is None or first > now:
            return [], None
        following = self.cron.after(first)
        if now - first <= self.reach and (following is None or following > now):  # on time, as nearly always
            return [first], None
        since = max(after, now - self.reach)
        if self.catch_up == "all":
            run = self.cron.between(since, now)
        else:
            last = self.cron.last(since, now)
            run = [] if last is None else [last]
        # one row for the last one that is given up, and not one for each minute of a weekend
        return run, self.cron.last(after, run[0] - _INSTANT if run else now)

    def delay(self, name: str, key: str, tick: datetime) -> timedelta:
        """The jitter of a tick: the same on every machine, else the smallest of many would win.

        It ends before the next tick: of two that wait at once only the last would run.
        """
        if not self.jitter:
            return self.jitter
        following = self.cron.after(tick)
        longest = self.jitter if following is None else min(self.jitter, following - tick)
        return longest * (zlib.crc32(f"{name}\n{key}\n{tick.timestamp()}".encode()) / 2**32)


def read_plan(
    of: str,
    cron: Cron,
    catch_up: CatchUp,
    window: timedelta | str,
    jitter: timedelta | str | None,
    grace: timedelta | str,
) -> Plan:
    """A plan from what people write; errors name it ``of`` ("of job letters").

    Raises:
        InvalidArgument: an argument cannot be read.
    """
    if catch_up not in {"none", "last", "all"}:
        raise InvalidArgument(f'catch_up {of} is "none", "last" or "all"')
    return Plan(
        cron,
        catch_up,
        min(interval(window, f"the catch-up window {of}"), _FOR_EVER),
        timedelta() if jitter is None else min(interval(jitter, f"the jitter {of}"), _FOR_EVER),
        min(interval(grace, f"the grace {of}"), _FOR_EVER),
    )
