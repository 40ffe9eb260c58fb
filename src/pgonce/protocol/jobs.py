"""The calls of ``sql/api/jobs.sql`` and their results. The transition table stands at the head of that file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from pgonce.errors import InvalidArgument
from pgonce.protocol.call import Call, clean, value

WINDOW = "15 minutes"
"""Without a heartbeat for this long a run counts as dead (the specification's "last N minutes")."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a run is started with."""

    name: str
    window: timedelta
    key: str = ""
    """Runs with different keys may run side by side."""
    scope: Mapping[str, Any] = field(default_factory=dict)
    """What the run works on; for people to read."""
    scheduled_for: datetime | None = None
    """The tick; it fires once over all machines."""


def start_job_run(start: Start) -> Call[UUID | None]:
    """Start a run: its id, which is its token; None on overlap, or when its tick has fired."""
    if start.scheduled_for is not None and start.scheduled_for.tzinfo is None:
        raise InvalidArgument("scheduled_for has no time zone: a tick is a moment, not a wall clock's reading")
    args = {
        "p_job_name": start.name,
        "p_scope": Jsonb(dict(start.scope)),
        "p_window": start.window,
        "p_key": start.key,
        "p_scheduled_for": start.scheduled_for,
    }
    return Call("start_job_run", args, value)


def beat_job_run(run_id: UUID) -> Call[bool]:
    """A sign of life; as the last statement of a transaction, the fence. False: taken over or ended."""
    return Call("beat_job_run", {"p_run_id": run_id}, value)


def complete_job_run(run_id: UUID, rows_processed: int = 0, rows_skipped: int = 0) -> Call[bool]:
    """End the run as succeeded. True also when repeated; False: it was taken over or has failed."""
    args = {"p_run_id": run_id, "p_rows_processed": rows_processed, "p_rows_skipped": rows_skipped}
    return Call("complete_job_run", args, value)


def fail_job_run(run_id: UUID, error_message: str) -> Call[bool]:
    """End the run as failed. True also when repeated; False: it was taken over or has ended."""
    return Call("fail_job_run", {"p_run_id": run_id, "p_error_message": clean(error_message)}, value)
