"""Replays: the dry run, its confirmation, its progress, its end, and the result of each event."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from pgonce.console import fields, respond
from pgonce.console.actions import act
from pgonce.console.figures.webhooks import REPLAYED, progress
from pgonce.console.pages.webhooks import read_filter
from pgonce.console.reads import reading
from pgonce.console.templating import zone_of
from pgonce.errors import InvalidArgument, NotFound
from pgonce.webhooks import calls_replays as calls
from pgonce.webhooks.calls_replays import Replay, ReplayItem

ROWS = 50
TYPED_FROM = 20
"""To start a replay of more events, or of one that has succeeded, the operator types their number."""


@dataclass(frozen=True, slots=True)
class ReplayPage:
    replay: Replay
    items: Sequence[ReplayItem]
    more: int | None
    """The position after which the next page of events begins; None: there is none."""
    typed: bool
    """Whether its number of events must be typed."""


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise NotFound(f"there is no replay {text}")
    return int(text)


async def replay(request: Request) -> Response:
    form = respond.query(request)
    number, state = _number(form.get("id")), form.get("state")
    after = int(form.get("after")) if form.get("after").isdecimal() and len(form.get("after")) < 9 else 0
    if state and state not in {name for name, _ in REPLAYED}:
        raise InvalidArgument(f"an event of a replay is not {state}")
    async with reading(request) as read:
        found = await read(calls.get_replay(number))
        if found is None:
            raise NotFound(f"there is no replay {number}: one that is not started is deleted after a day")
        items = await read(calls.list_replay_items(number, state=state or None, after=after, limit=ROWS))
    typed = found.events > TYPED_FROM or found.plan.get("succeeded", 0) > 0
    shown = ReplayPage(found, items, items[-1].position if len(items) == ROWS else None, typed)
    figure = progress("progress", dict(found.counts), found.events) if found.started_at else None
    return await respond.respond(
        request, "webhooks/replay.html", shown, figure=figure, words=dict(REPLAYED), state_shown=state, after=after
    )


async def table(request: Request) -> Response:
    """The result of each event, as CSV."""
    number = _number(respond.query(request).get("id"))
    async with reading(request) as read:
        if await read(calls.get_replay(number)) is None:
            raise NotFound(f"there is no replay {number}")
    headings = ["event", "type", "object", "was", "result", "now", "reason", "queued_at", "settled_at"]

    async def pages() -> AsyncIterator[respond.Rows]:
        after = 0
        while True:
            async with reading(request) as read:
                items = await read(calls.list_replay_items(number, after=after, limit=respond.CSV_PAGE))
            if not items:
                return
            after = items[-1].position
            yield [_cells(each) for each in items]

    return await respond.csv_file(request, f"replay-{number}", headings, pages())


def _cells(item: ReplayItem) -> Sequence[object]:
    return (
        item.stripe_event_id, item.event_type, item.object_id, item.seen_state, item.state, item.now, item.reason,
        item.queued_at, item.settled_at,
    )  # fmt: skip


async def replays(request: Request) -> Response:
    """All replays, the newest first."""
    async with reading(request) as read:
        found = await read(calls.list_replays(200))
    return await respond.respond(request, "webhooks/replays.html", found)


async def plan(request: Request) -> Response:
    """Write down which events, and go to the page that says what will happen. No event changes."""
    form = await respond.form(request)
    shell = await request.app.state.console.shell(request)
    wanted = read_filter(form, zone_of(request), shell.now)
    if not wanted.given():
        raise InvalidArgument("select events, or narrow the list: a replay of all events is not meant")
    planned = calls.plan_replay_as(respond.who(request).session, wanted, fields.reason_of(form) or None)
    number = await act(request, planned, noun="webhook", object="replay")
    if number is None:
        raise NotFound("no event matches that is not being handled already: nothing to replay")
    return respond.go(request, "/webhooks/replay", id=number)


async def start(request: Request) -> Response:
    form = await respond.form(request)
    number, typed = _number(form.get("id")), form.get("confirm").replace(",", "")
    confirm = int(typed) if typed.isascii() and typed.isdecimal() and len(typed) < 9 else None
    started = calls.start_replay_as(respond.who(request).session, number, confirm, fields.reason_of(form) or None)
    await act(request, started, noun="webhook", object=f"replay {number}")
    return respond.go(request, "/webhooks/replay", id=number)


async def stop(request: Request) -> Response:
    """Stop a replay: no further event is queued."""
    form = await respond.form(request)
    number = _number(form.get("id"))
    stopped = calls.stop_replay_as(respond.who(request).session, number, fields.reason_of(form) or None)
    await act(request, stopped, noun="webhook", object=f"replay {number}")
    return respond.go(request, "/webhooks/replay", id=number)


routes = [
    *respond.page("/webhooks/replay", replay),
    *respond.file("/webhooks/replay/table", table),
    *respond.page("/webhooks/replays", replays),
    *respond.action("/webhooks/plan", plan),
    *respond.action("/webhooks/replay/start", start),
    *respond.action("/webhooks/replay/stop", stop),
]
