"""The guard: runs acquired and completed per second over eight connections, durable commits.

It is compared with pgbench, which runs the two statements without a guard on the specification's own table: an insert
and an update. pgbench runs once with prepared statements, which is faster, and once without them: that is its default,
and the case behind a pooler. Each connection has a job of its own, so that only the calls are measured;
refused starts are all blocked by one run."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import statistics
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import psycopg

import pgonce
from bench.procrastinate_lock import with_procrastinate
from bench.result import Result
from bench.scheduler import figures, idle_load, tick_delay
from bench.server import new_database, pgbench
from pgonce.core import database

CLIENTS = 8
SPECIFIED = """
create table cron_job_runs (
  id uuid primary key default gen_random_uuid(), job_name text not null,
  status text not null default 'running' check (status in ('running', 'succeeded', 'failed', 'skipped')),
  scope jsonb default '{}', rows_processed integer default 0, rows_skipped integer default 0, error_message text,
  started_at timestamptz not null default now(), completed_at timestamptz, duration_ms integer);
create index idx_cron_runs_job_name on cron_job_runs (job_name, started_at desc);
create index idx_cron_runs_status on cron_job_runs (status) where status = 'running';
create index idx_cron_runs_started on cron_job_runs (started_at desc);
"""
BARE = """
insert into cron_job_runs (job_name) values ('job_' || :client_id) returning id \\gset
update cron_job_runs set status = 'succeeded', completed_at = now(), rows_processed = 1, rows_skipped = 0,
  duration_ms = extract(epoch from now() - started_at) * 1000 where id = :id;
"""
FUNCTIONS = """
select start_job_run('job_' || :client_id) as id \\gset
select complete_job_run(:id, 1, 0);
"""
UNGUARDED = """
create function start_job_run(p_job_name text) returns uuid language plpgsql as $$
declare
  v_id uuid;
begin
  insert into cron_job_runs (job_name) values (p_job_name) returning id into v_id;
  return v_id;
end $$;
create function complete_job_run(p_run_id uuid, p_rows_processed integer, p_rows_skipped integer) returns boolean
language plpgsql as $$
begin
  update cron_job_runs set status = 'succeeded', completed_at = now(), rows_processed = p_rows_processed,
    rows_skipped = p_rows_skipped, duration_ms = extract(epoch from now() - started_at) * 1000 where id = p_run_id;
  return found;
end $$;
"""
REFUSED = """
select r, case when r is null then set_config('synchronous_commit', 'off', true) end from start_job_run('busy') as r;
"""


def _runs(url: str, script: str, mode: str, seconds: float) -> float:
    if mode == "simple":
        script = re.sub(r":id\b", "':id'", script)  # a variable is then part of the text
    return pgbench(url, script, clients=CLIENTS, seconds=seconds, mode=mode)


def bare(mode: str, seconds: float) -> float:
    with new_database(migrated=False) as url:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(SPECIFIED.encode())
        return _runs(url, BARE, mode, seconds)


def functions(mode: str, seconds: float) -> float:
    with new_database() as url:
        return _runs(url, FUNCTIONS, mode, seconds)


def unguarded(seconds: float) -> float:
    """The cost of two function calls that contain only the two statements."""
    with new_database(migrated=False) as url:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(SPECIFIED.encode())
            conn.execute(UNGUARDED.encode())
        return pgbench(url, FUNCTIONS, clients=CLIENTS, seconds=seconds)


def by_hand(seconds: float) -> float:
    """The cost of Python: psycopg in a thread for each connection, with only the two statements."""
    insert = "insert into cron_job_runs (job_name) values (%s) returning id"
    update = """
    update cron_job_runs set status = 'succeeded', completed_at = now(), rows_processed = 1, rows_skipped = 0,
      duration_ms = extract(epoch from now() - started_at) * 1000 where id = %s
    """
    with new_database(migrated=False) as url, ExitStack() as stack:
        conns = [stack.enter_context(psycopg.connect(url, autocommit=True)) for _ in range(CLIENTS)]
        conns[0].execute(SPECIFIED.encode())

        def one(number: int) -> None:
            found = conns[number].execute(insert, [f"job_{number}"], prepare=True).fetchone()
            conns[number].execute(update, found, prepare=True)

        return _threads(seconds, one)


def refused(seconds: float) -> float:
    """Each refusal leaves a skipped row."""
    with new_database() as url, psycopg.connect(url, autocommit=True) as conn:
        conn.execute("select start_job_run('busy', p_window => '1 hour')")
        rate = pgbench(url, REFUSED, clients=CLIENTS, seconds=seconds)
        found = conn.execute("select count(*) from cron_job_runs where status = 'skipped'").fetchone()
        assert found is not None
        assert found[0] >= rate * seconds * 0.9, "a refused start has left no row"
        return rate


def _threads(seconds: float, action: Callable[[int], None]) -> float:
    """Calls of ``action(number of the thread)`` per second, from ``CLIENTS`` threads."""
    counts = [0] * CLIENTS
    gun = threading.Barrier(CLIENTS + 1)
    ended = threading.Event()

    def client(number: int) -> None:
        action(number)  # connections are open and statements prepared
        gun.wait()
        while not ended.is_set():
            action(number)
            counts[number] += 1

    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(client, number) for number in range(CLIENTS)]
        gun.wait()
        started = time.perf_counter()
        time.sleep(seconds)
        ended.set()
        elapsed = time.perf_counter() - started
        for each in clients:
            each.result()
    return sum(counts) / elapsed


def from_threads(seconds: float) -> float:
    with new_database() as url, database.open_pool(url, CLIENTS) as pool:
        jobs = pgonce.Jobs(pool)

        def one(number: int) -> None:
            with jobs.run(f"job_{number}") as run:
                assert run is not None
                run.processed()

        return _threads(seconds, one)


def refused_from_threads(seconds: float) -> float:
    with new_database() as url, database.open_pool(url, CLIENTS + 1) as pool:
        jobs = pgonce.Jobs(pool)

        def one(_: int) -> None:
            with jobs.run("busy") as run:
                assert run is None

        with jobs.run("busy", window="1 hour"):
            return _threads(seconds, one)


def from_asyncio(tasks: int, seconds: float) -> float:
    """Runs of ``tasks`` tasks over at most eight connections: calls at the same time share their commits."""

    async def one(jobs: pgonce.AsyncJobs, number: int) -> None:
        async with jobs.run(f"job_{number}") as run:
            assert run is not None
            run.processed()

    async def main(url: str) -> float:
        async with await database.open_async_pool(url, CLIENTS) as pool:
            return await _tasks(tasks, seconds, partial(one, pgonce.AsyncJobs(pool)))

    with new_database() as url:
        return asyncio.run(main(url))


def refused_from_asyncio(seconds: float) -> float:
    async def one(jobs: pgonce.AsyncJobs, _: int) -> None:
        async with jobs.run("busy") as run:
            assert run is None

    async def main(url: str) -> float:
        async with await database.open_async_pool(url, CLIENTS) as pool:
            jobs = pgonce.AsyncJobs(pool)
            async with jobs.run("busy", window="1 hour"):
                return await _tasks(CLIENTS, seconds, partial(one, jobs))

    with new_database() as url:
        return asyncio.run(main(url))


async def _tasks(count: int, seconds: float, action: Callable[[int], Awaitable[None]]) -> float:
    """Calls of ``action(number of the task)`` per second, from ``count`` tasks."""
    done = 0
    ended = False

    async def client(number: int) -> None:
        nonlocal done
        while not ended:
            await action(number)
            done += 1

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(client(number))
        await asyncio.sleep(0.5)  # connections are open and statements prepared
        before, started = done, time.perf_counter()
        await asyncio.sleep(seconds)
        rate = (done - before) / (time.perf_counter() - started)
        ended = True
    return rate


def run(quick: bool) -> list[Result]:
    """All contenders alternately; ratios of medians."""
    seconds, rounds = (4.0, 1) if quick else (6.0, 5)
    contenders: dict[str, Callable[[float], float]] = {
        "bare": partial(bare, "prepared"), "unguarded": unguarded, "by hand": by_hand,
        "functions": partial(functions, "prepared"), "refused": refused,
        "bare, as pgbench comes": partial(bare, "simple"), "functions, as pgbench comes": partial(functions, "simple"),
        "threads": from_threads, "refused threads": refused_from_threads,
        "asyncio": partial(from_asyncio, CLIENTS), "asyncio 32": partial(from_asyncio, 32),
        "refused asyncio": refused_from_asyncio,
    }  # fmt: skip
    if importlib.util.find_spec("procrastinate"):
        contenders["procrastinate"] = partial(with_procrastinate, CLIENTS)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            rates[name].append(contender(seconds))
    median = {name: statistics.median(found) for name, found in rates.items()}
    procrastinate = median.get("procrastinate")

    def line(name: str, key: str, base: str, floor: float) -> Result:
        ratio = median[key] / median[base]
        limit = f">= {floor} x {base}"
        return Result(name, median[key], "per second", ratio, limit, ratio >= floor)

    def base(name: str, key: str) -> Result:
        return Result(name, median[key], "per second", median[key] / median["bare"], "of bare")

    simple = "bare, as pgbench comes"
    results = [
        Result("bare: pgbench, insert and update without a guard", median["bare"], "per second"),
        base("unguarded: the same in two functions", "unguarded"),
        base("by hand: the same by psycopg in 8 threads", "by hand"),
        line("functions: pgbench, start_job_run and complete_job_run", "functions", "bare", 0.9),
        Result("bare, as pgbench comes: nothing prepared", median[simple], "per second"),
        line("functions, as pgbench comes", "functions, as pgbench comes", simple, 0.9),
        line("asyncio: AsyncJobs.run, 8 at once", "asyncio", "bare", 0.7),
        line("asyncio: AsyncJobs.run, 32 at once", "asyncio 32", "bare", 0.7),
        line("threads: Jobs.run in 8 threads", "threads", "bare", 0.7),
        line("refused start with its row, pgbench", "refused", "functions", 3),
        line("refused start with its row, AsyncJobs.run, 8 at once", "refused asyncio", "asyncio", 3),
        line("refused start with its row, Jobs.run in 8 threads", "refused threads", "threads", 3),
    ]
    if procrastinate:
        results.append(Result("Procrastinate: defer with a lock, fetch, finish", procrastinate, "per second"))
        ratio = median["functions"] / procrastinate
        results.append(
            Result("functions", median["functions"], "per second", ratio, ">= 8 x Procrastinate", ratio >= 8)
        )
    delay = tick_delay(1000)
    results.append(
        Result("last start of 1,000 jobs due at once, after the tick", delay, "s", None, "<= 1 s", delay <= 1)
    )
    load = idle_load(1000, 20 if quick else 60)
    results.append(Result("scheduler with 1,000 idle jobs", load, "% of a core", None, "< 2 %", load < 2))
    runs = 100_000 if quick else 1_000_000
    wall, cpu = figures(runs)
    of = f"`job stats` for 30 days, {runs:,} runs of 1,000 jobs"
    results.append(Result(of, wall, "ms", None, "< 100 ms", wall < 100))
    results.append(Result(f"{of}: CPU of the database", cpu, "ms", None, "< 100 ms", cpu < 100))
    return results


if __name__ == "__main__":
    for each in run(quick=True):
        print(f"{each.name:60} {each.value:10,.2f} {each.unit:12} {each.ratio or 0:6.2f} {each.limit} {each.ok}")
