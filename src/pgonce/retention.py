"""Deleting what is old, as jobs: batch by batch, each in a transaction of the run, so that nobody waits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import TypeAlias

from pgonce.core.call import Call, value
from pgonce.core.execute import execute
from pgonce.core.interval import interval
from pgonce.errors import InvalidArgument
from pgonce.jobs.run import Run
from pgonce.webhooks.calls_list import WebhookLine

log = logging.getLogger("pgonce")

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
    return Call("pgonce_expiring_dead_letters", args, lambda rows: [WebhookLine(*row) for row in rows])


def webhook_retention(run: Run, older_than: timedelta | str = "90 days", *, override_31_days: bool = False) -> int:
    """Delete old webhook events; what is held, or still queued, stays. Dead letters are logged before they go.

    Args:
        run: the job's run this is.
        older_than: since they were received.
        override_31_days: permit less than 31 days: Stripe can send an event again for 30, and what is forgotten is new.

    Returns:
        How many.

    Raises:
        InvalidArgument: the age is less than 31 days.
    """
    age = interval(older_than, "the age")
    if age < LEAST and not override_31_days:
        raise InvalidArgument(f"events must be kept for {LEAST.days} days: Stripe can send them again for 30")
    with run.transaction() as tx:
        for letter in execute(tx, expiring_dead_letters(age), run.schema):
            log.warning("a dead letter is deleted: %s %s: %s", letter.stripe_event_id, letter.event_type, letter.reason)
    return _purge(run, purge_webhook_events, age)


def run_retention(run: Run, older_than: timedelta | str = "180 days") -> int:
    """Delete old runs; a job's last one stays, whatever its age. Returns how many."""
    return _purge(run, purge_job_runs, interval(older_than, "the age"))


def weekly_cleanup(run: Run) -> None:
    """Both, with the ages of the specification: register it as a job."""
    webhook_retention(run)
    run_retention(run)


def _purge(run: Run, purge: Purge, age: timedelta) -> int:
    total = 0
    # until a batch is empty, not until one is short: of the oldest ones some may be locked at this moment
    while not run.stop_requested:
        with run.transaction() as tx:
            deleted = execute(tx, purge(age, BATCH), run.schema)
        if not deleted:
            break
        run.processed(deleted)
        total += deleted
    return total
