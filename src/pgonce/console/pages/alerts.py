"""Alerts: who was told what, what is still open, and what is muted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from pgonce.alerts.calls_console import AlertLine, Channels, get_channels, list_alerts, mute_alert, unmute_alert
from pgonce.console import fields, respond
from pgonce.console.actions import act
from pgonce.console.reads import Read, reading
from pgonce.console.respond import Form
from pgonce.errors import InvalidArgument, NotFound

PAGE = 50
LENGTHS = {
    "1 hour": timedelta(hours=1),
    "4 hours": timedelta(hours=4),
    "1 day": timedelta(days=1),
    "7 days": timedelta(days=7),
    "31 days": timedelta(days=31),
}


@dataclass(frozen=True, slots=True)
class Alerts:
    alerts: Sequence[AlertLine]
    channels: Channels
    older: datetime | None
    """Where the next page begins."""


async def alerts(request: Request) -> Response:
    before = fields.read_moment(respond.query(request).get("before"))
    async with reading(request) as read:
        found = await read(list_alerts(before, PAGE + 1))
        channels = await read(get_channels())
    more = len(found) > PAGE
    page = Alerts(found[:PAGE], channels, found[PAGE - 1].created_at if more else None)
    return await respond.respond(
        request, "alerts/list.html", page, target=target, headline=headline, rest=rest, repeated=repeated(page.alerts)
    )


def repeated(alerts: Sequence[AlertLine]) -> set[UUID]:
    """The alerts that a newer one of the same cause has taken the place of: they are over, and their cause is not."""
    causes = {(each.kind, each.subject) for each in alerts if each.open}
    return {each.id for each in alerts if not each.open and (each.kind, each.subject) in causes}


def sentence(line: AlertLine) -> str:
    """What happened, without what to type."""
    text = line.message.partition(". Next: `")[0]
    return text[:1].upper() + text[1:]


def headline(line: AlertLine) -> str:
    """What happened, without what is known of it."""
    return _split(line)[0]


def rest(line: AlertLine) -> str:
    """What is known of it."""
    return _split(line)[1]


def _split(line: AlertLine) -> tuple[str, str]:
    text = sentence(line)
    if ": " in line.subject:  # the colon may be the name's
        return line.subject, text
    said, _, known = text.partition(": ")
    if said.endswith("; the newest"):  # the name of the newest comes first
        said, known = said.removesuffix("; the newest"), f"the newest: {known}"
    return said, known[:1].upper() + known[1:]


def target(line: AlertLine) -> tuple[str, dict[str, str]]:
    """The page that an alert leads to, and its parameters."""
    detail = line.detail
    if detail.get("run_id"):
        return "/run", {"id": str(detail["run_id"])}
    if detail.get("job_name"):
        return "/job", {"name": str(detail["job_name"])}
    if detail.get("stripe_event_id"):
        return "/webhook", {"id": str(detail["stripe_event_id"])}
    if detail.get("event_type"):
        return "/webhooks", {"type": str(detail["event_type"]), "state": "dead"}
    if detail.get("seed_name"):
        return "/import", {"name": str(detail["seed_name"])}
    return ("/imports", {}) if line.kind.startswith("import") else ("/", {})


async def confirm(request: Request) -> Response:
    """How long to mute it, and why."""
    alert = _id(respond.query(request))
    async with reading(request) as read:
        line = await find(read, alert)
    return await respond.respond(request, "alerts/mute.html", line, lengths=list(LENGTHS), sentence=sentence)


async def mute(request: Request) -> Response:
    sent = await respond.form(request)
    alert, length = _id(sent), LENGTHS.get(sent.get("for"))
    if length is None:
        raise InvalidArgument(f"an alert can be muted for {', '.join(LENGTHS)}")
    done = await act(request, mute_alert(respond.who(request).session, alert, length, sent.get("why")), noun="alert")
    return respond.go(request, "/alerts", said=None if done else "muted-again")


async def unmute(request: Request) -> Response:
    alert = _id(await respond.form(request))
    done = await act(request, unmute_alert(respond.who(request).session, alert), noun="alert")
    return respond.go(request, "/alerts", said=None if done else "not-muted")


async def find(read: Read, alert: UUID) -> AlertLine:
    """The line of an alert.

    Raises:
        NotFound: there is none.
    """
    before = None
    while lines := await read(list_alerts(before, 1000)):
        for line in lines:
            if line.id == alert:
                return line
        before = lines[-1].created_at
    raise NotFound(f"there is no alert {alert}")


def _id(sent: Form) -> UUID:
    return fields.read_uuid(sent.get("id"), "an alert")


routes = [
    *respond.page("/alerts", alerts),
    *respond.page("/alerts/mute", confirm),
    *respond.action("/alerts/mute", mute),
    *respond.action("/alerts/unmute", unmute),
]
