"""Calls without psycopg's cursor, for the start and end of a run: they behave as calls through the cursor do."""

from __future__ import annotations

import asyncio
import math
import os
import queue
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from pgonce import AsyncJobs, Jobs
from pgonce.core.concurrency import _Alarm, repeating
from pgonce.core.concurrency import alarm as process_alarm
from pgonce.core.concurrency_async import repeating as async_repeating
from pgonce.core.database import open_pool
from pgonce.errors import InvalidArgument
from tests.conftest import wait_until

Db = psycopg.Connection[Any]
RUNS = 12
"""A few more uses than psycopg needs before it prepares a statement (5)."""


def statuses(db: Db, name: str) -> list[str]:
    found = db.execute("select status from cron_job_runs where job_name = %s order by started_at", [name]).fetchall()
    return [status for (status,) in found]


def run_often(pool: ConnectionPool[Any], name: str) -> None:
    for _ in range(RUNS):
        with Jobs(pool).run(name) as run:
            assert run is not None
            run.processed()


@pytest.mark.parametrize("encoding", ["utf8", "latin1", "sql_ascii"])
def test_texts_arrive_as_they_are_in_every_encoding(module_database: str, db: Db, name: str, encoding: str) -> None:
    odd = name + """ é \\ ' " %s {} $1"""
    with ConnectionPool(module_database, kwargs={"client_encoding": encoding}, open=True) as pool:
        run_often(pool, odd)
    if encoding == "sql_ascii":  # the server takes the bytes as they come
        found = db.execute("select count(*) from cron_job_runs where job_name like %s", [name + "%"]).fetchone()
        assert found == (RUNS,)
    else:
        assert statuses(db, odd) == ["succeeded"] * RUNS


def test_every_argument_arrives_as_it_is(module_database: str, db: Db, name: str) -> None:
    tick = datetime(2026, 11, 23, 7, 0, 0, 123456, UTC)
    window = timedelta(days=40, hours=1, microseconds=1)
    with open_pool(module_database, 1) as pool:
        for scope in (None, {"batch": "é\\'"}):
            options: dict[str, Any] = {"scope": scope, "key": repr(scope), "window": window}
            with Jobs(pool).run(name, retries=2, backoff="90s", scheduled_for=tick, **options) as run:
                assert run is not None
                run.processed(3)
                run.skipped(4)
            found = db.execute(
                "select scope, run_window, scheduled_for, retries, backoff, rows_processed, rows_skipped"
                " from cron_job_runs where job_name = %s and id = %s and key = %s",
                [name, run.id, repr(scope)],
            ).fetchone()
            assert found == (scope or {}, window, tick, 2, timedelta(seconds=90), 3, 4)


def test_a_nul_is_refused_and_nothing_is_cut_off_behind_it(module_database: str, db: Db, name: str) -> None:
    with open_pool(module_database, 1) as pool, pytest.raises(InvalidArgument), Jobs(pool).run(f"{name}\0x"):
        pass
    assert statuses(db, name) == []


@pytest.mark.parametrize(
    ("processed", "done", "written"),
    [(2**31, 5, (2**31 - 1, 5)), (1, 2**70, (1, 2**63 - 1)), (3.0, 0.5, (3, 0))],
    ids=["count", "progress", "floats"],
)
def test_no_count_ends_the_heartbeats(
    module_database: str, db: Db, name: str, processed: Any, done: Any, written: tuple[int, int]
) -> None:
    with open_pool(module_database, 1) as pool, Jobs(pool).run(name, window="1 second") as run:
        assert run is not None
        run.processed(processed)
        run.progress(done)
        beyond = "select heartbeat_at > started_at + run_window from cron_job_runs where job_name = %s"
        wait_until(lambda: db.execute(beyond, [name]).fetchone() == (True,) or run.lost, "it beats beyond its window")
    found = db.execute("select rows_processed, progress_done from cron_job_runs where job_name = %s", [name])
    assert found.fetchone() == written
    assert statuses(db, name) == ["succeeded"]


def discard(conn: psycopg.Connection[Any]) -> None:
    conn.autocommit = True
    conn.execute("discard all")


def test_statements_that_the_user_discards_are_made_again(module_database: str, db: Db, name: str) -> None:
    with ConnectionPool(module_database, max_size=1, min_size=1, reset=discard, open=True) as pool:
        run_often(pool, name)
    assert statuses(db, name) == ["succeeded"] * RUNS


def test_a_connection_comes_back_idle_and_what_it_did_is_committed(module_database: str, db: Db, name: str) -> None:
    with ConnectionPool(module_database, max_size=1, min_size=1, open=True) as pool:  # not in autocommit
        with pytest.raises(InvalidArgument), Jobs(pool).run(name) as run:
            run.processed(-1)  # type: ignore[union-attr]
        run_often(pool, name)
        with pool.connection() as conn:
            assert conn.info.transaction_status == TransactionStatus.IDLE
        assert statuses(db, name) == ["failed", *["succeeded"] * RUNS]


def test_a_connection_that_died_in_the_pool_is_replaced(module_database: str, db: Db, name: str) -> None:
    with open_pool(module_database, 1) as pool:
        run_often(pool, name)
        with pool.connection() as conn:
            pid = conn.info.backend_pid
        db.execute("select pg_terminate_backend(%s, 10000)", [pid])
        run_often(pool, name)
    assert statuses(db, name) == ["succeeded"] * RUNS * 2


def test_asynchronous_runs_go_the_same_way(module_database: str, db: Db, name: str) -> None:
    async def main() -> None:
        async with AsyncConnectionPool(module_database, min_size=1, max_size=3, open=False) as pool:

            async def some(key: str) -> None:
                for _ in range(RUNS):
                    async with AsyncJobs(pool).run(name, key=key) as run:
                        assert run is not None

            await asyncio.gather(*(some(key) for key in "abcdef"))

    asyncio.run(main())
    assert statuses(db, name) == ["succeeded"] * RUNS * 6


# The alarm for heartbeats -------------------------------------------------------------------------------------------


def test_short_runs_leave_nothing_with_the_alarm(module_database: str, name: str) -> None:
    before = len(process_alarm._calls)
    with open_pool(module_database, 1) as pool:
        run_often(pool, name)
    assert len(process_alarm._calls) == before


def test_the_alarm_sleeps_while_short_calls_come_and_go() -> None:
    alarm = _Alarm()
    alarm.cancel(alarm.set(3600, lambda: None))
    wait_until(lambda: alarm._wakes_at != math.inf, "the thread has looked, and sleeps")
    asleep_until = alarm._wakes_at
    for _ in range(1000):
        alarm.cancel(alarm.set(3600, lambda: None))
        assert alarm._wakes_at == asleep_until, "none of them woke it"


def test_an_earlier_call_is_not_late_for_a_later_one_that_was_set_before() -> None:
    alarm, called = _Alarm(), threading.Event()
    alarm.set(3600, lambda: None)
    alarm.set(0.001, called.set)
    assert called.wait(20)


def test_of_many_threads_calls_every_one_is_called_and_none_that_was_cancelled() -> None:
    alarm, called, cancelled = _Alarm(), set[int](), set[int]()

    def client(first: int) -> None:
        for number in range(first, first + 500):
            mine = alarm.set(0.0005 * (number % 5), lambda number=number: called.add(number))  # type: ignore[misc]
            if number % 2:
                alarm.cancel(mine)
                if number not in called:  # the call has ended, or never comes
                    cancelled.add(number)

    threads = [threading.Thread(target=client, args=[first]) for first in range(0, 4000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: not alarm._calls and called >= set(range(0, 4000, 2)), "all are called")
    assert not called & cancelled


def test_a_heartbeat_that_cannot_be_begun_is_begun_later() -> None:
    alarm, tries, begun = _Alarm(), list[int](), threading.Event()

    def begin() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("can't start new thread")
        begun.set()

    alarm.set(0, begin)
    assert begun.wait(20)


def test_a_body_that_has_ended_hears_no_more_beats() -> None:
    beats: list[int] = []

    def beat() -> bool:
        beats.append(1)
        return True

    with repeating(beat, 0.001, 20):
        wait_until(lambda: len(beats) > 3, "it beats")
    count = len(beats)
    assert not [thread for thread in threading.enumerate() if thread.name == "pgonce heartbeat"]
    assert len(beats) == count


def test_heartbeats_of_an_async_run_go_on_while_its_loop_is_blocked_and_end_with_their_block() -> None:
    async def main() -> None:
        beats: queue.Queue[None] = queue.Queue()

        def beat() -> bool:
            beats.put_nowait(None)
            return True

        async with async_repeating(beat, 0.001, 20):
            for _ in range(3):
                beats.get(timeout=20)  # the loop stands still here
        async with async_repeating(beat, 0.001, 20):
            pass
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not [thread for thread in threading.enumerate() if thread.name == "pgonce heartbeat"]

    asyncio.run(main())


LEFT = """
import os, sys, threading
from pgonce.core.concurrency import repeating

inherited, beaten = repeating(lambda: True, 3600, 20), threading.Event()
inherited.__enter__()
child = os.fork()
if child == 0:
    with repeating(lambda: bool(beaten.set()), 0.01, 20):
        inherited.__exit__()
        os._exit(not beaten.wait(20))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_that_leaves_its_parent_s_block_does_not_end_its_own_heartbeats() -> None:
    subprocess.run([sys.executable, "-c", LEFT], check=True, timeout=60)


FORKED = """
import os, sys
from pgonce import Jobs
from pgonce.core import database
url, name = sys.argv[1:]
with database.open_pool(url, 1) as pool, Jobs(pool).run("parent " + name, window="1 minute"):
    child = os.fork()
    if child == 0:
        with database.open_pool(url, 1) as own, Jobs(own).run(name, window="300 ms") as run:
            print("started", flush=True)
            sys.stdin.readline()
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_run_in_a_forked_child_has_heartbeats(module_database: str, db: Db, name: str) -> None:
    command = [sys.executable, "-c", FORKED, module_database, name]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        beyond = "select heartbeat_at > started_at + 2 * run_window from cron_job_runs where job_name = %s"
        wait_until(lambda: db.execute(beyond, [name]).fetchone() == (True,), "it beats beyond its window")
        process.communicate("\n", timeout=20)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()
    assert statuses(db, name) == ["succeeded"]
