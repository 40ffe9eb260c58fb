"""Imports are killed with -9, suspended and signalled.

At the end every row is inserted once, and the counters are exact.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce.core.service import REPEATED
from tests.conftest import wait_until
from tests.edge.command import counted
from tests.faults.child import PGONCE, Child, Start
from tests.faults.proxy import Proxy
from tests.faults.webhooks.shop import DISTINCT, TOTAL, number

Db = psycopg.Connection[Any]

KILLS = 15

# an import without duplicates, so that COPY goes straight into the table; with a window of one second
SHORT = """
from pgonce import Seeds
from pgonce.core.database import find, open_pool

def rows(cursor):
    for n in range(0 if cursor is None else cursor + 1, 20_000):
        yield {"id": n, "note": f"row {n}"}, n

with open_pool(find()) as pool:
    options = {"into": "numbers", "key": ("id",), "batch_size": 15_000, "window": "1 second"}
    print("ended:", Seeds(pool).run("short", rows, **options).outcome, flush=True)
"""


def is_exact(db: Db, outcome: str = "complete") -> None:
    """Check that every distinct row of the source is in the table, and that the counters agree."""
    rows = db.execute("select id, note from numbers order by id").fetchall()
    first: dict[int, str] = {}
    for place in range(TOTAL):
        first.setdefault(number(place), f"row {place}")
    assert [row[0] for row in rows] == sorted(first)
    assert dict(rows) == first
    at = "select status, rows_inserted, rows_skipped from seed_checkpoints where seed_name = 'numbers'"
    assert db.execute(at).fetchall() == [(outcome, DISTINCT, TOTAL - DISTINCT)]


def is_consistent(db: Db) -> int:
    """Check that the table has exactly the rows that the checkpoint counts; returns how many."""
    query = "select coalesce(sum(rows_inserted), 0), (select count(*) from numbers) from seed_checkpoints"
    [(counted, there)] = db.execute(query).fetchall()
    assert counted == there
    return int(there)


def forget_the_dead(db: Db) -> None:
    """End the window of the killed runner, instead of waiting two minutes."""
    db.execute("update cron_job_runs set heartbeat_at = heartbeat_at - run_window where status = 'running'")


def sessions(db: Db) -> int:
    others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    return db.execute(others).fetchall()[0][0]


def test_killed_15_times_at_random_bytes_of_its_traffic_every_row_is_there_once(
    network: Proxy, start: Start, db: Db
) -> None:
    seed = random.randrange(10**6)
    print(f"random seed: {seed}")  # noqa: T201 -- pytest shows it when the test fails
    chance = random.Random(seed)
    # The whole import sends 380 kB, so that it outlives 15 kills. Two of three kills come when the run has begun, the
    # third at any byte. Nothing is forwarded after the kill: a busy machine sent whole batches before its process died.
    for place in range(KILLS):
        begins = network.hold(b"start_job_run" if place % 3 else b"user\0")
        child = start(*PGONCE, "seed", "run", "numbers", database=network.url)
        begins.wait()

        def kill(child: Child = child) -> None:
            child.process.kill()
            network.cut()

        network.after(chance.randrange(2_000 if place % 3 else 500, 30_000), kill)
        begins.release()
        assert child.end() == -signal.SIGKILL, child.said
        wait_until(lambda: sessions(db) == 0, "the server has noticed")
        is_consistent(db)
        forget_the_dead(db)
    last = start(*PGONCE, "seed", "run", "numbers")
    assert last.end() == 0, last.said
    assert counted(DISTINCT, skipped=TOTAL - DISTINCT) in last.said
    is_exact(db)
    query = "select count(*) from cron_job_runs where error_message like 'abandoned%'"
    assert db.execute(query).fetchall()[0][0] >= 10


@pytest.mark.parametrize("answer", [False, True], ids=["before the commit", "after the commit"])
def test_killed_around_a_commit_the_batch_is_there_once(network: Proxy, start: Start, db: Db, answer: bool) -> None:
    advance = network.hold(b"pgonce_advance_seed")
    child = start(*PGONCE, "seed", "run", "numbers", database=network.url)
    advance.wait()
    commit = network.hold(b"COMMIT", answer=answer)
    advance.release()
    commit.wait()
    child.kill()
    network.cut()
    wait_until(lambda: sessions(db) == 0, "the server has noticed")
    assert (is_consistent(db) > 0) is answer
    forget_the_dead(db)
    assert start(*PGONCE, "seed", "run", "numbers").end() == 0
    is_exact(db)


@pytest.mark.parametrize(("number_", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_batch_and_says_how_to_go_on(
    start: Start, db: Db, tmp_path: Path, number_: signal.Signals, code: int
) -> None:
    gate = tmp_path / "gate"
    child = start(*PGONCE, "seed", "run", "numbers", GATE=str(gate))
    child.until("at the gate")
    child.signal(number_)
    child.until("stopping after this batch")
    gate.touch()
    assert child.end() == code
    assert "pgonce seed run numbers" in child.said.splitlines()[-1]
    assert "Traceback" not in child.said
    at = "select status, (last_checkpoint -> 'unit')::int * 3 + 3 from seed_checkpoints"
    [(status, rows)] = db.execute(at).fetchall()
    assert status == "in_progress"
    assert 5_000 - 2 * 500 < rows < 5_000 + 2 * 500
    is_consistent(db)
    # the run has ended, so no window has to pass
    assert start(*PGONCE, "seed", "run", "numbers").end() == 0
    is_exact(db)


@pytest.mark.parametrize(("number_", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 1)])
def test_a_second_signal_ends_it_at_once_and_nothing_is_lost(
    start: Start, db: Db, tmp_path: Path, number_: signal.Signals, code: int
) -> None:
    child = start(*PGONCE, "seed", "run", "numbers", GATE=str(tmp_path / "never"))
    child.until("at the gate")
    child.signal(number_)
    child.until("stopping after this batch")
    threading.Event().wait(REPEATED)  # until then it would be the same request, passed on
    child.signal(number_)
    assert child.end() == code
    assert "Traceback" not in child.said
    wait_until(lambda: sessions(db) == 0, "the server has noticed")
    is_consistent(db)
    forget_the_dead(db)
    assert start(*PGONCE, "seed", "run", "numbers").end() == 0
    is_exact(db)


def test_stopped_in_the_middle_of_a_copy_it_is_ended_by_its_successor(network: Proxy, start: Start, db: Db) -> None:
    # no timeout of PostgreSQL ends a COPY whose client is suspended, so it keeps its locks until the successor ends it
    rows = network.hold(b"row 14000\n")
    zombie = start(sys.executable, "-c", SHORT, database=network.url)
    rows.wait()
    zombie.stop()
    # PostgreSQL writes a thousand rows at a time, so the keys of the first thousands are in the index, uncommitted
    copying = (
        "select 1 from pg_stat_activity where query ilike 'copy %' and state = 'active' and backend_xid is not null"
    )
    wait_until(lambda: db.execute(copying).fetchall(), "it is in the middle of writing")
    query = "select heartbeat_at + run_window < clock_timestamp() from cron_job_runs where status = 'running'"
    wait_until(lambda: db.execute(query).fetchall() == [(True,)], "its window is over")
    successor = start(sys.executable, "-c", SHORT)
    assert successor.end() == 0, successor.said
    rows.release()
    zombie.signal(signal.SIGCONT)
    assert zombie.end() == 1
    assert "ended: " not in zombie.said
    assert db.execute("select count(*), max(id) from numbers").fetchall() == [(20_000, 19_999)]
    at = "select status, rows_inserted, rows_skipped from seed_checkpoints"
    assert db.execute(at).fetchall() == [("complete", 20_000, 0)]


def test_a_second_import_of_the_same_name_is_an_overlap_with_its_own_exit_code(
    start: Start, db: Db, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    first = start(*PGONCE, "seed", "run", "numbers", GATE=str(gate))
    first.until("at the gate")
    second = start(*PGONCE, "seed", "run", "numbers")
    assert second.end() == 75
    assert second.said == "overlap    another runner is at work on numbers: nothing was done\n"
    gate.touch()
    assert first.end() == 0
    is_exact(db)


def test_stopped_in_a_transaction_that_the_server_ends_it_repeats_the_batch_by_itself(
    network: Proxy, start: Start, db: Db
) -> None:
    advance = network.hold(b"pgonce_advance_seed")
    child = start(sys.executable, "-c", SHORT, database=network.url)
    advance.wait()
    child.stop()
    written = "select count(*) from pg_stat_activity where backend_xid is not null and application_name ~ '^pgonce .'"
    assert db.execute(written).fetchall() == [(1,)]
    wait_until(lambda: db.execute(written).fetchall() == [(0,)], "the server has ended the idle transaction")
    advance.release()
    child.signal(signal.SIGCONT)
    assert child.end() == 0, child.said
    assert "ended: complete" in child.said
    assert db.execute("select count(*), max(id) from numbers").fetchall() == [(20_000, 19_999)]
    at = "select status, rows_inserted, rows_skipped from seed_checkpoints"
    assert db.execute(at).fetchall() == [("complete", 20_000, 0)]
    assert db.execute("select status from cron_job_runs").fetchall() == [("succeeded",)]
