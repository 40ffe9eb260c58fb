"""The calls of ``webhooks_receive``, ``_refused``, ``_watermark`` and ``_traces.sql`` in ``sql/api``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pgonce.core.call import Call, column, row_or_none, rows_as, value


@dataclass(frozen=True, slots=True)
class RefusedDeliveries:
    """Deliveries that were refused for one reason."""

    reason: str
    """One of ``refusals.REASONS``."""
    deliveries: int
    first_minute: datetime
    last_minute: datetime


@dataclass(frozen=True, slots=True)
class Watermark:
    """The time up to which a comparison is complete."""

    position: datetime
    same_timeline: bool
    """No standby was promoted since."""


def check_inbox(lock_timeout: str = "1s") -> Call[bool]:
    """Write a row to the inbox and roll back. Raises the error that would keep a delivery from being recorded."""
    return Call("pgonce_check_inbox", {"p_lock_timeout": lock_timeout}, value)


def count_refused_deliveries(counts: Mapping[str, int]) -> Call[int]:
    """Add to the counts of this minute."""
    args = {"p_reasons": list(counts), "p_deliveries": list(counts.values())}
    return Call("pgonce_count_refused_deliveries", args, value)


def list_refused_deliveries(since: datetime) -> Call[list[RefusedDeliveries]]:
    """How many deliveries were refused since then, by reason, the most frequent first."""
    args = {"p_since": since}
    return Call("pgonce_list_refused_deliveries", args, rows_as(RefusedDeliveries))


def get_watermark(name: str) -> Call[Watermark | None]:
    """The time up to which the comparison ``name`` is complete."""
    return Call("pgonce_get_watermark", {"p_name": name}, row_or_none(Watermark))


def set_watermark(name: str, position: datetime) -> Call[bool]:
    """Store a later time. False: the stored one is later still."""
    return Call("pgonce_set_watermark", {"p_name": name, "p_position": position}, value)


def list_webhook_accounts() -> Call[list[str]]:
    """The connected accounts from which an event was received in the last 30 days."""
    return Call("pgonce_list_webhook_accounts", {}, column)


def count_webhooks(event_ids: Sequence[str]) -> Call[int]:
    """How many of these events the inbox has."""
    return Call("pgonce_count_webhooks", {"p_stripe_event_ids": list(event_ids)}, value)


def store_webhook_trace(event_id: str, traceparent: str) -> Call[None]:
    """Keep the span in which an event was recorded."""
    args = {"p_stripe_event_id": event_id, "p_traceparent": traceparent}
    return Call("pgonce_store_webhook_trace", args, lambda _: None)


def get_webhook_trace(event_id: str) -> Call[str | None]:
    """The span in which an event was recorded; None if that was not traced."""
    return Call("pgonce_get_webhook_trace", {"p_stripe_event_id": event_id}, value)
