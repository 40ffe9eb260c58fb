"""Calls of the functions in ``sql/api/jobs_guard.sql`` and ``jobs_schedule.sql``; the transition tables are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from pgonce.core.call import Call, clean, rows_as, value
from pgonce.core.processes import this_process
from pgonce.core.registration import check_count
from pgonce.jobs.arguments import read_names, read_scope, read_tick

WINDOW = "15 minutes"
"""Without a heartbeat for this long a run counts as dead (the specification's "last N minutes")."""
MOST_SLOTS = 1000
BACKOFF = timedelta(minutes=1)
"""The time before the first retry; it doubles with each retry."""
NOW: Call[datetime] = Call("clock_timestamp", {}, value)
"""The database's time; a function of the schema pg_catalog."""


@dataclass(slots=True)
class Start:
    """The arguments with which a run is started; not to be changed."""

    name: str
    window: timedelta
    key: str = ""
    """Runs with different keys may run at the same time."""
    scope: Mapping[str, Any] = field(default_factory=dict)
    """What the run works on; for people to read."""
    scheduled_for: datetime | None = None
    """The tick; it fires once over all machines."""
    retries: int = 0
    """How often a failure is retried."""
    backoff: timedelta = BACKOFF
    slots: int | None = None
    """How many runs may run at the same time; None: one, without slots."""

    stored: bool = False
    """Whether the values come from a row, as those of a retry do: a client of SQL may have written any JSON there."""

    def __post_init__(self) -> None:
        if self.stored:
            return
        self.name, self.key = read_names(self.name, self.key)
        if self.retries:
            check_count(self.retries, "retries")
        if self.slots is not None:
            check_count(self.slots, "slots", 1, MOST_SLOTS)
        if self.scope or type(self.scope) is not dict:
            self.scope = read_scope(self.scope)
        if self.scheduled_for is not None:
            read_tick(self.scheduled_for)


@dataclass(frozen=True, slots=True)
class Retry:
    """A failed run whose retry is due."""

    run_id: UUID
    name: str
    key: str
    scope: Mapping[str, Any]
    window: timedelta
    scheduled_for: datetime | None
    """The tick of the first attempt."""


def is_slot_key(run_key: str, key: str) -> bool:
    """Whether a run with ``run_key`` is one of its job's runs with ``key``, in any slot or without slots."""
    base, _, slot = run_key.rpartition("#")
    return run_key == key or (base == key and "#" in run_key and slot.isascii() and slot.isdigit())


def start_job_run(start: Start, run_id: UUID) -> Call[UUID | None]:
    """Start a run with this new id, which is its token, and return it. None on overlap, or if its tick has fired.

    Sent again after a lost answer, it returns the same run.
    """
    args = {
        "p_job_name": start.name,
        "p_scope": Jsonb(start.scope),
        "p_window": start.window,
        "p_key": start.key,
        "p_scheduled_for": start.scheduled_for,
        "p_process": this_process(),
        "p_run_id": run_id,
    }
    if start.retries:
        args |= {"p_retries": start.retries, "p_backoff": start.backoff}
    if start.slots is not None:
        args = {"p_slots": start.slots} | args
        return Call("pgonce_start_job_run_in_slot", args, value, null_unsynced=True)
    return Call(
        "start_job_run", args, value, null_unsynced=True, many=None if start.retries else "pgonce_start_job_runs"
    )


def start_requested_job_run(request: UUID, start: Start, run_id: UUID) -> Call[UUID | None]:
    """Start a requested run and close the request. None: another worker has started it, or it may not start now."""
    args = {
        "p_request_id": request,
        "p_key": start.key,
        "p_window": start.window,
        "p_retries": start.retries,
        "p_backoff": start.backoff,
        "p_process": this_process(),
        "p_slots": start.slots,
        "p_run_id": run_id,
    }
    return Call("pgonce_start_requested_job_run", args, value)


def report_job_run(
    run_id: UUID, transactions: int, rows_processed: int, rows_skipped: int, done: int | None, total: int | None
) -> Call[Literal["running", "stopping", "lost"]]:
    """Send a heartbeat that also writes the counts and the progress, unless the database has lost transactions."""
    args = _figures(run_id, rows_processed, rows_skipped, done, total, transactions)
    return Call("pgonce_report_job_run", args, value)


def fence_job_run(
    run_id: UUID, transactions: int, rows_processed: int, rows_skipped: int, done: int | None, total: int | None
) -> Call[bool | None]:
    """The last statement of a run's transaction, with the number of confirmed ones.

    False: the run was taken over or has ended. None: `only_in` has kept the statement from a foreign transaction.
    """
    args = _figures(run_id, rows_processed, rows_skipped, done, total, transactions)
    return Call("pgonce_fence_job_run", args, lambda rows: value(rows) if rows else None)


def keep_heartbeats_apart(run_id: UUID) -> Call[bool]:
    """Stop heartbeats from updating the run's row: a transaction with one snapshot updates that row at its end."""
    return Call("pgonce_keep_heartbeats_apart", {"p_run_id": run_id}, value)


def complete_job_run(run_id: UUID, rows_processed: int = 0, rows_skipped: int = 0, transactions: int = 0) -> Call[bool]:
    """End the run as succeeded. True also when repeated; False: it was taken over or has failed.

    Raises LeaseLost if the database has lost some of the ``transactions`` that were confirmed.
    """
    args = {
        "p_run_id": run_id,
        "p_rows_processed": _held(rows_processed),
        "p_rows_skipped": _held(rows_skipped),
        "p_transactions": transactions,
    }
    return Call("complete_job_run", args, value, many="pgonce_complete_job_runs")


def fail_job_run(run_id: UUID, error_message: str) -> Call[bool]:
    """End the run as failed. True also when repeated; False: it was taken over or has ended."""
    return Call("fail_job_run", {"p_run_id": run_id, "p_error_message": clean(error_message)}, value)


def interrupt_job_run(run_id: UUID, error_message: str) -> Call[bool]:
    """End the run as failed and due again at once: its process is stopping. False: it was taken over or has ended."""
    args = {"p_run_id": run_id, "p_error_message": clean(error_message)}
    return Call("pgonce_interrupt_job_run", args, value)


def explain_job_run_end(run_id: UUID) -> Call[str | None]:
    """Why a run is no longer running: "was taken over by run …", "was ended as failed: …"; None while it is running."""
    return Call("pgonce_explain_job_run_end", {"p_run_id": run_id}, value)


def note_lost_job_run(run_id: UUID) -> Call[str | None]:
    """``explain_job_run_end``; and record that the run's process has worked until now."""
    return Call("pgonce_note_lost_job_run", {"p_run_id": run_id}, value)


def abandon_job_runs() -> Call[int]:
    """Close every run whose heartbeats have stopped. Return how many."""
    return Call("pgonce_abandon_job_runs", {}, value)


def due_job_retries(names: Sequence[str]) -> Call[list[Retry]]:
    """The failed runs of these jobs whose retry is due."""
    return Call("pgonce_due_job_retries", {"p_job_names": list(names)}, rows_as(Retry))


def retry_job_run(run_id: UUID, slots: int | None, retry_id: UUID) -> Call[UUID | None]:
    """Start the next attempt of a failed run. None: it has nothing to retry, or its retry may not start now."""
    args = {"p_run_id": run_id, "p_process": this_process(), "p_slots": slots, "p_retry_id": retry_id}
    return Call("pgonce_retry_job_run", args, value)


def _figures(
    run_id: UUID, rows_processed: int, rows_skipped: int, done: int | None, total: int | None, transactions: int
) -> dict[str, Any]:
    return {
        "p_run_id": run_id,
        "p_transactions": transactions,
        "p_rows_processed": _held(rows_processed),
        "p_rows_skipped": _held(rows_skipped),
        "p_progress_done": None if done is None else _held(done, 63),
        "p_progress_total": None if total is None else _held(total, 63),
    }


def _held(count: int, bits: int = 31) -> int:
    """``count``, at most the largest value of its column. If a heartbeat were refused for it, the run would be lost."""
    return min(count, (1 << bits) - 1)
