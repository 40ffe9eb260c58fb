"""When a job runs: a cron expression in a time zone or an interval, and what happens to late ticks. Without I/O."""

from __future__ import annotations

import logging
import re
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from pgonce.core.interval import interval
from pgonce.core.registration import check_choice
from pgonce.errors import InvalidArgument

CatchUp = Literal["none", "last", "all"]

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_EVERY = "@every "
_ONE = re.compile(r"\b0*(\w+)-0*\1/0*[1-9]\d*\b", re.IGNORECASE)
"""A step within one value, such as 5-5/2: CronSim reads it as 5/2, which goes on to the end of the field."""
_OF_THE_MACHINE = {"localtime", "posixrules"}
_RANGES = {"minute": (0, 59), "hour": (0, 23), "day of month": (1, 31), "month": (1, 12), "weekday": (0, 6)}

log = logging.getLogger("pgonce")


class Schedule(ABC):
    """A series of points in time, all in UTC."""

    expression: str
    """The text from which `read_schedule` makes an equal schedule."""
    timezone: str

    @abstractmethod
    def ticks(self, after: datetime) -> Iterator[datetime]:
        """All ticks later than ``after``, in UTC, in order, none twice."""

    def after(self, moment: datetime) -> datetime | None:
        """The first tick later than ``moment``; None if there is none in 50 years."""
        return next(self.ticks(moment), None)

    def between(self, after: datetime, until: datetime) -> list[datetime]:
        """The ticks in (after, until]."""
        return list(takewhile(lambda tick: tick <= until, self.ticks(after)))

    def last(self, after: datetime, until: datetime) -> datetime | None:
        """The last tick in (after, until]. It searches in growing steps back: a year has half a million minutes."""
        for days in (1 / 24, 1, 32, 400, 20_000):
            start = max(after, until - timedelta(days=days))
            if found := self.between(start, until):
                return found[-1]
            if start == after:
                return None
        return None


@dataclass(frozen=True, slots=True)
class Cron(Schedule):
    """Five fields (minute, hour, day of month, month, day of week) read in a time zone, by the rules of Debian's cron.

    When summer time begins, a job at a fixed time in the skipped hour runs when that hour is over. When summer time
    ends, a job in the repeated hour runs in the first of the two. A job with a ``*`` in minute or hour follows elapsed
    time (cron(8) of Debian).
    @hourly, @daily, @weekly, @monthly and @yearly stand for the fields that crontab(5) gives them.

    Raises:
        InvalidArgument: the expression or the zone cannot be read, or no date matches it.
    """

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        # A line break would be in each list and message, and one more space would be a change of the schedule.
        object.__setattr__(self, "expression", " ".join(self.expression.split()))
        object.__setattr__(self, "timezone", self.timezone.strip())
        if self.expression.startswith("@") and self.expression not in ALIASES:
            raise InvalidArgument(f'cron "{self.expression}" is not known: write five fields or {", ".join(ALIASES)}')
        if len(self.fields.split()) != 5:
            raise InvalidArgument(
                f'cron "{self.expression}" has not five fields: write minute hour day month weekday, like "0 6 * * *"'
            )
        try:
            ZoneInfo(self.timezone)
        except (LookupError, ValueError, OSError):
            shown = " ".join(self.timezone.split())
            raise InvalidArgument(f'there is no time zone "{shown}": write one like "America/New_York"') from None
        if self.timezone in _OF_THE_MACHINE:
            raise InvalidArgument(
                f'the time zone "{self.timezone}" is another one on each machine: write one like "America/New_York"'
            )
        try:
            exists = self.after(datetime(2000, 1, 1, tzinfo=UTC))
        except (CronSimError, ValueError) as error:
            raise InvalidArgument(f'cron "{self.expression}" cannot be read: {str(error).lower()}') from None
        if exists is None:
            raise InvalidArgument(f'cron "{self.expression}" never fires: no date matches it')

    @property
    def fields(self) -> str:
        """The five fields."""
        return _ONE.sub(r"\1", ALIASES.get(self.expression, self.expression))

    def ticks(self, after: datetime) -> Iterator[datetime]:
        """All ticks later than ``after``, in UTC, in order, none twice."""
        # CronSim gets times without a zone. With one it goes by hours of elapsed time, and misses the full hour
        # after clocks that were set back by half an hour (Lord Howe) or at a quarter to (Chatham).
        zone, last = ZoneInfo(self.timezone), after.astimezone(UTC)
        begin = last.astimezone(zone).replace(tzinfo=None, fold=0)
        repeats = any(field.startswith("*") for field in self.fields.split()[:2])
        again: deque[datetime] = deque()
        first, repeated = _moments(begin, zone)
        unread = repeats and first == last < repeated
        for time in CronSim(self.fields, begin):
            first, second = _moments(time, zone)
            if second < first:  # a time that is skipped
                if repeats:
                    continue
                first = _end_of_gap(time, zone)
            elif unread and first > repeated:
                # In a repeated hour, times before ``after`` on the clock come again. They are read after the first of
                # the two hours: reading them at once took twenty times as long, and few callers get that far.
                earlier = takewhile(lambda time: time <= begin, CronSim(self.fields, begin - (repeated - last)))
                moments = [_moments(time, zone) for time in earlier]
                again.extendleft(reversed([later for sooner, later in moments if later > sooner]))
                unread = False
            while again and again[0] < first:
                yield again.popleft()
            if repeats and first <= last:  # ``after`` is in the second of the two hours
                first = second
            elif repeats and second > first:
                again.append(second)
            if first > last:
                last = first
                yield first
        yield from again

    def doubts(self) -> Iterator[str]:
        """Warnings about parts that their author may not have intended: steps that do not divide their range."""
        for (name, (first, last)), field in zip(_RANGES.items(), self.fields.split(), strict=True):
            for part in field.split(","):
                reach, _, step = part.partition("/")
                begin, _, end = (f"{first}-{last}" if reach == "*" else reach).partition("-")
                end = end or str(last)  # "5/20" is 5-59/20
                if not (step.isdigit() and begin.isdigit() and end.isdigit()):
                    continue
                size = int(end) - int(begin) + 1
                if int(step) >= size > 1:
                    reason = f"a {name} is {first} to {last}" if reach == "*" else f"{begin} + {step} is beyond {end}"
                    yield f"{part} in the field {name} matches only {begin}: {reason}"
                elif name in {"minute", "hour"} and size == last - first + 1 and size % int(step):
                    short = size % int(step)
                    yield f"{part} in the field {name} begins anew at {first}: the last step is {short} {name}s long"


def _moments(time: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """When the clocks of a zone show ``time``, for the first time and for the last one, in UTC.

    If they skip it, the second moment is earlier than the first.
    """
    first = time.replace(tzinfo=zone)
    return first.astimezone(UTC), first.replace(fold=1).astimezone(UTC)


def _end_of_gap(time: datetime, zone: ZoneInfo) -> datetime:
    """When the clocks that skip ``time`` have gone on, in UTC; to the minute."""
    first, second = _moments(time, zone)
    while second < first:
        time += timedelta(minutes=1)
        first, second = _moments(time, zone)
    return first


@dataclass(frozen=True, slots=True)
class Every(Schedule):
    """A tick every ``length`` of elapsed time: the multiples of it since Monday, 3 January 2000, 00:00 UTC.

    The ticks are the same on every machine and after every restart, and do not depend on time zone or summer time.

    Raises:
        InvalidArgument: the length cannot be read, or is shorter than a second or longer than 50 years.
    """

    text: str
    length: timedelta

    @classmethod
    def read(cls, length: timedelta | str, name: str = "every") -> Every:
        """Read ``length``: text such as "90 minutes", or a timedelta."""
        found = interval(length, name)
        if not timedelta(seconds=1) <= found <= timedelta(days=18_263):
            raise InvalidArgument(f"{name} must be at least a second and at most 50 years")
        text = length if isinstance(length, str) else f"{found.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"
        return cls(" ".join(text.split()), found)

    @property
    def expression(self) -> str:  # type: ignore[override]
        """The text that is stored in the table of schedules."""
        return _EVERY + self.text

    @property
    def timezone(self) -> str:  # type: ignore[override]
        """Always UTC; it has no effect."""
        return "UTC"

    def ticks(self, after: datetime) -> Iterator[datetime]:
        """All ticks later than ``after``, in order."""
        tick = self._at(after)
        while True:
            try:
                tick += self.length
            except OverflowError:
                return
            yield tick

    def last(self, after: datetime, until: datetime) -> datetime | None:
        """The last tick in (after, until]."""
        tick = self._at(until)
        return tick if tick > after.astimezone(UTC) else None

    def _at(self, moment: datetime) -> datetime:
        """The last tick that is not later than ``moment``."""
        start = datetime(2000, 1, 3, tzinfo=UTC)
        return start + (moment.astimezone(UTC) - start) // self.length * self.length


def read_schedule(expression: str, timezone: str = "UTC") -> Schedule:
    """Make a schedule from a cron expression or from "@every 90 minutes".

    Raises:
        InvalidArgument: it cannot be read.
    """
    if expression.startswith(_EVERY):
        return Every.read(expression.removeprefix(_EVERY), expression)
    return Cron(expression, timezone)


INSTANT = timedelta(microseconds=1)
"""The smallest difference between two times, in Python and in PostgreSQL."""
_FOR_EVER = timedelta(days=36_500)
"""The longest duration; longer ones are shortened to it. The range of dates ends before "999999 days" ago or ahead, in
Python and in PostgreSQL."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A job's schedule and its policy for ticks that are late."""

    schedule: Schedule
    catch_up: CatchUp = "none"
    window: timedelta = timedelta(days=1)
    """With ``last`` and ``all``: ticks older than this are not run."""
    jitter: timedelta = timedelta()
    grace: timedelta = timedelta(minutes=5)
    """A tick may start this long after its jitter. After that it counts as missed."""

    @property
    def patience(self) -> timedelta:
        """How late a tick may start before it counts as missed. The delay by its jitter does not count as late."""
        return self.grace + self.jitter

    @property
    def reach(self) -> timedelta:
        """How late a tick may be and still be run."""
        return self.patience if self.catch_up == "none" else max(self.window, self.grace) + self.jitter

    def overdue(self, after: datetime, now: datetime) -> tuple[list[datetime], datetime | None]:
        """The ticks in (after, now] to run now, and the last of those that are not run any more.

        Ticks older than ``reach`` are not run. Of the others the last one is run, or with ``all`` each of them.
        """
        first = self.schedule.after(after)
        if first is None or first > now:
            return [], None
        following = self.schedule.after(first)
        if now - first <= self.reach and (following is None or following > now):  # on time, as nearly always
            return [first], None
        since = max(after, now - self.reach)
        if self.catch_up == "all":
            run = self.schedule.between(since, now)
        else:
            last = self.schedule.last(since, now)
            run = [] if last is None else [last]
        # one row for the last tick that is not run, instead of one row for each minute of a weekend
        return run, self.schedule.last(after, run[0] - INSTANT if run else now)

    def delay(self, name: str, key: str, tick: datetime) -> timedelta:
        """The jitter of a tick. It is the same on every machine: with random ones, the smallest would always win.

        It ends before the next tick, because of two ticks that wait at the same time only the last would run.
        """
        if not self.jitter:
            return self.jitter
        following = self.schedule.after(tick)
        longest = self.jitter if following is None else min(self.jitter, following - tick)
        return longest * (zlib.crc32(f"{name}\n{key}\n{tick.timestamp()}".encode()) / 2**32)


def read_plan(
    of: str,
    schedule: Schedule,
    catch_up: CatchUp,
    window: timedelta | str,
    jitter: timedelta | str | None,
    grace: timedelta | str,
) -> Plan:
    """Make a plan from the arguments of a registration. Error messages use ``of`` ("of job letters").

    Raises:
        InvalidArgument: an argument cannot be read.
    """
    check_choice(catch_up, f"catch_up {of}", ("none", "last", "all"))
    for doubt in schedule.doubts() if isinstance(schedule, Cron) else ():
        log.warning('cron "%s" %s: %s; every= takes any interval', schedule.expression, of, doubt)
    return Plan(
        schedule,
        catch_up,
        min(interval(window, f"the catch-up window {of}"), _FOR_EVER),
        timedelta() if jitter is None else min(interval(jitter, f"the jitter {of}"), _FOR_EVER),
        min(interval(grace, f"the grace {of}"), _FOR_EVER),
    )
