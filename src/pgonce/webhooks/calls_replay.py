"""The calls of ``sql/api/webhooks_replay.sql``, where the transition table is, and their results."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pgonce.core.call import Call


@dataclass(frozen=True, slots=True)
class Ended:
    """An event that has ended, and the attempt that it ended with."""

    stripe_event_id: str
    status: str
    lease: UUID | None
    received_at: datetime
    id: UUID


def erase_webhooks(customer_id: str, account: str | None, who: str, *, dry_run: bool) -> Call[tuple[int, int]]:
    """Remove what a customer's ended events hold: how many, and how many are kept because they are not handled yet."""
    args = {"p_customer_id": customer_id, "p_account": account, "p_who": who, "p_dry_run": dry_run}
    return Call("pgonce_erase_webhooks", args, lambda rows: (rows[0][0], rows[0][1]))


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
