"""The registry of an application: which function handles which event, job or seed."""

from __future__ import annotations

from dataclasses import dataclass

from pgonce.jobs.registry import JobRegistry
from pgonce.seeds.registry import SeedRegistry
from pgonce.webhooks.registry import WebhookRegistry


@dataclass(init=False)
class App(WebhookRegistry, JobRegistry, SeedRegistry):
    """Collects handlers, jobs and seeds. It names no database: the command line gets both (``--app module:app``).

    Args:
        name: tells this app from others on one database, for schedules and ``pgonce ps``. The default is what
            ``--app`` was given.
    """

    def __init__(self, *, name: str = "") -> None:
        # by keyword: App("shop") would otherwise set the list of handlers
        WebhookRegistry.__init__(self)
        JobRegistry.__init__(self, name=name)
        SeedRegistry.__init__(self)
