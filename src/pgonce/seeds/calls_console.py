"""The calls of ``sql/api/console_seeds.sql``: what the console shows of imports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pgonce.core.call import Call


@dataclass(frozen=True, slots=True)
class SeedLine:
    """An import in the list."""

    seed_name: str
    status: str
    rows_seen: int
    rows_total: int | None
    """How many rows the source says it has."""
    rows_inserted: int
    rows_updated: int
    rows_skipped: int
    rows_rejected: int
    batch: int
    started_at: datetime
    last_updated_at: datetime
    completed_at: datetime | None
    paused_at: datetime | None
    """When it was asked to pause; it has happened when there is no run."""
    verified: Mapping[str, Any] | None
    reason: str | None
    target: Any
    run_id: UUID | None
    """The live run; None: nobody imports it."""
    run_started_at: datetime | None
    process: str | None
    batch_rows: Sequence[int] | None
    """Of the last 60 batches, the oldest first."""
    batch_times: Sequence[datetime] | None
    """When each was committed."""


@dataclass(frozen=True, slots=True)
class SeedRun:
    """A start or resume of an import."""

    id: UUID
    key: str
    status: str
    started_at: datetime
    ended_at: datetime | None
    from_row: int | None
    process: str | None
    rows_processed: int | None
    rows_skipped: int | None
    retries_rejects: bool
    stop_requested_at: datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class RejectGroup:
    """The rejected rows with one reason."""

    reason: str
    sqlstate: str | None
    constraint: str | None
    column: str | None
    """The column that the database named; None: it named none."""
    rows: int
    last_at: datetime
    first_id: int


def console_seeds(
    *, before: tuple[datetime, str] | None = None, find: str | None = None, limit: int = 30
) -> Call[list[SeedLine]]:
    """Imports, those that changed last first; with ``find`` those whose names contain it."""
    before_at, before_name = before or (None, None)
    args = {"p_before": before_at, "p_before_name": before_name, "p_find": find, "p_limit": limit}
    return Call("pgonce_console_seeds", args, lambda rows: [SeedLine(*row) for row in rows])


def console_seed_runs(name: str, limit: int = 20) -> Call[list[SeedRun]]:
    """The starts and resumes of an import and its partitions, newest first."""
    args = {"p_seed_name": name, "p_limit": limit}
    return Call("pgonce_console_seed_runs", args, lambda rows: [SeedRun(*row) for row in rows])


def console_seed_rejects(name: str) -> Call[list[RejectGroup]]:
    """The rejected rows of an import by reason, the most frequent first."""
    return Call("pgonce_console_seed_rejects", {"p_seed_name": name}, lambda rows: [RejectGroup(*row) for row in rows])
