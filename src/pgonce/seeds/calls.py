"""The calls of ``sql/api/seeds_checkpoint.sql`` and their results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from pgonce.core.call import Call, clean, row_as, row_or_none
from pgonce.errors import InvalidArgument
from pgonce.seeds.source import NO_CURSOR, Cursor, SeedRow

__all__ = ["Checkpoint", "Counts", "Cursor", "Reject", "SeedRow"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A row of seed_checkpoints, or of seed_partitions."""

    id: UUID
    seed_name: str
    last_checkpoint: Any
    rows_inserted: int
    rows_skipped: int
    status: str
    error_message: str | None
    started_at: datetime
    last_updated_at: datetime
    completed_at: datetime | None
    batch: int
    rows_updated: int = 0
    rows_rejected: int = 0
    rows_seen: int = 0
    """inserted + updated + skipped + rejected, since the import last began at the start."""
    fingerprint: Any = None
    verified: Any = None
    """The last comparison of table and source; the next batch sets it to null."""
    paused_at: datetime | None = None
    target: Any = None
    """The table, and keys of the last batch: by them a resume recognizes the table."""
    rows_total: int | None = None
    """How many rows the source says it holds."""
    total_inserted: int = 0
    """Of all time; the counters above begin anew at a restart."""
    total_updated: int = 0
    total_skipped: int = 0
    total_rejected: int = 0
    progress: float | None = None
    """The share of the source, 0 to 1, before the cursor; None where the source cannot tell."""
    partition: str | None = None
    """None for the seed itself."""

    @property
    def cursor(self) -> Cursor | None:
        """Where to resume; None at the start (the table's default ``{}`` says "nothing yet")."""
        return None if self.last_checkpoint == {} else self.last_checkpoint


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the rows of a batch."""

    inserted: int = 0
    skipped: int = 0
    updated: int = 0
    rejected: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.inserted + other.inserted,
            self.skipped + other.skipped,
            self.updated + other.updated,
            self.rejected + other.rejected,
        )

    @property
    def seen(self) -> int:
        """All of them."""
        return self.inserted + self.skipped + self.updated + self.rejected


@dataclass(frozen=True, slots=True)
class Reject:
    """A row of pgonce_seed_rejects."""

    id: int
    seed_name: str
    partition: str
    row_number: int
    """Its place among the rows that were seen, from 1."""
    cursor: Any
    row: Any
    """Column → value as text, or null where jsonb cannot hold it."""
    line: bytes | None
    sqlstate: str | None
    error: str
    reason: str | None
    """The error without values of the row."""
    column_name: str | None
    rejected_at: datetime


def cursor_json(cursor: Cursor) -> Jsonb:
    """``cursor`` as a jsonb argument.

    Raises:
        InvalidArgument: it is None, or not JSON.
    """
    if cursor is None:
        raise InvalidArgument(NO_CURSOR)
    try:
        json.dumps(cursor, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"the checkpoint is not JSON: {error}") from None
    return Jsonb(cursor)


def get_checkpoint(seed_name: str) -> Call[Checkpoint | None]:
    """The seed's row, or None when it has never run."""
    return Call("get_checkpoint", {"p_seed_name": seed_name}, row_or_none(Checkpoint))


def advance_seed(
    seed_name: str,
    run_id: UUID,
    batch: int,
    last_checkpoint: Cursor,
    counts: Counts,
    fingerprint: Mapping[str, Any] | None = None,
    target: Mapping[str, Any] | None = None,
    partition: str | None = None,
    progress: float | None = None,
) -> Call[Checkpoint | None]:
    """update_checkpoint for the runner that holds ``run_id``; None: batch ``batch`` was committed already."""
    args = {
        "p_seed_name": seed_name,
        "p_run_id": run_id,
        "p_batch": batch,
        "p_last_checkpoint": cursor_json(last_checkpoint),
        "p_rows_inserted": counts.inserted,
        "p_rows_skipped": counts.skipped,
        "p_rows_updated": counts.updated,
        "p_rows_rejected": counts.rejected,
        "p_fingerprint": None if fingerprint is None else Jsonb(fingerprint),
        "p_target": None if target is None else Jsonb(target),
        "p_progress": progress,
    }
    if partition is None:
        return Call("pgonce_advance_seed", args, row_or_none(Checkpoint))
    return Call("pgonce_advance_partition", {**args, "p_partition": partition}, row_or_none(Checkpoint))


def restart_seed(seed_name: str, run_id: UUID, partition: str | None = None) -> Call[Checkpoint]:
    """Cursor, counters and rejects begin anew, for the runner that holds ``run_id``."""
    args = {"p_seed_name": seed_name, "p_run_id": run_id}
    if partition is None:
        return Call("pgonce_restart_seed", args, row_as(Checkpoint))
    return Call("pgonce_restart_partition", {**args, "p_partition": partition}, row_as(Checkpoint))


def complete_seed(seed_name: str) -> Call[Checkpoint]:
    """Mark the import as complete."""
    return Call("complete_seed", {"p_seed_name": seed_name}, row_as(Checkpoint))


def fail_seed(seed_name: str, error_message: str) -> Call[Checkpoint]:
    """Mark the import as failed; a complete one stays complete."""
    return Call("fail_seed", {"p_seed_name": seed_name, "p_error_message": clean(error_message)}, row_as(Checkpoint))


def leave_seed(seed_name: str, reason: str) -> Call[Checkpoint]:
    """Mark the import as failed because its source ended before its end, a complete import too."""
    return Call("pgonce_leave_seed", {"p_seed_name": seed_name, "p_reason": clean(reason)}, row_as(Checkpoint))
