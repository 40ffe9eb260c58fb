"""The calls of ``sql/api/webhooks_diagnose.sql``."""

from __future__ import annotations

from pgonce.core.call import Call, rows_as
from pgonce.core.diagnosis import Diagnosis


def diagnose_webhook(event_id: str) -> Call[list[Diagnosis]]:
    """The diagnosis of an event; empty if it has succeeded, or if its handler ignored it."""
    return Call("pgonce_diagnose_webhook", {"p_stripe_event_id": event_id}, rows_as(Diagnosis))
