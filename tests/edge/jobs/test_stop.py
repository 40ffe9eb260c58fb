"""When `pgonce worker` is stopped, its runs are asked to stop at once.

Those that do not end in time are started anew.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.conftest import wait_until
from tests.forked import PGONCE, Forked

Connection = psycopg.Connection[Any]
APP = """
import asyncio, multiprocessing, subprocess, threading, time
import pgonce
app = pgonce.App()

@app.job("polls", every="1 s", catch_up="last")
def polls(run):
    while not run.stop_requested:
        time.sleep(0.01)

@app.job("sleeps", every="1 s", catch_up="last")
async def sleeps(run):
    await asyncio.sleep(3600)

@app.job("ends_itself", every="1 s", catch_up="last")
def ends_itself(run):
    while not run.stop_requested:
        time.sleep(0.01)
    raise ValueError("interrupted in the middle")

@app.job("child", every="1 s", catch_up="last")
def child(run):
    subprocess.run(["sleep", "3600"], check=True)

@app.job("deaf", every="1 s", catch_up="last")
def deaf(run):
    threading.Event().wait()

@app.job("stubborn", every="1 s", catch_up="last")
async def stubborn(run):
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

@app.job("exits", every="1 s", catch_up="last")
def exits(run):
    raise SystemExit(0)

@app.job("exits_async", every="1 s", catch_up="last")
async def exits_async(run):
    raise SystemExit(0)

@app.job("fails_to_exit", every="1 s", catch_up="last")
async def fails_to_exit(run):
    raise SystemExit("")  # the exit code is 1

def waits(pipe):
    pipe.send("ready")
    time.sleep(3600)

@app.job("forks", every="1 s", catch_up="last")
def forks(run):
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    child = fork.Process(target=waits, args=[theirs])
    child.start()
    ours.recv()
    child.terminate()
    child.join()

@app.job("finishes", every="1 s", catch_up="last")
def finishes(run):
    with run.transaction() as tx:
        while not tx.execute("select 1 from pg_class where relname = 'go_on'").fetchone():
            time.sleep(0.01)
"""


@pytest.fixture
def worker(database: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``pgonce worker`` beside the app above, with these of its jobs."""
    started: list[subprocess.Popen[str]] = []

    def start(*jobs: str, timeout: str = "20", name: str = "worker") -> subprocess.Popen[str]:
        kept = f"app.jobs = {{name: job for name, job in app.jobs.items() if name in {jobs!r}}}\n"
        (tmp_path / "clockwork.py").write_text(APP + kept)
        command: list[str | Path] = [
            PGONCE, name, "--app", "clockwork", "--shutdown-timeout", timeout, "--database-url", database,
            *(["--port", "0"] if name == "serve" else []),
        ]  # fmt: skip
        env = {**os.environ, "PGONCE_WEBHOOK_SECRET": "whsec_test"}
        started.append(Forked(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE))
        return started[-1]

    # a shell ignores SIGINT for background jobs, and nohup ignores SIGHUP; processes that the tests start would inherit
    # it
    usual = {each: signal.signal(each, signal.default_int_handler) for each in (signal.SIGINT, signal.SIGHUP)}
    yield start
    for each, handler in usual.items():
        signal.signal(each, handler)
    for process in started:
        left = psutil.Process(process.pid).children() if process.poll() is None else []  # they have its stderr, too
        for each in (process, *left):
            each.kill()
        process.communicate()


def runs(conn: Connection, where: str = "true") -> list[Any]:
    query = (
        f"select job_name, status, error_message from cron_job_runs where status <> 'skipped' and {where} order by 1"
    )
    return conn.execute(query.encode()).fetchall()


def due(conn: Connection) -> list[str]:
    query = "select job_name from pgonce_job_retries where due_at <= clock_timestamp() order by 1"
    return [name for (name,) in conn.execute(query).fetchall()]


# a terminal that is closed sends SIGHUP twice, and systemd may send it after SIGTERM
@pytest.mark.parametrize("sent", ["TERM", "INT", "HUP", "HUP HUP", "TERM HUP"])
@pytest.mark.parametrize("name", ["worker", "serve"])
def test_a_signal_reaches_the_runs_at_once_and_leaves_them_failed_and_due_again(
    worker: Callable[..., subprocess.Popen[str]], conn: Connection, name: str, sent: str
) -> None:
    process = worker("polls", "sleeps", "ends_itself", timeout="1000", name=name)
    wait_until(lambda: len(runs(conn, "status = 'running'")) == 3, "three runs", 60)
    if name == "serve":
        assert process.stderr is not None
        stderr = process.stderr
        wait_until(lambda: "startup complete" in stderr.readline(), "the server", 60)
    for each in sent.split():
        process.send_signal(getattr(signal, f"SIG{each}"))
    assert process.wait(60) == 0, "it did not wait for its time limit"
    assert process.stderr is not None
    assert "on request" not in process.stderr.read(), "nobody has asked a run to stop"
    names = ["ends_itself", "polls", "sleeps"]
    # a set: the start of a next tick may be under way when the signal arrives, and it ends in the same way
    assert set(runs(conn)) == {(name, "failed", "worker stopped") for name in names}
    assert sorted(set(due(conn))) == names
    assert conn.execute("select * from pgonce_processes").fetchall() == [], "a clean stop"


@pytest.mark.parametrize("name", ["worker", "serve"])
def test_a_run_that_does_not_end_in_time_is_closed_and_another_worker_starts_it_anew(
    worker: Callable[..., subprocess.Popen[str]], conn: Connection, name: str
) -> None:
    process = worker("deaf", "stubborn", timeout="0.5", name=name)
    wait_until(lambda: len(runs(conn, "status = 'running'")) == 2, "two runs", 60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert runs(conn) == [(name, "failed", "worker stopped") for name in ("deaf", "stubborn")]
    assert due(conn) == ["deaf", "stubborn"]
    worker("deaf", "stubborn", timeout="0.5")
    wait_until(lambda: len(runs(conn, "status = 'running'")) == 2, "both run again", 60)


def test_a_run_whose_child_process_the_signal_has_ended_is_due_again(
    worker: Callable[..., subprocess.Popen[str]], conn: Connection
) -> None:
    """systemd signals all processes of a unit, and a terminal all of the foreground."""
    process = worker("child", timeout="1000")
    children = wait_until(lambda: psutil.Process(process.pid).children(), "the child process", 60)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    stderr = process.stderr
    wait_until(lambda: "stopping" in stderr.readline(), "the signal", 60)
    for each in children:
        each.terminate()
    assert process.wait(60) == 0
    assert runs(conn) == [("child", "failed", "worker stopped")]
    assert due(conn) == ["child"]


@pytest.mark.parametrize("name", ["worker", "serve"])
def test_a_signal_ends_a_forked_child_of_a_job(
    worker: Callable[..., subprocess.Popen[str]], conn: Connection, name: str
) -> None:
    process = worker("forks", name=name)
    assert process.stderr is not None
    stderr = process.stderr
    last = "startup complete" if name == "serve" else "worker started"
    wait_until(lambda: last in stderr.readline(), "the start", 60)
    began = "select clock_timestamp()"
    since = conn.execute(began.encode()).fetchone()
    ended = "select from cron_job_runs where status = 'succeeded' and started_at > %s"
    wait_until(lambda: conn.execute(ended.encode(), since).fetchone() is not None, "the end of a run", 60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_a_run_that_gets_to_its_end_in_time_has_succeeded(
    worker: Callable[..., subprocess.Popen[str]], conn: Connection
) -> None:
    process = worker("finishes", timeout="1000")
    looks = "select from pg_stat_activity where query like '%go_on%' and pid <> pg_backend_pid()"
    wait_until(lambda: conn.execute(looks.encode()).fetchone() is not None, "the run", 60)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    stderr = process.stderr
    wait_until(lambda: "stopping" in stderr.readline(), "the signal", 60)
    conn.execute("create table go_on ()")
    assert process.wait(60) == 0
    assert runs(conn) == [("finishes", "succeeded", None)]
    assert due(conn) == []


def test_a_signal_that_reaches_another_thread_than_the_main_one_ends_the_worker(
    worker: Callable[..., subprocess.Popen[str]], conn: Connection
) -> None:
    process = worker("polls")
    wait_until(lambda: runs(conn, "status = 'running'"), "a run", 60)
    other = next(each.id for each in psutil.Process(process.pid).threads() if each.id != process.pid)
    assert ctypes.CDLL(None).tgkill(process.pid, other, signal.SIGTERM) == 0
    assert process.wait(60) == 0


def test_sys_exit_in_a_job_ends_its_run_and_neither_a_thread_nor_the_event_loop(
    worker: Callable[..., subprocess.Popen[str]], conn: Connection
) -> None:
    process = worker("exits", "exits_async", "fails_to_exit")
    ended = (
        "select job_name, status from cron_job_runs where status in ('succeeded', 'failed')"
        " group by 1, 2 having count(*) > 2"
    )
    expected = [("exits", "succeeded"), ("exits_async", "succeeded"), ("fails_to_exit", "failed")]
    wait_until(lambda: sorted(conn.execute(ended.encode()).fetchall()) == expected, "three runs of each", 60)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "exits failed" not in said
    assert "exits_async failed" not in said
    assert "fails_to_exit failed" in said
