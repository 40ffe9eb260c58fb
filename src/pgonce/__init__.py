"""Webhooks handled exactly once, jobs that never overlap, imports that resume: three tables in PostgreSQL."""

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
    "App",
    "AsyncJobs",
    "AsyncRun",
    "AsyncSeeds",
    "AsyncWebhooks",
    "Checkpoint",
    "Console",
    "DatabaseUnavailable",
    "Endpoint",
    "Event",
    "EventBusy",
    "InvalidArgument",
    "InvalidPayload",
    "Jobs",
    "LeaseLost",
    "NotFound",
    "PayloadTooLarge",
    "PgonceError",
    "Receiver",
    "RowRejected",
    "Run",
    "RunStopped",
    "SchemaError",
    "Seed",
    "Seeds",
    "SignatureError",
    "SourceChanged",
    "TableChanged",
    "TransactionBroken",
    "Webhooks",
    "__version__",
    "database",
    "migrate",
    "on_error",
    "providers",
    "receiver",
    "script",
    "sources",
]
