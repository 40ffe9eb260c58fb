"""How long a writer waits while migrate adopts a hand-made webhook_events: python -m bench.adopt [ROWS]."""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg

from pgonce.core import embedded, migrate

FILL = """
insert into webhook_events (stripe_event_id, event_type, status, payload)
select 'evt_' || n, 'invoice.paid', 'succeeded', jsonb_build_object('id', 'evt_' || n, 'livemode', true, 'api_version',
  '2025-01-01', 'data', jsonb_build_object('object', jsonb_build_object('id', 'in_' || n, 'text', repeat('x', 800))))
from generate_series(1, %s) n"""
SPECIFICATION = Path(__file__).parents[1] / "tests/sql/specification.sql"


def write(url: str, ended: threading.Event, waits: list[float]) -> None:
    """A direct client: one event after the other, until ``ended``."""
    with psycopg.connect(url, autocommit=True) as conn:
        while not ended.is_set():
            began = time.perf_counter()
            conn.execute(
                "insert into webhook_events (stripe_event_id, event_type) values ('new_' || gen_random_uuid(), 'x')"
            )
            waits.append(time.perf_counter() - began)


def main(rows: int) -> None:
    waits: list[float] = []
    ended = threading.Event()
    with embedded.start(Path(tempfile.mkdtemp(prefix="pgonce-bench-"))) as server:
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute(SPECIFICATION.read_bytes())
            conn.execute(FILL, [rows])
            size = conn.execute("select pg_size_pretty(pg_table_size('webhook_events'))").fetchone()
        writer = threading.Thread(target=write, args=(server.url, ended, waits))
        writer.start()
        began = time.perf_counter()
        migrate.migrate(server.url, announce=print)
        took = time.perf_counter() - began
        ended.set()
        writer.join()
    print(f"{rows:,} rows, {size[0] if size else ''}: migrate took {took:.1f} s; {len(waits):,} inserts meanwhile")
    print(f"a writer waited {max(waits):.3f} s at most, {statistics.median(waits) * 1000:.1f} ms in the median")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
