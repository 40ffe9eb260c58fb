"""Prometheus metrics, read from the database when somebody asks, and at most once a second.

One process that answers is enough: the figures are those of the whole installation. Needs the extra ``metrics``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import psycopg
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pgonce.core import database
from pgonce.core.call import Call
from pgonce.core.database import call_with_timeouts
from pgonce.core.execute import Pool
from pgonce.errors import PgonceError

CACHE = 1.0
"""Seconds for which the figures are reused, so that many requests cost the database one query."""


class Described(NamedTuple):
    """A metric's labels, and its text."""

    labels: tuple[str, ...]
    text: str


METRICS = {
    "pgonce_up": Described((), "1 if the database has answered, 0 if not; then there is nothing else."),
    "pgonce_scrape_seconds": Described((), "How long the database took."),
    "pgonce_webhook_events": Described(("state",), "Events that are due, scheduled for later, or dead; up to 10,000."),
    "pgonce_webhook_oldest_due_seconds": Described((), "How long the oldest due event has been waiting."),
    "pgonce_webhook_last_received_timestamp_seconds": Described((), "When the newest event was recorded."),
    "pgonce_webhook_received_5m": Described(
        ("event_type", "status"), "Events recorded within 5 minutes, by what became of them; up to 10,000."
    ),
    "pgonce_webhook_attempts_failed_5m": Described((), "Attempts that failed within 5 minutes; up to 10,000."),
    "pgonce_webhook_refused_1h": Described(("reason",), "Deliveries refused within an hour."),
    "pgonce_job_last_started_timestamp_seconds": Described(("job_name",), "When the newest run started."),
    "pgonce_job_last_success_timestamp_seconds": Described(
        ("job_name",), "When the newest of the last 20 runs succeeded."
    ),
    "pgonce_job_last_failed": Described(("job_name",), "1 if the newest run has failed."),
    "pgonce_job_last_duration_seconds": Described(("job_name",), "How long the newest run took; none while it runs."),
    "pgonce_job_running": Described(("job_name",), "Runs at work."),
    "pgonce_job_missed": Described(
        ("job_name",), "Ticks and expectations that are overdue, and ticks given up within a day."
    ),
    "pgonce_job_next_tick_timestamp_seconds": Described(("job_name",), "The next tick."),
    "pgonce_import_rows": Described(("import", "outcome"), "Rows inserted, updated, skipped and rejected."),
    "pgonce_import_failed": Described(("import",), "1 if it has failed."),
    "pgonce_import_complete": Described(("import",), "1 if it is complete."),
    "pgonce_import_updated_timestamp_seconds": Described(("import",), "When its last batch was committed."),
    "pgonce_processes": Described(("does",), "Services that were seen within a minute."),
    "pgonce_process_busy": Described(("does",), "How much they are at work on."),
    "pgonce_process_capacity": Described(("does",), "How much they can do at the same time."),
    "pgonce_alerts_undelivered": Described((), "Alerts that are not delivered yet; up to 10,000."),
    "pgonce_table_bytes": Described(("table",), "The size of a table with its indexes."),
}
"""Every metric."""

Sample = tuple[str, dict[str, str], float]


def collect_metrics() -> Call[list[Sample]]:
    """The figures as (metric, labels, value)."""
    return Call("pgonce_collect_metrics", {}, lambda rows: [(str(name), labels, value) for name, labels, value in rows])


class MetricsCollector(Collector):
    """Reads the figures; for a registry of prometheus_client's."""

    def __init__(self, pool: Pool, schema: str = "public") -> None:
        self._pool = pool
        self._schema = schema
        self._lock = threading.Lock()
        self._read_at = -CACHE
        self._samples: list[Sample] = []

    def describe(self) -> Iterable[Metric]:
        """The names alone: registering must not ask the database."""
        return [GaugeMetricFamily(name, each.text, labels=each.labels) for name, each in METRICS.items()]

    def collect(self) -> Iterator[Metric]:
        """The figures, at most ``CACHE`` seconds old."""
        with self._lock:
            if time.monotonic() - self._read_at >= CACHE:
                self._samples = self._read()
                self._read_at = time.monotonic()
            samples = self._samples
        families: dict[str, GaugeMetricFamily] = {}
        for name, labels, value in samples:
            known = METRICS[name]
            family = families.setdefault(name, GaugeMetricFamily(name, known.text, labels=known.labels))
            family.add_metric([labels[label] for label in known.labels], value)
        yield from families.values()

    def _read(self) -> list[Sample]:
        began = time.monotonic()
        try:
            found = call_with_timeouts(self._pool, collect_metrics(), self._schema)
        except (PgonceError, psycopg.Error):
            return [("pgonce_up", {}, 0.0)]
        return [("pgonce_up", {}, 1.0), ("pgonce_scrape_seconds", {}, time.monotonic() - began), *found]


def registry(pool: Pool, schema: str = "public") -> CollectorRegistry:
    """A registry with pgonce's metrics alone: the application's own are its own to publish."""
    made = CollectorRegistry(auto_describe=False)
    made.register(MetricsCollector(pool, schema))
    return made


class Metrics:
    """An ASGI app that answers with the metrics, to be mounted where only Prometheus reaches it.

    Args:
        url: the database; the default is what ``database.find`` finds.
        schema: where ``pgonce migrate`` put the tables.
    """

    def __init__(self, url: str | None = None, *, schema: str = "public") -> None:
        self._url = url
        self._schema = schema
        self._lock = threading.Lock()
        self._registry: CollectorRegistry | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request; the database is asked in a thread, so that the event loop goes on."""
        if scope["type"] != "http":
            raise RuntimeError(f"the metrics speak http, not {scope['type']}")
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept").decode("latin-1")
        status, kind, body = await asyncio.to_thread(self._answer, accept)
        await receive()
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, accept: str) -> tuple[int, str, bytes]:
        encode, kind = choose_encoder(accept)
        try:
            with self._lock:
                if self._registry is None:
                    self._registry = registry(database.open_pool(database.find(self._url), 1), self._schema)
        except (PgonceError, psycopg.Error):
            return 503, "text/plain", b"the database cannot be reached\n"
        return 200, kind, encode(self._registry)
