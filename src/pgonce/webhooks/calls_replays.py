"""Calls of the functions in ``sql/api/webhooks_replay.sql`` and ``webhooks_replays.sql``, and their results.

The transition tables are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from pgonce.core.call import Call, clean, row_or_none, rows_as, value
from pgonce.webhooks.calls_console import Filter

AT_ONCE = 200
"""Events of a replay that wait to be handled, at most, so that it can be stopped before ten thousand events fail."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay, and how many of its events have which outcome."""

    id: int
    status: str
    """planned, running, done, stopping (queued events are still handled) or stopped."""
    who: str
    why: str | None
    filter: Mapping[str, Any]
    plan: Mapping[str, Any]
    """What the dry run found."""
    planned_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    stopped_by: str | None
    at_once: int | None
    """How many may be queued and not handled yet; None: any number."""
    events: int
    counts: Mapping[str, int]
    """How many events are planned, queued, changed, succeeded, failed or ignored."""


@dataclass(frozen=True, slots=True)
class ReplayItem:
    """One event of a replay."""

    position: int
    stripe_event_id: str
    event_type: str | None
    """None: the event has been deleted."""
    object_id: str | None
    seen_state: str
    state: str
    """planned, queued, changed, succeeded, failed or ignored."""
    now: str | None
    """The event's state now."""
    reason: str | None
    queued_at: datetime | None
    settled_at: datetime | None
    earlier: int
    """How many events of its object stand before it in the replay."""


def plan_replay_as(
    session: UUID, wanted: Filter, why: str | None = None, *, limit: int = 10_000, at_once: int | None = AT_ONCE
) -> Call[int | None]:
    """Plan a replay: record the newest ``limit`` events that match a filter.

    ``at_once`` of its events are queued and not handled yet, at most; None: any number.

    Returns:
        The number of the replay; None: no event matches.
    """
    args = {
        "p_session": session,
        "p_filter": Jsonb(wanted.given()),
        "p_reason": why and clean(why, 1000),
        "p_limit": limit,
        "p_at_once": at_once,
    }
    return Call("pgonce_console_plan_replay", args, value)


def start_replay_as(session: UUID, replay_id: int, confirm: int | None, why: str | None = None) -> Call[bool]:
    """Start a replay that this person has planned. False: too late. ``confirm``: the number of its events, as typed."""
    args = {"p_session": session, "p_id": replay_id, "p_confirm": confirm, "p_reason": why and clean(why, 1000)}
    return Call("pgonce_console_start_replay", args, value)


def stop_replay_as(session: UUID, replay_id: int, why: str | None = None) -> Call[bool]:
    """Queue no further event of a replay. False: it has ended."""
    args = {"p_session": session, "p_id": replay_id, "p_reason": why and clean(why, 1000)}
    return Call("pgonce_console_stop_replay", args, value)


def step_replays(replay_id: int | None = None, limit: int = 200) -> Call[int]:
    """Take one step in each running replay, or in the one named. Returns how many events have changed their state."""
    return Call("pgonce_step_replays", {"p_id": replay_id, "p_limit": limit}, value)


def list_replays(limit: int = 20) -> Call[list[Replay]]:
    """The newest replays that were started."""
    return Call("pgonce_console_replays", {"p_limit": limit}, rows_as(Replay))


def get_replay(replay_id: int) -> Call[Replay | None]:
    """One replay; None if there is none."""
    return Call("pgonce_console_replays", {"p_id": replay_id}, row_or_none(Replay))


def list_replay_items(
    replay_id: int, *, state: str | None = None, after: int = 0, limit: int = 50
) -> Call[list[ReplayItem]]:
    """The events of a replay, in their order; ``after``: the position of the last one of the page before."""
    args = {"p_id": replay_id, "p_state": state, "p_after": after, "p_limit": limit}
    return Call("pgonce_console_replay_items", args, rows_as(ReplayItem))


def erase_webhooks(customer_id: str, account: str | None, who: str, *, dry_run: bool) -> Call[tuple[int, int]]:
    """Remove what a customer's ended events hold: how many, and how many are kept because they are not handled yet."""
    args = {"p_customer_id": customer_id, "p_account": account, "p_who": who, "p_dry_run": dry_run}
    return Call("pgonce_erase_webhooks", args, lambda rows: (rows[0][0], rows[0][1]))
