"""Imports are killed at random moments until each is complete. Rows, counters and rejects must then be exact.

    python -m tests.faults.seeds.seed_kills [--kills 500] [--rows 200000] [--seed 1] [--url URL]
    python -m tests.faults.seeds.seed_kills --crashes 20 [--rows 200000] [--seed 1]

With --crashes it is PostgreSQL that is killed, with kill -9 and at random moments, too: an importer survives all
of them by itself, or, where it cannot (it opens its first connection at that moment), is started again.

Every import has a random batch size, doubles, rows that the table refuses, and cursors that several rows share. The
importer is forked from this process, so that a kill costs milliseconds; the moment is random, from before its first
statement to after its last. Without --url on a throw-away server.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg

from pgonce.core import database, embedded
from pgonce.core import migrate as schema
from pgonce.seeds.seeds import Seeds
from tests import clusters
from tests.conftest import remove

BODY = "x" * 60


def row(number: int) -> tuple[Any, Any]:
    """Every seventh row repeats a key.

    A few violate the check, have the wrong type, or a value that cannot be written.
    """
    if number % 2003 == 9:
        return number, {number}
    if number % 1009 == 5:
        return number, "bad"
    if number % 1499 == 8:
        return f"no number: {number}", BODY
    return (number - 3 if number % 7 == 3 else number), BODY


def source(rows: int) -> Callable[[int | None], Iterator[tuple[Any, int]]]:
    def generate(cursor: int | None) -> Iterator[tuple[Any, int]]:
        again: list[Any] = [None, None]  # one object for all rows
        for number in range(0 if cursor is None else (cursor + 1) * 3, rows):
            again[:] = row(number)
            yield again, number // 3

    return generate


def fits(key: Any, note: Any) -> bool:
    """Whether the table takes the row."""
    return isinstance(key, int) and note == BODY


def expected(rows: int) -> tuple[set[int], list[int]]:
    """The keys that must be in the table, and the numbers of the rejected rows, from 1."""
    all_rows = [row(number) for number in range(rows)]
    bad = [number + 1 for number, each in enumerate(all_rows) if not fits(*each)]
    return {key for key, note in all_rows if fits(key, note)}, bad


def importer(url: str, name: str, rows: int, size: int | None) -> None:
    """The process that is killed."""
    with database.open_pool(url, 2) as pool:
        result = Seeds(pool).run(
            name, source(rows), into=name, key=("id",), columns=("id", "note"), batch_size=size, max_rejects=rows
        )
    os._exit(0 if result.outcome == "complete" else 3)


def fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 -- a forked child must not return
            sys.stderr.write(f"importer: {error!r}\n")
            sys.stderr.flush()
        os._exit(1)
    return pid


def ended(pid: int, seconds: float) -> int | None:
    """The exit code, if the process ends within ``seconds``; otherwise None."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return None


def survives(pid: int, seconds: float) -> int | None:
    """The exit code, if the process ends within ``seconds``; otherwise it is killed, and None is returned."""
    if (code := ended(pid, seconds)) is not None:
        return code
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def check(conn: psycopg.Connection[Any], name: str, rows: int) -> None:
    keys, bad = expected(rows)
    there = [found[0] for found in conn.execute(f"select id from {name}".encode())]
    assert len(there) == len(keys), f"{len(there)} rows, {len(keys)} wanted"
    assert set(there) == keys
    counts = conn.execute(
        "select status, rows_inserted, rows_skipped, rows_updated, rows_rejected, rows_seen from seed_checkpoints"
        " where seed_name = %s",
        [name],
    ).fetchone()
    wanted = ("complete", len(keys), rows - len(keys) - len(bad), 0, len(bad), rows)
    assert counts == wanted, f"{counts}, {wanted} wanted"
    rejected = conn.execute(
        "select row_number from pgonce_seed_rejects where seed_name = %s order by 1", [name]
    ).fetchall()
    assert [number for (number,) in rejected] == bad


def one_import(conn: psycopg.Connection[Any], url: str, rows: int, chance: random.Random, most: int) -> int:
    """Run an import that is killed up to ``most`` times; returns how often it was killed."""
    name = f"killed_{time.time_ns()}"
    size = chance.choice([None, chance.randint(1, 50) * rows // 5000 + 1, chance.randint(100, 5000)])
    conn.execute(f"create table {name} (id int primary key, note text check (note <> 'bad'))".encode())
    kills = 0
    while True:
        pid = fork(lambda: importer(url, name, rows, size))
        code = survives(pid, chance.expovariate(1 / 0.4) if kills < most else 300)
        if code is None:
            kills += 1
            continue
        if code == 3:  # overlap: the killed one's last transaction is still at work in the server
            time.sleep(0.05)
            continue
        assert code == 0, f"the importer ended with {code}"
        break
    check(conn, name, rows)
    conn.execute(f"drop table {name}".encode())
    conn.execute("select pgonce_reset_seed(%s)", [name])
    return kills


def kill(url: str, kills: int, rows: int, seed: int) -> None:
    chance, done, imports = random.Random(seed), 0, 0
    with psycopg.connect(url, autocommit=True) as conn:
        while done < kills:
            done += one_import(conn, url, rows, chance, kills - done)
            imports += 1
            sys.stdout.write(
                f"{done} kills in {imports} imports of {rows:,} rows: every row once, every counter exact\n"
            )
            sys.stdout.flush()


def crash(server: embedded.Server, how: signal.Signals = signal.SIGKILL) -> embedded.Server:
    """Kill the postmaster; its children notice that and end, too. Then start it again: it recovers from its log."""
    postmaster = int((server.data_dir / "pg" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(postmaster, how)
    while _runs(postmaster):  # for a moment it still listens
        pass
    return embedded.start(server.data_dir)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def crashes(folder: Path, most: int, rows: int, seed: int) -> None:
    """Run imports whose database is killed ``most`` times in all."""
    chance, done, imports, starts = random.Random(seed), 0, 0, 0
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # its pool reports every connection that it lost
    servers = [clusters.start(folder)]
    url = servers[0].url
    try:
        schema.migrate(url)
        while done < most:
            name, size = f"crashed_{imports}", chance.randint(500, 5000)
            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute(f"create table {name} (id int primary key, note text check (note <> 'bad'))".encode())
            code = None
            while code != 0:
                pid = fork(lambda name=name, size=size: importer(url, name, rows, size))  # type: ignore[misc]
                starts += 1
                try:
                    while (code := ended(pid, chance.uniform(0.2, 1.5) if done < most else 300)) is None:
                        servers.append(crash(servers[-1]))
                        done += 1
                except BaseException:
                    os.kill(pid, signal.SIGKILL)  # else it waits for its server as long as an import does
                    raise
            imports += 1
            with psycopg.connect(url, autocommit=True) as conn:
                check(conn, name, rows)
            sys.stdout.write(
                f"{done} kills of PostgreSQL, {imports} imports of {rows:,} rows, {starts} starts of an importer: "
                "every row once, every counter exact\n"
            )
            sys.stdout.flush()
    finally:
        for server in servers:
            server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url", help="a migrated database")
    parser.add_argument("--crashes", type=int, default=0, help="kill PostgreSQL so often instead of importers")
    options = parser.parse_args()
    if options.url:
        kill(options.url, options.kills, options.rows, options.seed)
        return
    folder = Path(tempfile.mkdtemp(prefix="pgonce-kills-"))
    try:
        if options.crashes:
            crashes(folder, options.crashes, options.rows, options.seed)
            return
        with embedded.start(folder) as server:
            schema.migrate(server.url)
            kill(server.url, options.kills, options.rows, options.seed)
    finally:
        remove(folder)


if __name__ == "__main__":
    main()
