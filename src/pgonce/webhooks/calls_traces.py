"""Calls of the functions in ``sql/api/webhooks_traces.sql``."""

from __future__ import annotations

from pgonce.core.call import Call, value


def store_webhook_trace(event_id: str, traceparent: str) -> Call[None]:
    """Keep the span in which an event was recorded."""
    args = {"p_stripe_event_id": event_id, "p_traceparent": traceparent}
    return Call("pgonce_store_webhook_trace", args, lambda _: None)


def get_webhook_trace(event_id: str) -> Call[str | None]:
    """The span in which an event was recorded; None if that was not traced."""
    return Call("pgonce_get_webhook_trace", {"p_stripe_event_id": event_id}, value)
