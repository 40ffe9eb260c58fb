"""The calls of ``sql/api/retention.sql``, and what they would take: deleting what is old."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeAlias

from pgonce.core.call import Call, value
from pgonce.webhooks.calls_list import WebhookLine

LEAST = timedelta(days=31)
"""Stripe can send an event again for 30 days (docs.stripe.com/webhooks, "Manual retries"): forgotten, it is new."""
BATCH = 10_000
"""Rows in one transaction: short enough that vacuum and replicas keep up."""

Purge: TypeAlias = Callable[[timedelta, int], Call[int]]


def purge_webhook_events(older_than: timedelta, limit: int) -> Call[int]:
    """Delete at most ``limit`` finished events that are older; how many."""
    return Call("purge_webhook_events", {"p_older_than": older_than, "p_limit": limit}, value)


def purge_job_runs(older_than: timedelta, limit: int) -> Call[int]:
    """Delete at most ``limit`` ended runs that are older, never a job's last; how many."""
    return Call("purge_job_runs", {"p_older_than": older_than, "p_limit": limit}, value)


def expiring_dead_letters(older_than: timedelta) -> Call[list[WebhookLine]]:
    """The dead letters that a purge with this age would delete."""
    args = {"p_older_than": older_than}
    return Call("expiring_dead_letters", args, lambda rows: [WebhookLine(*row) for row in rows])
