"""Imports: how far, how long, and is every row accounted for? With pause, resume, rejects and the proof."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from starlette.requests import Request
from starlette.responses import Response

from pgonce.console import fields, respond
from pgonce.console.actions import act
from pgonce.console.figures import seeds as figures
from pgonce.console.figures.seeds import Sum
from pgonce.console.pages.jobs import NOW
from pgonce.console.reads import reading
from pgonce.console.respond import form, go, query, who
from pgonce.console.sessions import AuditLine, find_pause
from pgonce.console.text import coded, shortened
from pgonce.core.call import Call
from pgonce.core.diagnosis import Diagnosis
from pgonce.errors import Forbidden, InvalidArgument, NotFound, PgonceError, first_line
from pgonce.seeds import calls_console as calls
from pgonce.seeds import calls_console_operate as operate
from pgonce.seeds.calls import Checkpoint, Reject, get_checkpoint
from pgonce.seeds.calls_console import RejectReason, RejectRow, SeedLine, SeedRun
from pgonce.seeds.calls_diagnose import diagnose_seed
from pgonce.seeds.calls_operate import count_rejects, get_partitions, get_rejects
from pgonce.seeds.pace import Pace, pace
from pgonce.seeds.seeds_async import AsyncSeeds

log = logging.getLogger("pgonce")
MOST_PARTITIONS = 50
SEARCHED = 10_000
"""Rejected rows that are counted by reason, and searched for one, from the first or the given one on."""


@dataclass(frozen=True, slots=True)
class ImportLine:
    """An import in the list, with its pace."""

    seed: SeedLine
    pace: Pace

    @property
    def state(self) -> tuple[str, str]:
        """The name of its state, and the word for it.

        A pause that was asked for is not one that has happened: a runner stops after its batch.
        """
        seed = self.seed
        if seed.paused_at is not None:
            return ("running", "Pause asked") if seed.run_id else ("paused", "Paused")
        if seed.run_id is not None:
            return ("odd", "Stands still") if self.pace.stalled_for else ("running", "Running")
        if seed.status == "in_progress":
            return "unknown", "Not running"
        return seed.status, "Complete" if seed.status == "complete" else "Failed"


def pace_of(seed: SeedLine, now: datetime) -> Pace:
    return pace(
        seed.batch_rows or (), seed.batch_times or (), running_since=seed.run_started_at, seen=seed.rows_seen,
        total=seed.rows_expected, now=now,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Imports:
    now: datetime
    lines: Sequence[ImportLine]
    find: str
    more: SeedLine | None


@dataclass(frozen=True, slots=True)
class ImportPage(ImportLine):
    now: datetime
    checkpoint: Checkpoint
    diagnoses: list[Diagnosis]
    runs: list[SeedRun]
    """The newest first."""
    rejects: list[RejectReason]
    partitions: list[Checkpoint]
    """The first of them, those that are not complete before the others."""
    all_partitions: int
    complete_partitions: int
    paused_by: AuditLine | None
    """Who asked for the pause that holds."""

    @property
    def sum(self) -> Sum:
        """The rows by what became of them."""
        at = self.checkpoint
        return Sum(at.rows_seen, at.rows_inserted, at.rows_updated, at.rows_skipped, at.rows_rejected)

    @property
    def resumes(self) -> list[int]:
        """The rows at which it was resumed, in order."""
        return sorted({run.from_row for run in self.runs if run.from_row and run.key == self.seed.seed_name})

    @property
    def table(self) -> str:
        """The table that it fills; empty before its first batch."""
        target = self.checkpoint.target
        return str(target.get("table", "")) if isinstance(target, Mapping) else ""


async def imports(request: Request) -> Response:
    sent = query(request)
    find = sent.get("find")[:200]
    before = fields.read_moment(sent.get("before"))
    position = (before, fields.raw(sent, "before_name") or "") if before else None
    async with reading(request) as read:
        now = await read(NOW)
        seeds = await read(calls.console_seeds(before=position, find=find or None, limit=31))
    lines = [ImportLine(seed, pace_of(seed, now)) for seed in seeds[:30]]
    found = Imports(now, lines, find, seeds[29] if len(seeds) > 30 else None)
    return await respond.respond(request, "imports/list.html", found)


async def _read(request: Request, name: str) -> ImportPage:
    async with reading(request) as read:
        now = await read(NOW)
        checkpoint = await read(get_checkpoint(name))
        if checkpoint is None:
            raise NotFound(f"the import {name!r} has never run here")
        (seed,) = await read(calls.console_seeds(name=name))
        partitions = await read(get_partitions(name))
        complete = sum(each.status == "complete" for each in partitions)
        return ImportPage(
            seed, pace_of(seed, now), now, checkpoint,
            await read(diagnose_seed(name)),
            await read(calls.console_seed_runs(name)),
            await read(calls.console_seed_rejects(name)),
            sorted(partitions, key=lambda each: each.status == "complete")[:MOST_PARTITIONS], len(partitions), complete,
            await read(find_pause("import", name, seed.paused_at)),
        )  # fmt: skip


async def import_(request: Request) -> Response:
    sent = query(request)
    found = await _read(request, fields.raw(sent, "name") or "")
    at = found.checkpoint
    bar = None
    total = found.seed.rows_expected
    if total:
        bar = figures.progress(
            at.rows_seen, total, found.resumes, running=found.seed.run_id is not None, counted=at.rows_total is not None
        )
    return await respond.respond(
        request, "imports/import.html", found, bar=bar, rates=figures.rates(found.pace), proof=figures.proof(found.sum),
        coded=coded, said=sent.get("said"), can_retry=_can_retry(request, found.seed.seed_name),
        dump=respond.dump,
    )  # fmt: skip


async def proof(request: Request) -> Response:
    """The proof alone, to print."""
    found = await _read(request, fields.raw(query(request), "name") or "")
    return await respond.respond(
        request, "imports/proof.html", found, proof=figures.proof(found.sum), dump=respond.dump
    )


@dataclass(frozen=True, slots=True)
class Rejects:
    name: str
    like: int
    reason: str | None
    """None: the row that the link names is gone."""
    columns: Sequence[str]
    rows: Sequence[RejectRow]
    more: int | None
    searched_all: bool
    """Whether all rejected rows of the import were searched for this reason, not only the next 10,000."""


async def rejects(request: Request) -> Response:
    """The rejected rows with one reason, with their values: for operators."""
    _operator(request)
    sent = query(request)
    name, like = fields.raw(sent, "name") or "", fields.read_number(sent, "like")
    async with reading(request) as read:
        rows = await read(calls.console_seed_reject_rows(name, like, fields.read_number(sent, "after"), 51))
        reasons = await read(calls.console_seed_rejects(name))
        rejected = await read(count_rejects(name))
    reason = next((each.reason for each in reasons if each.first_id == like), None)
    columns = list(dict.fromkeys(column for row in rows for column in row.row or ()))
    more = rows[49].id if len(rows) > 50 else None
    found = Rejects(name, like, reason, columns[:60], rows[:50], more, more is not None or rejected <= SEARCHED)
    most = max(min(50_000 // max(len(found.columns) * len(rows), 1), 500), 15)
    return await respond.respond(
        request, "imports/rejects.html", found, most=most, shortened=shortened, all_columns=len(columns)
    )


async def rejects_csv(request: Request) -> Response:
    """The rejected rows as CSV, with their values: for operators."""
    _operator(request)
    name, last = fields.raw(query(request), "name") or "", 0
    columns: dict[str, None] = {}
    # The rows are read twice, because the names of the columns come first, and from all rows.
    async for found in _all_rejects(request, name):
        columns |= dict.fromkeys(column for each in found for column in each.row or ())
        last = found[-1].id

    names = list(columns)

    async def pages() -> AsyncIterator[respond.Rows]:
        async for found in _all_rejects(request, name):
            yield [_cells(each, names) for each in found if each.id <= last]  # a later row may have other columns
            if found[-1].id >= last:
                return

    headings = ["row_number", "partition", "sqlstate", "error", *names, "line"]
    return await respond.csv_file(request, "rejected-rows", headings, pages())


async def _all_rejects(request: Request, name: str) -> AsyncIterator[list[Reject]]:
    last = 0
    while True:
        async with reading(request) as read:
            found = await read(get_rejects(name, last, respond.CSV_PAGE))
        if not found:
            return
        last = found[-1].id
        yield found


def _cells(reject: Reject, columns: Sequence[str]) -> list[object]:
    values = reject.row or {}
    line = "" if reject.line is None else reject.line.decode("utf-8", "replace")
    return [reject.row_number, reject.partition, reject.sqlstate, reject.error, *map(values.get, columns), line]


def _operator(request: Request) -> None:
    if not who(request).operator:
        raise Forbidden("the values of rejected rows are shown to operators only")


def _can_retry(request: Request, name: str) -> bool:
    app = request.app.state.console.app
    return app is not None and name in app.seeds


# Actions -------------------------------------------------------------------------------------------------------------


async def confirm(request: Request) -> Response:
    """The page before rejected rows are retried."""
    found = await _read(request, fields.raw(query(request), "name") or "")
    return await respond.respond(
        request, "imports/confirm.html", found, can_retry=_can_retry(request, found.seed.seed_name)
    )


async def _operate(request: Request, action: Callable[[UUID, str, str], Call[Any]], said: str) -> Response:
    sent = await form(request)
    name = fields.raw(sent, "name") or ""
    done = await act(request, action(who(request).session, name, fields.reason_of(sent)), noun="import", object=name)
    return go(request, "/import", name=name, said=said if done else f"not-{said}")


async def pause(request: Request) -> Response:
    return await _operate(request, operate.pause_seed, "pause")


async def resume(request: Request) -> Response:
    return await _operate(request, operate.resume_seed, "resume")


async def retry(request: Request) -> Response:
    """Retry the rejected rows of an import that the console's app has."""
    sent = await form(request)
    name = fields.raw(sent, "name") or ""
    if not _can_retry(request, name):
        raise InvalidArgument(f"the console does not have the import {name!r}: use pgonce seed retry-rejects")
    async with reading(request) as read:
        found = await read(calls.console_seeds(name=name))
    if who(request).operator and any(seed.run_id for seed in found):
        return go(request, "/import", name=name, said="busy")
    call = operate.retry_seed_rejects(who(request).session, name, fields.reason_of(sent))
    await act(request, call, noun="import", object=name)
    console = request.app.state.console
    seeds = AsyncSeeds(await console.pool(), schema=console.schema)
    task = asyncio.create_task(_retry(seeds, console.app.get_seed(name)))
    request.app.state.retries.add(task)
    task.add_done_callback(request.app.state.retries.discard)
    return go(request, "/import", name=name, said="retry")


async def _retry(seeds: AsyncSeeds, seed: Any) -> None:
    try:
        await seeds.retry_rejects(seed)
    except (PgonceError, psycopg.Error) as error:
        log.warning("the rejected rows of %s could not be retried: %s", seed.name, first_line(error))


routes = [
    *respond.page("/imports", imports),
    *respond.page("/import", import_),
    *respond.page("/import/proof", proof),
    *respond.page("/import/rejects", rejects),
    *respond.file("/import/rejects.csv", rejects_csv),
    *respond.page("/import/retry", confirm),
    *respond.action("/import/pause", pause),
    *respond.action("/import/resume", resume),
    *respond.action("/import/retry", retry),
]
