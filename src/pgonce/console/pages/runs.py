"""The page of a run: is it alive, which process has it, will it stop, and what does it block? With its actions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from pgonce.console import fields, respond
from pgonce.console.actions import act
from pgonce.console.addresses import links
from pgonce.console.figures import runs as figures
from pgonce.console.pages.jobs import NOW
from pgonce.console.reads import reading
from pgonce.console.respond import form, go, query, who
from pgonce.console.sessions import AuditLine, list_audit
from pgonce.console.templating import Clock, zone_of
from pgonce.console.text import coded, shortened
from pgonce.core.diagnosis import Diagnosis
from pgonce.errors import NotFound
from pgonce.jobs import calls_console as calls
from pgonce.jobs import calls_console_operate as operate
from pgonce.jobs.calls_console import Attempt, Blocked, RunDetail
from pgonce.jobs.calls_diagnose import diagnose_run


@dataclass(frozen=True, slots=True)
class RunPage:
    now: datetime
    run: RunDetail
    diagnoses: list[Diagnosis]
    blocks: list[Blocked]
    attempts: list[Attempt]
    audit: list[AuditLine]
    """What people have done to it, the newest first."""

    @property
    def stopped_by(self) -> AuditLine | None:
        return next((line for line in self.audit if line.action == "stop" and not line.refused), None)

    @property
    def ended_by(self) -> AuditLine | None:
        return next((line for line in self.audit if line.action == "end" and not line.refused), None)

    @property
    def running(self) -> bool:
        return self.run.status == "running"

    @property
    def took(self) -> timedelta:
        """How long it took, or has been running."""
        return (self.run.ended_at or self.now) - self.run.started_at

    @property
    def notices_within(self) -> timedelta:
        """How soon a run notices that it was asked to stop: at its next heartbeat."""
        return min(self.run.window / 3, timedelta(seconds=15))


async def _read(request: Request, run_id: UUID) -> RunPage:
    async with reading(request) as read:
        now = await read(NOW)
        run = await read(calls.run_detail(run_id))
        if run is None:
            raise NotFound(f"there is no job run {run_id}")
        return RunPage(
            now, run,
            await read(diagnose_run(run_id)),
            await read(calls.run_blocks(run_id)),
            await read(calls.run_attempts(run_id)),
            await read(list_audit(object=str(run_id), limit=10)),
        )  # fmt: skip


async def run(request: Request) -> Response:
    sent = query(request)
    found = await _read(request, fields.read_uuid(sent.get("id"), "a run"))
    clock = Clock(zone_of(request), found.now)
    detail = found.run
    host, _, pid = (detail.process or "").rpartition(":")
    values = {
        "id": detail.id, "run_id": detail.id, "job": detail.job_name, "key": detail.key, "host": host, "pid": pid,
        "started": f"{detail.started_at:%Y-%m-%dT%H:%M:%SZ}",
        "ended": f"{detail.ended_at or found.now:%Y-%m-%dT%H:%M:%SZ}",
    }  # fmt: skip
    return await respond.respond(
        request, "runs/run.html", found, beat=figures.heartbeat(detail, found.now, clock),
        progress=figures.progress(detail, found.now, clock), host=host, pid=pid, links=links(values),
        coded=coded, said=sent.get("said"),
        scope=shortened(json.dumps(detail.scope, indent=2, ensure_ascii=False), 16_384),
    )  # fmt: skip


async def confirm(request: Request) -> Response:
    """The page that asks for a confirmation before a run is stopped or ended."""
    sent = query(request)
    found = await _read(request, fields.read_uuid(sent.get("id"), "a run"))
    return await respond.respond(request, "runs/confirm.html", found, action=request.url.path.rpartition("/")[2])


async def stop(request: Request) -> Response:
    sent = await form(request)
    run_id = fields.read_uuid(sent.get("id"), "a run")
    call = operate.stop_run(who(request).session, run_id, fields.reason_of(sent))
    done = await act(request, call, noun="run", object=str(run_id))
    return go(request, "/run", id=run_id, said="stop" if done else "over")


async def end(request: Request) -> Response:
    sent = await form(request)
    run_id = fields.read_uuid(sent.get("id"), "a run")
    call = operate.end_run(who(request).session, run_id, fields.reason_of(sent, required=True))
    done = await act(request, call, noun="run", object=str(run_id))
    return go(request, "/run", id=run_id, said="end" if done else "over")


routes = [
    *respond.page("/run", run),
    *respond.page("/run/stop", confirm),
    *respond.page("/run/end", confirm),
    *respond.action("/run/stop", stop),
    *respond.action("/run/end", end),
]
