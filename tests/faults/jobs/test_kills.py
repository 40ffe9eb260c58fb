"""Processes that hold a run are killed or suspended.

Another process takes over, and the old one commits nothing later.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import psycopg
import pytest

from tests.conftest import wait_until
from tests.faults.child import PGONCE, Start
from tests.faults.proxy import Proxy

Db = psycopg.Connection[Any]

# A run with a window of one second. It writes one row that the test ignores, and then a row for each line it reads.
HOLDER = """
import sys
from pgonce import Jobs
from pgonce.core.database import find, open_pool

with open_pool(find()) as pool, Jobs(pool).run("work", window="1 second") as run:
    print("started", run.id, flush=True)
    sys.stdin.readline()
    with run.transaction() as tx:
        tx.execute("insert into effects (name, note) values ('work', %s)", [run.id])
        print("inside", flush=True)
        sys.stdin.readline()
    print("committed", flush=True)
"""


def writers(db: Db) -> list[str]:
    """The runs whose writes are there."""
    return [row[0] for row in db.execute("select note from effects where name = 'work'").fetchall()]


def runs(db: Db) -> list[tuple[str, str]]:
    query = "select id::text, status from cron_job_runs where status <> 'skipped' order by started_at"
    return [(row[0], row[1]) for row in db.execute(query).fetchall()]


def expired(db: Db) -> bool:
    query = "select heartbeat_at + run_window < clock_timestamp() from cron_job_runs where status = 'running'"
    return db.execute(query).fetchall() == [(True,)]


def overlaps(db: Db) -> list[Any]:
    """Pairs of runs that were active at the same time."""
    return db.execute(
        "select a.id, b.id from cron_job_runs a join cron_job_runs b on a.id < b.id and a.job_name = b.job_name"
        " and a.status in ('succeeded', 'failed') and b.status in ('succeeded', 'failed')"
        " and tstzrange(a.started_at, a.completed_at) && tstzrange(b.started_at, b.completed_at)"
    ).fetchall()


def succeed(start: Start) -> str:
    """Runs the next run to its end; returns its id."""
    child = start(sys.executable, "-c", HOLDER)
    run_id = child.until(r"started (\S+)")[1]
    child.tell("write")
    child.until("inside")
    child.tell("commit")
    assert child.end() == 0, child.said
    return run_id


def test_a_killed_run_is_taken_over_when_its_window_is_over(start: Start, db: Db) -> None:
    child = start(sys.executable, "-c", HOLDER)
    dead = child.until(r"started (\S+)")[1]
    wait_until(lambda: beats(db) > 2, "it has heartbeats")
    child.kill()
    assert db.execute("select start_job_run('work')").fetchall() == [(None,)]
    wait_until(lambda: expired(db), "its window is over")
    successor = succeed(start)
    assert runs(db) == [(dead, "failed"), (successor, "succeeded")]
    assert writers(db) == [successor]
    assert overlaps(db) == []


def beats(db: Db) -> float:
    """The time from the run's start to its newest heartbeat, in thirds of the window."""
    query = (
        "select extract(epoch from heartbeat_at - started_at)::float8 * 3 from cron_job_runs where status = 'running'"
    )
    return db.execute(query).fetchall()[0][0]


@pytest.mark.parametrize("answer", [False, True], ids=["before the commit", "after the commit"])
def test_killed_around_its_commit_a_run_s_write_is_there_once_or_not_at_all(
    network: Proxy, start: Start, db: Db, answer: bool
) -> None:
    child = start(sys.executable, "-c", HOLDER, database=network.url)
    dead = child.until(r"started (\S+)")[1]
    child.tell("write")
    child.until("inside")
    commit = network.hold(b"COMMIT", answer=answer)
    child.tell("commit")
    commit.wait()
    child.kill()
    network.cut()
    wait_until(lambda: expired(db), "its window is over")
    successor = succeed(start)
    assert writers(db) == ([dead, successor] if answer else [successor])
    assert runs(db) == [(dead, "failed"), (successor, "succeeded")]


def test_stopped_inside_its_transaction_a_zombie_s_write_never_lands(start: Start, db: Db) -> None:
    zombie = start(sys.executable, "-c", HOLDER)
    dead = zombie.until(r"started (\S+)")[1]
    zombie.tell("write")
    zombie.until("inside")
    zombie.stop()
    wait_until(lambda: expired(db), "its window is over")
    successor = succeed(start)
    zombie.signal(signal.SIGCONT)
    zombie.tell("commit")
    assert zombie.end() == 1
    assert "committed" not in zombie.said
    assert writers(db) == [successor]
    assert runs(db) == [(dead, "failed"), (successor, "succeeded")]
    assert overlaps(db) == []


def test_stopped_between_its_transactions_a_zombie_is_told_that_it_has_lost(start: Start, db: Db) -> None:
    zombie = start(sys.executable, "-c", HOLDER)
    zombie.until("started")
    zombie.stop()
    wait_until(lambda: expired(db), "its window is over")
    successor = succeed(start)
    zombie.signal(signal.SIGCONT)
    zombie.tell("write")
    zombie.tell("commit")
    assert zombie.end() == 1
    assert "LeaseLost" in zombie.said
    assert "committed" not in zombie.said
    assert writers(db) == [successor]


def test_a_stopped_client_s_transaction_is_ended_and_its_locks_are_free(start: Start, db: Db) -> None:
    db.execute("create unique index on effects (name)")
    child = start(sys.executable, "-c", HOLDER)
    child.until("started")
    child.tell("write")
    child.until("inside")
    child.stop()
    # no successor terminates it: the server's timeout ends it, and only then does this waiting insert get its lock
    db.execute("insert into effects (name, note) values ('work', 'free again')")
    assert writers(db) == ["free again"]
    child.signal(signal.SIGCONT)
    child.tell("commit")
    assert child.end() == 1
    assert "idle-in-transaction timeout" in child.said


def test_of_20_processes_that_start_a_job_at_once_exactly_one_runs_it(start: Start, db: Db) -> None:
    started = [start(*PGONCE, "job", "run", "once") for _ in range(20)]
    codes = [each.end(120) for each in started]
    assert sorted(codes) == [0] + [75] * 19, "\n".join(each.said for each in started)
    assert db.execute("select count(*) from effects").fetchall() == [(1,)]
    query = "select status, count(*) from cron_job_runs group by 1 order by 1"
    assert db.execute(query).fetchall() == [("skipped", 19), ("succeeded", 1)]
    for each, code in zip(started, codes, strict=True):
        assert each.said.startswith("once: succeeded" if code == 0 else "once: skipped")
