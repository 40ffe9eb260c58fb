"""The day before: events, attempts and runs of a shop, so that the pages have something to show."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, time, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from psycopg.types.json import Jsonb

from tools.demo import events

SCHEMA = """
create table if not exists shop_effects (event_id text, discounts integer);
create table if not exists shop_prices (sku text primary key, cents integer not null
  constraint shop_prices_positive check (cents >= 0));
"""
TYPES = (
    "checkout.session.completed",
    "payment_intent.succeeded",
    "charge.succeeded",
    "invoice.paid",
    "customer.created",
)
TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/tools/console/shop.py", line 22, in sync_invoice
    discounts = event.object["discounts"]
                ~~~~~~~~~~~~^^^^^^^^^^^^^
KeyError: 'discounts'"""
_EVENT = """
insert into webhook_events (stripe_event_id, event_type, status, payload, received_at, processed_at, attempts, queued,
  lease, lease_expires_at, error_message, ignored_reason, deliveries)
values (%s, %s, %s, %s, %s, %s, %s, true, null, null, %s, %s, %s) returning id
"""
_ATTEMPT = """
insert into pgonce_webhook_attempts (event_id, what, attempt, worker, began_at, ended_at, error)
values (%s, 'failed', %s, 'web-2:281', %s, %s, %s)
"""
_RUN = """
insert into cron_job_runs (job_name, key, status, started_at, completed_at, heartbeat_at, duration_ms, scheduled_for,
  rows_processed, error_message, process)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'web-2:281')
"""


def write(conn: psycopg.Connection[Any], random: Random) -> None:
    """Write it, and the tables of the shop."""
    conn.execute(SCHEMA)
    now = datetime.now(UTC)
    with conn.transaction():
        for hours in range(24, 0, -1):
            start = now - timedelta(hours=hours)
            for _ in range(round(50 + 40 * math.sin((start.hour - 7) / 24 * 2 * math.pi))):
                _event(conn, start + timedelta(seconds=random.uniform(0, 3600)), hours, random)
        _runs(conn, now, random)
        _skips(conn, now.replace(second=0, microsecond=0))
        conn.execute("select pgonce_request_job_run('ledger_export')")  # a worker starts it at once


def _event(conn: psycopg.Connection[Any], received: datetime, hours: int, random: Random) -> None:
    kind = random.choice(TYPES)
    customer = f"cus_TQ{random.randrange(60):02}mZk8wVn2Lx7"
    made = events.event(kind, customer, int(received.timestamp()) - 1, random)
    status, error, ignored, attempts = "succeeded", None, None, 1
    if kind == "customer.created":
        status, ignored = "ignored", "no handler for customer.created"
    elif kind == "invoice.paid" and hours in {2, 3} and random.random() < 0.6:
        status, error, attempts = "failed", TRACEBACK, 5
    took = timedelta(milliseconds=random.uniform(20, 180))
    body = Jsonb(json.loads(made.body))
    deliveries = 2 if random.random() < 0.03 else 1
    row = conn.execute(
        _EVENT, [made.id, kind, status, body, received, received + took, attempts, error, ignored, deliveries]
    ).fetchone()
    for number in range(1, attempts + 1 if error else 1):
        began = received + timedelta(seconds=4**number)
        conn.execute(_ATTEMPT, [row and row[0], number, began, began + timedelta(milliseconds=42), error])


def _skips(conn: psycopg.Connection[Any], midnight: datetime) -> None:
    """A run that took two hours in the night, and the starts that were skipped because of it."""
    begin = midnight - timedelta(hours=7)
    row = conn.execute(
        "insert into cron_job_runs (job_name, status, started_at, completed_at, heartbeat_at, duration_ms, process)"
        " values ('nightly_dump', 'succeeded', %s, %s, %s, 7200000, 'web-1:97') returning id",
        [begin, begin + timedelta(hours=2), begin],
    ).fetchone()
    for minutes in (30, 60, 90):
        at = begin + timedelta(minutes=minutes)
        conn.execute(
            "insert into cron_job_runs (job_name, status, started_at, completed_at, heartbeat_at, duration_ms,"
            " blocked_by, error_message)"
            " values ('nightly_dump', 'skipped', %s, %s, %s, 0, %s, 'overlap: run since 2 h')",
            [at, at, at, row and row[0]],
        )


def _runs(conn: psycopg.Connection[Any], now: datetime, random: Random) -> None:
    # the ticks of the schedules in shop.py, and how many seconds a run takes
    for name, key, every, usual in (
        ("stats_cache", "", 5, 4), ("ledger_export", "", 30, 250), ("fx_rates", "", 15, 3),
        ("morning_digest", "en-US", 1440, 20),
    ):  # fmt: skip
        last = now.replace(minute=now.minute // every * every if every < 60 else 0, second=0, microsecond=0)
        if every == 1440:
            last = datetime.combine(now.date(), time(7), ZoneInfo("America/New_York")).astimezone(UTC)
        for number in range(1440 // every + 1):
            tick = last - timedelta(minutes=number * every)
            failed = name == "fx_rates" and number == 40
            ms = round(usual * 1000 * random.uniform(0.9, 1.2))
            if tick + timedelta(milliseconds=ms) > now:
                continue
            end = tick + timedelta(milliseconds=ms)
            error = "ConnectionError: rates.example: connection refused" if failed else None
            state = "failed" if failed else "succeeded"
            conn.execute(_RUN, [name, key, state, tick, end, end, ms, tick, random.randrange(5000), error])
