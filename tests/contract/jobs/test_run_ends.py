"""The end of a run is recorded even if its connections were cut meanwhile, and no caller waits for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

import pgonce
from pgonce.core import concurrency as waiting
from pgonce.core import database as databases
from pgonce.core.execute import call
from pgonce.errors import DatabaseUnavailable, LeaseLost, RunStopped
from pgonce.jobs import calls as protocol
from pgonce.jobs import run as sync_run
from pgonce.jobs import run_async as async_run
from pgonce.jobs.guard import Guard
from tests.conftest import wait_until
from tests.contract.callers import Caller, spawn
from tests.faults.proxy import Proxy

Db = psycopg.Connection[Any]
Open = Callable[[str, str], Caller]
KINDS = ["sync", "async", "async-odd-pool"]


def end(db: Db, name: str) -> tuple[str, str | None]:
    ((status, reason),) = db.execute("select status, error_message from cron_job_runs where job_name = %s", [name])
    return status, reason


def ended(db: Db, name: str) -> bool:
    return end(db, name)[0] != "running"


@pytest.mark.parametrize("kind", KINDS)
def test_connections_that_broke_during_the_run_do_not_keep_its_success(
    network: Proxy, db: Db, name: str, open_caller: Open, kind: str
) -> None:
    with open_caller(kind, network.url).run(name):
        network.cut()
    assert end(db, name) == ("succeeded", None)


@pytest.mark.parametrize("kind", KINDS)
def test_connections_that_broke_during_the_run_do_not_keep_its_failure(
    network: Proxy, db: Db, name: str, open_caller: Open, kind: str
) -> None:
    caller = open_caller(kind, network.url)

    def work() -> None:
        with caller.run(name):
            network.cut()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    status, reason = end(db, name)
    assert status == "failed"
    assert reason
    assert reason.endswith("ZeroDivisionError\n")


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_waits_for_a_database_that_is_away(
    network: Proxy, db: Db, name: str, open_caller: Open, kind: str
) -> None:
    caller = open_caller(kind, network.url)

    def work() -> None:
        with caller.run(name):
            network.down()

    working = spawn(work)
    wait_until(lambda: network.refused > 1, "it has been tried again")
    assert end(db, name)[0] == "running"
    network.up()
    working.result(60)
    assert end(db, name) == ("succeeded", None)


BROKEN = """
create or replace function complete_job_run(
  p_run_id uuid, p_rows_processed integer, p_rows_skipped integer, p_transactions integer)
returns boolean language plpgsql as $$
begin
  raise sqlstate '57P03' using message = 'the database system is starting up';
end $$;
create or replace function pgonce_complete_job_runs(
  p_run_ids uuid[], p_rows_processed integer[], p_rows_skipped integer[], p_transactions integer[])
returns boolean[] language plpgsql as $$
begin
  raise sqlstate '57P03' using message = 'the database system is starting up';
end $$
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_success_that_cannot_be_written_is_not_written_as_a_failure(
    database: str, conn: Db, open_caller: Open, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in sync_run, async_run:
        monkeypatch.setattr(module, "PAUSES", (0.0,))
    for function in (
        "complete_job_run(uuid, integer, integer, integer)",
        "pgonce_complete_job_runs(uuid[], integer[], integer[], integer[])",
    ):
        conn.execute(f"drop function {function}".encode())
    conn.execute(BROKEN)
    with pytest.raises(DatabaseUnavailable, match="starting up"), open_caller(kind, database).run("job"):
        pass
    assert end(conn, "job") == ("running", None)


def test_a_failure_that_could_not_be_written_is_not_written_as_a_success(database: str, conn: Db) -> None:
    with databases.open_pool(database, 1) as pool, pgonce.Jobs(pool).run("job") as run:
        assert run
        conn.execute("alter function fail_job_run(uuid, text) rename to away")
        run.fail("exit code 5")
        conn.execute("alter function away(uuid, text) rename to fail_job_run")
    assert end(conn, "job") == ("failed", "exit code 5")


def test_a_timeout_ends_the_run_while_the_job_holds_the_last_connection(
    module_database: str, db: Db, name: str
) -> None:
    with databases.open_pool(module_database, 1) as pool:
        late = pytest.raises(TimeoutError)
        with late, pgonce.Jobs(pool).run(name, timeout="100 ms") as run:
            assert run
            with run.connection():
                wait_until(lambda: ended(db, name), "the run's end, while its job goes on")
    assert end(db, name) == ("failed", "timed out after 0:00:00.100000")


def test_a_timeout_that_could_not_be_written_is_written_by_a_heartbeat(
    network: Proxy, db: Db, name: str, open_caller: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = open_caller("sync", network.url)
    monkeypatch.setattr(sync_run, "PAUSES", ())

    def work() -> None:
        with caller.run(name, timeout="100 ms", window="3 seconds"):
            network.down()
            wait_until(lambda: network.refused, "the timeout could not be written")
            network.up()
            wait_until(lambda: ended(db, name), "the run's end, while its job goes on")

    with pytest.raises(TimeoutError):
        work()
    assert end(db, name) == ("failed", "timed out after 0:00:00.100000")


def test_an_asynchronous_run_whose_heartbeat_hangs_is_cancelled_before_its_window_is_over(
    network: Proxy, db: Db, name: str
) -> None:
    beat = network.hold(b"pgonce_report_job_run")

    async def main() -> None:
        async with (
            await databases.open_async_pool(network.url, 2) as pool,
            asyncio.timeout(30),
            pgonce.AsyncJobs(pool).run(name, window="2 seconds"),
        ):
            await asyncio.sleep(60)

    try:
        with pytest.raises(LeaseLost):
            asyncio.run(main())
    finally:
        beat.release()
    assert end(db, name) == ("failed", "no heartbeat reached the database for 0:00:02")


def test_a_synchronous_run_whose_heartbeat_hangs_ends_with_its_body(
    network: Proxy, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LEAVE", 0.1)
    beat = network.hold(b"pgonce_report_job_run")

    def work() -> None:
        with databases.open_pool(network.url, 2) as pool, pgonce.Jobs(pool).run(name, window="1 second") as run:
            assert run
            beat.wait()
            wait_until(lambda: run.lost, "it says that it is lost")

    try:
        with pytest.raises(LeaseLost):
            spawn(work).result(30)
    finally:
        beat.release()


def test_a_heartbeat_that_comes_after_half_the_window_is_logged(
    network: Proxy, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    beat = network.hold(b"pgonce_report_job_run")
    with databases.open_pool(network.url, 2) as pool, pgonce.Jobs(pool).run(name, window="10 seconds") as run:
        assert run
        began = time.monotonic()
        beat.wait()
        wait_until(lambda: time.monotonic() - began > 5.5, "more than half of the window has passed")
        beat.release()
        wait_until(lambda: "s between two heartbeats, window 0:00:10" in caplog.text, "it is logged")
        assert not run.lost


def test_a_run_that_cleans_up_after_a_stop_is_not_taken_over(module_database: str, db: Db, name: str) -> None:
    alive = """
    select heartbeat_at > stop_requested_at + run_window from cron_job_runs where job_name = %s and status = 'running'
    """

    async def main() -> None:
        async with (
            await databases.open_async_pool(module_database, 2) as pool,
            pgonce.AsyncJobs(pool).run(name, window="1 second") as run,
        ):
            assert run
            db.execute("select pgonce_stop_job_run(%s)", [run.id])
            try:
                await asyncio.sleep(60)
            finally:
                beats = lambda: db.execute(alive, [name]).fetchone() == (True,)  # noqa: E731
                await asyncio.to_thread(wait_until, beats, "heartbeats for a window after the stop")
                assert db.execute("select start_job_run(%s)", [name]).fetchone() == (None,)

    with pytest.raises(RunStopped):
        asyncio.run(main())
    stopped = "select error_message from cron_job_runs where job_name = %s and status = 'failed'"
    assert db.execute(stopped, [name]).fetchall() == [("stopped on request",)]


def test_a_retry_of_a_run_whose_scope_is_no_object_is_run(module_database: str, db: Db, name: str) -> None:
    start = "start_job_run(%s, p_scope => '[1, 2]', p_retries => 1, p_backoff => '1 us')"
    db.execute(f"select fail_job_run(id, 'x') from {start} as id".encode(), [name])
    app = pgonce.App()
    seen: list[Any] = []
    app.job(name)(print)
    with databases.open_pool(module_database, 1) as pool:
        (retry,) = call(pool, protocol.due_job_retries([name]), "public")
        with Guard(pool, "public").begin(app.get_job(name), retry=retry) as run:
            assert run
            seen.append(run.scope)
    assert seen == [[1, 2]]


def test_until_when_a_process_worked_whose_run_was_taken_over_is_recorded(
    module_database: str, db: Db, name: str
) -> None:
    with databases.open_pool(module_database, 2) as pool:
        jobs = pgonce.Jobs(pool)
        with pytest.raises(LeaseLost, match="was taken over by run"), jobs.run(name, window="1 hour") as run:  # noqa: PT012
            assert run
            db.execute("update cron_job_runs set heartbeat_at = now() - interval '2 hours' where id = %s", [run.id])
            assert db.execute("select start_job_run(%s)", [name]).fetchone() != (None,)
    found = "select fenced from pgonce_find_job_overlaps() where job_name = %s"
    assert db.execute(found, [name]).fetchall() == [(True,)]


def test_a_run_that_ended_early_because_it_was_silent_has_failed_though_the_database_is_back(
    module_database: str, network: Proxy, db: Db, name: str
) -> None:
    silent = "no heartbeat reached the database"
    with (  # noqa: PT012
        databases.open_pool(network.url, 2) as pool,
        pytest.raises(LeaseLost, match=silent),
        pgonce.Jobs(pool).run(name, window="1 second") as run,
    ):
        assert run
        network.down()
        wait_until(lambda: run.stop_requested, "a window without a heartbeat")
        network.up()
        wait_until(lambda: beats(run), "a transaction of the run is committed")
    status, reason = end(db, name)
    assert status == "failed"
    assert silent in (reason or "")


def beats(run: pgonce.Run) -> bool:
    try:
        with run.transaction():
            return True
    except DatabaseUnavailable:
        return False
