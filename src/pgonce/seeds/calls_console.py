"""The calls of ``sql/api/console_seeds.sql``: what the console shows of imports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pgonce.core.call import Call, rows_as


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
    progress: float | None
    """The share of the source that is done, 0 to 1, where the source knows it."""
    run_id: UUID | None
    """The live run; None: nobody imports it."""
    run_started_at: datetime | None
    process: str | None
    batch_rows: Sequence[int] | None
    """Of the last 60 batches, the oldest first."""
    batch_times: Sequence[datetime] | None
    """When each was committed."""

    @property
    def rows_expected(self) -> int | None:
        """The rows that the source has, or as many as its share that is done lets expect."""
        if self.rows_total is not None or not self.progress:
            return self.rows_total
        return max(round(self.rows_seen / self.progress), self.rows_seen)


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
    outcome: str | None
    """complete, stopped, paused or unfinished; None: it has not said."""
    reason: str | None


@dataclass(frozen=True, slots=True)
class RejectReason:
    """The rejected rows with one reason."""

    reason: str
    sqlstate: str | None
    constraint: str | None
    column: str | None
    """The column that the database named; None: it named none."""
    rows: int
    last_at: datetime
    first_id: int


@dataclass(frozen=True, slots=True)
class RejectRow:
    """A rejected row with its values."""

    id: int
    partition: str
    row_number: int
    row: Mapping[str, str | None] | None
    """Its values as text by column; None: jsonb cannot hold them, and ``line`` has the row in COPY's format."""
    line: str | None
    column: str | None
    rejected_at: datetime


def console_seeds(
    *,
    before: tuple[datetime, str] | None = None,
    find: str | None = None,
    name: str | None = None,
    limit: int = 30,
    is_open: bool = False,
) -> Call[list[SeedLine]]:
    """Imports, those that changed last first.

    ``before``: time and name of the last line of the page before; ``find``: those whose names contain it.
    """
    before_at, before_name = before or (None, None)
    args = {
        "p_before": before_at, "p_before_name": before_name, "p_find": find, "p_name": name, "p_limit": limit,
        "p_open": is_open,
    }  # fmt: skip
    return Call("pgonce_console_seeds", args, rows_as(SeedLine))


def console_seed_runs(name: str) -> Call[list[SeedRun]]:
    """The starts and resumes of an import and its partitions, newest first."""
    return Call("pgonce_console_seed_runs", {"p_seed_name": name}, rows_as(SeedRun))


def console_seed_rejects(name: str) -> Call[list[RejectReason]]:
    """The rejected rows of an import by reason, the most frequent first."""
    return Call("pgonce_console_seed_rejects", {"p_seed_name": name}, rows_as(RejectReason))


def console_seed_reject_rows(name: str, like: int, after: int = 0, limit: int = 50) -> Call[list[RejectRow]]:
    """The rejected rows with the same reason as the row ``like``, after an id."""
    args = {"p_seed_name": name, "p_like_id": like, "p_after": after, "p_limit": limit}
    return Call("pgonce_console_seed_reject_rows", args, rows_as(RejectRow))
