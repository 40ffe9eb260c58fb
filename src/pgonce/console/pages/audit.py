"""Audit: who did what, from where, and why."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from pgonce.console import fields, respond
from pgonce.console.reads import reading
from pgonce.console.sessions import AuditChoices, AuditLine, audit_choices, list_audit
from pgonce.core.call import Call

PAGE = 50

DONE = {
    ("login", "session"): "Logged in",
    ("logout", "session"): "Logged out",
    ("stop", "run"): "Stop asked for",
    ("end", "run"): "Run ended",
    ("request", "job"): "Run asked of",
    ("pause", "job"): "Schedule paused of",
    ("resume", "job"): "Schedule resumed of",
    ("schedule", "job"): "Schedule changed of",
    ("unschedule", "job"): "Schedule deleted of",
    ("expect", "job"): "Runs expected of",
    ("forget", "job"): "Runs no longer expected of",
    ("pause", "import"): "Pause asked for import",
    ("resume", "import"): "Resumed: import",
    ("reset", "import"): "Checkpoint deleted of import",
    ("retry", "import"): "Rejected rows tried again of import",
    ("replay", "webhook"): "Replay:",
    ("ignore", "webhook"): "Ignored:",
    ("stop", "webhook"): "Stopped:",
    ("erase", "customer"): "Payloads erased of customer",
    ("cleanup", "schema"): "Old rows deleted in schema",
    ("mute", "alert"): "Muted",
    ("unmute", "alert"): "Unmuted",
    ("migrate", "schema"): "Migrated: schema",
}
PLACES = {
    "webhook": ("/webhook", "id"),
    "run": ("/run", "id"),
    "job": ("/job", "name"),
    "import": ("/import", "name"),
}


@dataclass(frozen=True, slots=True)
class Audit:
    lines: Sequence[AuditLine]
    choices: AuditChoices
    more: bool


async def audit(request: Request) -> Response:
    sent = respond.query(request)
    before, number = fields.read_moment(sent.get("before")), fields.read_number(sent, "before_id")
    async with reading(request) as read:
        lines = await read(_found(sent, PAGE + 1, (before, number) if before else None))
        choices = await read(audit_choices())
    page = Audit(lines[:PAGE], choices, len(lines) > PAGE)
    kept = {name: sent.get(name) or None for name in ("q", "who", "action")}
    return await respond.respond(request, "audit/list.html", page, said=said, place=place, kept=kept)


async def as_csv(request: Request) -> Response:
    """All lines of the filter as a file."""
    names = ("at", "actor", "source", "address", "action", "noun", "object", "before", "after", "reason", "refused")

    async def pages() -> AsyncIterator[respond.Rows]:
        sent, last = respond.query(request), None
        while True:
            async with reading(request) as read:
                lines = await read(_found(sent, respond.CSV_PAGE, last))
            if not lines:
                return
            last = lines[-1].at, lines[-1].id
            yield [[getattr(line, name) for name in names] for line in lines]

    return await respond.csv_file(request, "audit", names, pages())


def _found(sent: respond.Form, limit: int, before: tuple[datetime, int] | None = None) -> Call[list[AuditLine]]:
    names = {"object": "q", "actor": "who", "action": "action"}
    chosen = {argument: sent.get(field) or None for argument, field in names.items()}
    return list_audit(**chosen, before=before, limit=limit)


def said(line: AuditLine) -> str:
    """What was done, before the name of what it was done to."""
    done = DONE.get((line.action, line.noun))
    if line.refused:
        return "Login refused" if line.noun == "session" else f"Refused: {line.action.replace('_', ' ')} {line.noun}"
    return done or f"{line.action.replace('_', ' ').capitalize()} {line.noun}"


def place(line: AuditLine) -> tuple[str, dict[str, str]] | None:
    """The page of what it was done to, and its parameters."""
    if "replay" in line.detail:  # of one event or of many
        return "/webhooks/replay", {"id": str(line.detail["replay"])}
    found = PLACES.get(line.noun)
    return (found[0], {found[1]: line.object}) if found and line.object else None


routes = [*respond.page("/audit", audit), *respond.file("/audit.csv", as_csv)]
