"""Disk space of an event after it was handled, for bodies of three sizes: its rows, its TOAST rows, its index entries.

Receiver and worker run side by side, as in ``pgonce serve``. The sizes are read as soon as all events are handled, and
autovacuum has its default settings. The bodies hold random text, which no compression makes smaller.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import psycopg

from bench.result import Result
from bench.server import new_database
from bench.webhook_peers import EFFECTS
from bench.webhooks import one_by_one, record_all, settled, wait_for_effects
from pgonce.webhooks.worker import Worker

SIZES = (324, 1000, 4000)
"""Bytes of a body."""
MOST = 1024
"""Bytes that an event may cost beside its body."""
SPACE = """
select pg_relation_size(oid), pg_total_relation_size(reltoastrelid), pg_indexes_size(oid)
from pg_class where oid = 'webhook_events'::regclass
"""


def body(nr: int, size: int) -> bytes:
    """An event of ``size`` bytes, about an object of its own; four events for each customer."""
    content: dict[str, Any] = {
        "id": f"evt_1SXv{nr:020}", "object": "event", "api_version": "2026-08-26", "created": 1763900000 + nr // 50,
        "type": "customer.subscription.updated", "livemode": False,
        "data": {"object": {"id": f"sub_1SXv{nr:020}", "object": "subscription", "customer": f"cus_{nr // 4:014}"}},
    }  # fmt: skip
    missing = size - len(json.dumps(content)) - len(', "metadata": {"n": ""}')
    if missing > 0:
        content["data"]["object"]["metadata"] = {"n": random.Random(nr).randbytes(missing).hex()[:missing]}
    return json.dumps(content).encode()


def space(size: int, count: int) -> list[float]:
    """Bytes of table, TOAST table and indexes for each of ``count`` events that were handled."""
    bodies = [body(nr, size) for nr in range(count)]
    with new_database() as url, psycopg.connect(url, autocommit=True) as conn, settled():
        conn.execute(EFFECTS)
        with Worker(one_by_one(), url, concurrency=4, poll=0.2) as worker:
            asyncio.run(record_all(url, bodies, worker, 32))
            wait_for_effects(conn, count)
        found = conn.execute(SPACE).fetchone()
        assert found
        return [part / count for part in found]


def run(quick: bool) -> list[Result]:
    count = 5000 if quick else 100_000
    results = []
    for size in SIZES:
        table, toast, indexes = space(size, count)
        beside = table + toast + indexes - size
        results += [
            Result(f"body of {size:,} bytes: table", table, "bytes"),
            Result(f"body of {size:,} bytes: TOAST", toast, "bytes"),
            Result(f"body of {size:,} bytes: indexes", indexes, "bytes"),
        ]
        limit = f"<= {MOST:,}" if size <= 1000 else ""
        name = f"body of {size:,} bytes: what it costs beside the body"
        results.append(Result(name, beside, "bytes", None, limit, beside <= MOST if limit else None))
    return results
