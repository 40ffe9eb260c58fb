"""The calls of ``sql/api/webhooks_replay.sql``, where the transition table is, and their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pgonce.core.call import Call, value


@dataclass(frozen=True, slots=True)
class Ended:
    """An event that has ended, and the attempt that it ended with."""

    stripe_event_id: str
    status: str
    lease: UUID | None
    received_at: datetime
    id: UUID


def replay_webhook(event_id: str, who: str | None = None, why: str | None = None) -> Call[bool]:
    """Queue an event again, whatever became of it; ``who`` and ``why`` are kept. False: it is being handled."""
    return Call("pgonce_replay_webhook", {"p_stripe_event_id": event_id, "p_who": who, "p_why": why}, value)


def erase_webhooks(customer_id: str, account: str | None, who: str, *, dry_run: bool) -> Call[tuple[int, int]]:
    """Remove what a customer's ended events hold: how many, and how many are kept because they are not handled yet."""
    args = {"p_customer_id": customer_id, "p_account": account, "p_who": who, "p_dry_run": dry_run}
    return Call("pgonce_erase_webhooks", args, lambda rows: (rows[0][0], rows[0][1]))


def replay_webhooks(seen: Sequence[Ended], who: str | None = None, why: str | None = None) -> Call[list[str]]:
    """Queue those events again that are still as they were seen; returns their ids. ``who`` and ``why`` are kept."""
    args = {
        "p_stripe_event_ids": [event.stripe_event_id for event in seen],
        "p_statuses": [event.status for event in seen],
        "p_leases": [event.lease for event in seen],
        "p_who": who,
        "p_why": why,
    }
    return Call("pgonce_replay_webhooks", args, lambda rows: [row[0] for row in rows])


def failed_webhooks(
    *, types: str | None = None, since: datetime | None = None, after: Ended | None = None, limit: int = 1000
) -> Call[list[Ended]]:
    """Failed events, newest first; ``types`` is a regular expression, ``after`` the last one of the page before."""
    args = {
        "p_types": types,
        "p_since": since,
        "p_before": after and after.received_at,
        "p_after_id": after and after.id,
        "p_limit": limit,
    }
    return Call("pgonce_failed_webhooks", args, lambda rows: [Ended(*row) for row in rows])
