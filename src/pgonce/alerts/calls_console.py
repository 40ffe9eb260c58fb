"""The calls of ``sql/api/console_alerts.sql``, and their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pgonce.core.call import Call, clean, row_as, rows_as, value


@dataclass(frozen=True, slots=True)
class AlertLine:
    """An alert in a list: one for each cause, however many channels it goes to."""

    id: UUID
    kind: str
    subject: str
    message: str
    detail: Mapping[str, Any]
    created_at: datetime
    open: bool
    """Whether its cause is still there."""
    channels: int
    delivered: int
    """How many channels have accepted it."""
    delivered_at: datetime | None
    attempts: int
    next_attempt_at: datetime | None
    last_error: str | None
    muted_until: datetime | None
    muted_by: str | None
    mute_reason: str | None


@dataclass(frozen=True, slots=True)
class Channels:
    """Who is alerted."""

    channels: int
    looked_at: datetime | None
    """When a worker last looked for alerts."""


def list_alerts(before: datetime | None = None, limit: int = 50) -> Call[list[AlertLine]]:
    """The alerts, newest first; ``before``: created_at of the last line of the page before."""
    args = {"p_before": before, "p_limit": limit}
    return Call("pgonce_console_alerts", args, rows_as(AlertLine))


def get_channels() -> Call[Channels]:
    """How many channels there are, and when a worker last looked."""
    return Call("pgonce_console_channels", {}, row_as(Channels))


def mute_alert(session: UUID, alert: UUID, length: timedelta, reason: str) -> Call[bool]:
    """Do not deliver alerts of this kind and subject for so long. False: this has replaced another mute."""
    args = {"p_session": session, "p_id": alert, "p_for": length, "p_reason": clean(reason, 1000)}
    return Call("pgonce_console_mute_alert", args, value)


def unmute_alert(session: UUID, alert: UUID) -> Call[bool]:
    """End a mute. False: it was not muted."""
    return Call("pgonce_console_unmute_alert", {"p_session": session, "p_id": alert}, value)
