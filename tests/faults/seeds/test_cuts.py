"""The network is cut at each message of an import, a verification and a retry of rejects; then they are resumed.

At the end every row is there once, and the counters are exact.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any

import psycopg
import pytest

from pgonce.core import database as pools
from pgonce.errors import DatabaseUnavailable
from pgonce.seeds import importer
from pgonce.seeds.seed import Seed
from pgonce.seeds.seeds import Seeds
from tests.faults.proxy import proxy
from tests.faults.seeds.test_kills import forget_the_dead

Db = psycopg.Connection[Any]
STRIDE = int(os.environ.get("PGONCE_TEST_STRIDE", "51"))
"""Of so many messages and answers one is cut, from a random one on; 1 cuts at each. Odd: both have their turn."""


def rows(cursor: int | None, partition: str = "") -> Iterator[tuple[Any, int]]:
    """Ten rows: one that is there twice, one that is bad."""
    for n in range(1, 11):
        if n > (cursor or 0):
            yield {"id": 100 * (partition == "b") + (3 if n == 5 else n), "note": "bad" if n == 7 else "x"}, n


SEED = Seed(
    "s", rows, into="things", key=("id",), batch_size=4, max_rejects=2, set_sequences=True,
    fingerprint=lambda cursor: {"rows": cursor},
)  # fmt: skip
PARTS = Seed("s", rows, into="things", key=("id",), batch_size=4, max_rejects=2, partitions=["a", "b"])


def run(seeds: Seeds) -> None:
    assert seeds.run(SEED).outcome == "complete"


def run_parts(seeds: Seeds) -> None:
    for part in PARTS.parts():
        assert seeds.run_partition(PARTS, part, poll=0.05).outcome == "complete"


def verify(seeds: Seeds) -> None:
    assert seeds.verify(SEED)["ok"]


def retry(seeds: Seeds) -> None:
    done = seeds.retry_rejects(SEED)
    assert done is not None
    assert done[1] == 0


@pytest.mark.parametrize(
    ("before", "action", "parts", "rejected"),
    [(None, run, 1, 1), (None, run_parts, 2, 1), (run, verify, 1, 1), (run, retry, 1, 0)],
    ids=["run", "partitions", "verify", "rejects"],
)
def test_cut_at_any_message_and_resumed_every_row_is_there_once(
    database: str, conn: Db, monkeypatch: pytest.MonkeyPatch, before: Callable[[Seeds], None] | None,
    action: Callable[[Seeds], None], parts: int, rejected: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(importer, "RETRIES", (0.0, 0.0, None))
    first = random.randrange(STRIDE)
    print(f"first cut: {first}")  # noqa: T201 -- pytest shows it when the test fails
    conn.execute("create table things (id serial primary key, note text, constraint good check (note <> 'bad'))")
    with proxy(database) as network, pools.open_pool(database, 4) as straight, pools.open_pool(network.url, 4) as pool:
        for number, answer in islice(product(range(500), (False, True)), first, None, STRIDE):
            conn.execute("truncate things restart identity")
            Seeds(straight).reset("s")
            if before:
                before(Seeds(straight))
                if not rejected:
                    conn.execute("alter table things drop constraint good")
            network.cut_at(number, answer=answer)
            try:
                action(Seeds(pool))
            except DatabaseUnavailable:
                pool.check()
                forget_the_dead(conn)  # where the answer to the start was lost: nobody knows that run
                action(Seeds(pool))
            is_exact(conn, parts, rejected)
            if not network.has_cut:
                return
            conn.execute("alter table things drop constraint if exists good")
            conn.execute("delete from things where note = 'bad'")
            conn.execute("alter table things add constraint good check (note <> 'bad')")
    pytest.fail("it has no end")


def is_exact(conn: Db, parts: int, rejected: int) -> None:
    ids = [n + 100 * part for part in range(parts) for n in range(1, 11) if n != 5 and (n != 7 or not rejected)]
    assert [row[0] for row in conn.execute("select id from things order by id")] == ids
    counted = "select status, rows_inserted, rows_skipped, rows_rejected, rows_seen, total_inserted, total_rejected"
    expected = (len(ids), parts, parts * rejected, parts * 10, len(ids), parts * rejected)
    assert conn.execute(f"{counted} from seed_checkpoints".encode()).fetchall() == [("complete", *expected)]
    runs = "select count(*) from cron_job_runs where status = 'running'"
    assert conn.execute(runs).fetchall() == [(0,)], "each run has ended"
