"""The peers of the comparison: PostgreSQL without a client, the same statements written by hand, and PgQueuer."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any

import psycopg

from bench.cpu import Stopwatch
from bench.load import deliveries
from bench.server import new_database, pgbench
from pgonce.core import database
from pgonce.webhooks import stripe

CLIENTS = 8
EFFECTS = "create table effects (event text primary key, at timestamptz not null default now())"
SPECIFIED = """
create table webhook_events (
  id uuid primary key default gen_random_uuid(), stripe_event_id text not null unique, event_type text not null,
  status text not null default 'processing' check (status in ('processing', 'succeeded', 'failed', 'ignored')),
  error_message text, payload jsonb not null default '{}', received_at timestamptz not null default now(),
  processed_at timestamptz, constraint stripe_event_id_not_empty check (stripe_event_id <> ''));
create index idx_webhook_events_received on webhook_events (received_at desc);
create index idx_webhook_events_status on webhook_events (status) where status in ('processing', 'failed');
"""
_ID = """
\\set i :i + 1
\\set n :i - case when random(1, 10) = 1 then 1 else 0 end
"""
THREE = (
    _ID
    + """begin;
insert into webhook_events (stripe_event_id, event_type, payload)
  values ('evt_' || :client_id || '_' || :n, 'customer.subscription.updated', :payload) on conflict do nothing;
insert into effects (event) values ('evt_' || :client_id || '_' || :n) on conflict do nothing;
update webhook_events set status = 'succeeded', processed_at = now()
  where stripe_event_id = 'evt_' || :client_id || '_' || :n and status = 'processing';
commit;
"""
)
ONE = (
    _ID
    + """with inserted as (
  insert into webhook_events (stripe_event_id, event_type, payload, status, processed_at)
  values ('evt_' || :client_id || '_' || :n, 'customer.subscription.updated', :payload, 'succeeded', now())
  on conflict do nothing returning stripe_event_id)
insert into effects (event) select stripe_event_id from inserted;
"""
)
RECORD = """
insert into webhook_events (stripe_event_id, event_type, payload) values (%s, %s, %s) on conflict do nothing
"""
EFFECT = "insert into effects (event) values (%s) on conflict do nothing"
MARK = """
update webhook_events set status = 'succeeded', processed_at = now()
where stripe_event_id = %s and status = 'processing'
"""


def with_pgbench(script: str, seconds: float) -> float:
    with new_database(migrated=False) as url:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(SPECIFIED.encode())
            conn.execute(EFFECTS)
        watch = Stopwatch(f"pgbench, {'one statement' if script == ONE else 'three statements'}")
        rate = pgbench(url, script, clients=CLIENTS, seconds=seconds, i="0", payload=_payload())
        watch.rate(rate * seconds)
        return rate


def _payload() -> str:
    return deliveries(1)[0].decode()


def by_hand(bodies: Sequence[bytes]) -> float:
    """Written by hand: psycopg in a thread for each connection, the three statements in a transaction."""
    with new_database(migrated=False) as url, database.open_pool(url, CLIENTS) as pool:
        with pool.connection() as conn:
            conn.execute(SPECIFIED.encode())
            conn.execute(EFFECTS)
        waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        for body in bodies:
            waiting.put(body)

        def client() -> None:
            with pool.connection() as conn, suppress(queue.Empty):
                while True:
                    body = waiting.get_nowait()
                    found = stripe.parse(body)
                    with conn.transaction():
                        conn.execute(RECORD, [found["id"], found["type"], body.decode()], prepare=True)
                        conn.execute(EFFECT, [found["id"]], prepare=True)
                        conn.execute(MARK, [found["id"]], prepare=True)

        watch = Stopwatch("by hand")
        with ThreadPoolExecutor(CLIENTS) as threads:
            for each in [threads.submit(client) for _ in range(CLIENTS)]:
                each.result()
        return watch.rate(len(bodies))


def with_pgqueuer(bodies: Sequence[bytes], in_flight: int) -> float:
    """PgQueuer: enqueue with the event's id as its dedupe key; beside it a worker whose handler has the same effect."""
    with new_database(migrated=False) as url:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(EFFECTS)
        return asyncio.run(_pgqueuer(url, bodies, in_flight))


async def _pgqueuer(url: str, bodies: Sequence[bytes], in_flight: int) -> float:
    import asyncpg  # type: ignore[import-untyped]
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgPoolDriver
    from pgqueuer.queries import Queries

    async with asyncpg.create_pool(url, min_size=CLIENTS, max_size=CLIENTS + 2) as pool:
        driver = AsyncpgPoolDriver(pool)
        queries = Queries(driver)
        await queries.install()
        worker = PgQueuer(driver)
        distinct = len(set(bodies))
        handled: set[str] = set()  # a duplicate that is enqueued after its job has ended is another job
        done = asyncio.Event()

        @worker.entrypoint("webhook")
        async def handle(job: Any) -> None:
            found = stripe.parse(job.payload)
            await pool.execute("insert into effects (event) values ($1) on conflict do nothing", found["id"])
            handled.add(found["id"])
            if len(handled) == distinct:
                done.set()

        running = asyncio.create_task(worker.run(batch_size=100, dequeue_timeout=timedelta(seconds=1)))
        started = time.perf_counter()
        waiting = iter(bodies)

        async def client() -> None:
            for body in waiting:
                await queries.enqueue("webhook", body, dedupe_key=stripe.read(body).id, on_conflict="skip")

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(client())
        await done.wait()
        seconds = time.perf_counter() - started
        worker.shutdown.set()
        await asyncio.wait([running], timeout=10)
        return len(bodies) / seconds
