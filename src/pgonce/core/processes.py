"""The row of a running service in ``pgonce_processes``: written at its start, kept alive, deleted at a clean stop."""

from __future__ import annotations

import getpass
import hashlib
import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from importlib.metadata import version
from typing import Literal
from uuid import UUID, uuid4

from pgonce.core.call import Call, clean, rows_as, value
from pgonce.core.database import call_with_timeouts
from pgonce.core.execute import Pool

Does = Literal["events", "receives", "jobs", "alerts"]

BEAT_EVERY = 15.0
"""Seconds between two heartbeats. After a minute without one, a service counts as dead."""


@dataclass(frozen=True, slots=True)
class ProcessLine:
    """A process in a list."""

    host: str
    pid: int
    does: Sequence[str]
    version: str
    app: str
    release: str
    outdated: bool
    """Whether the most recently started process of its app has another release."""
    live: bool
    """Whether it has sent a heartbeat within the last minute."""
    handlers: Sequence[str]
    jobs: Sequence[str]
    busy: int
    capacity: int | None
    busy_with: Sequence[str]
    started_at: datetime
    last_seen_at: datetime
    seen_ago: timedelta


@dataclass(slots=True)
class Registration:
    """One service of this process.

    Args:
        does: what it does.
        schema: where ``pgonce migrate`` put the tables.
        app: the name of the application, as ``--app`` has it.
        handlers: the patterns of event types it has handlers for.
        jobs: the names of its jobs.
        content: what tells one release of the app from another, beside handlers and jobs.
        capacity: how much it does at once.
    """

    does: Does
    schema: str
    app: str = ""
    handlers: Sequence[str] = ()
    jobs: Sequence[str] = ()
    content: Iterable[str] = ()
    capacity: int | None = None
    id: UUID = field(default_factory=uuid4)
    started_at: datetime | None = None
    _next: float = 0.0

    def register(self, pool: Pool) -> None:
        """Write the row.

        Raises:
            DatabaseUnavailable, SchemaError: as for every call.
        """
        self.started_at = call_with_timeouts(pool, self.registering(), self.schema)
        self._next = time.monotonic() + BEAT_EVERY

    def beat(self, pool: Pool, busy: int = 0, busy_with: Sequence[str] = ()) -> None:
        """Send a heartbeat if the last one is `BEAT_EVERY` seconds old. To be called more often than that."""
        if time.monotonic() < self._next:
            return
        if not call_with_timeouts(pool, beat_process(self.id, busy, busy_with), self.schema):
            # the row is deleted after a day without heartbeats, as on a suspended machine
            call_with_timeouts(pool, self.registering(), self.schema)
        self._next = time.monotonic() + BEAT_EVERY - 1  # the caller's rounds are not exact

    def end(self, pool: Pool) -> None:
        """Delete the row: a clean stop."""
        call_with_timeouts(pool, end_process(self.id), self.schema)

    def registering(self) -> Call[datetime]:
        """The call that writes the row, for callers without a synchronous pool."""
        content = repr((sorted(self.handlers), sorted(self.jobs), sorted(self.content)))
        args = {
            "p_id": self.id,
            "p_does": self.does,
            "p_host": host(),
            "p_pid": os.getpid(),
            "p_version": version("pgonce"),
            "p_app": clean(self.app),
            "p_release": clean(os.environ.get("PGONCE_RELEASE", "")),
            "p_digest": hashlib.md5(content.encode("utf-8", "replace"), usedforsecurity=False).hexdigest(),
            "p_handlers": list(self.handlers),
            "p_jobs": list(self.jobs),
            "p_capacity": self.capacity,
            # again after a day of silence: a process of an older release must not become the newest start
            "p_started_at": self.started_at,
            "p_process": _own_id(os.getpid()),
        }
        return Call("pgonce_register_process", args, value)


def person() -> str:
    """Who runs this process, for the audit: PGONCE_ACTOR, else the user of the system."""
    if given := os.environ.get("PGONCE_ACTOR", "").strip():
        return clean(given, 200)
    try:
        return clean(getpass.getuser(), 200)
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"


@cache
def host() -> str:
    """The name of this machine; in a container, of the container."""
    return clean(platform.node() or "unknown")


@cache
def _own_id(pid: int) -> UUID:  # noqa: ARG001 -- a forked child has another one
    """What tells this process from all others: in containers, several may have one host name and pid."""
    return uuid4()


def this_process() -> str:
    """host:pid, which is stored with each run, so that a hanging process can be found."""
    return f"{host()}:{os.getpid()}"


def beat_process(process_id: UUID, busy: int, busy_with: Sequence[str]) -> Call[bool]:
    """Send a heartbeat. False: there is no such row."""
    args = {"p_id": process_id, "p_busy": busy, "p_busy_with": list(busy_with)}
    return Call("pgonce_beat_process", args, value)


def end_process(process_id: UUID) -> Call[bool]:
    """Delete the row of a service. False: there is none."""
    return Call("pgonce_end_process", {"p_id": process_id}, value)


def count_live_processes(does: Does) -> Call[int]:
    """How many services of this kind have sent a heartbeat within the last minute."""
    return Call("pgonce_count_live_processes", {"p_does": does}, value)


def list_processes() -> Call[list[ProcessLine]]:
    """The processes of the last day, in the order of their starts."""
    return Call("pgonce_list_processes", {}, rows_as(ProcessLine))
