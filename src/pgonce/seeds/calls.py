"""The calls of ``sql/api/seeds_checkpoint.sql``, and the same of ``sql/api/seeds_partition.sql`` for a partition."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from pgonce.core.call import Call, clean, row_or_none
from pgonce.errors import InvalidArgument
from pgonce.seeds.source import Cursor, SeedRow

__all__ = ["Checkpoint", "Counts", "Cursor", "Reject", "SeedRow"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A row of seed_checkpoints, or of pgonce_seed_partitions."""

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


def jsonb(value: Any, what: str) -> Jsonb:
    """``value``, a checkpoint or a fingerprint, as a jsonb argument.

    Raises:
        InvalidArgument: it is not JSON, or jsonb cannot hold it.
    """
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the {what} is not JSON: {error}") from None
    if r"\u0000" in text.replace(r"\\", ""):  # not of an escaped backslash before the text u0000
        raise InvalidArgument(f"the {what} has the character NUL, which jsonb cannot hold: leave it out")
    return Jsonb(value)


def _of(
    seed_name: str, partition: str | None, seed_function: str, partition_function: str, **args: Any
) -> Call[Checkpoint | None]:
    """The function of a seed, or the one that does the same to one of its partitions."""
    args = {"p_seed_name": seed_name, **args}
    if partition is None:
        return Call(seed_function, args, row_or_none(Checkpoint))
    return Call(partition_function, {**args, "p_partition": partition}, row_or_none(Checkpoint))


def get_checkpoint(seed_name: str, partition: str | None = None) -> Call[Checkpoint | None]:
    """The seed's row, or that of one of its partitions; None when it has never run."""
    return _of(seed_name, partition, "get_checkpoint", "pgonce_get_partition")


def advance_seed(
    seed_name: str,
    partition: str | None,
    run_id: UUID,
    batch: int,
    last_checkpoint: Cursor,
    counts: Counts,
    fingerprint: Mapping[str, Any] | None,
    target: Mapping[str, Any],
    progress: float | None,
) -> Call[Checkpoint | None]:
    """update_checkpoint for the runner that holds ``run_id``; None: batch ``batch`` was committed already."""
    return _of(
        seed_name,
        partition,
        "pgonce_advance_seed",
        "pgonce_advance_partition",
        p_run_id=run_id,
        p_batch=batch,
        p_last_checkpoint=jsonb(last_checkpoint, "checkpoint"),
        p_rows_inserted=counts.inserted,
        p_rows_skipped=counts.skipped,
        p_rows_updated=counts.updated,
        p_rows_rejected=counts.rejected,
        p_fingerprint=None if fingerprint is None else jsonb(fingerprint, "fingerprint"),
        p_target=Jsonb(target),
        p_progress=progress,
    )


def restart_seed(seed_name: str, partition: str | None, run_id: UUID) -> Call[Checkpoint | None]:
    """Cursor, counters and rejects begin anew, for the runner that holds ``run_id``."""
    return _of(seed_name, partition, "pgonce_restart_seed", "pgonce_restart_partition", p_run_id=run_id)


def complete_seed(seed_name: str, partition: str | None) -> Call[Checkpoint | None]:
    """Mark the import as complete. The last partition completes the seed. NotFound: the partition was not begun."""
    return _of(seed_name, partition, "complete_seed", "pgonce_complete_partition")


def fail_seed(seed_name: str, partition: str | None, error_message: str) -> Call[Checkpoint | None]:
    """Mark the import as failed, and with a partition its seed; a complete one stays complete."""
    message = clean(error_message)
    return _of(seed_name, partition, "fail_seed", "pgonce_fail_partition", p_error_message=message)


def leave_seed(seed_name: str, partition: str | None, reason: str) -> Call[Checkpoint | None]:
    """Mark the import as failed because its source ended before its end, a complete import too."""
    return _of(seed_name, partition, "pgonce_leave_seed", "pgonce_leave_partition", p_reason=clean(reason))
