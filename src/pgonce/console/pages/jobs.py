"""The day in lanes, and the page of a job with its actions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import islice
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from pgonce.app import App
from pgonce.console import respond, words
from pgonce.console.actions import act
from pgonce.console.figures import jobs as figures
from pgonce.console.reads import Read, reading
from pgonce.console.respond import Form, form, go, query, who
from pgonce.console.sessions import AuditLine, list_audit
from pgonce.console.templating import Clock, duration, plural, zone_of
from pgonce.core.call import Call, value
from pgonce.core.diagnosis import Diagnosis
from pgonce.core.interval import interval
from pgonce.core.processes import list_processes
from pgonce.errors import InvalidArgument, NotFound
from pgonce.jobs import calls_console as calls
from pgonce.jobs import calls_console_operate as operate
from pgonce.jobs.calls_console import ConsoleRun, Lane, Mark, Release, RequestLine, Trouble
from pgonce.jobs.calls_diagnose import diagnose_job

LANES = 20
MARKS = 500
"""Marks in the lanes of a page: 35 kB."""
MOST_TICKS = 100
STRIP = 100
"""Runs in the strip of durations."""
NOW: Call[datetime] = Call("pgonce_console_clock", {}, value)


@dataclass(frozen=True, slots=True)
class LaneView:
    """A lane as it is drawn."""

    lane: Lane
    marks: Sequence[Mark]
    ticks: Sequence[datetime]
    """The starts to come within the period."""
    state: str
    word: str
    note: str

    def count(self, *kinds: str) -> int:
        """How many runs or ticks of these kinds there are."""
        return sum(mark.runs for mark in self.marks if mark.kind in kinds)


@dataclass(frozen=True, slots=True)
class Jobs:
    """What the page of all jobs shows."""

    now: datetime
    begin: datetime
    end: datetime
    lanes: Sequence[LaneView]
    troubles: list[Trouble]
    find: str
    more: tuple[str, str] | None
    """Name and key after which the next page begins."""
    has_worker: bool
    """Whether a process that runs jobs has been seen within the last minute."""


@dataclass(frozen=True, slots=True)
class JobPage:
    """What the page of a job shows."""

    now: datetime
    lanes: list[Lane]
    """One for each key."""
    key: str | None
    durations: list[ConsoleRun]
    """The last 100 runs, the newest first."""
    recent: list[ConsoleRun]
    releases: list[Release]
    expectations: list[calls.Expectation]
    requests: list[RequestLine]
    diagnoses: list[Diagnosis]
    paused_by: AuditLine | None

    @property
    def name(self) -> str:
        """The job's."""
        return self.lanes[0].job_name

    @property
    def running(self) -> ConsoleRun | None:
        """The oldest run at work."""
        return next((run for run in reversed(self.durations) if run.status == "running"), None)

    @property
    def blocker(self) -> ConsoleRun | None:
        """The run that a start now would meet: of the chosen key, or of the job's only one."""
        keys = {self.key} if self.key is not None else {self.lanes[0].key} if len(self.lanes) == 1 else set()
        return next((run for run in self.durations if run.status == "running" and run.key in keys), None)


def future_ticks(lane: Lane, app: App | None, begin: datetime, end: datetime) -> list[datetime]:
    """The starts to come from ``begin`` to ``end``.

    By the registered schedule, if the console has the app and the database has the same expression. Else those that a
    scheduler has written: an expression in a table is never expanded here, because anybody may have written it.
    """
    job = app.jobs.get(lane.job_name) if app else None
    if lane.cron is None:
        return []
    if lane.paused_at is not None:
        begin = max(begin, lane.paused_until or end)
    if job and job.plan and job.key == lane.key and job.plan.schedule.expression == lane.cron:
        ticks = islice(job.plan.schedule.ticks(begin), MOST_TICKS)
        return [tick for tick in ticks if tick <= end]
    return sorted({tick for tick in lane.next_ticks or () if begin < tick <= end})


def view(lane: Lane, marks: Sequence[Mark], ticks: Sequence[datetime], clock: Clock) -> LaneView:
    """The lane with what its line in the table says."""
    counts: dict[str, int] = {}
    for mark in marks:
        counts[mark.kind] = counts.get(mark.kind, 0) + mark.runs
    words_of = {"skipped": "skipped", "late": "missed, begun later", "missed": "missed", "overlap": "overlapping"}
    notes = [f"{counts[kind]:,} {word}" for kind, word in words_of.items() if counts.get(kind)]
    if lane.paused_at is not None:
        until = f"Paused until {clock.coming(lane.paused_until)}" if lane.paused_until else "Paused"
        notes.insert(0, f"{until}: {words.shortened(lane.paused_because or '', 300)}")
    if lane.next_retry_at is not None:
        notes.append(f"retried {clock.coming(lane.next_retry_at)}")
    return LaneView(lane, marks, ticks, *_state(lane, counts.keys()), ", ".join(notes))


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
    """The page of all jobs."""
    sent = query(request)
    days = 7 if sent.get("days") == "7" else 1
    find, after = sent.get("find")[:200], words.raw(sent, "after")
    console = request.app.state.console
    async with reading(request) as read:
        now = await read(NOW)
        clock = Clock(zone_of(request), now)
        today = clock.local(now).date()
        day = words.read_date(sent.get("day")) or today
        begin = words.midnight(words.next_day(day, 1 - days), clock.local(now))
        end = words.midnight(words.next_day(day), clock.local(now))
        position = (after, words.raw(sent, "after_key") or "") if after is not None else None
        lanes = await read(calls.job_lanes(find=find or None, after=position, limit=LANES + 1))
        more = (lanes[LANES - 1].job_name, lanes[LANES - 1].key) if len(lanes) > LANES else None
        lanes = lanes[:LANES]
        marks = await read(calls.job_marks(lanes, begin, end)) if lanes else []
        troubles = await read(calls.job_troubles()) if begin <= now <= end else []
        processes = await read(list_processes())
    by_lane: dict[tuple[str, str], list[Mark]] = {}
    for mark in marks:
        by_lane.setdefault((mark.job_name, mark.key), []).append(mark)
    thin(by_lane, begin, end)
    views = [
        view(
            lane,
            by_lane.get((lane.job_name, lane.key), []),
            future_ticks(lane, console.app, max(now, begin), end),
            clock,
        )
        for lane in lanes
    ]
    alive = any(line.live and "jobs" in line.does for line in processes)
    found = Jobs(now, begin, end, views, troubles, find, more, alive)
    period = figures.Period(begin, end, now)
    return await respond.respond(
        request, "jobs/list.html", found, day=day, days=days, today=today,
        axis=figures.axis(period, clock), summary=_summary(views), coded=words.coded,
        figures=[_lane(number, each, period, clock) for number, each in enumerate(views)],
        before=words.next_day(day, -days), after_day=words.next_day(day, days),
    )  # fmt: skip


def thin(by_lane: dict[tuple[str, str], list[Mark]], begin: datetime, end: datetime) -> None:
    """Merge neighbouring marks of the lanes that have the most, so that all figures together fit into a page."""
    fair = MARKS // max(len(by_lane), 1)
    many = [lane for lane, marks in by_lane.items() if len(marks) > fair]
    left = MARKS - sum(len(marks) for lane, marks in by_lane.items() if lane not in many)
    for lane in many:
        place = (end - begin) / max(left // len(many), 24)
        merged: dict[tuple[str, int, UUID | None], Mark] = {}
        for mark in by_lane[lane]:
            at = (mark.kind, (mark.began_at - begin) // place, mark.blocked_by)
            known = merged.get(at)
            merged[at] = (
                mark
                if known is None
                else replace(
                    mark,
                    began_at=known.began_at,
                    ended_at=max(known.ended_at, mark.ended_at),
                    runs=known.runs + mark.runs,
                )
            )
        by_lane[lane] = list(merged.values())


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


async def _read_job(read: Read, name: str, key: str | None) -> JobPage:
    now = await read(NOW)
    lanes = await read(calls.job_lanes(name=name, limit=100))
    if not lanes:
        raise NotFound(f"no job {name} has run, and none is scheduled")
    if key is not None and key not in {lane.key for lane in lanes}:
        raise NotFound(f"job {name} has no key {key!r}")
    durations = await read(calls.console_job_runs(name, key=key, ran=True, limit=STRIP))
    recent = await read(calls.console_job_runs(name, key=key, limit=12))
    oldest = min((run.started_at for run in durations), default=now)
    paused = next((lane for lane in lanes if lane.paused_at is not None), None)
    audit = await read(list_audit(object=name, action="pause", limit=1)) if paused else []
    return JobPage(
        now, lanes, key, durations, recent,
        await read(calls.job_releases(name, oldest)),
        await read(calls.job_expectations(name)),
        await read(calls.job_requests(name)),
        await read(diagnose_job(name)),
        audit[0] if audit else None,
    )  # fmt: skip


async def job(request: Request) -> Response:
    """The page of a job."""
    sent = query(request)
    name, key = words.raw(sent, "name") or "", words.raw(sent, "key")
    async with reading(request) as read:
        found = await _read_job(read, name, key)
    clock = Clock(zone_of(request), found.now)
    usual = figures.usual(found.durations)
    ticks = [
        tick for lane in found.lanes if key is None or lane.key == key
        for tick in future_ticks(lane, request.app.state.console.app, found.now, found.now + timedelta(days=366))[:1]
    ]  # fmt: skip
    return await respond.respond(
        request, "jobs/job.html", found, strip=figures.strip(found.durations, found.releases, clock),
        usual=usual, unit=figures.unit_of(max((run.duration_ms for run in found.durations), default=1))[1],
        by_release=by_release(found.durations, found.releases), coded=words.coded, untils=untils(clock),
        next_tick=min(ticks, default=None), said=sent.get("said"),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class OfRelease:
    """The runs that began under a release."""

    release: str
    runs: int
    running: int
    half: float | None
    p95: float | None
    longest: float | None
    rows_per_second: float | None


def by_release(runs: Sequence[ConsoleRun], releases: Sequence[Release]) -> list[OfRelease]:
    """The durations by the release that had started last when each run began; empty if none is known."""
    grouped: dict[str, list[ConsoleRun]] = {}
    for run in reversed(runs):
        name = next((each.release for each in reversed(releases) if each.started_at <= run.started_at), None)
        if name is not None:
            grouped.setdefault(name, []).append(run)
    return [_of_release(name, found) for name, found in grouped.items()]


def _of_release(name: str, runs: Sequence[ConsoleRun]) -> OfRelease:
    done = [run for run in runs if run.status == "succeeded"]
    took = sorted(run.duration_ms for run in done)
    spent = sum(took)
    rows = sum(run.rows_processed or 0 for run in done)
    return OfRelease(
        name, len(runs), sum(run.status == "running" for run in runs),
        took[len(took) // 2] if took else None, took[min(int(len(took) * 0.95), len(took) - 1)] if took else None,
        max((run.duration_ms for run in runs), default=None), rows * 1000 / spent if spent and rows else None,
    )  # fmt: skip


def untils(clock: Clock) -> list[tuple[str, str]]:
    """Ends of a pause to choose from: what is sent, and what it says."""
    here = clock.local(clock.now)
    found = [("1h", "For 1 hour"), ("4h", "For 4 hours")]
    if here.hour < 18:
        found.append((_at(here, 0, 18), "18:00 today"))
    found.append((_at(here, 1, 8), "Tomorrow 08:00"))
    found.append((_at(here, 7 - here.weekday(), 8), "Monday 08:00"))
    return [*found, ("", "Until it is resumed")]


def _at(here: datetime, days: int, hour: int) -> str:
    there: date = words.next_day(here.date(), days)
    return datetime(there.year, there.month, there.day, hour, tzinfo=here.tzinfo).isoformat()


async def runs(request: Request) -> Response:
    """All runs of a job, page by page."""
    sent = query(request)
    name, key, status = words.raw(sent, "name") or "", words.raw(sent, "key"), sent.get("status")
    if status not in {"", "running", "succeeded", "failed", "skipped"}:
        raise InvalidArgument("status is running, succeeded, failed or skipped")
    before = words.read_moment(sent.get("before"))
    position = (before, words.read_uuid(sent.get("before_id"), "a run")) if before else None
    async with reading(request) as read:
        found = await read(calls.console_job_runs(name, key=key, status=status or None, before=position, limit=51))
    more = found[49] if len(found) > 50 else None
    return await respond.respond(request, "jobs/runs.html", found[:50], job=name, key=key, chosen=status, more=more)


# Actions -------------------------------------------------------------------------------------------------------------


def _back(request: Request, sent: Form, said: str) -> Response:
    return go(request, "/job", name=words.raw(sent, "name"), key=words.raw(sent, "page_key"), said=said)


async def run_now(request: Request) -> Response:
    """Request a run."""
    sent = await form(request)
    name, key = words.raw(sent, "name") or "", words.raw(sent, "key")
    call = operate.request_job_run(who(request).session, name, key, {}, words.reason_of(sent))
    await act(request, call, noun="job", object=name)
    return _back(request, sent, "requested")


async def pause(request: Request) -> Response:
    """Pause a job."""
    sent = await form(request)
    name, until = words.raw(sent, "name") or "", sent.get("until")
    end = None
    if until in {"1h", "4h"}:
        async with reading(request) as read:
            end = await read(NOW) + timedelta(hours=int(until[0]))
    elif until:
        end = words.read_moment(until)
        if end is None:
            raise InvalidArgument(f"cannot read {until[:40]!r} as the end of a pause")
    call = operate.pause_job(who(request).session, name, words.reason_of(sent, required=True), end)
    await act(request, call, noun="job", object=name)
    return _back(request, sent, "paused")


async def resume(request: Request) -> Response:
    """Resume a job."""
    sent = await form(request)
    name = words.raw(sent, "name") or ""
    done = await act(
        request, operate.resume_job(who(request).session, name, words.reason_of(sent)), noun="job", object=name
    )
    return _back(request, sent, "resumed" if done else "not-paused")


async def expect(request: Request) -> Response:
    """Say how often a job must run, or that it need not."""
    sent = await form(request)
    name, key, session = words.raw(sent, "name") or "", words.raw(sent, "key") or "", who(request).session
    if sent.get("never"):
        forget = operate.forget_job_expectation(session, name, key, words.reason_of(sent))
        await act(request, forget, noun="job", object=name)
    else:
        every, grace = interval(sent.get("every"), "every"), interval(sent.get("grace", "5 minutes"), "grace")
        wanted = operate.expect_job(session, name, every, grace, key, words.reason_of(sent))
        await act(request, wanted, noun="job", object=name)
    return _back(request, sent, "expected")


routes = [
    *respond.page("/jobs", jobs),
    *respond.page("/job", job),
    *respond.page("/job/runs", runs),
    *respond.action("/job/request", run_now),
    *respond.action("/job/pause", pause),
    *respond.action("/job/resume", resume),
    *respond.action("/job/expect", expect),
]
