"""A Dask cluster imports partitions while its workers are killed with -9. Rows and counters must then be exact.

    python -m tests.faults.seeds.dask_kills [--kills 20] [--workers 2] [--seed 1] [--url URL]

Every kill hits the process that holds a partition at that moment. Dask starts another worker and runs the partition
again; after a few deaths with one partition it gives up on it, and then ``pgonce seed run`` is started anew, as an
operator does it. Rows and rejects are those of ``seed_kills``, in parts. Without --url on a throw-away server;
DASK_ROWS=200000 says how many rows.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

import pgonce
from pgonce.core import database, embedded
from pgonce.core import migrate as schema
from tests.conftest import remove
from tests.faults.child import PGONCE, ROOT
from tests.faults.seeds import seed_kills

PARTS = 8
ROWS = int(os.environ.get("DASK_ROWS", "200000"))

app = pgonce.App()


def ranges() -> list[dict[str, int]]:
    """Ranges of row numbers. A range does not begin between rows that share a cursor or a key."""
    step = ROWS // PARTS // 21 * 21
    return [{"first": step * part, "stop": step * (part + 1) if part < PARTS - 1 else ROWS} for part in range(PARTS)]


@app.seed(
    "killed_parts", into="killed_parts", key=("id",), columns=("id", "note"), batch_size=250, total=ROWS,
    max_rejects=ROWS, partitions=ranges,
)  # fmt: skip
def killed_parts(cursor: int | None, partition: dict[str, int]) -> Iterator[tuple[Any, int]]:
    """The rows of ``seed_kills`` from first to before stop."""
    start = partition["first"] if cursor is None else (cursor + 1) * 3
    for number in range(start, partition["stop"]):
        yield seed_kills.row(number), number // 3


_CLUSTER = """
import sys
import dask
from distributed import LocalCluster
if __name__ == "__main__":
    # A worker that is dead 15 s after a death is dropped for good, though it came back and died again in between.
    # The workers are forks of a process that has imported Dask, because importing it takes 2 s of CPU time.
    forks = {"distributed.worker.multiprocessing-method": "forkserver"}
    dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour", **forks})
    options = dict(threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None)
    with LocalCluster(n_workers=int(sys.argv[1]), **options) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@contextmanager
def cluster(workers: int, environment: Mapping[str, str]) -> Iterator[str]:
    """The address of a LocalCluster, whose workers have the modules of this repository."""
    with tempfile.TemporaryDirectory(prefix="pgonce-dask-") as folder:
        script = Path(folder) / "cluster.py"
        script.write_text(_CLUSTER, "utf-8")
        with subprocess.Popen(
            [sys.executable, script, str(workers)], cwd=folder, env={**environment, "PYTHONPATH": str(ROOT)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as running:  # fmt: skip
            assert running.stdout
            assert running.stdin
            try:
                yield running.stdout.readline().strip()
            finally:
                running.stdin.close()


def at_work(conn: psycopg.Connection[Any]) -> list[int]:
    """The ids of the processes that hold a partition and have committed a batch of it."""
    query = """
    select (r.scope -> 'process' ->> 'pid')::int from cron_job_runs r
    join pgonce_seed_partitions p on r.key = p.seed_name || '/' || p.partition
    where r.status = 'running' and p.last_updated_at > r.started_at
    """
    return [pid for (pid,) in conn.execute(query)]


def run_killed(
    conn: psycopg.Connection[Any], url: str, kills: int, workers: int, chance: random.Random
) -> tuple[int, int]:
    """Import all partitions, and kill up to ``kills`` working processes; returns the numbers of kills and of starts."""
    environment = {
        **os.environ, "PGONCE_DATABASE_URL": url,
        "PGONCE_APP": "tests.faults.seeds.dask_kills:app", "DASK_ROWS": str(ROWS),
    }  # fmt: skip
    killed, starts = set[int](), 0
    code: int | None = None
    with cluster(workers, environment) as address:
        command = [*PGONCE, "seed", "run", "killed_parts", "--cluster", address]
        while code != 0:
            starts += 1
            with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as run:
                while (code := run.poll()) is None:
                    time.sleep(chance.expovariate(1 / 0.05))  # a random moment
                    found = [pid for pid in at_work(conn) if pid not in killed]
                    if found and len(killed) < kills:
                        pid = chance.choice(found)
                        os.kill(pid, signal.SIGKILL)
                        killed.add(pid)
    return len(killed), starts


def check(conn: psycopg.Connection[Any]) -> None:
    """Every row is there once, and every partition's checkpoint and the sums over all are exact."""
    total = [0] * 4
    for name, part in app.get_seed("killed_parts").parts().items():
        numbers = range(part["first"], part["stop"])
        rows = [seed_kills.row(number) for number in numbers]
        bad = [place for place, each in enumerate(rows, 1) if not seed_kills.fits(*each)]
        keys = {key for key, note in rows if seed_kills.fits(key, note)}
        query = "select count(*), count(distinct id) from killed_parts where id between %s and %s"
        assert conn.execute(query, [part["first"], part["stop"] - 1]).fetchone() == (len(keys), len(keys))
        counts = [len(keys), len(rows) - len(keys) - len(bad), len(bad), len(rows)]
        at = conn.execute(
            "select status, last_checkpoint, rows_inserted, rows_skipped, rows_rejected, rows_seen, rows_updated"
            " from pgonce_seed_partitions where seed_name = 'killed_parts' and partition = %s", [name]
        ).fetchone()  # fmt: skip
        assert at == ("complete", numbers[-1] // 3, *counts, 0), f"{name}: {at}, {counts} wanted"
        rejected = (
            "select row_number from pgonce_seed_rejects where seed_name = 'killed_parts' and partition = %s order by 1"
        )
        assert [number for (number,) in conn.execute(rejected, [name])] == bad
        total = [one + other for one, other in zip(total, counts, strict=True)]
    sums = conn.execute(
        "select status, rows_inserted, rows_skipped, rows_rejected, rows_seen from seed_checkpoints"
        " where seed_name = 'killed_parts'"
    ).fetchone()
    assert sums == ("complete", *total), f"{sums}, {total} wanted"
    assert conn.execute("select count(*) from killed_parts").fetchone() == (total[0],)


def kill(url: str, kills: int, workers: int, seed: int) -> None:
    """Run imports whose workers are killed ``kills`` times in all."""
    chance, done, imports, starts = random.Random(seed), 0, 0, 0
    with psycopg.connect(url, autocommit=True) as conn:
        while done < kills:
            conn.execute("create table killed_parts (id int primary key, note text check (note <> 'bad'))")
            more = run_killed(conn, url, kills - done, workers, chance)
            done, starts, imports = done + more[0], starts + more[1], imports + 1
            check(conn)
            conn.execute("drop table killed_parts")
            with database.open_pool(url, 2) as pool:  # not in SQL, which cannot know that a killed runner is gone
                assert pgonce.Seeds(pool).reset("killed_parts")
            sys.stdout.write(
                f"{done} kills of Dask workers, {imports} imports of {ROWS:,} rows in {PARTS} partitions, "
                f"{starts} starts: every row once, every checkpoint exact\n"
            )
            sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url", help="a migrated database")
    options = parser.parse_args()
    if options.url:
        kill(options.url, options.kills, options.workers, options.seed)
        return
    folder = Path(tempfile.mkdtemp(prefix="pgonce-dask-"))
    try:
        with embedded.start(folder) as server:
            schema.migrate(server.url)
            kill(server.url, options.kills, options.workers, options.seed)
    finally:
        remove(folder)


if __name__ == "__main__":
    main()
