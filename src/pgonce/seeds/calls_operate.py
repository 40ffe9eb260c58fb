"""The calls of ``sql/api/seeds_operate.sql`` and ``sql/api/seeds_partition.sql``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from pgonce.core.call import Call, row_or_none, rows_as, value
from pgonce.seeds.calls import Checkpoint, Counts, Reject


def reject_seed_rows(seed_name: str, rejects: Sequence[Mapping[str, Any]], partition: str | None) -> Call[int]:
    """Keep rows that the table refused; how many the seed has now."""
    args = {"p_seed_name": seed_name, "p_rejects": Jsonb(list(rejects)), "p_partition": partition or ""}
    return Call("pgonce_reject_seed_rows", args, value)


def get_rejects(seed_name: str, after: int = 0, limit: int = 1000) -> Call[list[Reject]]:
    """The rejected rows after id ``after``, oldest first."""
    args = {"p_seed_name": seed_name, "p_after": after, "p_limit": limit}
    return Call("pgonce_get_rejects", args, rows_as(Reject))


def resolve_reject(reject_id: int, counts: Counts) -> Call[bool]:
    """The row fits now, or its key is there by now; False: it was resolved already."""
    args = {
        "p_id": reject_id,
        "p_rows_inserted": counts.inserted,
        "p_rows_skipped": counts.skipped,
        "p_rows_updated": counts.updated,
    }
    return Call("pgonce_resolve_reject", args, value)


def count_rejects(seed_name: str) -> Call[int]:
    """How many rejected rows the seed has, those of its partitions included."""
    return Call("pgonce_count_rejects", {"p_seed_name": seed_name}, value)


@dataclass(frozen=True, slots=True)
class Runner:
    """A run that imports a seed, or did when its process died."""

    run_id: UUID
    key: str
    """The seed's name, or name/partition."""
    scope: Mapping[str, Any]
    alive: bool
    """Whether it has sent a heartbeat within its window."""


def get_runners(seed_name: str) -> Call[list[Runner]]:
    """The runs at work on the seed and its partitions."""
    return Call("pgonce_get_runners", {"p_seed_name": seed_name}, rows_as(Runner))


def run_exists(run_id: UUID) -> Call[bool]:
    """Whether the database knows the run: after a failover to an older state it may not."""
    return Call("pgonce_run_exists", {"p_run_id": run_id}, value)


def get_seeds() -> Call[list[Checkpoint]]:
    """All seeds, the newest first."""
    return Call("pgonce_get_seeds", {}, rows_as(Checkpoint))


def pause_seed(seed_name: str) -> Call[Checkpoint | None]:
    """Request the runner to stop after its batch."""
    return Call("pgonce_pause_seed", {"p_seed_name": seed_name}, row_or_none(Checkpoint))


def resume_seed(seed_name: str) -> Call[Checkpoint | None]:
    """Undo the pause."""
    return Call("pgonce_resume_seed", {"p_seed_name": seed_name}, row_or_none(Checkpoint))


def reset_seed(seed_name: str) -> Call[bool]:
    """Forget everything but the rows; False: it has never run."""
    return Call("pgonce_reset_seed", {"p_seed_name": seed_name}, value)


def set_seed_proof(at: Checkpoint, proof: Mapping[str, Any]) -> Call[Checkpoint | None]:
    """Store the result of a comparison with the checkpoint; None if that has changed since ``at`` was read."""
    args = {"p_seed_name": at.seed_name, "p_verified": Jsonb(proof), "p_last_updated_at": at.last_updated_at}
    return Call("pgonce_set_seed_proof", args, row_or_none(Checkpoint))


def set_seed_total(seed_name: str, rows_total: int | None) -> Call[None]:
    """Keep how many rows the source says it holds."""
    return Call("pgonce_set_seed_total", {"p_seed_name": seed_name, "p_rows_total": rows_total}, value)


def begin_partitions(seed_name: str, partitions: Sequence[str]) -> Call[list[Checkpoint]]:
    """Make rows for the parts that are new; all that are named, done or not."""
    return Call(
        "pgonce_begin_partitions", {"p_seed_name": seed_name, "p_partitions": list(partitions)}, rows_as(Checkpoint)
    )


def get_partitions(seed_name: str) -> Call[list[Checkpoint]]:
    """Where all parts stand."""
    return Call("pgonce_get_partitions", {"p_seed_name": seed_name}, rows_as(Checkpoint))


def note_seed_end(run_id: UUID, outcome: str, to_row: int) -> Call[bool]:
    """Keep with the run how it ends and the row it has reached."""
    args = {"p_run_id": run_id, "p_outcome": outcome, "p_to_row": to_row}
    return Call("pgonce_note_seed_end", args, value)


@dataclass(frozen=True, slots=True)
class Resume:
    """One run of a seed, or of one of its partitions."""

    run_id: UUID
    partition: str | None
    started_at: datetime
    from_row: int | None
    ended_at: datetime | None
    to_row: int | None
    outcome: str
    """running, complete, stopped, paused, unfinished or failed."""
    reason: str | None
    """Why it failed or is unfinished; the last line of a traceback says it."""
    rows_written: int
    rows_left_out: int
    """Skipped and rejected."""
    process: str | None
    """host:pid."""


def get_resumes(seed_name: str, limit: int = 60) -> Call[list[Resume]]:
    """The seed's runs, the newest first."""
    args = {"p_seed_name": seed_name, "p_limit": limit}
    return Call("pgonce_get_seed_resumes", args, rows_as(Resume))


@dataclass(frozen=True, slots=True)
class BatchTime:
    """One of the last 60 batches of a seed, or of one of its partitions."""

    partition: str
    """Empty for the seed itself."""
    batch: int
    rows: int
    committed_at: datetime
    took: timedelta | None
    """Since the batch before."""


def get_batches(seed_name: str, partition: str | None = None) -> Call[list[BatchTime]]:
    """The last batches, oldest first."""
    args = {"p_seed_name": seed_name, "p_partition": partition}
    return Call("pgonce_get_seed_batches", args, rows_as(BatchTime))


@dataclass(frozen=True, slots=True)
class RejectGroup:
    """Rejects of a seed with one reason, in one column."""

    reason: str
    column_name: str | None
    sqlstate: str | None
    rows: int
    first_row: int
    first_partition: str


@dataclass(frozen=True, slots=True)
class Rehearsed(Counts):
    """What a dry run has counted."""

    unfinished: str | None = None
    """Why the source ended before its end."""
    reasons: tuple[RejectGroup, ...] = ()
    """Of the rejects, the most frequent first."""


def group_rejects(seed_name: str) -> Call[list[RejectGroup]]:
    """The rejects by reason and column, the most frequent first."""
    args = {"p_seed_name": seed_name}
    return Call("pgonce_group_seed_rejects", args, rows_as(RejectGroup))


def release_runner(run_id: UUID) -> Call[bool]:
    """Close the run of a process that has ended now, not after its window. False: a transaction of it still runs."""
    return Call("pgonce_release_runner", {"p_run_id": run_id}, value)
