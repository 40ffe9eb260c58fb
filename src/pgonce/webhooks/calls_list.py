"""Calls of the functions in ``sql/api/webhooks_list.sql``, and their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgonce.core.call import Call, column, rows_as, value


@dataclass(frozen=True, slots=True)
class WebhookLine:
    """One event in a list of events."""

    stripe_event_id: str
    event_type: str
    status: str
    attempts: int
    object_id: str | None
    account: str | None
    livemode: bool | None
    received_at: datetime
    processed_at: datetime | None
    next_attempt_at: datetime | None
    reason: str | None
    """Why it was ignored, or the line of the traceback that has the error."""

    @property
    def state(self) -> str:
        """The status, except that a failed event without a next attempt is "dead"."""
        return "dead" if self.status == "failed" and self.next_attempt_at is None else self.status


def list_webhooks(
    *,
    status: str | None = None,
    types: str | None = None,
    event_type: str | None = None,
    object_id: str | None = None,
    customer_id: str | None = None,
    account: str | None = None,
    since: datetime | None = None,
    dead: bool = False,
    limit: int = 50,
) -> Call[list[WebhookLine]]:
    """List events, newest first; ``types`` is a regular expression, ``event_type`` is one type."""
    args = {
        "p_status": status,
        "p_types": types,
        "p_event_type": event_type,
        "p_object_id": object_id,
        "p_customer_id": customer_id,
        "p_account": account,
        "p_since": since,
        "p_dead": dead,
        "p_limit": limit,
    }
    return Call("pgonce_list_webhooks", args, rows_as(WebhookLine))


def get_webhook(event_id: str) -> Call[dict[str, Any] | None]:
    """All columns of one event; None if it does not exist."""
    return Call("pgonce_get_webhook", {"p_stripe_event_id": event_id}, value)


def match_webhooks(prefix: str) -> Call[list[str]]:
    """Up to three of the newest 100,000 events whose id begins with ``prefix``."""
    return Call("pgonce_match_webhooks", {"p_prefix": prefix}, column)


def delivered_webhooks(first: int, last: int, account: str | None) -> Call[list[str]]:
    """Some events that Stripe created between two times (unix seconds), and has delivered.

    They are a connected account's, or the platform's own.
    """
    return Call("pgonce_delivered_webhooks", {"p_from": first, "p_to": last, "p_account": account}, column)


def missing_webhooks(event_ids: Sequence[str]) -> Call[list[str]]:
    """Which of these events were never recorded."""
    return Call("pgonce_missing_webhooks", {"p_stripe_event_ids": list(event_ids)}, column)
