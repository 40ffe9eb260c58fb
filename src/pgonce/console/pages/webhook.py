"""One webhook event: what happened to it, why, what changed, in which order, and its payload."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from pgonce.console import fields, respond
from pgonce.console.actions import act
from pgonce.console.addresses import links
from pgonce.console.figures.webhooks import LaneMark, attempts, lane, lane_marks
from pgonce.console.mask import is_masked, mask_patterns, masked
from pgonce.console.reads import Read, reading
from pgonce.console.templating import Clock, duration, zone_of
from pgonce.console.traceback import Traceback, read_traceback
from pgonce.core.diagnosis import Diagnosis
from pgonce.errors import NotFound
from pgonce.webhooks import calls_console as calls
from pgonce.webhooks.calls_console import Change, Changes, EventDetails, HistoryLine, PayloadPart
from pgonce.webhooks.calls_diagnose import diagnose_webhook

PART = 65_536
"""Characters of a payload in one page."""
IN_PAGE = 40_000
"""Characters of a payload in the page of its event, which must stay below 100 kB."""
EMPTY = PayloadPart("", 0, 0, exact=False)
CUSTOMER_DAYS = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Step:
    """A line of an event's life."""

    shape: str
    colour: str
    at: datetime | None
    """None: now."""
    text: str
    note: str
    waits: bool
    """Until the next line, nothing happens to it."""
    replay: int | None = None


@dataclass(frozen=True, slots=True)
class Webhook:
    event: EventDetails
    diagnosis: Sequence[Diagnosis]
    life: Sequence[Step]
    history: Sequence[HistoryLine]
    traceback: Traceback | None
    same_error: int
    """How many failed attempts before the last one have the same traceback."""
    object_lane: Sequence[LaneMark]
    customer_lane: Sequence[LaneMark]
    changes: Changes | None
    payload: PayloadPart
    masked: int
    """How many values of the payload are masked for this reader; -1: unknown, so the payload is not shown."""


@dataclass(frozen=True, slots=True)
class Absent:
    stripe_event_id: str
    diagnosis: Sequence[Diagnosis]


async def webhook(request: Request) -> Response:
    event_id = respond.query(request).get("id")
    patterns = mask_patterns(respond.who(request))
    async with reading(request) as read:
        event = await read(calls.get_event(event_id))
        diagnosis = await read(diagnose_webhook(event_id))
        if event is None:
            return await respond.respond(request, "webhooks/absent.html", Absent(event_id, diagnosis), status=404)
        found = await _read(read, event, diagnosis, patterns)
    clock = Clock(zone_of(request), (await request.app.state.console.shell(request)).now)
    return await respond.respond(
        request, "webhooks/event.html", found, said=respond.query(request).get("said"),
        can_ignore=respond.who(request).operator and can_ignore(event, diagnosis), **_more(found, clock),
    )  # fmt: skip


def can_ignore(event: EventDetails, diagnosis: Sequence[Diagnosis]) -> bool:
    """Whether an operator may end it as ignored: it has failed, or its handler has died."""
    return event.state in {"failed", "dead"} or any(each.kind in {"orphaned", "died"} for each in diagnosis)


@dataclass(frozen=True, slots=True)
class Ignore:
    """What the page before an event is ignored shows."""

    event: EventDetails
    possible: bool


async def confirm_ignore(request: Request) -> Response:
    event_id = respond.query(request).get("id")
    async with reading(request) as read:
        event = await read(calls.get_event(event_id))
        if event is None:
            raise NotFound(f"there is no event {event_id}")
        diagnosis = await read(diagnose_webhook(event_id))
    return await respond.respond(request, "webhooks/ignore.html", Ignore(event, can_ignore(event, diagnosis)))


async def ignore(request: Request) -> Response:
    sent = await respond.form(request)
    event_id = fields.raw(sent, "id") or ""
    call = calls.ignore_webhook_as(respond.who(request).session, event_id, fields.reason_of(sent, required=True))
    done = await act(request, call, noun="webhook", object=event_id)
    return respond.go(request, "/webhook", id=event_id, said="ignored" if done else "not-ignored")


async def _read(read: Read, event: EventDetails, diagnosis: Sequence[Diagnosis], patterns: Sequence[str]) -> Webhook:
    history = await read(calls.get_history(event.id))
    by_object = by_customer = []
    if event.object_id:
        by_object = await read(calls.get_lane(event, object_id=event.object_id, each=9))
    if event.customer_id and event.customer_id != event.object_id:
        since = event.received_at - CUSTOMER_DAYS
        by_customer = await read(calls.get_lane(event, customer_id=event.customer_id, since=since, each=9))
    changes = await read(calls.get_changes(event.id))
    # with masked keys all of it is read: a key's path is known only from the beginning, and digits must not be cut
    part = await read(calls.get_payload(event.id, 0, None if patterns else IN_PAGE)) or EMPTY
    part, hidden = await _mask(part, patterns, IN_PAGE)
    trace = read_traceback(event.error) if event.error else None
    same = sum(1 for each in history if each.what == "failed" and each.error == event.error)
    return Webhook(
        event, diagnosis, life(event, history, diagnosis), history, trace, max(same - 1, 0), lane_marks(by_object),
        lane_marks(by_customer), _masked_changes(changes, patterns), part, hidden,
    )  # fmt: skip


async def _mask(part: PayloadPart, patterns: Sequence[str], length: int) -> tuple[PayloadPart, int]:
    if not patterns:
        return part, 0
    text, hidden = await asyncio.to_thread(masked, part.text, patterns)
    return replace(part, text=text[:length], starts_at=0, characters=len(text)), hidden


def _masked_changes(changes: Changes | None, patterns: Sequence[str]) -> Changes | None:
    if changes is None or not patterns:
        return changes
    hidden = [
        Change(each.field, each.before and "••••••", each.now and "••••••")
        if is_masked(["data", "object", *each.field.split(".")], patterns)
        else _masked_values(each, patterns)
        for each in changes.fields
    ]
    return replace(changes, fields=hidden)


def _masked_values(change: Change, patterns: Sequence[str]) -> Change:
    """A value that is an object or a list may hold a masked key."""
    texts = [
        masked(each, patterns)[0] if each is not None and each[:1] in {"{", "["} else each
        for each in (change.before, change.now)
    ]
    return Change(change.field, *texts)


def life(event: EventDetails, history: Sequence[HistoryLine], diagnosis: Sequence[Diagnosis]) -> list[Step]:
    """What happened to an event, in its order; the last line is what it waits for now."""
    steps = []
    if event.created:
        steps.append(Step("new", "", event.created, "Created at Stripe", "", waits=False))
    late = event.created and event.received_at - event.created
    note = f"{duration(late)} after its creation. " if late and late > timedelta(seconds=1) else ""
    note += "Queued for a worker." if event.queued else "Handled by the client that recorded it."
    came = "Delivered, recorded" if event.deliveries else "Found in Stripe's list, recorded"
    steps.append(Step("in", "", event.received_at, came, note, waits=bool(history)))
    if event.deliveries > 1:
        times = "once more" if event.deliveries == 2 else f"{event.deliveries - 1} times more"
        steps.append(
            Step("in", "mute", None, f"Delivered {times}", "The same event; it was not recorded again.", waits=True)
        )
    before = event.received_at
    for number, each in enumerate(history):
        is_last = number == len(history) - 1
        steps.append(_step(each, before, is_dead=is_last and event.state == "dead", waits=not is_last))
        before = each.ended_at
    if event.state in {"succeeded", "ignored"} and event.processed_at:
        steps.append(_end(event, event.processed_at))
    elif diagnosis:
        shape = "hand" if diagnosis[0].needs_person else "wait"
        word = "Waits for you: " if diagnosis[0].needs_person else ""
        cause = diagnosis[0].cause
        steps.append(
            Step(shape, "mute", None, word + (cause[0].lower() + cause[1:] if word else cause), "", waits=False)
        )
    return steps


def _step(each: HistoryLine, before: datetime, *, is_dead: bool, waits: bool) -> Step:
    waited = (each.began_at or each.ended_at) - before
    notes = [f"Waited {duration(waited)}."] if waited >= timedelta(seconds=1) else []
    notes += [f"{each.worker}."] if each.worker and each.what in {"failed", "lost"} else []
    if each.what == "failed":
        took = f" after {duration(each.ended_at - each.began_at)}" if each.began_at else ""
        word = ": dead letter" if is_dead else ""
        notes += ["No further attempt by itself."] if is_dead else [each.line] if each.line else []
        return Step("dead" if is_dead else "retry", "bad", each.ended_at, f"Attempt {each.attempt} failed{took}{word}",
                    " ".join(notes), waits)  # fmt: skip
    if each.what == "lost":
        notes.append("No outcome: the process died, or lost its connection.")
        return Step("retry", "bad", each.ended_at, f"Attempt {each.attempt} was lost", " ".join(notes), waits)
    who = f" by {each.worker}" if each.worker else ""
    text = f"Replayed{who}" if each.what == "replayed" else f"Payload erased{who}"
    return Step("hand", "", each.ended_at, text, each.error or "", waits, each.replay_id)


def _end(event: EventDetails, at: datetime) -> Step:
    if event.state == "ignored":
        return Step("ign", "mute", at, "Ignored", event.reason or "", waits=False)
    took = duration(at - event.received_at)
    text = "Succeeded" if event.attempts < 2 else f"Attempt {event.attempts} succeeded"
    return Step("ok", "ok", at, text, f"{took} after it was recorded.", waits=False)


def _more(found: Webhook, clock: Clock) -> dict[str, Any]:
    event = found.event
    kind = (event.object_type or "object").replace("_", " ").rpartition(".")[2]
    this = event.stripe_event_id
    failed = [each for each in found.history if each.what in {"failed", "lost"}]
    figures = {}
    if len(failed) > 1:
        figures["figure"] = attempts("attempts", failed, event.received_at, event.state == "dead", clock)
    if len(found.object_lane) > 1:
        title = f"Events of this {kind}, as created and as arrived"
        figures["object_figure"] = lane("by-object", title, found.object_lane, this)
    if len(found.customer_lane) > 1:
        title = "Events of this customer, 30 days, as created and as arrived"
        figures["customer_figure"] = lane("by-customer", title, found.customer_lane, this)
    return {
        **dict.fromkeys(("figure", "object_figure", "customer_figure")), **figures, "kind": kind,
        "tries": len(failed) + (event.state in {"succeeded", "ignored", "processing"}) if failed else event.attempts,
        "stripe": stripe_address(event), "links": _links(event, clock.now), "named": key_named(found.traceback),
    }  # fmt: skip


def stripe_address(event: EventDetails) -> str | None:
    """The event in Stripe's dashboard; None for an id that is not Stripe's."""
    if not event.stripe_event_id.startswith("evt_"):
        return None
    account = f"{quote(event.account, safe='')}/" if event.account else ""
    mode = "test/" if event.livemode is False else ""
    return f"https://dashboard.stripe.com/{account}{mode}events/{quote(event.stripe_event_id, safe='')}"


def _links(event: EventDetails, now: datetime) -> list[tuple[str, str]]:
    ended = event.processed_at or now
    return links({
        "id": event.stripe_event_id, "event_id": event.stripe_event_id, "type": event.event_type,
        "started": f"{event.received_at:%Y-%m-%dT%H:%M:%SZ}", "ended": f"{ended:%Y-%m-%dT%H:%M:%SZ}",
    })  # fmt: skip


def key_named(trace: Traceback | None) -> str | None:
    """The key that a KeyError names, for the table of changes."""
    last = trace.text.rstrip().rpartition("\n")[2] if trace else ""
    return last[len("KeyError: ") :].strip("'\"") if last.startswith("KeyError: ") else None


@dataclass(frozen=True, slots=True)
class Payload:
    """A part of a payload, for a page of its own."""

    stripe_event_id: str
    event_type: str
    part: PayloadPart
    masked: int
    find: str


async def payload(request: Request) -> Response:
    """The payload in parts of 64 kB, and a search in it."""
    form = respond.query(request)
    start = int(form.get("from")) if form.get("from").isdecimal() and len(form.get("from")) < 10 else 0
    text, patterns = form.get("find"), mask_patterns(respond.who(request))
    async with reading(request) as read:
        event = await read(calls.get_event(form.get("id")))
        if event is None:
            raise NotFound(f"there is no event {form.get('id')}")
        wanted = calls.get_payload(event.id) if patterns else calls.get_payload(event.id, start, PART, text or None)
        part = await read(wanted) or EMPTY
    hidden = 0
    if patterns:
        part, hidden = await _mask(part, patterns, part.characters * 2 + 1000)
        part = _cut(part, start, text)
    found = Payload(event.stripe_event_id, event.event_type, part, hidden, text)
    return await respond.respond(request, "webhooks/payload.html", found, part_size=PART)


def _cut(part: PayloadPart, start: int, text: str) -> PayloadPart:
    """The part of a masked text that the database would have returned of the text as it is."""
    if text:
        at = part.text.lower().find(text.lower(), start)
        if at < 0:
            return replace(part, text="", starts_at=None)
        start = part.text.rfind("\n", 0, at) + 1
    return replace(part, text=part.text[start : start + PART], starts_at=start)


async def raw(request: Request) -> Response:
    """The bytes as received, or as jsonb writes them, to be saved; with masks for a reader."""
    event_id = respond.query(request).get("id")
    patterns = mask_patterns(respond.who(request))
    async with reading(request) as read:
        found = await read(calls.get_body(event_id))
    if found is None:
        raise NotFound(f"there is no event {event_id}")
    body = found[0]
    if patterns:
        text, _ = await asyncio.to_thread(masked, body.decode("utf-8", "replace"), patterns)
        body = text.encode()
    name = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "_-") else "_" for sign in event_id)[:100]
    headers = {"content-disposition": f'attachment; filename="{name}.json"'}
    return Response(body, headers=headers, media_type="application/octet-stream")


routes = [
    *respond.page("/webhook", webhook),
    *respond.page("/webhook/payload", payload),
    *respond.page("/webhook/ignore", confirm_ignore),
    *respond.action("/webhook/ignore", ignore),
    *respond.file("/webhook/raw", raw),
]
