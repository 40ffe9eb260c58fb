"""The registry of an application: which function handles which event, job or seed."""

from __future__ import annotations

from dataclasses import dataclass

from pgonce.core.failures import ErrorHook
from pgonce.core.registration import check_function, check_text
from pgonce.jobs.registry import JobRegistry
from pgonce.seeds.registry import SeedRegistry
from pgonce.webhooks.registry import WebhookRegistry


@dataclass(init=False)
class App(WebhookRegistry, JobRegistry, SeedRegistry):
    """Collects handlers, jobs and seeds. It does not name a database: the command line has an option for each.

    Args:
        name: tells this app from others on one database, for schedules and ``pgonce ps``. The default is what
            ``--app`` was given.
        on_error: called with each exception of a handler or job, and with the event or the run that it ended, in the
            thread where it was raised. What it raises itself is logged.

    Raises:
        InvalidArgument: ``on_error`` is not a function of two arguments, or ``name`` is not text.
    """

    def __init__(self, *, name: str = "", on_error: ErrorHook | None = None) -> None:
        check_text(name, "the app's name", 'name="shop"')
        # by keyword: App("shop") would otherwise set the list of handlers
        WebhookRegistry.__init__(self)
        JobRegistry.__init__(self, name=name)
        SeedRegistry.__init__(self)
        if on_error is not None:
            check_function(on_error, "on_error", ("error", "failed"), plain="make it plain")
        self.on_error = on_error
