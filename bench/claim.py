"""The time of a claim: in a table with a long history, and while an old snapshot prevents vacuum from removing rows."""

from __future__ import annotations

import statistics
import time
from typing import Any

import psycopg

from bench.result import Result
from bench.server import new_database
from bench.webhooks import fill, set_wise
from pgonce.core.database import open_pool
from pgonce.core.execute import Pool, call
from pgonce.webhooks import calls_queue as queue
from pgonce.webhooks.claimer import MARGIN
from pgonce.webhooks.worker import Worker

Connection = psycopg.Connection[Any]

CLAIMS = 40
"""Claims of ten events that are timed in a round. Each claims events that were not claimed before."""
FINISHED = """
insert into webhook_events
  (stripe_event_id, event_type, status, payload, received_at, processed_at, lease, lease_expires_at, queued)
select 'old_' || n, 'customer.subscription.updated', 'succeeded', '{"id": "x", "data": {"object": {"id": "sub_1"}}}',
       now() - interval '1 day' - n * interval '1 second', now(), null, null, true
from generate_series(%s::int, %s::int) n
"""


def claim_time(pool: Pool) -> float:
    """Milliseconds of a claim of ten events, as a worker makes it, above its low-water mark. Then they are done."""
    times: list[float] = []
    since = None
    for _ in range(CLAIMS):
        started = time.perf_counter()
        items = call(pool, queue.claim_webhooks(10, since=since), "public", synced=False)
        times.append((time.perf_counter() - started) * 1000)
        assert len(items) == 10
        since = min(item.due for item in items if item.due) - MARGIN
        with pool.connection() as conn:
            conn.execute("select pgonce_complete_webhooks(%s, %s)", list(queue.keys(items).values()))
    return statistics.median(times)


def history(few: int, many: int, rounds: int) -> tuple[float, float]:
    """The time of a claim with few and with many finished rows: two databases, measured alternately."""
    with new_database() as small, new_database() as large:
        for url, rows in ((small, few), (large, many)):
            with psycopg.connect(url, autocommit=True) as conn:
                for start in range(0, rows, 500_000):
                    conn.execute(FINISHED, [start + 1, min(start + 500_000, rows)])
            fill(url, CLAIMS * 10 * rounds)
            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute("vacuum analyze webhook_events")
        with open_pool(small, 1) as one, open_pool(large, 1) as other:
            taken = [(claim_time(one), claim_time(other)) for _ in range(rounds)]
    return statistics.median(each[0] for each in taken), statistics.median(each[1] for each in taken)


def old_snapshot(handled: int, rounds: int) -> tuple[float, float]:
    """The time of a claim before and after ``handled`` events were handled, while an older snapshot is open."""
    with new_database() as url, psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as conn:
        conn.execute("create table effects (event text)")
        with open_pool(url, 1) as pool:
            first = CLAIMS * 10 * rounds
            fill(url, first)
            before = [claim_time(pool) for _ in range(rounds)]
            holder.execute("set transaction isolation level repeatable read")
            holder.execute("select count(*) from webhook_events")
            done, chunk = 0, 20_000
            while done < handled:
                fill(url, min(chunk, handled - done), start=first + done)
                done += chunk
                with Worker(set_wise(), url, poll=0.2):
                    waiting = "select exists (select from webhook_events where next_attempt_at is not null)"
                    while conn.execute(waiting.encode()).fetchone() == (True,):
                        time.sleep(0.05)
            fill(url, first, start=first + handled)
            after = [claim_time(pool) for _ in range(rounds)]
    return statistics.median(before), statistics.median(after)


def run(quick: bool) -> list[Result]:
    few, many, handled, rounds = (5000, 200_000, 5000, 3) if quick else (5000, 5_000_000, 100_000, 9)
    small, large = history(few, many, rounds)
    before, after = old_snapshot(handled, rounds)
    return [
        Result(f"claim of 10, {few:,} finished rows", small, "ms"),
        Result(
            f"claim of 10, {many:,} finished rows", large, "ms", large / small, "<= 1.5 x that", large <= 1.5 * small
        ),
        Result("claim of 10, no old snapshot", before, "ms"),
        Result(
            f"under an old snapshot, {handled:,} events later", after, "ms", after / before, "<= 3 x that",
            after <= 3 * before,
        ),
    ]  # fmt: skip
