"""Calls of the functions in ``sql/api/webhooks_diagnose.sql``."""

from __future__ import annotations

from pgonce.core.call import Call
from pgonce.core.diagnosis import Diagnosis, read_diagnoses


def diagnose_webhook(event_id: str) -> Call[list[Diagnosis]]:
    """The diagnosis of an event; empty if it has succeeded, or if its handler ignored it."""
    return Call("pgonce_diagnose_webhook", {"p_stripe_event_id": event_id}, read_diagnoses)
