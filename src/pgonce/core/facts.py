"""The calls of ``sql/api/console_now.sql``: the figures that the first page of the console shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from pgonce.core.call import Call, row_as, rows_as, value


@dataclass(frozen=True, slots=True)
class Counts:
    """What every page of the console shows. More than 10,000 are 10,001."""

    now: datetime
    """By the database's clock."""
    dead: int
    stuck_runs: int
    stuck_imports: int
    open_alerts: int


@dataclass(frozen=True, slots=True)
class Facts:
    """The figures of the sentences lost, late, stuck and slow. Counts end at 10,001 events and 1,001 dead letters."""

    now: datetime
    last_received_at: datetime | None
    refused: int
    """Refused deliveries in 24 hours."""
    refused_reason: str | None
    """The most frequent reason for these refusals."""
    silent: str | None
    """Why the deliveries have stopped for too long, if they have."""
    compared_at: datetime | None
    """When the inbox was last compared with Stripe."""
    compared_by: str | None
    compared: Mapping[str, Any] | None
    """seen, recovered, missing; or error, if it failed."""
    waiting: int
    """Events that are due."""
    waiting_again: int
    """Those of them that have failed before."""
    oldest_due_at: datetime | None
    oldest_due_state: str | None
    """Of the oldest of them: waiting, failed, or processing, if whoever handled it has died."""
    late_events: int
    """Events due for over a minute that no handler is working on."""
    retrying: int
    """Events received over an hour ago that have failed and will be tried again."""
    retrying_since: datetime | None
    """When the first of them was received."""
    ticks: int
    """Ticks that have started a run in 24 hours."""
    late_starts: int
    """Retries and requested runs that nobody has started for two minutes."""
    late_start_of: str | None
    """The job of the oldest of them."""
    dead: int
    dead_causes: int
    dead_type: str | None
    """The event type of the most frequent cause. The next two fields are of this cause, too."""
    dead_line: str | None
    dead_of_cause: int | None
    stale_runs: int
    """Runs without a heartbeat for their window. The next two fields are of one of them."""
    stale_run: UUID | None
    stale_job: str | None
    failed_jobs: int
    """Jobs whose last run has failed and is not retried, among the newest 3,000 runs."""
    failed_job: str | None
    """The job that failed last, with its run in the next field."""
    failed_run: UUID | None
    expired_leases: int
    """Events whose direct client has died."""
    leases_counted: bool
    """Whether these are all. If very many events wait, not all of them are read."""
    handled_p95: timedelta | None
    """The 95 % point of the time from receipt to success, of the last 1,000 events."""
    handled_p95_before: timedelta | None
    """The same a week ago."""
    long_handlers: int
    """Handlers that have been working on their event for over five minutes."""
    long_handler: str | None
    """The event of the handler that began first. The next field is of this handler, too."""
    long_handler_since: datetime | None
    has_schedules: bool
    has_queued: bool
    """Whether a worker had to handle events in the last 7 days."""
    rows_hidden: bool
    """Whether row-level security hides all rows of a table from the console's role."""


@dataclass(frozen=True, slots=True)
class Hour:
    """How many events were received in an hour, by their state now."""

    hour: datetime
    succeeded: int
    ignored: int
    waiting: int
    failed: int


@dataclass(frozen=True, slots=True)
class StuckImport:
    """An import that has failed, that no process works on, or that stands still."""

    seed_name: str
    status: str
    """failed, in_progress (no process works on it), or stalled (one does)."""
    since: datetime
    reason: str | None


def get_counts() -> Call[Counts]:
    """The counts of the console's frame."""
    return Call("pgonce_console_shell", {}, row_as(Counts))


def get_facts() -> Call[Facts]:
    """The figures behind the four sentences lost, late, stuck and slow."""
    return Call("pgonce_console_facts", {}, row_as(Facts))


def get_hours() -> Call[list[Hour]]:
    """The events of the last 24 hours."""
    return Call("pgonce_console_hours", {}, rows_as(Hour))


def get_stuck_imports() -> Call[list[StuckImport]]:
    """The imports that have failed or that stand still."""
    return Call("pgonce_console_stuck_imports", {}, rows_as(StuckImport))


def record_check(name: str, by: str, detail: Mapping[str, Any]) -> Call[None]:
    """Record that this process has looked at something, and what it found."""
    return Call("pgonce_record_check", {"p_name": name, "p_by": by, "p_detail": Jsonb(dict(detail))}, value)
