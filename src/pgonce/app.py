"""The registry of an application: which function handles which event, job or seed."""

from __future__ import annotations

from dataclasses import dataclass

from pgonce.jobs.registry import JobRegistry
from pgonce.seeds.registry import SeedRegistry
from pgonce.webhooks.registry import WebhookRegistry


@dataclass
class App(WebhookRegistry, JobRegistry, SeedRegistry):
    """Collects handlers, jobs and seeds. It names no database: the command line gets both (``--app module:app``)."""
