"""Deletes old rows in batches, each in its own transaction, so that no other client waits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeAlias

from pgonce.core.call import Call, rows_as, value
from pgonce.core.execute import execute
from pgonce.core.interval import interval
from pgonce.errors import InvalidArgument
from pgonce.jobs.run import Run
from pgonce.webhooks.calls_list import WebhookLine

log = logging.getLogger("pgonce")

LEAST = timedelta(days=31)
"""Stripe can redeliver an event for 30 days (docs.stripe.com/webhooks, "Manual retries"): once deleted, it is new."""
BATCH = 10_000
"""Rows in one transaction: short enough that vacuum and replicas keep up."""

Purge: TypeAlias = Callable[[timedelta, int], Call[int]]


def purge_webhook_events(older_than: timedelta, limit: int) -> Call[int]:
    """Delete at most ``limit`` finished events that were received before that; returns how many."""
    return Call("purge_webhook_events", {"p_older_than": older_than, "p_limit": limit}, value)


def purge_job_runs(older_than: timedelta, limit: int) -> Call[int]:
    """Delete at most ``limit`` ended runs that started before that, never a job's last; returns how many."""
    return Call("purge_job_runs", {"p_older_than": older_than, "p_limit": limit}, value)


def purge_audit(older_than: timedelta, limit: int) -> Call[int]:
    """Delete at most ``limit`` entries of the audit that are older than that; returns how many."""
    return Call("pgonce_purge_audit", {"p_older_than": older_than, "p_limit": limit}, value)


def expiring_dead_letters(older_than: timedelta) -> Call[list[WebhookLine]]:
    """What a purge with this age would delete although it was not handled."""
    args = {"p_older_than": older_than}
    return Call("pgonce_expiring_dead_letters", args, rows_as(WebhookLine))


def check_webhook_age(age: timedelta, *, override_31_days: bool) -> None:
    """Refuse an age that makes Stripe's redelivery of a deleted event count as a new event.

    Raises:
        InvalidArgument: the age is less than 31 days, and ``override_31_days`` is false.
    """
    if age < LEAST and not override_31_days:
        raise InvalidArgument(
            f"events must be kept for {LEAST.days} days: Stripe can redeliver for 30, and a deleted event would be "
            "handled again; --override-31-days (override_31_days=True) allows it"
        )


def batches(purge: Purge, age: timedelta, commit: Callable[[Call[int]], int]) -> Iterator[int]:
    """Run ``purge`` until nothing is left; yields how many rows each batch deleted.

    It ends at an empty batch, not at a short one, because some of the oldest rows may be locked. ``commit`` executes a
    call in a transaction of its own.
    """
    while deleted := commit(purge(age, BATCH)):
        yield deleted


def webhook_retention(run: Run, older_than: timedelta | str = "90 days", *, override_31_days: bool = False) -> int:
    """Delete old webhook events; events that are held or still queued stay. Dead letters are logged first.

    Args:
        run: the run of the job that this is called in.
        older_than: the age since they were received.
        override_31_days: allow less than 31 days. Stripe can redeliver for 30 days; a deleted event would be handled
            again.

    Returns:
        How many were deleted.

    Raises:
        InvalidArgument: the age is less than 31 days.
    """
    age = interval(older_than, "the age")
    check_webhook_age(age, override_31_days=override_31_days)
    with run.transaction() as tx:
        for letter in execute(tx, expiring_dead_letters(age), run.schema):
            log.warning("a dead letter is deleted: %s %s: %s", letter.stripe_event_id, letter.event_type, letter.reason)
    return _purge(run, purge_webhook_events, age)


def run_retention(run: Run, older_than: timedelta | str = "180 days") -> int:
    """Delete old runs; the last run of a job stays, whatever its age. Returns how many were deleted."""
    return _purge(run, purge_job_runs, interval(older_than, "the age"))


def audit_retention(run: Run, older_than: timedelta | str = "365 days") -> int:
    """Delete old entries of the audit. Returns how many were deleted."""
    return _purge(run, purge_audit, interval(older_than, "the age"))


def weekly_cleanup(run: Run) -> None:
    """Delete old events and runs, with the ages of the specification, and old audit entries: register it as a job."""
    run_retention(run)
    audit_retention(run)
    webhook_retention(run)  # at the end: a foreign key of the user's may refuse it


def _purge(run: Run, purge: Purge, age: timedelta) -> int:
    def in_run(call: Call[int]) -> int:
        if run.stop_requested:
            return 0
        with run.transaction() as tx:
            return execute(tx, call, run.schema)

    total = 0
    for deleted in batches(purge, age, in_run):
        run.processed(deleted)
        total += deleted
    return total
