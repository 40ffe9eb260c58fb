"""Now, the first page: is anything lost, late, stuck or slow?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from pgonce.console import respond
from pgonce.console.figures.now import hours
from pgonce.console.pages.imports import ImportLine, pace_of
from pgonce.console.reads import Read, reading
from pgonce.console.sentences import MOST_JOBS, Seen, Sentence, make_sentences
from pgonce.console.templating import Clock, zone_of
from pgonce.core.facts import Facts, Hour, get_facts, get_hours, get_stuck_imports
from pgonce.core.processes import ProcessLine, list_processes
from pgonce.jobs.calls_stats import JobLine, missed_ticks, urgent_jobs
from pgonce.seeds.calls_console import console_seeds

MOST_IMPORTS = 10
HOURS_HOLD = 10.0
"""Seconds for which the events per hour are reused: with 57,600 events a day they take half of the page's time."""


@dataclass(frozen=True, slots=True)
class Now:
    at: datetime
    sentences: Sequence[Sentence]
    hours: Sequence[Hour]
    jobs: Sequence[JobLine]
    """Those that run, then those that missed a tick or failed, then the newest: at most 20."""
    imports: Sequence[ImportLine]
    """Those that are not complete."""
    processes: Sequence[ProcessLine]
    facts: Facts


async def now(request: Request) -> Response:
    async with reading(request) as read:
        facts = await read(get_facts())
        by_hour = await _hours(request, read)
        missed = await read(missed_ticks())
        jobs = await read(urgent_jobs(MOST_JOBS, missed))
        stuck = await read(get_stuck_imports())
        seeds = await read(console_seeds(limit=MOST_IMPORTS, is_open=True))
        processes = await read(list_processes())
    clock = Clock(zone_of(request), facts.now)
    found = Now(
        facts.now, make_sentences(facts, Seen(jobs, missed, stuck, processes), clock), by_hour, jobs,
        [ImportLine(seed, pace_of(seed, facts.now)) for seed in seeds], processes, facts,
    )  # fmt: skip
    return await respond.respond(request, "now/now.html", found, figure=hours(by_hour, clock))


async def _hours(request: Request, read: Read) -> Sequence[Hour]:
    state = request.app.state
    read_at, by_hour = state.hours
    if time.monotonic() - read_at > HOURS_HOLD:
        by_hour = await read(get_hours())
        state.hours = (time.monotonic(), by_hour)
    found: Sequence[Hour] = by_hour
    return found


routes = respond.page("/", now, json_path="/now.json")
