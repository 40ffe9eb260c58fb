"""Heartbeats reach the database even if the job blocks its event loop, its pool or its process."""

from __future__ import annotations

import sys
from typing import Any

import psycopg
import pytest

from tests.conftest import wait_until
from tests.faults.child import Start

Db = psycopg.Connection[Any]

BLOCKED_LOOP = """
import asyncio, sys
from pgonce import AsyncJobs
from pgonce.core.database import find, open_async_pool

async def main():
    async with await open_async_pool(find(), 2) as pool, AsyncJobs(pool).run("work", window="1 second") as run:
        print("started", flush=True)
        sys.stdin.readline()  # the event loop stands still
        async with run.transaction() as tx:
            await tx.execute("insert into effects (name, note) values ('work', 'committed')")

asyncio.run(main())
"""

BEATS = (
    "select extract(epoch from heartbeat_at - started_at) > 3 * extract(epoch from run_window)"
    " from cron_job_runs where status = 'running'"
)


def is_past_its_window(db: Db) -> bool:
    return db.execute(BEATS.encode()).fetchall() == [(True,)]


def test_an_async_job_that_blocks_its_loop_for_longer_than_its_window_keeps_its_run(start: Start, db: Db) -> None:
    child = start(sys.executable, "-c", BLOCKED_LOOP)
    child.until("started")
    wait_until(lambda: is_past_its_window(db), "three windows of heartbeats")
    assert db.execute("select start_job_run('work')").fetchall() == [(None,)]
    child.tell("go on")
    assert child.end() == 0, child.said
    assert db.execute("select note from effects").fetchall() == [("committed",)]
    assert db.execute("select count(*) from pgonce_job_overlaps").fetchall() == [(0,)]


LIMITED = {
    "sync": """
import sys
from psycopg_pool import ConnectionPool
from pgonce import Jobs

with ConnectionPool(sys.argv[1], min_size=2, max_size=2, kwargs={"autocommit": True}) as pool:
    pool.wait()
    with Jobs(pool).run("work", window="1 second") as run:
        print("started", flush=True)
        sys.stdin.readline()
        assert not run.lost
""",
    "async": """
import asyncio, sys
from psycopg_pool import AsyncConnectionPool
from pgonce import AsyncJobs

async def main():
    async with AsyncConnectionPool(sys.argv[1], min_size=2, max_size=2, kwargs={"autocommit": True}) as pool:
        await pool.wait()
        async with AsyncJobs(pool).run("work", window="1 second") as run:
            print("started", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            assert not run.lost

asyncio.run(main())
""",
}


@pytest.fixture
def limited(db: Db, database: str) -> Any:
    """The URL of ``database`` for a role that may have two connections."""
    role = f"limited_{db.info.dbname}"
    db.execute(f"create role {role} login superuser connection limit 2".encode())
    db.execute(f"alter role {role} nosuperuser".encode())  # superusers have no limit
    db.execute(f"grant all on all tables in schema public to {role}".encode())
    db.execute(f"grant execute on all functions in schema public to {role}".encode())
    yield psycopg.conninfo.make_conninfo(database, user=role)
    db.execute(f"drop owned by {role}".encode())
    db.execute(f"drop role {role}".encode())


@pytest.mark.parametrize("world", LIMITED)
def test_where_no_new_connection_can_be_had_the_pool_s_idle_one_carries_the_heartbeats(
    start: Start, db: Db, limited: str, world: str
) -> None:
    child = start(sys.executable, "-c", LIMITED[world], limited)
    child.until("started")
    wait_until(lambda: is_past_its_window(db), "three windows of heartbeats")
    child.tell("end")
    assert child.end() == 0, child.said
    assert db.execute("select status, error_message from cron_job_runs").fetchall() == [("succeeded", None)]


FORK = {
    "falls out of the block": "pass",
    "calls sys.exit": "sys.exit(3)",
    "raises": "raise RuntimeError('of the child')",
    "writes": "write(run)",
}

SYNC_FORK = """
import os, sys
from pgonce import Jobs
from pgonce.core.database import find, open_pool

def write(run):
    with run.transaction() as tx:
        tx.execute("insert into effects (name, note) values ('work', %s)", [str(os.getpid() == parent)])

parent = os.getpid()
with open_pool(find(), 2) as pool:
    with Jobs(pool).run("work", window="1 minute") as run:
        write(run)
        child = os.fork()
        if child == 0:
            {child}
        else:
            os.waitpid(child, 0)
            print("the child has ended", flush=True)
            sys.stdin.readline()
            write(run)
"""

ASYNC_FORK = """
import asyncio, os, sys
from pgonce import AsyncJobs
from pgonce.core.database import find, open_async_pool

parent = os.getpid()

async def main():
    pool = await open_async_pool(find(), 2)
    try:
        async with AsyncJobs(pool).run("work", window="1 minute") as run:
            child = os.fork()
            if child == 0:
                {child}
            else:
                os.waitpid(child, 0)
                print("the child has ended", flush=True)
                sys.stdin.readline()
    finally:
        if os.getpid() != parent:
            os._exit(0)  # further out asyncio itself would take its parent's sockets out of the selector they share

asyncio.run(main())
"""


@pytest.mark.parametrize("way", FORK)
def test_a_forked_child_never_ends_its_parent_s_run(start: Start, db: Db, way: str) -> None:
    child = start(sys.executable, "-c", SYNC_FORK.format(child=FORK[way]))
    child.until("the child has ended")
    assert db.execute("select status from cron_job_runs").fetchall() == [("running",)]
    child.tell("go on")
    assert child.end() == 0, child.said
    assert db.execute("select status from cron_job_runs").fetchall() == [("succeeded",)]
    assert db.execute("select note from effects").fetchall() == [("True",), ("True",)]
    if way == "writes":
        assert "belongs to process" in child.said


@pytest.mark.parametrize("way", list(FORK)[:3])
def test_a_forked_child_never_ends_its_parent_s_async_run(start: Start, db: Db, way: str) -> None:
    child = start(sys.executable, "-c", ASYNC_FORK.format(child=FORK[way]))
    child.until("the child has ended")
    assert db.execute("select status from cron_job_runs").fetchall() == [("running",)]
    child.tell("go on")
    assert child.end() == 0, child.said
    assert db.execute("select status from cron_job_runs").fetchall() == [("succeeded",)]


FORK_INSIDE = """
import os, sys
from pgonce import Jobs
from pgonce.core.database import find, open_pool

with open_pool(find(), 2) as pool, Jobs(pool).run("work") as run:
    with run.transaction() as tx:
        tx.execute("insert into effects (name, note) values ('work', 'of the parent')")
        child = os.fork()
        if child == 0:
            sys.exit(0)
        os.waitpid(child, 0)
"""


def test_a_child_forked_inside_a_transaction_ends_nothing_of_it(start: Start, db: Db) -> None:
    child = start(sys.executable, "-c", FORK_INSIDE)
    assert child.end() == 0, child.said
    assert db.execute("select status from cron_job_runs").fetchall() == [("succeeded",)]
    assert db.execute("select note from effects").fetchall() == [("of the parent",)]


WORKERS = """
import multiprocessing, os, sys
from pgonce import Jobs
from pgonce.core.database import find, open_pool
from pgonce.errors import LeaseLost

def inherited(number):
    try:
        with run.transaction() as tx:
            tx.execute("insert into effects (name, note) values ('work', 'of a child')")
    except LeaseLost as error:
        return "belongs to process" in str(error)

def of_its_own(number):
    with open_pool(find(), 2) as pool, Jobs(pool).run("part", key=str(number)) as part:
        with part.transaction() as tx:
            tx.execute("insert into effects (name, note) values ('part', %s)", [str(number)])
    return part is not None

forked = multiprocessing.get_context("fork")
with open_pool(find(), 2) as pool, Jobs(pool).run("work", window="1 minute") as run:
    with forked.Pool(2) as workers:
        print(all(workers.map(inherited, range(4))), all(workers.map(of_its_own, range(4))), flush=True)
    leaves = forked.Process(target=sys.exit, args=[3])
    leaves.start()
    leaves.join()
    with run.transaction() as tx:
        tx.execute("insert into effects (name, note) values ('work', 'of the parent')")
"""


def test_workers_of_multiprocessing_do_nothing_with_their_parent_s_run_and_may_have_runs_of_their_own(
    start: Start, db: Db
) -> None:
    child = start(sys.executable, "-c", WORKERS)
    child.until("True True")
    assert child.end() == 0, child.said
    found = db.execute("select name, note from effects order by name, note").fetchall()
    assert found == [*(("part", str(number)) for number in range(4)), ("work", "of the parent")]
    runs = "select job_name, status, count(*) from cron_job_runs group by 1, 2 order by 1"
    assert db.execute(runs).fetchall() == [("part", "succeeded", 4), ("work", "succeeded", 1)]


PREFORK = """
import os, sys
from psycopg_pool import ConnectionPool
from pgonce import Jobs
from pgonce.core.database import find, open_pool
from pgonce.errors import InvalidArgument

def work(number):
    for _ in range(20):
        with jobs.run("work", key=str(number), window="1 minute") as run, run.transaction() as tx:
            answer = tx.execute("select %s::int", [number]).fetchone()
            tx.execute("insert into effects (name, note) values (%s, %s)", [str(number), str(answer == (number,))])

with open_pool(find(), 4) as pool, ConnectionPool(find(), min_size=2, open=True) as other:
    jobs = Jobs(pool)
    work(0)
    other.wait()
    children = []
    for number in 1, 2, 3:
        children.append(os.fork())
        if children[-1] == 0:
            try:
                Jobs(other).run("work").__enter__()
            except InvalidArgument as error:
                assert "opened before a fork" in str(error), error
                work(number)
                os._exit(0)
            os._exit(9)
    work(4)
    print([os.waitpid(child, 0)[1] for child in children], flush=True)
    work(5)
"""


def test_a_pool_that_was_opened_before_a_fork_serves_every_child_on_connections_of_its_own(
    start: Start, db: Db
) -> None:
    child = start(sys.executable, "-c", PREFORK)
    child.until("[0, 0, 0]")
    assert child.end() == 0, child.said
    found = db.execute("select name, note, count(*) from effects group by 1, 2 order by 1").fetchall()
    assert found == [(str(number), "True", 20) for number in range(6)]
    assert db.execute("select status, count(*) from cron_job_runs group by 1").fetchall() == [("succeeded", 120)]
