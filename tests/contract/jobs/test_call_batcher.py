"""Runs that start or end at the same time share statements and commits, and no run delays or breaks another."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from pgonce import AsyncJobs, AsyncRun
from pgonce.core import call
from pgonce.core.database import open_async_pool
from pgonce.core.fast_call import send_statement
from pgonce.errors import InvalidArgument
from pgonce.jobs.calls import Start, start_job_run
from tests.conftest import wait_until

Db = psycopg.Connection[Any]


def statuses(db: Db, name: str) -> dict[str, list[str]]:
    found = db.execute(
        "select job_name, array_agg(status order by status) from cron_job_runs where job_name like %s group by 1",
        [name + "%"],
    )
    return dict(found.fetchall())


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[AsyncJobs]:
    pool = await open_async_pool(url, 4)
    async with pool:
        yield AsyncJobs(pool)


async def once(jobs: AsyncJobs, name: str, **options: Any) -> bool:
    async with jobs.run(name, **options) as run:
        if run is not None:
            run.processed()
        return run is not None


async def all_at_once(jobs: AsyncJobs, names: Sequence[str]) -> list[bool | BaseException]:
    return await asyncio.gather(*(once(jobs, name) for name in names), return_exceptions=True)


def test_runs_that_come_together_share_their_commits(module_database: str, db: Db, name: str) -> None:
    async def main() -> None:
        async with opened(module_database) as jobs:
            assert await all_at_once(jobs, [f"{name}_{number}" for number in range(60)]) == [True] * 60

    asyncio.run(main())
    found = db.execute(
        "select count(*), count(distinct xmin::text) < 20, min(rows_processed), max(rows_skipped), max(error_message)"
        " from cron_job_runs where job_name like %s and status = 'succeeded'",
        [name + "%"],
    ).fetchone()
    assert found == (60, True, 1, 0, None)


def test_each_has_its_own_outcome(module_database: str, db: Db, name: str) -> None:
    db.execute("select start_job_run(%s), start_job_run(%s)", [f"{name} busy", f"{name} dead"])
    db.execute(
        "update cron_job_runs set heartbeat_at = heartbeat_at - run_window where job_name = %s", [f"{name} dead"]
    )

    async def main() -> list[bool | BaseException]:
        async with opened(module_database) as jobs:
            names = [f"{name} {kind}" for kind in ("free", "busy", "dead", "twice", "twice")]
            return await all_at_once(jobs, [*names, "", f"{name}\0", f"{name}\ud800", *names[:1]])

    *found, empty, nul, surrogate, again = asyncio.run(main())
    assert isinstance(surrogate, InvalidArgument)
    assert isinstance(empty, InvalidArgument)
    assert isinstance(nul, InvalidArgument)
    assert found[1:3] == [False, True]
    runs = statuses(db, name)
    assert runs[f"{name} busy"] == ["running", "skipped"]
    assert runs[f"{name} dead"] == ["failed", "succeeded"]
    for kind, answers in (("twice", found[3:5]), ("free", [found[0], again])):
        assert True in answers
        assert runs[f"{name} {kind}"] == sorted("succeeded" if answer else "skipped" for answer in answers)


def test_each_gets_its_own_run(module_database: str, db: Db, name: str) -> None:
    async def started(jobs: AsyncJobs, number: int) -> tuple[str, UUID, int]:
        async with jobs.run(f"{name}_{number}") as run:
            assert isinstance(run, AsyncRun)
            run.processed(number)
            return run.name, run.id, number

    async def main() -> list[tuple[str, UUID, int]]:
        async with opened(module_database) as jobs:
            return await asyncio.gather(*(started(jobs, choose) for choose in random.Random(1).sample(range(50), 50)))

    runs = asyncio.run(main())
    found = db.execute("select job_name, id, rows_processed from cron_job_runs where job_name like %s", [name + "%"])
    assert sorted(found.fetchall()) == sorted(runs)


@pytest.mark.parametrize(
    ("wanted", "setting"), [("free, free", "on"), ("free, busy", "on"), ("busy, free", "on"), ("busy, busy", "off")]
)
def test_only_a_commit_that_has_refused_all_does_not_wait_for_the_disk(
    module_database: str, db: Db, name: str, wanted: str, setting: str
) -> None:
    db.execute("select start_job_run(%s)", [f"{name}_busy"])
    names = [
        f"{name}_{each}_{place}" if each == "free" else f"{name}_busy" for place, each in enumerate(wanted.split(", "))
    ]
    statement = start_job_run(Start(name, timedelta(hours=1)), uuid4()).batch_statement("public")
    with db.transaction():
        none = "{null,null}"
        arrays = ["{%s,%s}" % tuple(names), none, "{1h,1h}", '{"",""}', none, "{a,b}", none]  # noqa: UP031
        send_statement(db, statement, arrays)
        said = db.execute("select current_setting('synchronous_commit'), current_setting('lock_timeout')").fetchone()
        assert said == (setting, "100ms")


def test_a_run_with_retries_keeps_them_beside_others(module_database: str, db: Db, name: str) -> None:
    async def main() -> None:
        async with opened(module_database) as jobs:
            plain = (once(jobs, f"{name}_{number}", scope={"n": number} if number else None) for number in range(5))
            assert await asyncio.gather(once(jobs, name, retries=2, backoff="90 s"), *plain) == [True] * 6

    asyncio.run(main())
    found = db.execute(
        "select job_name, retries, backoff, scope from cron_job_runs where job_name like %s order by job_name",
        [name + "%"],
    ).fetchall()
    scopes = [{}, *({"n": number} for number in range(1, 5))]
    assert found[0] == (name, 2, timedelta(seconds=90), {})
    assert found[1:] == [(f"{name}_{number}", None, None, scope) for number, scope in enumerate(scopes)]


def test_an_overlap_within_one_statement_is_one(module_database: str, db: Db, name: str) -> None:
    started = asyncio.Event()

    async def hold(jobs: AsyncJobs) -> bool:
        async with jobs.run(name) as run:
            if run is not None:
                await started.wait()
            return run is not None

    async def main() -> list[bool]:
        async with opened(module_database) as jobs:
            tasks = [asyncio.create_task(hold(jobs)) for _ in range(30)]
            done: set[asyncio.Task[bool]] = set()
            while len(done) < 29:
                more, _ = await asyncio.wait(set(tasks) - done, return_when=asyncio.FIRST_COMPLETED)
                done |= more
            started.set()
            return await asyncio.gather(*tasks)

    assert sorted(asyncio.run(main())) == [False] * 29 + [True]
    assert statuses(db, name)[name] == ["skipped"] * 29 + ["succeeded"]
    blocked = db.execute(
        "select count(distinct s.blocked_by), bool_and(s.blocked_by = r.id) from cron_job_runs s, cron_job_runs r"
        " where s.job_name = %(name)s and s.status = 'skipped' and r.job_name = %(name)s and r.status = 'succeeded'",
        {"name": name},
    ).fetchone()
    assert blocked == (1, True)


def test_who_waits_for_a_lock_does_not_keep_the_others(module_database: str, db: Db, name: str) -> None:
    names = [f"{name}_{number}" for number in range(10)]

    async def main(other: Db) -> None:
        async with opened(module_database) as jobs:
            tasks = [asyncio.create_task(once(jobs, each)) for each in names]
            for task in tasks[:5] + tasks[6:]:
                assert await task
            assert not tasks[5].done()
            other.rollback()
            assert await tasks[5]

    with psycopg.connect(module_database) as other:
        other.execute("insert into cron_job_runs (job_name) values (%s)", [names[5]])
        asyncio.run(main(other))
    assert statuses(db, name) == {each: ["succeeded"] for each in names}


def test_a_connection_that_is_lost_costs_nobody_its_run(
    module_database: str, db: Db, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "BATCH_LOCK_TIMEOUT", "60s")
    names = [f"{name}_{number}" for number in range(10)]
    waiting = (
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where wait_event_type = 'Lock' and query like '%pgonce_start_job_runs%' and datname = current_database()"
    )

    async def main(other: Db) -> list[bool | BaseException]:
        async with opened(module_database) as jobs:
            runs = asyncio.create_task(all_at_once(jobs, names))
            await asyncio.to_thread(wait_until, lambda: bool(db.execute(waiting.encode()).fetchall()), "some wait")
            other.rollback()
            return await runs

    with psycopg.connect(module_database) as other:
        other.execute("insert into cron_job_runs (job_name) select unnest(%s::text[])", [names[2:]])
        assert asyncio.run(main(other)) == [True] * len(names)
    assert list(statuses(db, name).values()) == [["succeeded"]] * len(names)


@pytest.mark.parametrize("encoding", ["utf8", "latin1"])
def test_names_and_keys_arrive_as_they_are(module_database: str, db: Db, name: str, encoding: str) -> None:
    odd = ["NULL", "null", '"', "\\", '\\"', "{}", "a,b", "é", " ", "'", "$1", "%s", "line\nbreak", "\\N"]

    async def main(pool: AsyncConnectionPool[Any]) -> None:
        async with pool:
            jobs = AsyncJobs(pool)

            def run(each: str) -> Coroutine[Any, Any, bool]:
                return once(jobs, name + each, key=each, window="40 days 1 s")

            for _ in range(4):  # beyond the threshold for preparing
                assert await asyncio.gather(*map(run, odd)) == [True] * len(odd)
                assert [await run(each) for each in odd] == [True] * len(odd)

    async def with_pool() -> None:
        await main(AsyncConnectionPool(module_database, kwargs={"client_encoding": encoding}, open=False))

    asyncio.run(with_pool())
    found = db.execute(
        "select job_name, key, count(*), min(scope::text), min(run_window) = '40 days 1 s', min(status), max(retries)"
        " from cron_job_runs where job_name like %s group by 1, 2",
        [name + "%"],
    ).fetchall()
    assert sorted(found) == sorted((name + each, each, 8, "{}", True, "succeeded", None) for each in odd)


def test_two_processes_that_start_the_same_jobs_in_opposite_orders(module_database: str, db: Db, name: str) -> None:
    names = [f"{name}_{number:02}" for number in range(40)]
    gun = asyncio.Event()

    async def hold(jobs: AsyncJobs, job: str) -> bool:
        async with jobs.run(job) as run:
            if run is not None:
                await gun.wait()
            return run is not None

    async def main() -> None:
        async with opened(module_database) as one, opened(module_database) as other:
            forth = [asyncio.create_task(hold(one, each)) for each in names]
            back = [asyncio.create_task(hold(other, each)) for each in reversed(names)]
            done: set[asyncio.Task[bool]] = set()
            while len(done) < 40:
                more, _ = await asyncio.wait({*forth, *back} - done, return_when=asyncio.FIRST_COMPLETED)
                done |= more
            assert not any(task.result() for task in done)
            gun.set()
            for mine, theirs in zip(forth, reversed(back), strict=True):
                assert sorted([await mine, await theirs]) == [False, True]

    asyncio.run(main())
    assert statuses(db, name) == {each: ["skipped", "succeeded"] for each in names}


@pytest.mark.parametrize("scope", [{}, {"user_id": 7}], ids=["together", "alone"])
def test_a_start_that_was_cancelled_is_closed_although_others_hold_the_pool(
    module_database: str, db: Db, name: str, scope: dict[str, int]
) -> None:
    """Start is sent, its caller is cancelled, another gets the connection: the close has to find one of its own."""
    rows = "select status, error_message from cron_job_runs where job_name = %s"
    waits = "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"

    async def main() -> None:
        over = asyncio.Event()
        async with await open_async_pool(module_database, 1) as pool:
            pool.timeout = 0.1

            async def hold() -> None:
                async with pool.connection(60):
                    await over.wait()

            with psycopg.connect(module_database) as locker:
                locker.execute("lock table cron_job_runs in share mode")
                task = asyncio.create_task(once(AsyncJobs(pool), name, scope=scope))
                await asyncio.to_thread(wait_until, lambda: db.execute(waits).rowcount, "the start is sent")
                holder = asyncio.create_task(hold())
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.sleep(0)
            closed = [("failed", "cancelled before it had begun")]
            ended = lambda: db.execute(rows, [name]).fetchall() == closed  # noqa: E731
            await asyncio.to_thread(wait_until, ended, "the run is closed")
            over.set()
            await holder
            assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)

    asyncio.run(main())


@pytest.mark.parametrize("scope", [{}, {"user_id": 7}], ids=["together", "alone"])
def test_whoever_is_cancelled_while_it_starts_leaves_no_run_behind(
    module_database: str, db: Db, name: str, scope: dict[str, int]
) -> None:
    choose = random.Random(7)

    async def work(jobs: AsyncJobs, job: str) -> None:
        async with jobs.run(job, scope=scope) as run:
            assert isinstance(run, AsyncRun)
            await asyncio.sleep(0)

    async def main() -> int:
        async with opened(module_database) as jobs:
            tasks = []
            for number in range(300):
                tasks.append(asyncio.create_task(work(jobs, f"{name}_{number}")))
                if number % 10 == 9:
                    await asyncio.sleep(choose.random() / 500)
                    for task in choose.sample(tasks, len(tasks) // 3):
                        task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            running = "select count(*) from cron_job_runs where job_name like %s and status = 'running'"
            closed = lambda: db.execute(running.encode(), [name + "%"]).fetchone() == (0,)  # noqa: E731
            await asyncio.to_thread(wait_until, closed, "the runs of the cancelled are closed")
            return sum(isinstance(each, asyncio.CancelledError) for each in ends)

    assert asyncio.run(main()) > 20
