"""What a stopped worker of Procrastinate does to its successor under the same lock, to compare with test_zombies.

    python -m tests.faults.jobs.zombies_at_procrastinate --rounds 20     prints which rows were committed

A round: a worker's process runs a job under a lock and is stopped (SIGSTOP) in the middle of its writes and past its
heartbeats; a second process does what Procrastinate documents for stalled jobs (get_stalled_jobs, retry_job), works as
a worker, gets the job and writes; the first goes on (SIGCONT) with its job. Heartbeats and limits are a hundredth of
Procrastinate's defaults (10 s and 30 s), their ratio is kept.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from pgonce.core import embedded
from tests.conftest import with_database
from tests.faults.jobs.test_zombies import ROOT, number

HEARTBEAT, STALLED = 0.1, 0.3
"""Seconds; Procrastinate's update_heartbeat_interval and stalled_worker_timeout."""
ROWS = 50
"""The writes of a job, each in its own transaction. The process is stopped before the twentieth."""

WORKER = """
import asyncio, sys
import procrastinate, psycopg

url, role, heartbeat, stalled, rows = sys.argv[1:]
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))

@app.task(name="work", pass_context=True)
async def work(context):
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        if role == "second":  # what it sees of the first; whatever comes later is a zombie's
            await conn.execute(
                "insert into written (job, seen) select %s, count(*) from written where job = %s",
                [context.job.id, context.job.id])
            print("took over", flush=True)
            return
        for _ in range(int(rows)):
            await conn.execute("insert into written (job) values (%s)", [context.job.id])
            print("wrote", flush=True)

async def main():
    async with app.open_async():
        if role == "second":
            while not (found := list(await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=float(stalled)))):
                await asyncio.sleep(0.02)
            for job in found:
                await app.job_manager.retry_job(job)
        else:
            await work.configure(lock="zombie").defer_async()
        await app.run_worker_async(
            wait=False, update_heartbeat_interval=float(heartbeat), stalled_worker_timeout=float(stalled))

asyncio.run(main())
"""
TABLE = "create table written (job bigint, seen integer)"
LATE = (
    "from (select (select count(*) from written z where z.job = s.job and z.seen is null) - s.seen as late"
    " from written s where s.seen is not null) each"
)
LANDED = f"select coalesce(sum(late), 0) {LATE}"
ROUNDS = f"select count(*) filter (where late > 0) {LATE}"
TAKEN = "select count(*) from written where seen > 0"


def start(url: str, role: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, url, role, str(HEARTBEAT), str(STALLED), str(ROWS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def one_round(url: str) -> None:
    first = start(url, "first")
    try:
        assert first.stdout is not None
        for _ in range(random.randint(1, 20)):
            assert first.stdout.readline() == "wrote\n"
        os.kill(first.pid, signal.SIGSTOP)
        second = start(url, "second")
        try:
            said, errors = second.communicate(timeout=60)
        finally:
            second.kill()
        assert said == "took over\n", errors
        os.kill(first.pid, signal.SIGCONT)
        first.communicate(timeout=60)
    finally:
        first.kill()
        first.communicate()


def main() -> None:
    """Run many rounds, on a server for them alone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    try:
        version = importlib.metadata.version("procrastinate")
    except importlib.metadata.PackageNotFoundError:
        sys.exit("procrastinate is not installed: pip install procrastinate")
    with tempfile.TemporaryDirectory(prefix="pgonce-zombies-") as folder, embedded.start(Path(folder)) as server:
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute("create database zombies")
        url = with_database(server.url, "zombies")
        schema = "import procrastinate, sys; c = procrastinate.SyncPsycopgConnector(conninfo=sys.argv[1]); c.open();"
        schema += " procrastinate.App(connector=c).schema_manager.apply_schema()"
        subprocess.run([sys.executable, "-c", schema, url], check=True)
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(TABLE)
            started = time.monotonic()
            for _ in range(rounds):
                one_round(url)
            assert number(conn, TAKEN) == rounds, "every job was taken over"
            sys.stdout.write(
                f"Procrastinate {version}: {rounds} rounds in {time.monotonic() - started:.0f} s: zombie writes that"
                f" landed: {number(conn, LANDED)}, in {number(conn, ROUNDS)} rounds\n"
            )


if __name__ == "__main__":
    main()
