"""Calls of the functions in ``sql/api/console_webhooks.sql`` and ``console_webhook.sql``, and their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from pgonce.core.call import Call, Row, clean, column, row_or_none, rows_as, value
from pgonce.core.diagnosis import Diagnosis

STATES = ("dead", "failed", "waiting", "processing", "ignored", "succeeded")
UNSUCCESSFUL = "unsuccessful"
"""A state for filters: dead or failed."""
Position = tuple[datetime, UUID]
"""Where a page of a list ends: received_at and id of its last event."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events; None: all."""

    state: str | None = None
    type: str | None = None
    """A glob: * is any text, ? is one character."""
    object: str | None = None
    customer: str | None = None
    account: str | None = None
    livemode: bool | None = None
    failure: str | None = None
    """The fingerprint that failures with the same cause share."""
    since: datetime | None = None
    until: datetime | None = None
    ids: Sequence[str] | None = None
    types: Sequence[str] | None = None

    def given(self) -> dict[str, Any]:
        """The fields that are not None, as JSON."""
        given = {name: each for name, each in asdict(self).items() if each is not None}
        for name, each in given.items():
            if isinstance(each, datetime):
                given[name] = each.isoformat()
            elif isinstance(each, str):
                given[name] = clean(each, 500)
            elif not isinstance(each, bool):
                given[name] = [clean(text, 500) for text in each]
        return given


@dataclass(frozen=True, slots=True)
class EventLine:
    """One event in the console's list."""

    id: UUID
    stripe_event_id: str
    event_type: str
    state: str
    """The status, but "dead" is failed without a next attempt, and "waiting" is processing without a claim."""
    attempts: int
    deliveries: int
    object_id: str | None
    customer_id: str | None
    account: str | None
    livemode: bool | None
    received_at: datetime
    processed_at: datetime | None
    next_attempt_at: datetime | None
    reason: str | None
    diagnosis: Diagnosis | None


@dataclass(frozen=True, slots=True)
class EventPage:
    """A page of the console's list."""

    events: Sequence[EventLine]
    older: Position | None
    """Where the next page begins; None: there is none."""
    searched_to: datetime | None
    """The search stopped here; older events were not looked at."""


@dataclass(frozen=True, slots=True)
class FaultLine:
    """The dead letters with one cause."""

    event_type: str
    failure: str | None
    events: int
    first_at: datetime
    last_at: datetime
    example: str
    line: str | None
    place: str | None
    has_handler: bool
    """A process that is running has a handler for the type."""
    succeeded_since: bool
    """An event of this type that was received later has succeeded."""


@dataclass(frozen=True, slots=True)
class EventDetails:
    """One event without its payload."""

    id: UUID
    stripe_event_id: str
    event_type: str
    state: str
    queued: bool
    attempts: int
    deliveries: int
    object_id: str | None
    object_type: str | None
    customer_id: str | None
    subscription_id: str | None
    account: str | None
    livemode: bool | None
    api_version: str | None
    created: datetime | None
    received_at: datetime
    processed_at: datetime | None
    next_attempt_at: datetime | None
    lease_expires_at: datetime | None
    reason: str | None
    failure: str | None
    error: str | None
    size: int
    """The approximate size of the payload in bytes."""
    exact: bool
    """The bytes as received are stored, because jsonb cannot hold them."""
    snapshot_event: str | None
    like_it: int | None
    """How many dead letters have the same cause, with this one; 10,001 stands for more."""
    lease: UUID | None


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """A failed or lost attempt of an event, or a replay."""

    what: str
    attempt: int
    worker: str | None
    began_at: datetime | None
    ended_at: datetime
    line: str | None
    error: str | None
    replay_id: int | None


@dataclass(frozen=True, slots=True)
class LaneEvent:
    """An event of an object, or of a customer."""

    id: UUID
    stripe_event_id: str
    event_type: str
    state: str
    created: datetime | None
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Change:
    """A field that changed; None: it is not there."""

    field: str
    before: str | None
    now: str | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed, and compared with which event; None: with the previous_attributes that Stripe sent."""

    against: str | None
    against_type: str | None
    against_at: datetime | None
    fields: Sequence[Change]


@dataclass(frozen=True, slots=True)
class PayloadPart:
    """A part of a payload as text."""

    text: str
    starts_at: int | None
    """In characters; None: what was looked for is not there."""
    characters: int
    """Of the whole."""
    exact: bool


@dataclass(frozen=True, slots=True)
class Found:
    """Something with the name that was searched. noun: webhook, customer, object, account, type, run, job or import."""

    noun: str
    id: str
    label: str | None


def list_events(wanted: Filter, after: Position | None = None, limit: int = 50) -> Call[EventPage]:
    """A page of events, newest first; ``after``: where the page before ended."""
    at, row_id = after or (None, None)
    args = {"p_filter": Jsonb(wanted.given()), "p_at": at, "p_id": row_id, "p_limit": limit}
    return Call("pgonce_console_webhooks", args, lambda rows: _page(rows, limit))


def _page(rows: Sequence[Row], limit: int) -> EventPage:
    events = [_line(row) for row in rows if not row[-1]]
    stopped = next((row for row in rows if row[-1]), None)
    if stopped:
        return EventPage(events, (stopped[10], stopped[0]), stopped[10])
    full = len(events) == limit
    return EventPage(events, (events[-1].received_at, events[-1].id) if full else None, None)


def _line(row: Row) -> EventLine:
    *columns, kind, person, cause, evidence, action, command, _ = row
    diagnosis = Diagnosis(kind, person, cause, evidence, action, command) if kind else None
    return EventLine(*(*columns, diagnosis))


def count_newer(wanted: Filter, newest: Position) -> Call[int]:
    """How many events came after the newest of a page, counted up to 101."""
    at, row_id = newest
    given = replace(wanted, since=max(at, wanted.since or at)).given()
    args = {"p_filter": Jsonb(given), "p_limit": 102}

    def read(rows: Sequence[Row]) -> int:
        return sum(1 for found, received_at, scanned in rows if not scanned and (received_at, found) > (at, row_id))

    return Call("pgonce_find_webhooks", args, read)


def count_events() -> Call[dict[str | None, int | None]]:
    """How many events are in each state, and in all (None); 10,001 stands for more, None is not counted."""
    return Call("pgonce_console_webhook_counts", {}, lambda rows: {row[0]: row[1] for row in rows})


def list_faults(limit: int = 50) -> Call[list[FaultLine]]:
    """The dead letters by their cause, the newest first."""
    return Call("pgonce_console_dead_letters", {"p_limit": limit}, rows_as(FaultLine))


def get_event(event_id: str) -> Call[EventDetails | None]:
    """One event; None if there is none."""
    args = {"p_stripe_event_id": clean(event_id, 500)}
    return Call("pgonce_console_webhook", args, row_or_none(EventDetails))


def ignore_webhook_as(session: UUID, event_id: str, why: str) -> Call[bool]:
    """End an event as ignored, for an operator. False: it waits, is being handled, or is final."""
    args = {"p_session": session, "p_stripe_event_id": clean(event_id, 500), "p_reason": clean(why, 1000)}
    return Call("pgonce_console_ignore_webhook", args, value)


def get_history(row_id: UUID) -> Call[list[HistoryLine]]:
    """The failed and lost attempts of an event, and its replays."""
    return Call("pgonce_console_webhook_history", {"p_id": row_id}, rows_as(HistoryLine))


def get_lane(
    event: EventDetails | EventLine,
    *,
    object_id: str | None = None,
    customer_id: str | None = None,
    since: datetime | None = None,
    each: int = 10,
) -> Call[list[LaneEvent]]:
    """The events of an object or a customer around one event: at most ``each`` before and after it."""
    args = {
        "p_object_id": object_id,
        "p_customer_id": customer_id,
        "p_account": event.account,
        "p_livemode": event.livemode,
        "p_at": event.received_at,
        "p_id": event.id,
        "p_each": each,
    }
    if since is not None:
        args["p_since"] = since
    return Call("pgonce_console_webhook_lane", args, rows_as(LaneEvent))


def get_changes(row_id: UUID) -> Call[Changes | None]:
    """What changed in an event's object; None: there is nothing to compare it with."""
    return Call("pgonce_console_webhook_changes", {"p_id": row_id}, _changes)


def _changes(rows: Sequence[Row]) -> Changes | None:
    if not rows:
        return None
    against, against_type, against_at = rows[0][:3]
    return Changes(against, against_type, against_at, [Change(*row[3:]) for row in rows if row[3] is not None])


def get_payload(
    row_id: UUID, start: int = 0, length: int | None = None, find: str | None = None
) -> Call[PayloadPart | None]:
    """A part of a payload: from a character, or from the line that has ``find``."""
    args = {"p_id": row_id, "p_from": start, "p_length": length, "p_find": find and clean(find, 500)}

    def read(rows: Sequence[Row]) -> PayloadPart | None:
        return PayloadPart(rows[0][0] or "", *rows[0][1:]) if rows else None

    return Call("pgonce_console_webhook_payload", args, read)


def get_body(event_id: str) -> Call[tuple[bytes, bool] | None]:
    """A payload as bytes, and whether they are those that were received; None if there is no such event."""
    args = {"p_stripe_event_id": clean(event_id, 500)}
    return Call("pgonce_console_webhook_body", args, lambda rows: (bytes(rows[0][0]), rows[0][1]) if rows else None)


def list_types() -> Call[list[str]]:
    """The types of all recorded events, at most 5,000."""
    return Call("pgonce_webhook_types", {"p_glob": "*", "p_limit": 5000}, column)


def find(text: str, *, emails: bool) -> Call[list[Found]]:
    """Everything with this name: events, objects, customers, runs, jobs, imports; ``emails``: or e-mail address."""
    args = {"p_text": clean(text, 500), "p_emails": emails}
    return Call("pgonce_console_find", args, rows_as(Found))
