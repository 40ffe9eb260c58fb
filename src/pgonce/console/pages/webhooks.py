"""The list of webhook events, their dead letters by fault, and the one search box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import Response

from pgonce.console import fields, respond
from pgonce.console.addresses import url
from pgonce.console.figures.webhooks import LaneMark, lane, lane_marks
from pgonce.console.mask import is_masked, mask_patterns
from pgonce.console.reads import Read, TooMuch, reading
from pgonce.console.templating import zone_of
from pgonce.errors import InvalidArgument
from pgonce.webhooks import calls_console as calls
from pgonce.webhooks.calls_console import EventPage, FaultLine, Filter, Found, Position
from pgonce.webhooks.calls_replays import Replay, list_replays

PERIODS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
ROWS, FAULTS = 50, 12


@dataclass(frozen=True, slots=True)
class Webhooks:
    filter: Mapping[str, Any]
    events: EventPage
    counts: Mapping[str, int | None]
    """How many events are in each state; 10,001 stands for more, null is not counted. "all": of any state."""
    faults: Sequence[FaultLine]
    replays: Sequence[Replay]
    lane: Sequence[LaneMark]
    """The newest events of the object or customer that the filter names, in the order of their creation."""
    newest: str | None
    newer: int
    """Events that came after the newest of this page; only counted in a refresh."""
    failure: str | None
    """Why the search was given up, if it was."""


def read_filter(form: respond.Form, zone: ZoneInfo, now: datetime) -> Filter:
    """The filter of an address or a form.

    Raises:
        InvalidArgument: a time, the state or the mode cannot be read.
    """
    state, mode, since = form.get("state"), form.get("livemode"), form.get("since")
    if state and state not in calls.STATES:
        raise InvalidArgument(f"there is no state {state}: one of {', '.join(calls.STATES)}")
    if mode not in {"", "true", "false"}:
        raise InvalidArgument("the mode is true (live) or false (test)")
    begin = now - PERIODS[since] if since in PERIODS else fields.read_moment(since, zone)
    texts = {name: form.get(name) or None for name in ("type", "object", "customer", "account", "failure")}
    return Filter(
        state=state or None, livemode={"true": True, "false": False}.get(mode), since=begin,
        until=fields.read_moment(form.get("until"), zone), ids=form.all("id") or None, **texts,
    )  # fmt: skip


def read_position(text: str) -> Position | None:
    """Where a page of a list begins, as an address has it.

    Raises:
        InvalidArgument: it cannot be read.
    """
    if not text:
        return None
    moment, _, row = text.partition("~")
    try:
        return datetime.fromisoformat(moment), UUID(row)
    except ValueError:
        raise InvalidArgument("this address of a page cannot be read: begin at the first page") from None


def position_text(position: Position | None) -> str | None:
    return f"{position[0].isoformat()}~{position[1]}" if position else None


def _just_after(position: Position) -> Position:
    """The place from which a page begins that has the event at ``position`` as its first."""
    moment, row = position
    return (
        (moment, UUID(int=row.int + 1)) if row.int < 2**128 - 1 else (moment + timedelta(microseconds=1), UUID(int=0))
    )


async def webhooks(request: Request) -> Response:
    form = respond.query(request)
    if text := form.get("q"):
        return await _search(request, text)
    shell = await request.app.state.console.shell(request)
    wanted = read_filter(form, zone_of(request), shell.now)
    before, newest = read_position(form.get("before")), read_position(form.get("newest"))
    async with reading(request) as read:
        found = await _read(read, wanted, before or (newest and _just_after(newest)), newest, shown=form.get("before"))
    given = {name: form.get(name) for name in FIELDS if form.get(name)}
    figure = None
    if len(found.lane) > 1:
        what = f"Events of {found.filter.get('object') or found.filter.get('customer')}"
        figure = lane("lane", f"{what}, as created and as arrived", found.lane, "")
    return await respond.respond(
        request, "webhooks/list.html", found, given=given, form=dict.fromkeys(FIELDS, "") | given, figure=figure,
        refresh=_refresh(request, given, before, found), older=position_text(found.events.older),
        status=503 if found.failure else 200,
    )  # fmt: skip


FIELDS = ("state", "type", "object", "customer", "account", "livemode", "failure", "since", "until")


def _refresh(request: Request, given: Mapping[str, str], before: Position | None, found: Webhooks) -> str:
    """The address of a refresh: it shows the same rows, whatever has arrived since."""
    place = {"before": position_text(before)} if before else {"newest": found.newest}
    return url(request, "/webhooks", **given, **place)


async def _read(read: Read, wanted: Filter, begin: Position | None, newest: Position | None, *, shown: str) -> Webhooks:
    plain = not wanted.given()
    first = not shown
    counts = await read(calls.count_events())
    faults = await read(calls.list_faults(FAULTS)) if first and (plain or wanted.given().keys() == {"state"}) else []
    replays = await read(list_replays(5)) if faults or plain else []
    newer, failure, events = 0, None, EventPage([], None, None)
    marks: list[LaneMark] = []
    try:
        if newest and first:
            newer = await read(calls.count_newer(wanted, newest))
        events = await read(calls.list_events(wanted, begin, ROWS))
        if first and events.events and (wanted.object or wanted.customer):
            around = calls.get_lane(
                events.events[0],
                object_id=wanted.object,
                customer_id=None if wanted.object else wanted.customer,
                each=19,
            )
            neighbours = await read(around)
            marks = lane_marks(neighbours)
    except TooMuch as error:
        failure = str(error)
    at = (events.events[0].received_at, events.events[0].id) if events.events else None
    return Webhooks(
        wanted.given(), events, {state or "all": number for state, number in counts.items()}, faults, replays, marks,
        position_text(newest or at), newer, failure,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Search:
    """What a text names, if that is not one thing."""

    text: str
    found: Sequence[Found]


PLACES = {
    "webhook": ("/webhook", "id"), "run": ("/run", "id"), "job": ("/job", "name"), "import": ("/import", "name"),
    "customer": ("/webhooks", "customer"), "object": ("/webhooks", "object"), "account": ("/webhooks", "account"),
    "type": ("/webhooks", "type"),
}  # fmt: skip
"""Where each noun is shown, and under which name of the address."""


EMAILS = [
    ["data", "object", *field.split(".")]
    for field in ("email", "customer_email", "receipt_email", "customer_details.email", "billing_details.email")
]
"""Where events have the customer's e-mail address. Who may not see one of them may not look for an address."""


async def search(request: Request) -> Response:
    """The one search box of every page."""
    return await _search(request, respond.query(request).get("q"))


async def _search(request: Request, text: str) -> Response:
    if not text:
        return respond.go(request, "/webhooks")
    masks = mask_patterns(respond.who(request))
    async with reading(request) as read:
        found = await read(calls.find(text, emails=not any(is_masked(path, masks) for path in EMAILS)))
    if not found and text.startswith("evt_") and " " not in text:
        return respond.go(request, "/webhook", id=text)  # which says why there is none
    if len(found) == 1 and not respond.is_json(request):
        path, name = PLACES[found[0].noun]
        return respond.go(request, path, **{name: found[0].id})
    return await respond.respond(
        request, "webhooks/search.html", Search(text, found), places=PLACES, status=200 if found else 404
    )


routes = [*respond.page("/webhooks", webhooks), *respond.page("/find", search)]
