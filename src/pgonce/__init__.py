"""Webhooks handled exactly once, jobs that never overlap, imports that resume: three tables in PostgreSQL."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgonce import errors as errors
    from pgonce.app import App
    from pgonce.console.app import Console
    from pgonce.core import database
    from pgonce.core.failures import on_error
    from pgonce.core.migrate import migrate, script
    from pgonce.errors import (
        DatabaseUnavailable,
        EventBusy,
        InvalidArgument,
        InvalidPayload,
        LeaseLost,
        NotFound,
        PayloadTooLarge,
        PgonceError,
        RowRejected,
        RunStopped,
        SchemaError,
        SignatureError,
        SourceChanged,
        TableChanged,
        TransactionBroken,
    )
    from pgonce.jobs.guard import Jobs
    from pgonce.jobs.guard_async import AsyncJobs
    from pgonce.jobs.run import Run
    from pgonce.jobs.run_async import AsyncRun
    from pgonce.seeds import readers as sources
    from pgonce.seeds.calls import Checkpoint
    from pgonce.seeds.seed import Seed
    from pgonce.seeds.seeds import Seeds
    from pgonce.seeds.seeds_async import AsyncSeeds
    from pgonce.webhooks import providers
    from pgonce.webhooks.asgi import Receiver, receiver
    from pgonce.webhooks.calls import Event
    from pgonce.webhooks.endpoint import Endpoint
    from pgonce.webhooks.inline import Webhooks
    from pgonce.webhooks.inline_async import AsyncWebhooks

__version__ = "0.1.0"

__all__ = [
    "App", "AsyncJobs", "AsyncRun", "AsyncSeeds", "AsyncWebhooks", "Checkpoint", "Console", "DatabaseUnavailable",
    "Endpoint", "Event", "EventBusy", "InvalidArgument", "InvalidPayload", "Jobs", "LeaseLost", "NotFound",
    "PayloadTooLarge", "PgonceError", "Receiver", "RowRejected", "Run", "RunStopped", "SchemaError", "Seed",
    "Seeds", "SignatureError", "SourceChanged", "TableChanged", "TransactionBroken", "Webhooks", "__version__",
    "database", "migrate", "on_error", "providers", "receiver", "script", "sources",
]  # fmt: skip

# A name is imported at its first use: all of them take 0.2 s of CPU, and a command or a worker needs a few.
_MEMBERS = {
    "app": "App",
    "console.app": "Console",
    "core.failures": "on_error",
    "core.migrate": "migrate script",
    "errors": "DatabaseUnavailable EventBusy InvalidArgument InvalidPayload LeaseLost NotFound PayloadTooLarge "
    "PgonceError RowRejected RunStopped SchemaError SignatureError SourceChanged TableChanged TransactionBroken",
    "jobs.guard": "Jobs",
    "jobs.guard_async": "AsyncJobs",
    "jobs.run": "Run",
    "jobs.run_async": "AsyncRun",
    "seeds.calls": "Checkpoint",
    "seeds.seed": "Seed",
    "seeds.seeds": "Seeds",
    "seeds.seeds_async": "AsyncSeeds",
    "webhooks.asgi": "Receiver receiver",
    "webhooks.calls": "Event",
    "webhooks.endpoint": "Endpoint",
    "webhooks.inline": "Webhooks",
    "webhooks.inline_async": "AsyncWebhooks",
}
_MODULES = {
    "database": "core.database", "errors": "errors", "providers": "webhooks.providers", "sources": "seeds.readers",
}  # fmt: skip
_PLACES = {name: f"pgonce.{module}" for name, module in _MODULES.items()} | {
    name: f"pgonce.{module}:{name}" for module, names in _MEMBERS.items() for name in names.split()
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    found = import_module(module)
    globals()[name] = value = getattr(found, attribute) if attribute else found
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
