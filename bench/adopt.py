"""How long a writer waits while migrate adopts a hand-made webhook_events, and then upgrades it.

    python -m bench.adopt [ROWS]

The upgrade creates a trigger and three functions again, as after a release that has changed them.
"""

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
OLDER = """
alter trigger pgonce_before_write on webhook_events rename to pgonce_old;
do $$ declare r record; begin
for r in
  select oid::regprocedure as signature, proname as name from pg_proc
  where proname in ('complete_webhook', 'pgonce_queue_webhooks', 'get_checkpoint') loop
  execute format('drop function %s', r.signature);
  execute format('create function %s() returns text language sql as %L', r.name, 'select null::text');
  execute format('comment on function %s() is %L', r.name, 'pgonce: of an older release');
end loop; end $$"""
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


def migrate_under_load(url: str, what: str) -> None:
    """Migrate while a client writes, and print how long it waited."""
    waits: list[float] = []
    ended = threading.Event()
    writer = threading.Thread(target=write, args=(url, ended, waits))
    writer.start()
    began = time.perf_counter()
    migrate.migrate(url, announce=print)
    took = time.perf_counter() - began
    ended.set()
    writer.join()
    print(f"{what}: migrate took {took:.1f} s; {len(waits):,} inserts meanwhile")
    print(f"a writer waited {max(waits):.3f} s at most, {statistics.median(waits) * 1000:.1f} ms in the median")


def main(rows: int) -> None:
    with (
        embedded.start(Path(tempfile.mkdtemp(prefix="pgonce-bench-"))) as server,
        psycopg.connect(server.url, autocommit=True) as conn,
    ):
        conn.execute(SPECIFICATION.read_bytes())
        conn.execute(FILL, [rows])
        size = conn.execute("select pg_size_pretty(pg_table_size('webhook_events'))").fetchone()
        migrate_under_load(server.url, f"adoption of {rows:,} rows, {size[0] if size else ''}")
        conn.execute(OLDER)
        migrate_under_load(server.url, "upgrade")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
