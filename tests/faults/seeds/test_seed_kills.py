"""Imports are killed, or their database is: every row is inserted once, and every counter is exact."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce.core import database as pools
from pgonce.core import migrate as schema
from pgonce.seeds.seeds import Seeds
from tests import clusters
from tests.faults.seeds import seed_kills

ROOT = Path(__file__).parents[3]


def told(*arguments: str) -> str:
    """The last line that ``seed_kills`` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.seeds.seed_kills", "--rows", "20000", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def test_after_fifteen_kills_at_random_moments_every_row_is_there_once_and_every_counter_exact(database: str) -> None:
    assert told("--kills", "15", "--url", database).startswith("15 kills")


def test_after_three_kills_of_the_database_at_random_moments_too() -> None:
    assert told("--crashes", "3").startswith("3 kills of PostgreSQL")


def test_an_import_goes_on_when_its_database_crashes_three_times(tmp_path_factory: pytest.TempPathFactory) -> None:
    rows, crashes = 6000, 3
    servers = [clusters.start(tmp_path_factory.mktemp("crash"))]
    url = servers[0].url

    def crashing(generate: Callable[[Any], Iterator[tuple[Any, int]]]) -> Callable[[Any], Iterator[tuple[Any, int]]]:
        def source(cursor: int | None) -> Iterator[tuple[Any, int]]:
            # in the source's thread, while the previous batch is being sent: before, during or after its COMMIT
            for number, item in enumerate(generate(cursor), 1):
                if number % 1700 == 0 and len(servers) <= crashes:
                    # as `pg_ctl restart -m immediate` does: without a checkpoint, and every client is disconnected
                    servers.append(seed_kills.crash(servers[-1], signal.SIGQUIT))
                yield item

        return source

    try:
        schema.migrate(url)
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("create table crashed (id int primary key, note text check (note <> 'bad'))")
        with pools.open_pool(url, 4) as pool, ThreadPoolExecutor(1) as thread:
            running = thread.submit(
                Seeds(pool).run, "crashed", crashing(seed_kills.source(rows)),
                into="crashed", key=("id",), columns=("id", "note"), batch_size=500, max_rejects=rows,
            )  # fmt: skip
            assert running.result(120).outcome == "complete"
        assert len(servers) == 1 + crashes
        with psycopg.connect(url, autocommit=True) as conn:
            seed_kills.check(conn, "crashed", rows)
    finally:
        for server in servers:
            server.close()
