"""The runs that this process is at work on, and those whose start was sent and never answered."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from pgonce.jobs.calls_stats import RunLine

live: set[UUID] = set()
"""The runs in progress in this process, synchronous and asynchronous."""
sending: list[tuple[str, str]] = []
"""Job and key of each start of this process that is being sent: its run may be in the table and not yet in ``live``."""
unanswered: dict[tuple[str, str, str], float] = {}
"""Database and schema, job and key of starts of this process whose answers were lost, and when each was sent."""


def is_slot_key(run_key: str, key: str) -> bool:
    """Whether a run with ``run_key`` is one of its job's runs with ``key``, in any slot or without slots."""
    base, _, slot = run_key.rpartition("#")
    return run_key == key or (base == key and "#" in run_key and slot.isascii() and slot.isdigit())


def find_unanswered(running: Sequence[RunLine], key: str, passed_ms: float) -> list[RunLine]:
    """Of a job's running runs, those that may come from a start of this process whose answer was lost.

    They have started since it was sent, ``passed_ms`` ago, have had no heartbeat, and nobody here is at work on them.
    The caller must compare the process, too.
    """
    return [
        each for each in running
        if is_slot_key(each.key, key) and each.heartbeat_at == each.started_at
        and (each.duration_ms or 0) <= passed_ms and each.id not in live
    ]  # fmt: skip
