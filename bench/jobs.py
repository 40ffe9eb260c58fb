"""The guard: runs acquired and completed per second over eight connections, durable commits, and what a tick costs.

The yardstick is pgbench doing the two bare statements on the specification's own table: an insert and an update, no
guard. Each connection has a job of its own, so that only the calls are measured; refused starts all meet one run.
"""

from __future__ import annotations

import importlib.util
import resource
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg

import pgonce
from bench.procrastinate_lock import with_procrastinate
from bench.result import Result
from bench.server import new_database, pgbench
from pgonce import database
from pgonce.scheduler import Scheduler

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


def bare(seconds: float) -> float:
    with new_database(migrated=False) as url:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(SPECIFIED.encode())
        return pgbench(url, BARE, clients=CLIENTS, seconds=seconds)


def functions(seconds: float) -> float:
    with new_database() as url:
        return pgbench(url, FUNCTIONS, clients=CLIENTS, seconds=seconds)


def unguarded(seconds: float) -> float:
    """What two calls of functions cost: the bare statements alone in them."""
    with new_database(migrated=False) as url:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(SPECIFIED.encode())
            conn.execute(UNGUARDED.encode())
        return pgbench(url, FUNCTIONS, clients=CLIENTS, seconds=seconds)


def by_hand(seconds: float) -> float:
    """What Python costs: psycopg in a thread for each connection, the bare statements."""
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
        action(number)  # connections are open and statements known
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


def from_python(seconds: float) -> float:
    with new_database() as url, database.open_pool(url, CLIENTS) as pool:
        jobs = pgonce.Jobs(pool)

        def one(number: int) -> None:
            with jobs.run(f"job_{number}") as run:
                assert run is not None
                run.processed()

        return _threads(seconds, one)


def refused_from_python(seconds: float) -> float:
    with new_database() as url, database.open_pool(url, CLIENTS + 1) as pool:
        jobs = pgonce.Jobs(pool)

        def one(_: int) -> None:
            with jobs.run("busy") as run:
                assert run is None

        with jobs.run("busy", window="1 hour"):
            return _threads(seconds, one)


def nothing(_: pgonce.Run) -> None:
    """A job."""


def tick_delay(count: int) -> float:
    """Seconds from a tick to the start of its last run, of ``count`` jobs that are all due in the same minute."""
    app = pgonce.App()
    for number in range(count):
        app.job(f"job_{number}", cron="* * * * *")(nothing)
    with new_database() as url, psycopg.connect(url, autocommit=True) as conn:
        with Scheduler(app, url):
            while conn.execute("select count(*) from cron_job_runs").fetchone() != (count,):
                time.sleep(0.2)
        row = conn.execute(
            "select extract(epoch from max(started_at - scheduled_for))::float from cron_job_runs"
        ).fetchone()
        assert row is not None
        return float(row[0])


def idle_load(count: int, seconds: float) -> float:
    """Percent of a core that a scheduler with ``count`` jobs uses while none is due."""
    app = pgonce.App()
    later = datetime.now(UTC) + timedelta(hours=6)
    for number in range(count):
        app.job(f"job_{number}", cron=f"{number % 60} {later.hour} * * *")(nothing)
    with new_database() as url, Scheduler(app, url):
        time.sleep(1)
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        time.sleep(seconds)
        after, elapsed = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - started
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return used / elapsed * 100


def run(quick: bool) -> list[Result]:
    """Everything, in turns; ratios of medians."""
    seconds, rounds = (4.0, 1) if quick else (6.0, 5)
    contenders: dict[str, Callable[[float], float]] = {
        "bare": bare, "unguarded": unguarded, "by hand": by_hand, "functions": functions, "refused": refused,
        "python": from_python, "refused python": refused_from_python,
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

    results = [
        Result("bare: pgbench, insert and update without a guard", median["bare"], "per second"),
        base("unguarded: the same in two functions", "unguarded"),
        base("by hand: the same by psycopg in 8 threads", "by hand"),
        line("functions: pgbench, start_job_run and complete_job_run", "functions", "bare", 0.9),
        line("python: Jobs.run in 8 threads", "python", "bare", 0.7),
        line("refused start with its row, pgbench", "refused", "functions", 3),
        line("refused start with its row, Jobs.run", "refused python", "python", 3),
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
    return results


if __name__ == "__main__":
    for each in run(quick=True):
        print(f"{each.name:60} {each.value:10,.2f} {each.unit:12} {each.ratio or 0:6.2f} {each.limit} {each.ok}")
