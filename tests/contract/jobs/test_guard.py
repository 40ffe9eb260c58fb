# ruff: noqa: PT012 -- a run is a block, and the expectations are inside it
"""Jobs, against every caller: two runs never work at once, and a run that was taken over can no longer write."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import anyio
import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from pgonce import AsyncJobs, AsyncRun, Jobs
from pgonce import Run as SyncRun
from pgonce.core.database import open_async_pool
from pgonce.errors import DatabaseUnavailable, InvalidArgument, LeaseLost, PgonceError, SchemaError, TransactionBroken
from tests.conftest import wait_until
from tests.contract.callers import Async, Caller, Run, Sync, spawn
from tests.contract.conftest import BINDINGS, CALLERS

Db = psycopg.Connection[Any]
Open = Callable[[str, str], Caller]


def rows(db: Db, name: str) -> list[Any]:
    """The job's runs, oldest first."""
    with db.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("select * from cron_job_runs where job_name = %s order by started_at", [name]).fetchall()


def last(db: Db, name: str) -> Any:
    return rows(db, name)[-1]


def effects(db: Db, name: str) -> int:
    return db.execute("select count(*) from effects where name = %s", [name]).fetchall()[0][0]


@contextmanager
def started(caller: Caller, name: str, **options: Any) -> Iterator[Run]:
    """A run that was not skipped."""
    with caller.run(name, **options) as run:
        assert run is not None
        yield run


def write(run: Run, name: str) -> None:
    with run.transaction() as tx:
        tx.execute("insert into effects (name) values (%s)", [name])


def take_over(db: Db, name: str, key: str = "") -> UUID:
    """Let the window pass and take the run over, in one transaction, so that no heartbeat can happen in between."""
    with db.transaction():
        stale = "update cron_job_runs set heartbeat_at = heartbeat_at - run_window where status = 'running'"
        assert db.execute(stale.encode() + b" and job_name = %s and key = %s", [name, key]).rowcount == 1
        start = "select start_job_run(%s, p_key => %s)"
        [[successor]] = db.execute(start, [name, key]).fetchall()
    assert isinstance(successor, UUID)
    return successor


# The guard ----------------------------------------------------------------------------------------------------------


def test_a_run_is_recorded_from_its_start_to_its_end(caller: Caller, db: Db, name: str) -> None:
    with started(caller, name, scope={"batch_number": 3}, window=timedelta(minutes=7)) as run:
        [row] = rows(db, name)
        assert (row["id"], row["status"], row["completed_at"]) == (run.id, "running", None)
        assert (row["scope"], row["run_window"]) == ({"batch_number": 3}, timedelta(minutes=7))
        write(run, name)
        run.processed()
        run.processed(41)
        run.skipped(7)
    [row] = rows(db, name)
    assert (row["status"], row["rows_processed"], row["rows_skipped"]) == ("succeeded", 42, 7)
    took = row["completed_at"] - row["started_at"]
    assert row["duration_ms"] == pytest.approx(took / timedelta(milliseconds=1), abs=1)
    assert row["error_message"] is None
    assert effects(db, name) == 1


def test_an_overlap_is_skipped_and_the_skip_names_the_run_in_the_way(caller: Caller, db: Db, name: str) -> None:
    with started(caller, name) as run:
        with caller.run(name, scope={"who": "second"}) as second:
            assert second is None
        skipped = last(db, name)
        assert (skipped["status"], skipped["blocked_by"], skipped["scope"]) == ("skipped", run.id, {"who": "second"})
        assert str(run.id) in skipped["error_message"]
    assert [row["status"] for row in rows(db, name)] == ["succeeded", "skipped"]
    with started(caller, name):
        pass


def test_runs_with_different_keys_go_side_by_side(caller: Caller, db: Db, name: str) -> None:
    with started(caller, name, key="a"), started(caller, name, key="b"), caller.run(name, key="a") as third:
        assert third is None
    assert sorted((row["key"], row["status"]) for row in rows(db, name)) == [
        ("a", "skipped"),
        ("a", "succeeded"),
        ("b", "succeeded"),
    ]


def test_a_crashed_run_is_closed_as_abandoned_by_its_successor(caller: Caller, db: Db, name: str) -> None:
    crashed = (
        "insert into cron_job_runs (job_name, heartbeat_at) values (%s, clock_timestamp() - interval '16 minutes')"
    )
    db.execute(crashed, [name])
    with started(caller, name) as run:
        assert [row["status"] for row in rows(db, name)] == ["failed", "running"]
        assert rows(db, name)[0]["error_message"].startswith("abandoned: last sign of life")
        assert last(db, name)["id"] == run.id


def test_a_newcomer_s_window_does_not_shorten_the_holder_s(caller: Caller, db: Db, name: str) -> None:
    with started(caller, name, window=timedelta(minutes=30)):
        db.execute("update cron_job_runs set heartbeat_at = now() - interval '20 minutes' where job_name = %s", [name])
        with caller.run(name, window=timedelta(milliseconds=1)) as second:
            assert second is None


def test_a_tick_fires_once_whatever_became_of_it(caller: Caller, db: Db, name: str) -> None:
    tick = datetime(2026, 11, 1, 6, tzinfo=UTC)
    with pytest.raises(RuntimeError), started(caller, name, scheduled_for=tick):
        raise RuntimeError
    with caller.run(name, scheduled_for=tick) as again:
        assert again is None
    with started(caller, name, scheduled_for=tick + timedelta(hours=1)):
        pass
    assert [(row["status"], row["scheduled_for"]) for row in rows(db, name)] == [
        ("failed", tick),
        ("succeeded", tick + timedelta(hours=1)),
    ]


# Failing ------------------------------------------------------------------------------------------------------------


class Stop(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize("error", [RuntimeError("boom"), Stop("boom"), asyncio.CancelledError("boom")])
def test_a_run_whose_body_raises_is_failed_with_the_traceback(
    caller: Caller, db: Db, name: str, error: BaseException
) -> None:
    with pytest.raises(type(error)), started(caller, name) as run:
        write(run, name)
        run.processed(3)
        with run.transaction() as tx:
            tx.execute("insert into effects (name) values (%s)", [name])
            raise error
    [row] = rows(db, name)
    assert row["status"] == "failed"
    assert "Traceback" in row["error_message"]
    assert f"{type(error).__name__}: boom" in row["error_message"]
    assert row["duration_ms"] is not None
    assert effects(db, name) == 1
    with started(caller, name):
        pass


def test_ctrl_c_fails_the_run(open_caller: Open, module_database: str, db: Db, name: str) -> None:
    with pytest.raises(KeyboardInterrupt), started(open_caller("sync", module_database), name):
        raise KeyboardInterrupt
    assert last(db, name)["status"] == "failed"

    async def main() -> None:
        async with await open_async_pool(module_database, 2) as pool, AsyncJobs(pool).run(name):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert last(db, name)["status"] == "failed"


@pytest.mark.parametrize("error", [LeaseLost("of an event"), DatabaseUnavailable("another one")])
def test_a_run_that_fails_with_somebody_else_s_loss_does_not_stay_open(
    caller: Caller, db: Db, name: str, error: PgonceError
) -> None:
    with pytest.raises(type(error)), started(caller, name):
        raise error
    assert last(db, name)["status"] == "failed"


def test_a_message_that_text_cannot_hold_is_recorded_all_the_same(
    open_caller: Open, module_database: str, db: Db, name: str
) -> None:
    for kind in BINDINGS:
        with pytest.raises(RuntimeError), started(open_caller(kind, module_database), name):
            raise RuntimeError("\0 \ud800 " + "x" * 100_000)
        row = last(db, name)
        assert row["status"] == "failed"
        assert len(row["error_message"]) <= 20_000
        assert row["error_message"].endswith("x\n")


def test_a_connection_that_dies_in_the_body_fails_the_run(caller: Caller, db: Db, name: str) -> None:
    dead = pytest.raises((psycopg.OperationalError, DatabaseUnavailable))
    with dead, started(caller, name) as run, run.transaction() as tx:
        tx.execute("insert into effects (name) values (%s)", [name])
        mine = "select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name = %s"
        assert db.execute(mine, [f"pgonce {run.id}"]).fetchall() == [(True,)]
        tx.execute("select 1")
    assert (effects(db, name), last(db, name)["status"]) == (0, "failed")


# The fence ----------------------------------------------------------------------------------------------------------


def test_a_transaction_commits_while_the_run_is_ours(caller: Caller, db: Db, name: str) -> None:
    with started(caller, name) as run:
        before = last(db, name)["heartbeat_at"]
        write(run, name)
        write(run, name)
        assert effects(db, name) == 2
        assert last(db, name)["heartbeat_at"] > before


def test_after_a_takeover_a_transaction_is_refused_and_the_run_ends_as_lost(caller: Caller, db: Db, name: str) -> None:
    with pytest.raises(LeaseLost), started(caller, name) as run:
        write(run, name)
        successor = take_over(db, name)
        with pytest.raises(LeaseLost):
            write(run, name)
    assert effects(db, name) == 1
    assert [(row["id"], row["status"]) for row in rows(db, name)] == [(run.id, "failed"), (successor, "running")]
    assert rows(db, name)[0]["error_message"].startswith("abandoned")


def test_a_takeover_ends_a_transaction_that_is_open(caller: Caller, db: Db, name: str) -> None:
    with pytest.raises((PgonceError, psycopg.Error)), started(caller, name) as run, run.transaction() as tx:
        tx.execute("insert into effects (name) values (%s)", [name])
        take_over(db, name)
    assert effects(db, name) == 0
    assert [row["status"] for row in rows(db, name)] == ["failed", "running"]


def test_a_run_that_was_taken_over_without_noticing_ends_as_lost(caller: Caller, db: Db, name: str) -> None:
    with pytest.raises(LeaseLost), started(caller, name):
        take_over(db, name)
    assert [row["status"] for row in rows(db, name)] == ["failed", "running"]


def test_a_run_that_fails_after_a_takeover_does_not_touch_its_successor(caller: Caller, db: Db, name: str) -> None:
    with pytest.raises(RuntimeError), started(caller, name):
        successor = take_over(db, name)
        raise RuntimeError
    assert [(row["id"], row["status"]) for row in rows(db, name)][1] == (successor, "running")
    assert rows(db, name)[0]["error_message"].startswith("abandoned")


@pytest.mark.parametrize("kind", BINDINGS)
def test_a_transaction_that_is_ended_inside_is_an_error(
    open_caller: Open, module_database: str, db: Db, name: str, kind: str
) -> None:
    caller = open_caller(kind, module_database)
    ends = {"commit": 1, "rollback": 0, "commit; begin": 1, "rollback; begin": 0, "rollback and chain": 0}
    for number, (words, committed) in enumerate(ends.items()):
        note = str(number)
        broken = pytest.raises(TransactionBroken, match="leave COMMIT")
        with broken, started(caller, name) as run, run.transaction() as tx:
            tx.execute("insert into effects values (%s, %s)", [name, note])
            for word in words.split("; "):
                tx.execute(word)
            if word != words or "chain" in word or "odd" in kind:  # then it is in a transaction of its own again
                tx.execute("insert into effects values (%s, %s)", [name, note])
        assert last(db, name)["status"] == "failed"
        written = db.execute("select count(*) from effects where name = %s and note = %s", [name, note]).fetchone()
        assert written == (committed,)
    with pytest.raises(TransactionBroken, match="RESET ALL"), started(caller, name) as run, run.transaction() as tx:
        tx.execute("insert into effects values (%s)", [name])
        tx.execute("reset all")  # takes away, too, what marks the transaction
    with pytest.raises(SchemaError, match="permission denied"), started(caller, name) as run, run.transaction() as tx:
        tx.execute("insert into effects values (%s)", [name])
        tx.execute("set local role pg_monitor")  # which may not call the last statement of the transaction
    with pytest.raises(psycopg.ProgrammingError), started(caller, name) as run, run.transaction() as tx:
        tx.commit()
    assert effects(db, name) == 2


# The heartbeat ------------------------------------------------------------------------------------------------------


def beats(db: Db, name: str, count: int) -> None:
    """Wait for ``count`` signs of life."""
    seen: set[datetime] = set()

    def enough() -> bool:
        seen.add(last(db, name)["heartbeat_at"])
        return len(seen) > count

    wait_until(enough, f"{count} heartbeats")


@pytest.mark.parametrize("kind", BINDINGS)
def test_heartbeats_keep_a_run_alive_beyond_its_window(
    open_caller: Open, module_database: str, db: Db, name: str, kind: str
) -> None:
    caller = open_caller(kind, module_database)
    with started(caller, name, window="1 second"):
        beats(db, name, 4)  # every third of a window: more than one window
        assert last(db, name)["heartbeat_at"] - last(db, name)["started_at"] > timedelta(seconds=1)
        with caller.run(name) as second:
            assert second is None
    assert [row["status"] for row in rows(db, name)] == ["succeeded", "skipped"]


@pytest.mark.parametrize("make", [Sync, Async])
def test_a_pool_of_one_connection_does_not_stop_the_heartbeat(
    module_database: str, db: Db, name: str, make: Callable[..., Caller]
) -> None:
    caller = make(module_database, size=1)
    with started(caller, name, window="1 second") as run, run.transaction() as tx:
        # the pool's only connection works here for longer than the window; if it were idle, the server would end it
        beats_beside = spawn(beats, db, name, 4)
        wait_until(lambda: [tx.execute("select 1")] and beats_beside.done(), "4 heartbeats")
        beats_beside.result()
        tx.execute("insert into effects (name) values (%s)", [name])
    caller.close()
    assert (effects(db, name), last(db, name)["status"]) == (1, "succeeded")


@pytest.mark.parametrize("kind", ["sync", "sync-odd-pool"])
def test_a_sync_run_is_told_that_it_is_lost(
    open_caller: Open, module_database: str, db: Db, name: str, kind: str
) -> None:
    with pytest.raises(LeaseLost), started(open_caller(kind, module_database), name, window="1 second") as run:
        assert isinstance(run, SyncRun)
        assert not run.lost
        take_over(db, name)
        wait_until(lambda: run.lost, "the next heartbeat finds out")


def test_a_transaction_that_outlives_the_run_s_time_is_refused_even_before_the_run_is_closed(
    module_database: str, db: Db, name: str
) -> None:
    caller = Sync(module_database, size=1)
    with pytest.raises(TimeoutError), started(caller, name, timeout="200 ms") as run:
        with pytest.raises(LeaseLost, match="timed out after"), run.transaction() as tx:
            tx.execute("insert into effects (name) values (%s)", [name])
            assert isinstance(run, SyncRun)
            # the run cannot be closed before the pool's only connection is free, which is used here: a heartbeat finds
            # it running
            wait_until(lambda: [tx.execute("select 1")] and run.timed_out, "its time is over")
        wait_until(lambda: last(db, name)["status"] == "failed", "the run is closed")
    caller.close()
    assert (effects(db, name), last(db, name)["error_message"]) == (0, "timed out after 0:00:00.200000")


def test_a_run_that_sees_the_end_of_its_time_before_its_timer_does_has_timed_out(
    module_database: str, db: Db, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading.Timer, "start", lambda _: None)  # its thread comes late: here, never
    caller = Sync(module_database, size=1)
    with (
        pytest.raises(LeaseLost, match="timed out after"),
        started(caller, name, timeout="50 ms") as run,
        run.transaction() as tx,
    ):
        assert isinstance(run, SyncRun)
        wait_until(lambda: [tx.execute("select 1")] and run.timed_out, "its time is over")
    caller.close()
    assert last(db, name)["error_message"] == "timed out after 0:00:00.050000"


@pytest.mark.parametrize("kind", ["async", "async-odd-pool"])
def test_an_async_run_is_cancelled_when_it_is_lost(module_database: str, db: Db, name: str, kind: str) -> None:
    ended: list[str] = []

    async def main() -> None:
        odd = {"row_factory": dict_row, "autocommit": False} if kind != "async" else {}
        pool = AsyncConnectionPool(module_database, kwargs=odd, min_size=1, max_size=2, open=False)
        async with pool:
            with pytest.raises(LeaseLost):
                async with AsyncJobs(pool).run(name, window="1 second") as run:
                    assert run is not None
                    await asyncio.to_thread(take_over, db, name)
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        ended.append(f"cancelled, lost: {run.lost}")
                        raise
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0  # the cancellation was the run's own, and ended with it
            await asyncio.sleep(0)

    asyncio.run(main())
    assert ended == ["cancelled, lost: True"]
    assert [row["status"] for row in rows(db, name)] == ["failed", "running"]


def test_somebody_else_s_cancellation_of_an_async_run_goes_on(module_database: str, db: Db, name: str) -> None:
    async def main() -> None:
        async with await open_async_pool(module_database, 2) as pool:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as limit, AsyncJobs(pool).run(name):
                    limit.reschedule(0)
                    await asyncio.Event().wait()
            inside = asyncio.Event()

            async def job() -> None:
                async with AsyncJobs(pool).run(name):
                    inside.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(job())
            await inside.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with anyio.CancelScope() as scope:  # cancels every await in it anew, also those that clean up
                async with AsyncJobs(pool).run(name):
                    scope.cancel()
                    await asyncio.Event().wait()
            assert scope.cancelled_caught

    asyncio.run(main())
    assert [row["status"] for row in rows(db, name)] == ["failed"] * 3
    assert "CancelledError" in last(db, name)["error_message"]


def test_a_run_without_a_way_to_the_database_ends_after_a_window_and_no_takeover_is_named(
    network: Any, open_caller: Open, db: Db, name: str
) -> None:
    caller = open_caller("sync", network.url)
    with pytest.raises(LeaseLost, match="no heartbeat"), started(caller, name, window="1 second") as run:
        assert isinstance(run, SyncRun)
        network.down()
        wait_until(lambda: run.lost, "a whole window without a heartbeat")
        sending = {each for each in threading.enumerate() if each.name == "pgonce heartbeat"}
        wait_until(lambda: not any(each.is_alive() for each in sending), "the last heartbeat has failed")
        network.up()
    [row] = rows(db, name)
    assert (row["status"], row["error_message"]) == ("failed", "no heartbeat reached the database for 0:00:01")


def test_a_short_cut_in_the_network_does_not_lose_the_run(network: Any, open_caller: Open, db: Db, name: str) -> None:
    caller = open_caller("sync", network.url)
    with started(caller, name, window="3 seconds") as run:
        assert isinstance(run, SyncRun)
        beats(db, name, 1)
        network.cut()
        beats(db, name, 2)  # on a new connection
        assert not run.lost

        def writes() -> bool:  # the pool finds out about its dead connections by using them
            try:
                write(run, name)
            except DatabaseUnavailable:
                return False
            return True

        wait_until(writes, "a connection that lives")
    assert (effects(db, name), last(db, name)["status"]) == (1, "succeeded")


def test_a_short_run_opens_no_connection_of_its_own(module_database: str, db: Db, name: str) -> None:
    sessions = "select count(*) from pg_stat_activity where application_name = %s"
    caller = Sync(module_database, size=1, application_name=name)
    with started(caller, name):
        assert db.execute(sessions, [name]).fetchall() == [(1,)]
    with started(caller, name, window="1 second"):
        beats(db, name, 1)
        assert db.execute(sessions, [name]).fetchall() == [(2,)]
    wait_until(lambda: db.execute(sessions, [name]).fetchall() == [(1,)], "the heartbeat's session has ended")
    assert not [thread for thread in threading.enumerate() if thread.name == "pgonce heartbeat"]
    caller.close()


# The decorator ------------------------------------------------------------------------------------------------------


def test_a_decorated_function_runs_as_a_job(module_database: str, db: Db, name: str) -> None:
    with Sync(module_database).pool as pool:
        jobs = Jobs(pool)

        @jobs.job(name, window="7 minutes")
        def letters(run: SyncRun) -> str:
            """Write letters."""
            run.processed(2)
            assert letters() is None
            return "done"

        assert letters() == "done"
        assert (letters.__name__, letters.__doc__) == ("letters", "Write letters.")
        assert not inspect.signature(letters).parameters, "FastAPI and Airflow pass what is in it"
    assert [(row["status"], row["rows_processed"]) for row in rows(db, name)] == [("succeeded", 2), ("skipped", 0)]
    assert rows(db, name)[0]["run_window"] == timedelta(minutes=7)


def test_a_decorated_coroutine_function_runs_as_a_job(module_database: str, db: Db, name: str) -> None:
    async def main() -> None:
        async with await open_async_pool(module_database, 2) as pool:

            @AsyncJobs(pool).job(name)
            async def letters(run: AsyncRun) -> str:
                """Write letters."""
                async with run.connection() as conn:
                    await conn.execute("select 1")
                assert await letters() is None
                return "done"

            assert await letters() == "done"
            assert letters.__doc__ == "Write letters."
            assert not inspect.signature(letters).parameters

    asyncio.run(main())
    assert [row["status"] for row in rows(db, name)] == ["succeeded", "skipped"]


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BINDINGS)
@pytest.mark.parametrize(
    "options",
    [
        {"window": "0 s"},
        {"window": timedelta(seconds=-1)},
        {"window": "soon"},
        {"scheduled_for": datetime(2026, 11, 1, 6)},  # noqa: DTZ001 -- the naive one is the point
        {"scope": {"n": float("nan")}},
    ],
    ids=str,
)
def test_what_the_protocol_refuses_is_an_invalid_argument_and_leaves_nothing(
    open_caller: Open, module_database: str, db: Db, name: str, kind: str, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgument), open_caller(kind, module_database).run(name, **options):
        pytest.fail("it has started")
    assert rows(db, name) == []


@pytest.mark.parametrize("kind", CALLERS)
def test_an_empty_name_and_a_negative_count_are_refused(
    open_caller: Open, module_database: str, db: Db, name: str, kind: str
) -> None:
    caller = open_caller(kind, module_database)
    with pytest.raises((InvalidArgument, psycopg.Error), match="must not be empty"), caller.run(""):
        pytest.fail("it has started")
    with pytest.raises((InvalidArgument, psycopg.Error), match="must not be negative"), started(caller, name) as run:
        run.processed(-1)


@pytest.mark.parametrize(
    ("code", "status"),
    [(None, "succeeded"), (0, "succeeded"), (3, "failed"), ("", "failed"), ([], "failed"), (0.0, "failed")],
)
def test_a_run_that_exits_ends_as_the_exit_code_of_its_process_says(
    open_caller: Open, module_database: str, db: Db, name: str, code: Any, status: str
) -> None:
    with pytest.raises(SystemExit), started(open_caller(BINDINGS[0], module_database), name):
        raise SystemExit(code)
    assert last(db, name)["status"] == status


def test_counts_of_several_threads_add_up(open_caller: Open, module_database: str, db: Db, name: str) -> None:
    together = threading.Barrier(2)

    class One:
        def __int__(self) -> int:
            together.wait(60)  # a thread that has read the sum waits for the other one
            return 1

    one: Any = One()
    with started(open_caller(BINDINGS[0], module_database), name) as run:
        for add in (run.processed, run.skipped):
            for each in [spawn(add, one) for _ in range(2)]:
                each.result(60)
    assert (last(db, name)["rows_processed"], last(db, name)["rows_skipped"]) == (2, 2)


def test_a_pool_whose_address_is_a_function_is_refused_at_once(module_database: str) -> None:
    pool = ConnectionPool(lambda: module_database, open=False)
    with pytest.raises(InvalidArgument, match="functions"):
        Jobs(pool)


def test_without_the_functions_a_run_is_a_schema_error_that_says_what_to_do(empty_database: str) -> None:
    caller = Sync(empty_database)
    with pytest.raises(PgonceError, match="run `pgonce migrate`"), caller.run("any"):
        pytest.fail("it has started")
    caller.close()


def test_a_hundred_starts_at_once_in_threads_make_one_run(module_database: str, db: Db, name: str) -> None:
    caller = Sync(module_database, size=8)
    leave = threading.Event()
    gun = threading.Barrier(100)

    def start() -> bool:
        gun.wait(20)
        with caller.run(name) as run:
            return run is not None and leave.wait(20)

    starts = [spawn(start) for _ in range(100)]
    wait_until(lambda: sum(each.done() for each in starts) == 99, "99 have been refused")
    leave.set()
    assert sorted(each.result(20) for each in starts) == [False] * 99 + [True]
    caller.close()
    found = [row["status"] for row in rows(db, name)]
    assert (found.count("succeeded"), found.count("skipped")) == (1, 99)
