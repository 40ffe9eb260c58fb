"""A suspended, killed or cut-off process does nothing to the run after its own.

    python -m tests.faults.jobs.test_zombies --rounds 300     prints which rows were committed

A round: a process starts a run, is stopped (SIGSTOP) in the middle of its work and past its window; a second one takes
the run over and writes; the first goes on (SIGCONT) and tries to write. None of its rows may be committed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce import Jobs
from pgonce.core import database, embedded
from pgonce.core import migrate as schema
from tests import clusters
from tests.conftest import wait_until, with_database
from tests.faults.proxy import proxy
from tests.forked import Forked

Connection = psycopg.Connection[Any]
ROOT = Path(__file__).parents[3]
WINDOW = "300 ms"

# Writes rows as fast as it can, each in a fenced transaction, and prints what happens to each.
WORKER = """
import sys
import psycopg
from pgonce import Jobs
from pgonce.core import database
from pgonce.errors import PgonceError

url, window = sys.argv[1:]
with database.open_pool(url, 2) as pool:
    try:
        with Jobs(pool).run("zombie", window=window) as run:
            if run is None:
                sys.exit("overlap")
            while not run.stop_requested:
                with run.transaction() as tx:
                    tx.execute("insert into written (run_id) values (%s)", [run.id])
                print("wrote", flush=True)
    except (PgonceError, psycopg.Error) as error:  # the server ended its transaction, too
        print("told", type(error).__name__, flush=True)
"""
TABLE = "create table written (run_id uuid, seen integer)"
# A successor records how many rows of the old run it sees. Rows that were committed later are a zombie's.
TAKE_OVER = (
    "insert into written (run_id, seen) select r.id, count(w.run_id) from cron_job_runs r"
    " left join written w on w.run_id = r.id where r.status = 'failed' and r.id not in"
    " (select run_id from written where seen is not null) group by r.id"
)
LANDED = (
    "select coalesce(sum((select count(*) from written z where z.run_id = s.run_id and z.seen is null) - s.seen), 0)"
    " from written s where s.seen is not null"
)
OVERLAPS = "select count(*) from pgonce_job_overlaps where not fenced"


def number(conn: Connection, query: str) -> int:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def start(url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, url, WINDOW]
    return Forked(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)


def one_round(url: str) -> str:
    """Returns the last line that the suspended process printed; "" if it lost its run before it was suspended.

    A busy machine may keep a process waiting for longer than the window.
    """
    first = start(url)
    try:
        assert first.stdout is not None
        for _ in range(random.randint(1, 20)):
            if first.stdout.readline() != "wrote\n":
                return ""
        os.kill(first.pid, signal.SIGSTOP)
        # Take it over as soon as the window is over. An open transaction counts as a sign of life until the server
        # ends it: idle_in_transaction_session_timeout is the window, too.
        with database.open_pool(url, 1) as pool:
            wait_until(lambda: _take_over(pool), "the run is taken over")
        os.kill(first.pid, signal.SIGCONT)
        out, _ = first.communicate(timeout=30)
    finally:
        first.kill()
        first.communicate()
    return out.strip().splitlines()[-1] if out.strip() else ""


def rounds(url: str, count: int) -> list[str]:
    """The last lines of ``count`` processes that were suspended."""
    said = list(islice(filter(None, (one_round(url) for _ in range(5 * count))), count))
    assert len(said) == count, "the machine is too busy: the processes lost their runs before they were suspended"
    return said


def _take_over(pool: Any) -> bool:
    with Jobs(pool).run("zombie", window="1 minute") as run:
        if run is None:
            return False
        with run.transaction() as tx:
            tx.execute(TAKE_OVER)
        return True


@pytest.mark.long
def test_a_stopped_process_writes_nothing_after_its_run_was_taken_over(database: str, conn: Connection) -> None:
    conn.execute(TABLE)
    said = rounds(database, 20)
    assert all(each.startswith("told ") for each in said)
    assert number(conn, LANDED) == 0
    assert number(conn, OVERLAPS) == 0
    assert number(conn, "select count(*) from written where seen > 0") >= 20


def test_the_counting_of_zombie_writes_sees_one(conn: Connection) -> None:
    conn.execute(TABLE)
    conn.execute("insert into written (run_id) select start_job_run('j', p_window => '1 ms')")
    wait_until(lambda: conn.execute("select start_job_run('j')").fetchone() != (None,), "it is taken over")
    conn.execute(TAKE_OVER)
    assert number(conn, LANDED) == 0
    conn.execute("insert into written (run_id) select id from cron_job_runs where status = 'failed'")
    assert number(conn, LANDED) == 1


def test_killed_processes_overlap_nobody_and_leave_no_job_stuck(database: str, conn: Connection) -> None:
    conn.execute(TABLE)
    for _ in range(5):
        victim = wait_until(lambda: _started(database), "it starts once the dead one's window is over")
        victim.kill()
        victim.communicate()
    wait_until(lambda: number(conn, "select pgonce_abandon_job_runs()"), "the sweep closes the last one")
    assert number(conn, "select count(*) from cron_job_runs where status not in ('failed', 'skipped')") == 0
    assert number(conn, OVERLAPS) == 0


def _started(url: str) -> subprocess.Popen[str] | None:
    process = start(url)
    assert process.stdout is not None
    if process.stdout.readline() == "wrote\n":
        return process
    process.communicate()
    return None


def test_a_network_that_is_away_for_two_windows_costs_the_run_and_nothing_else(database: str, conn: Connection) -> None:
    conn.execute(TABLE)
    with proxy(database) as network:
        first = start(network.url)
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "wrote\n"
            network.down()
            over = "select count(*) from cron_job_runs where heartbeat_at + 2 * run_window < clock_timestamp()"
            wait_until(lambda: number(conn, over), "two windows are over")
            with psycopg.connect(database, autocommit=True) as second:
                assert second.execute("select start_job_run('zombie')").fetchone() != (None,)
                second.execute(TAKE_OVER)
            network.up()
            assert first.communicate(timeout=30)[0].strip().splitlines()[-1].startswith("told ")
        finally:
            first.kill()
            first.communicate()
    assert number(conn, LANDED) == 0
    assert number(conn, OVERLAPS) == 0


@pytest.fixture
def pooler(conn: Connection) -> Iterator[str]:
    """The URL of the test's database through a PgBouncer of our own, in transaction mode."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or not conn.info.host.startswith("/"):
        pytest.skip("pgbouncer is not installed, or the server is not a local one: apt-get install pgbouncer")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    name = conn.info.dbname
    folder = Path(tempfile.mkdtemp(prefix="pgonce-bouncer-"))
    folder.chmod(0o755)
    (folder / "users.txt").write_text('"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(
        textwrap.dedent(f"""\
        [databases]
        {name} = host={conn.info.host} port={conn.info.port} dbname={name} user={conn.info.user}
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = any
        auth_file = {folder}/users.txt
        pool_mode = transaction
        default_pool_size = 3
        ignore_startup_parameters = extra_float_digits
        """)
    )
    # PgBouncer refuses to run as root; the server's own user may access its socket
    user = Path(conn.info.host).stat().st_uid if os.geteuid() == 0 else None
    process = subprocess.Popen([program, folder / "pgbouncer.ini"], user=user, stderr=subprocess.DEVNULL)
    url = f"postgresql://postgres@127.0.0.1:{port}/{name}"
    try:
        wait_until(lambda: _answers(url), "pgbouncer answers")
        yield url
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(folder)


def test_through_a_transaction_pooler_a_stopped_process_writes_nothing_either(pooler: str, conn: Connection) -> None:
    conn.execute(TABLE)
    said = rounds(pooler, 4)
    assert all(each.startswith("told ") for each in said)
    assert number(conn, LANDED) == 0
    assert number(conn, OVERLAPS) == 0


def test_a_crash_of_the_database_leaves_no_job_stuck_and_overlaps_none() -> None:
    with tempfile.TemporaryDirectory(prefix="pgonce-crash-") as folder, clusters.start(Path(folder)) as server:
        schema.migrate(server.url)
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute(TABLE)
        worker = start(server.url)
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "wrote\n"
            # all sessions are ended, and the server recovers from its log
            os.kill(int((Path(folder) / "pg/postmaster.pid").read_text().splitlines()[0]), signal.SIGQUIT)
            wait_until(lambda: not _answers(server.url), "it is down")
            embedded.start(Path(folder)).close()
            with psycopg.connect(server.url, autocommit=True) as conn:
                rows = "select count(*) from written"
                before = number(conn, rows)
                # in a transaction it was told; between two of them, nobody has taken its run over, and it goes on
                wait_until(lambda: worker.poll() is not None or number(conn, rows) > before, "it ends or goes on")
                worker.kill()
                wait_until(lambda: conn.execute("select start_job_run('zombie')").fetchone() != (None,), "not stuck")
                conn.execute(TAKE_OVER)
                assert number(conn, "select count(*) from written where seen > 0") == 1, "what was committed is there"
                assert number(conn, OVERLAPS) == 0
        finally:
            worker.kill()
            worker.communicate()


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def main() -> None:
    """Run many rounds, on a server for them alone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="pgonce-zombies-") as folder, embedded.start(Path(folder)) as server:
        url = with_database(server.url, "zombies")
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute("create database zombies")
        schema.migrate(url)
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(TABLE)
            started = time.monotonic()
            said: dict[str, int] = {}
            for _ in range(rounds):
                last = one_round(url)
                said[last] = said.get(last, 0) + 1
            sys.stdout.write(
                f"{rounds} rounds in {time.monotonic() - started:.0f} s: zombie writes that landed: "
                f"{number(conn, LANDED)}, overlaps: {number(conn, OVERLAPS)}, the zombies ended with {said}\n"
            )


if __name__ == "__main__":
    main()
