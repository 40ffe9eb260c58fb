"""The page of a job, its runs and its actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response

from pgonce.console import fields, respond
from pgonce.console.actions import act
from pgonce.console.figures import runs as figures
from pgonce.console.pages.jobs import NOW, next_tick
from pgonce.console.reads import Read, reading
from pgonce.console.respond import Form, form, go, query, who
from pgonce.console.sessions import AuditLine, find_pause
from pgonce.console.templating import Clock, zone_of
from pgonce.console.text import coded
from pgonce.core.diagnosis import Diagnosis
from pgonce.core.interval import interval
from pgonce.errors import InvalidArgument, NotFound
from pgonce.jobs import calls_console as calls
from pgonce.jobs import calls_console_operate as operate
from pgonce.jobs.calls_console import ConsoleRun, Lane, Release, RequestLine
from pgonce.jobs.calls_diagnose import diagnose_job

STRIP = 100
"""Runs in the strip of durations."""


@dataclass(frozen=True, slots=True)
class JobPage:
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
        return self.lanes[0].job_name

    @property
    def running(self) -> ConsoleRun | None:
        """The oldest run at work."""
        return next((run for run in reversed(self.durations) if run.status == "running"), None)

    def kept(self, expected: calls.Expectation) -> tuple[int, int]:
        """How many of the last runs took less than expected, and of how many. A run at work counts once it has not."""
        within = (expected.within or timedelta()) / timedelta(milliseconds=1)
        runs = [run for run in self.durations if expected.concerns(run.key)]
        ended = [run for run in runs if run.status != "running" or run.duration_ms >= within]
        return sum(run.duration_ms < within for run in ended), len(ended)

    def too_long(self, expected: calls.Expectation) -> ConsoleRun | None:
        """The newest run, if it took or has taken as long as it must not."""
        within = (expected.within or timedelta()) / timedelta(milliseconds=1)
        newest = next((run for run in self.durations if expected.concerns(run.key)), None)
        return newest if newest and newest.duration_ms >= within else None

    @property
    def blocker(self) -> ConsoleRun | None:
        """The run that a start now would meet: of the chosen key, or of the job's only one."""
        keys = {self.key} if self.key is not None else {self.lanes[0].key} if len(self.lanes) == 1 else set()
        return next((run for run in self.durations if run.status == "running" and run.key in keys), None)


async def _read_job(read: Read, name: str, key: str | None) -> JobPage:
    now = await read(NOW)
    lanes = await read(calls.job_lanes(name=name, key=key, limit=100))
    if not lanes:
        raise NotFound(f"no job {name} has run, and none is scheduled")
    if key is not None and key not in {lane.key for lane in lanes}:
        raise NotFound(f"job {name} has no key {key!r}")
    durations = await read(calls.console_job_runs(name, key=key, ran=True, limit=STRIP))
    recent = await read(calls.console_job_runs(name, key=key, limit=12))
    oldest = min((run.started_at for run in durations), default=now)
    paused_at = next((lane.paused_at for lane in lanes if lane.paused_at is not None), None)
    return JobPage(
        now, lanes, key, durations, recent,
        await read(calls.job_releases(name, oldest)),
        await read(calls.job_expectations(name)),
        await read(calls.job_requests(name)),
        await read(diagnose_job(name)),
        await read(find_pause("job", name, paused_at)),
    )  # fmt: skip


async def job(request: Request) -> Response:
    sent = query(request)
    name, key = fields.raw(sent, "name") or "", fields.raw(sent, "key")
    async with reading(request) as read:
        found = await _read_job(read, name, key)
    clock = Clock(zone_of(request), found.now)
    usual = figures.usual(found.durations)
    ticks = [
        tick for lane in found.lanes if key is None or lane.key == key
        if (tick := next_tick(lane, request.app.state.console.app, found.now))
    ]  # fmt: skip
    return await respond.respond(
        request, "jobs/job.html", found, strip=figures.strip(found.durations, found.releases, clock),
        usual=usual, unit=figures.unit_of(max((run.duration_ms for run in found.durations), default=1))[1],
        by_release=by_release(found.durations, found.releases), coded=coded, untils=untils(clock),
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
    """The ends of a pause to choose from, each as the value that is sent and its label."""
    here = clock.local(clock.now)
    found = [("1h", "For 1 hour"), ("4h", "For 4 hours")]
    if here.hour < 18:
        found.append((_at(here, 0, 18), "18:00 today"))
    found.append((_at(here, 1, 8), "Tomorrow 08:00"))
    found.append((_at(here, 7 - here.weekday(), 8), "Monday 08:00"))
    return [*found, ("", "Until it is resumed")]


def _at(here: datetime, days: int, hour: int) -> str:
    there: date = here.date() + timedelta(days=days)
    return datetime(there.year, there.month, there.day, hour, tzinfo=here.tzinfo).isoformat()


async def runs(request: Request) -> Response:
    """All runs of a job, page by page."""
    sent = query(request)
    name, key, status = fields.raw(sent, "name") or "", fields.raw(sent, "key"), sent.get("status")
    if status not in {"", "running", "succeeded", "failed", "skipped"}:
        raise InvalidArgument("status is running, succeeded, failed or skipped")
    before = fields.read_moment(sent.get("before"))
    position = (before, fields.read_uuid(sent.get("before_id"), "a run")) if before else None
    async with reading(request) as read:
        found = await read(calls.console_job_runs(name, key=key, status=status or None, before=position, limit=51))
    more = found[49] if len(found) > 50 else None
    return await respond.respond(request, "jobs/runs.html", found[:50], job=name, key=key, chosen=status, more=more)


# Actions -------------------------------------------------------------------------------------------------------------


def _back(request: Request, sent: Form, said: str) -> Response:
    return go(request, "/job", name=fields.raw(sent, "name"), key=fields.raw(sent, "page_key"), said=said)


async def run_now(request: Request) -> Response:
    sent = await form(request)
    name, key = fields.raw(sent, "name") or "", fields.raw(sent, "key")
    call = operate.request_job_run(who(request).session, name, key, {}, fields.reason_of(sent))
    await act(request, call, noun="job", object=name)
    return _back(request, sent, "requested")


async def pause(request: Request) -> Response:
    sent = await form(request)
    name, until = fields.raw(sent, "name") or "", sent.get("until")
    end = None
    if until in {"1h", "4h"}:
        async with reading(request) as read:
            end = await read(NOW) + timedelta(hours=int(until[0]))
    elif until:
        end = fields.read_moment(until)
    call = operate.pause_job(who(request).session, name, fields.reason_of(sent, required=True), end)
    replaced = await act(request, call, noun="job", object=name)
    return _back(request, sent, "paused-again" if replaced else "paused")


async def resume(request: Request) -> Response:
    sent = await form(request)
    name = fields.raw(sent, "name") or ""
    done = await act(
        request, operate.resume_job(who(request).session, name, fields.reason_of(sent)), noun="job", object=name
    )
    return _back(request, sent, "resumed" if done else "not-paused")


async def expect(request: Request) -> Response:
    """Say how often a job must run and how long a run may take, or that nothing is expected."""
    sent = await form(request)
    name, key, session = fields.raw(sent, "name") or "", fields.raw(sent, "key") or "", who(request).session
    if sent.get("never"):
        forget = operate.forget_job_expectation(session, name, key, fields.reason_of(sent))
        if not await act(request, forget, noun="job", object=name):
            return _back(request, sent, "not-expected")
    else:
        every, within = (interval(sent.get(each), each) if sent.get(each) else None for each in ("every", "within"))
        grace = interval(sent.get("grace", "5 minutes"), "grace")
        wanted = operate.expect_job(session, name, every, grace, key, fields.reason_of(sent), within)
        await act(request, wanted, noun="job", object=name)
    return _back(request, sent, "expected")


routes = [
    *respond.page("/job", job),
    *respond.page("/job/runs", runs),
    *respond.action("/job/request", run_now),
    *respond.action("/job/pause", pause),
    *respond.action("/job/resume", resume),
    *respond.action("/job/expect", expect),
]
