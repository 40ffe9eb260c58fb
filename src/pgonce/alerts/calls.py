"""The calls of ``sql/api/alerts_collect.sql`` and ``alerts_deliver.sql``, and their results."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pgonce.core.call import Call, clean, row_or_none, value


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that was claimed for one channel."""

    id: UUID
    """The same in every attempt, so that a receiver recognises a repeated delivery."""
    attempt: int
    kind: str
    """run_failed, failed_in_a_row, recovered, skipped_in_a_row, did_not_run, ran_long, dead_webhook, webhook_failed,
    deliveries_refused, deliveries_silent, import_failed or import_stalled."""
    subject: str
    """The job (with its key), the event's type, the import, or "imports" for many."""
    message: str
    detail: Mapping[str, Any]
    created_at: datetime

    def as_json(self) -> dict[str, Any]:
        """The body that an HTTP channel receives."""
        return {
            "id": str(self.id),
            "kind": self.kind,
            "subject": self.subject,
            "message": self.message,
            "detail": dict(self.detail),
            "created_at": self.created_at.isoformat(),
        }


def channel_name(url: str) -> str:
    """The channel's name in tables and logs: a hash, because the URL holds a secret."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def collect_alerts(channels: Sequence[str], every: timedelta) -> Call[int]:
    """Store what happened since the last look, if that was ``every`` ago; returns how many alerts are new."""
    return Call("pgonce_collect_alerts", {"p_channels": list(channels), "p_every": every}, value)


def claim_alert(channel: str) -> Call[Alert | None]:
    """Claim the next alert of the channel that is due, for a minute. None: there is none."""
    return Call("pgonce_claim_alerts", {"p_channel": channel}, row_or_none(Alert))


def alert_delivered(alert: Alert) -> Call[bool]:
    """The channel has accepted it."""
    return Call("pgonce_alert_delivered", {"p_id": alert.id}, value)


def alert_failed(alert: Alert, error: str) -> Call[bool]:
    """The delivery failed; False when another worker is delivering it, or has delivered it."""
    args = {"p_id": alert.id, "p_attempt": alert.attempt, "p_error": clean(error, 500)}
    return Call("pgonce_alert_failed", args, value)
