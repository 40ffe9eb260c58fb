"""Imports that are killed, and imports whose database is: every row once, every counter exact."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce import database as pools
from pgonce import embedded, schema
from pgonce._sync.seeds import Seeds
from tests.faults import seed_kills

ROOT = Path(__file__).parents[2]


def test_after_fifteen_kills_at_random_moments_every_row_is_there_once_and_every_counter_exact(database: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.seed_kills", "--kills", "15", "--rows", "20000", "--url", database],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith("15 kills")


def crash(server: embedded.Server) -> embedded.Server:
    """What `pg_ctl -m immediate restart` does: no checkpoint, every client cut off, recovery from the log."""
    postmaster = int((server.data_dir / "pg" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(postmaster, signal.SIGQUIT)
    while _runs(postmaster):
        pass
    return embedded.start(server.data_dir)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_an_import_goes_on_when_its_database_crashes_three_times(tmp_path_factory: pytest.TempPathFactory) -> None:
    rows, crashes = 6000, 3
    servers = [embedded.start(tmp_path_factory.mktemp("crash"))]
    url = servers[0].url

    def crashing(generate: Callable[[Any], Iterator[tuple[Any, int]]]) -> Callable[[Any], Iterator[tuple[Any, int]]]:
        def source(cursor: int | None) -> Iterator[tuple[Any, int]]:
            # in the source's thread, while the batch before is on its way: before, during or behind its COMMIT
            for number, item in enumerate(generate(cursor), 1):
                if number % 1700 == 0 and len(servers) <= crashes:
                    servers.append(crash(servers[-1]))
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
