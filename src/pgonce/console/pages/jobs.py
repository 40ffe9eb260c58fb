"""The day of all jobs in lanes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, takewhile

from starlette.requests import Request
from starlette.responses import Response

from pgonce.app import App
from pgonce.console import fields, respond
from pgonce.console.figures import jobs as figures
from pgonce.console.reads import reading
from pgonce.console.respond import query
from pgonce.console.templating import Clock, duration, plural, zone_of
from pgonce.console.text import coded, shortened
from pgonce.core.call import Call, value
from pgonce.core.processes import list_processes
from pgonce.errors import InvalidArgument
from pgonce.jobs import calls_console as calls
from pgonce.jobs.calls_console import Lane, Mark, Trouble

LANES = 20
MARKS = 500
"""Marks in all lanes of a page, about: 35 kB."""
NOW: Call[datetime] = Call("pgonce_console_clock", {}, value)


@dataclass(frozen=True, slots=True)
class LaneView:
    lane: Lane
    marks: Sequence[Mark]
    ticks: Sequence[datetime]
    """The starts to come within the period."""
    state: str
    word: str
    note: str
    coming: datetime | None
    """The next start; None: there is no schedule, or it is paused until nobody knows when."""

    def count(self, *kinds: str) -> int:
        """How many runs or ticks of these kinds there are."""
        return sum(mark.runs for mark in self.marks if mark.kind in kinds)


@dataclass(frozen=True, slots=True)
class Jobs:
    now: datetime
    begin: datetime
    end: datetime
    lanes: Sequence[LaneView]
    troubles: list[Trouble] | None
    """Of all jobs; None: not on a page of the past, of a search, or after the first."""
    find: str
    more: tuple[str, str] | None
    """Name and key after which the next page begins."""
    has_worker: bool
    """Whether a process that runs jobs has been seen within the last minute."""


def future_ticks(lane: Lane, app: App | None, begin: datetime, end: datetime) -> list[datetime]:
    """The starts to come after ``begin`` and before ``end``; one more than a figure shows stands for any number."""
    return list(islice(takewhile(lambda tick: tick < end, _ticks(lane, app, begin)), figures.MOST_TICKS + 1))


def next_tick(lane: Lane, app: App | None, now: datetime) -> datetime | None:
    """The next start; None: there is no schedule, or nobody knows when it goes on after a pause."""
    return next(_ticks(lane, app, now), None)


def _ticks(lane: Lane, app: App | None, begin: datetime) -> Iterator[datetime]:
    """The starts to come after ``begin`` that no pause prevents.

    By the registered schedule, if the console has the app and the database has the same expression. Else those that a
    scheduler has written: an expression in a table is never expanded here, because anybody may have written it.
    """
    job = app.jobs.get(lane.job_name) if app else None
    if lane.cron is None or (lane.paused_at is not None and lane.paused_until is None):
        return iter(())
    begin = max(begin, lane.paused_until or begin)
    if job and job.plan and job.key == lane.key and job.plan.schedule.expression == lane.cron:
        return job.plan.schedule.ticks(begin)
    return iter(sorted({tick for tick in lane.next_ticks or () if begin < tick}))


def view(
    lane: Lane, marks: Sequence[Mark], ticks: Sequence[datetime], clock: Clock, coming: datetime | None = None
) -> LaneView:
    """The lane, with the texts of its line in the table."""
    counts: dict[str, int] = {}
    for mark in marks:
        counts[mark.kind] = counts.get(mark.kind, 0) + mark.runs
    words_of = {"skipped": "skipped", "late": "missed, begun later", "missed": "missed", "overlap": "overlapping"}
    notes = [f"{counts[kind]:,} {word}" for kind, word in words_of.items() if counts.get(kind)]
    if lane.paused_at is not None:
        until = f"Paused until {clock.coming(lane.paused_until)}" if lane.paused_until else "Paused"
        notes.insert(0, f"{until}: {shortened(lane.paused_because or '', 300)}")
    if lane.next_retry_at is not None:
        notes.append(f"retried {clock.coming(lane.next_retry_at)}")
    if len(ticks) > figures.MOST_TICKS:
        notes.append(f"over {figures.MOST_TICKS} starts to come, the first {figures.MOST_TICKS} are drawn")
    return LaneView(lane, marks, ticks, *_state(lane, counts.keys()), ", ".join(notes), coming)


def _state(lane: Lane, kinds: Collection[str]) -> tuple[str, str]:
    if lane.status == "running":
        return "running", f"{'Stop asked' if lane.stopping else 'Running'} {duration(lane.duration_ms)}"
    if lane.paused_at is not None:
        return "paused", ""
    if "overlap" in kinds:
        return "odd", "Overlapped"
    if "missed" in kinds:
        return "odd", "Missed"
    return (lane.status, "") if lane.status else ("unknown", "Never ran")


async def jobs(request: Request) -> Response:
    sent = query(request)
    if sent.get("days") not in {"", "1", "7"}:
        raise InvalidArgument("days is 1 or 7")
    days = 7 if sent.get("days") == "7" else 1
    find, after = sent.get("find")[:200], fields.raw(sent, "after")
    console = request.app.state.console
    async with reading(request) as read:
        now = await read(NOW)
        clock = Clock(zone_of(request), now)
        today = clock.local(now).date()
        day = fields.read_date(sent.get("day")) or today
        begin = clock.midnight(day + timedelta(days=1 - days))
        end = clock.midnight(day + timedelta(days=1))
        position = (after, fields.raw(sent, "after_key") or "") if after is not None else None
        lanes = await read(calls.job_lanes(find=find or None, after=position, limit=LANES + 1))
        more = (lanes[LANES - 1].job_name, lanes[LANES - 1].key) if len(lanes) > LANES else None
        lanes = lanes[:LANES]
        marks = await read(calls.job_marks(lanes, begin, end, MARKS)) if lanes else []
        all_now = begin <= now <= end and not find and after is None
        troubles = [*await read(calls.job_troubles())] if all_now else None
        processes = await read(list_processes())
    by_lane: dict[tuple[str, str], list[Mark]] = {}
    for mark in marks:
        by_lane.setdefault((mark.job_name, mark.key), []).append(mark)
    views = [
        view(
            lane,
            by_lane.get((lane.job_name, lane.key), []),
            future_ticks(lane, console.app, max(now, begin), end),
            clock,
            next_tick(lane, console.app, now),
        )
        for lane in lanes
    ]
    alive = any(line.live and "jobs" in line.does for line in processes)
    found = Jobs(now, begin, end, views, troubles, find, more, alive)
    period = figures.Period(begin, end, now)
    return await respond.respond(
        request, "jobs/list.html", found, day=day, days=days, today=today,
        axis=figures.axis(period, clock), summary=_summary(views), coded=coded,
        figures=[_lane(number, each, period, clock) for number, each in enumerate(views)],
        before=day - timedelta(days=days), after_day=day + timedelta(days=days),
    )  # fmt: skip


def _lane(number: int, each: LaneView, period: figures.Period, clock: Clock) -> object:
    lane = each.lane
    pause = None if lane.paused_at is None else (lane.paused_at, lane.paused_until)
    title = f"{lane.job_name} {lane.key}".strip()
    return figures.lane(f"f{number}", title, each.marks, each.ticks, pause, period, clock)


def _summary(views: Sequence[LaneView]) -> str:
    def count(*kinds: str) -> int:
        return sum(each.count(*kinds) for each in views)

    said = [plural(count("succeeded", "failed", "running"), "run")]
    for number, text in (
        (count("running"), "at work"), (count("failed"), "failed"), (count("skipped"), "skipped"),
        (count("missed"), "missed"), (count("overlap"), "overlapping"),
    ):  # fmt: skip
        if number:
            said.append(f"{number:,} {text}")
    return ", ".join(said) + "."


routes = respond.page("/jobs", jobs)
