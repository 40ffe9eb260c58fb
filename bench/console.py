"""The console's pages with 5,000,000 events and 1,000,000 runs in one database: python -m bench.console [--url URL]

Prints the p95 of each page over real HTTP, one request at a time, and the CPU time of a request. The limit is 100 ms.
The tables are filled by generate_series, and kept if a database is named by --url: with --filled they are not filled
again, and with --only TEXT only the pages with this text in their name are requested.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import psutil
import psycopg
import uvicorn

import pgonce
from bench.console_runs import Pages, fill_operators, fill_runs, run_pages, without_indexes
from bench.server import new_database

LIMIT = 100.0
"""Milliseconds."""
REQUESTS = 40
Connection = psycopg.Connection[Any]

TYPES = (
    "invoice.paid", "invoice.created", "invoice.finalized", "invoice.updated", "charge.succeeded", "charge.refunded",
    "customer.updated", "customer.created", "customer.subscription.updated", "customer.subscription.created",
    "payment_intent.succeeded", "payment_intent.created", "checkout.session.completed", "payout.paid",
)  # fmt: skip
TRACE = """Traceback (most recent call last):
  File "/srv/shop/billing.py", line {line}, in sync_invoice
    coupons = invoice["discounts"]
KeyError: 'discounts'
"""
# Of 1,000 events one is ignored and one is a dead letter. An object has ten events, a customer 50.
EVENTS = """
insert into webhook_events (stripe_event_id, event_type, status, payload, received_at, processed_at, lease,
  lease_expires_at, attempts, queued, next_attempt_at, ignored_reason, object_id, customer_id, account,
  livemode, error_message, failure)
select 'evt_' || md5(n::text), t.type, s.status,
  jsonb_build_object('id', 'evt_' || md5(n::text), 'type', t.type, 'created', extract(epoch from r.at)::bigint - 1,
    'livemode', n %% 10000 <> 0, 'data', jsonb_build_object('object', jsonb_build_object(
      'id', 'in_' || n / 10, 'object', 'invoice', 'customer', 'cus_' || n / 50, 'status', 'paid', 'total', n,
      'lines', repeat('x', 300)))),
  r.at, case when s.status <> 'processing' then r.at + interval '40 ms' end, null, null, 1, true,
  case when s.status = 'processing' then r.at end, case when s.status = 'ignored' then 'no handler for ' || t.type end,
  'in_' || n / 10, 'cus_' || n / 50, case when n %% 20 = 0 then 'acct_' || n %% 50 end, n %% 10000 <> 0,
  case when s.status = 'failed' then f.trace end,
  case when s.status = 'failed' then pgonce_failure(f.trace) end
from generate_series(%(first)s::int, %(last)s::int) n
cross join lateral (
  select case when n %% 50000 = 0 then 'rare.' || n %% 7 else (%(types)s::text[])[1 + n %% 14] end as type) t
cross join lateral (
  select case when n < 10 then 'processing' when n %% 1000 = 1 then 'ignored' when n %% 1000 = 2 then 'failed'
              else 'succeeded' end as status) s
cross join lateral (select clock_timestamp() - n * interval '1.5 seconds' as at) r
cross join lateral (select replace(%(trace)s, '{line}', (80 + n %% 5)::text) as trace) f
"""


def fill_events(conn: Connection, events: int) -> None:
    """The table of events, newest last in the file and first in time."""
    conn.execute("set session_replication_role = replica")  # the triggers' columns are filled by the statement itself
    conn.execute("set maintenance_work_mem = '1GB'")
    conn.execute("set synchronous_commit = off")
    with without_indexes(conn, "webhook_events"):
        for first in range(1, events + 1, 250_000):
            last = min(first + 249_999, events)
            conn.execute(EVENTS.encode(), {"first": first, "last": last, "types": list(TYPES), "trace": TRACE})
    conn.execute("vacuum analyze webhook_events")


def event_pages(conn: Connection, events: int) -> Pages:
    """A name for each page, and what makes its address: another event, object or customer at each request."""
    dead = [row[0] for row in conn.execute(
        "select stripe_event_id from webhook_events where status = 'failed' limit 200").fetchall()]  # fmt: skip
    wanted = "select 'evt_' || md5((1 + random() * %s)::int::text) from generate_series(1, 200)"
    ids = [row[0] for row in conn.execute(wanted.encode(), [events - 2]).fetchall()]
    middle = conn.execute(
        "select received_at, id from webhook_events where received_at < now() - %s * interval '0.75 s'"
        " order by received_at desc limit 1", [events]).fetchone() or (None, None)  # fmt: skip
    before = quote(f"{middle[0].isoformat()}~{middle[1]}") if middle[0] else ""

    def number() -> int:
        return random.randrange(events // 50)

    return {
        "webhooks": lambda: "/webhooks",
        "webhooks, dead": lambda: "/webhooks?state=dead",
        "webhooks, ignored": lambda: "/webhooks?state=ignored",
        "webhooks, a type": lambda: f"/webhooks?type={random.choice(TYPES)}",
        "webhooks, a glob": lambda: "/webhooks?type=invoice.*",
        "webhooks, a rare type": lambda: "/webhooks?type=rare.*",
        "webhooks, a customer": lambda: f"/webhooks?customer=cus_{number()}",
        "webhooks, an account": lambda: "/webhooks?account=acct_20",
        "webhooks, test mode": lambda: "/webhooks?livemode=false",
        "webhooks, the middle": lambda: f"/webhooks?before={before}",
        "an event": lambda: f"/webhook?id={random.choice(ids)}",
        "a dead letter": lambda: f"/webhook?id={random.choice(dead)}",
        "a payload": lambda: f"/webhook/payload?id={random.choice(ids)}",
        "find a customer": lambda: f"/find?q=cus_{number()}",
        "find nothing": lambda: "/find?q=nothing_like_this",
    }


@contextmanager
def served(url: str) -> Iterator[httpx.Client]:
    """A console on this database."""
    console = pgonce.Console(url=url, users="")
    server = uvicorn.Server(uvicorn.Config(console, host="127.0.0.1", port=0, log_config=None, proxy_headers=False))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        with httpx.Client(base_url=address, timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(30)


@dataclass(frozen=True, slots=True)
class Measured:
    """What `REQUESTS` requests of one page took."""

    p50: float
    """Milliseconds, as p95 and cpu."""
    p95: float
    cpu: float
    """Of server, console and client together, per request: it does not depend on what else the machine does."""
    largest: int
    """Bytes."""
    refused: int
    """Answers 503: too much to search."""


def cpu_seconds(conn: Connection) -> float:
    """The CPU time of this process and of the database's backends so far; the server is on this machine."""
    found = conn.execute(
        "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    )
    total = time.process_time()
    for (pid,) in found.fetchall():
        with suppress(psutil.Error):
            used = psutil.Process(pid).cpu_times()
            total += used.user + used.system
    return total


def measure(client: httpx.Client, conn: Connection, address: Callable[[], str]) -> Measured:
    """Request one page again and again."""
    client.get(address())
    took, largest, refused = [], 0, 0
    before = cpu_seconds(conn)
    for _ in range(REQUESTS):
        began = time.perf_counter()
        answer = client.get(address())
        took.append((time.perf_counter() - began) * 1000)
        assert answer.status_code in {200, 303, 404, 503}, answer.text[:500]
        refused += answer.status_code == 503
        largest = max(largest, len(answer.content))
    cpu = (cpu_seconds(conn) - before) * 1000 / REQUESTS
    cuts = statistics.quantiles(took, n=20)
    return Measured(cuts[9], cuts[18], cpu, largest, refused)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.console")
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--url", help="an empty, migrated database; the default is a new one of the embedded server")
    parser.add_argument("--filled", action="store_true", help="the database of --url is filled already")
    parser.add_argument("--only", default="", help="only the pages with this text in their name")
    arguments = parser.parse_args()
    sizes = arguments.events, arguments.runs
    if arguments.url:
        run(arguments.url, *sizes, filled=arguments.filled, only=arguments.only)
    else:
        with new_database() as url:
            run(url, *sizes, filled=False, only=arguments.only)


AGAIN = """
update pgonce_job_schedules
set next_tick = now() + interval '1 hour', upcoming = array[now() + interval '2 hours']
"""
"""As live workers do. Hours after the tables were filled, a tick of each of the 1,000 jobs would be missed."""


def run(url: str, events: int, runs: int, *, filled: bool, only: str) -> None:
    """Fill the tables and print a line for each page."""
    with psycopg.connect(url, autocommit=True) as conn:
        if not filled:
            began = time.monotonic()
            fill_runs(conn, runs)
            fill_operators(conn)
            fill_events(conn, events)
            print(f"filled in {time.monotonic() - began:.0f} s", flush=True)
        else:
            conn.execute(AGAIN)
        pages = run_pages(conn) | event_pages(conn, events)
        wanted = {name: address for name, address in pages.items() if only in name}
        report(conn, url, wanted, f"{events:,} events, {runs:,} runs")


def report(conn: Connection, url: str, pages: Pages, content: str) -> None:
    """Print a line for each page of a console on ``url``."""
    version = conn.execute("show server_version").fetchone()
    print(f"PostgreSQL {version and version[0]}, {content}; p50, p95 and CPU of {REQUESTS} requests, in ms", flush=True)
    with served(url) as client:
        for name, address in pages.items():
            found = measure(client, conn, address)
            note = " over the limit" if found.p95 > LIMIT else ""
            note += f", {found.refused} were too much to search" if found.refused else ""
            figures = f"{found.p50:7.1f} {found.p95:7.1f} {found.cpu:7.1f} {found.largest:9,} B"
            print(f"{name:24} {figures}{note}", flush=True)


if __name__ == "__main__":
    main()
