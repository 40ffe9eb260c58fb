"""A failover in the middle of an import: kill -9 of the primary, promotion of its standby, then a comparison.

    python -m tests.faults.seeds.failover [--rows 1000000] [--lagging]

The import goes on while the primary dies, on a URL with both hosts. With --lagging the standby lacks the batches of the
last moments before, though the primary has confirmed them: the import resumes at the checkpoint that is left.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pgonce.core.database import open_pool
from pgonce.seeds.seed import Seed
from pgonce.seeds.seeds import SeedResult, Seeds
from tests.conftest import wait_until
from tests.faults.replicas import Replicas, replicas


def source(rows: int) -> Callable[[Any], Iterator[tuple[Any, int]]]:
    """Every thousandth row has a value that its column refuses, every seventh a key that was there."""

    def generate(cursor: int | None) -> Iterator[tuple[Any, int]]:
        for number in range(0 if cursor is None else cursor + 1, rows):
            key = number - 3 if number % 7 == 3 else number
            yield (key, "x" if number % 1000 == 50 else number), number

    return generate


def expected(rows: int) -> tuple[int, int]:
    """(keys in the table, rejects)."""
    bad = sum(number % 1000 == 50 for number in range(rows))
    keys = {number - 3 if number % 7 == 3 else number for number in range(rows) if number % 1000 != 50}
    return len(keys), bad


def seen(pair: Replicas, name: str) -> int:
    with pair.connect(name) as conn:
        found = conn.execute("select coalesce(max(rows_seen), 0) from seed_checkpoints").fetchone()
        return int(found[0]) if found else 0


def run(rows: int, *, lagging: bool, batch_size: int | None = None) -> tuple[SeedResult, dict[str, Any], int]:
    """The result, the comparison, and the rows that the new primary had when it took over."""
    with replicas(synchronous=False) as pair:
        with pair.connect("primary") as conn:
            conn.execute("create table numbers (id int primary key, n int)")
        what = Seed(
            "numbers", source(rows), into="numbers", key=("id",), columns=("id", "n"), batch_size=batch_size,
            max_rejects=rows,
        )  # fmt: skip
        with open_pool(pair.url, 3) as pool, ThreadPoolExecutor(1) as thread:
            seeds = Seeds(pool)
            running = thread.submit(seeds.run, what, max_rows_per_second=None if rows > 100_000 else 20_000)
            wait_until(lambda: seen(pair, "primary") > rows // 4, "a quarter of the rows", 300)
            if lagging:
                pair.stall_standby()
                behind = seen(pair, "standby")
                wait_until(lambda: seen(pair, "primary") > behind, "a batch that the standby lacks", 300)
            pair.fail_over()
            found = running.result(600)
            proof = seeds.verify(what)
        with pair.connect("standby") as conn:
            [(there,)] = conn.execute("select count(*) from numbers").fetchall()
            counts = conn.execute("select rows_inserted, rows_rejected, rows_seen from seed_checkpoints").fetchone()
    keys, bad = expected(rows)
    assert (found.outcome, there) == ("complete", keys), (found, there)
    assert counts == (keys, bad, rows), counts
    return found, proof, there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--lagging", action="store_true", help="the standby lacks batches that were confirmed")
    options = parser.parse_args()
    began = time.monotonic()
    found, proof, there = run(options.rows, lagging=options.lagging)
    sys.stdout.write(
        f"{options.rows:,} rows, the primary killed in the middle, resumed {found.resumed} times from an older state: "
        f"{there:,} rows in the table, each once, every counter exact, verified: {proof['ok']} "
        f"({proof['equal']:,} equal, {proof['missing']:,} missing), {time.monotonic() - began:.0f} s\n"
    )


if __name__ == "__main__":
    main()
