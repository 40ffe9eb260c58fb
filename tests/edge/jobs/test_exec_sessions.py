"""`pgonce exec` stops all that its command has started, whatever their process groups, also when it is suspended."""

from __future__ import annotations

import os
import shutil
import signal
from typing import Any

import psycopg
import pytest

from tests.conftest import wait_until
from tests.edge.jobs.test_exec import Exec, alive, last_run, start  # noqa: F401 -- a fixture

Connection = psycopg.Connection[Any]
GROUPS = {
    "timeout": "timeout 1000 sh -c 'echo $$; read line'; true",
    "job control": """bash -c 'set -m; sh -c "echo \\$\\$; read line" <&0 & wait'""",
    "a group of its own": "perl -e 'setpgrp; exec @ARGV' sh -c 'echo $$; read line'; true",
}
"""Each prints the id of a process that is not in the group of the shell, but in its session."""


@pytest.fixture(params=GROUPS)
def grouped(request: pytest.FixtureRequest) -> str:
    script = GROUPS[request.param]
    if not shutil.which(script.split()[0]):
        pytest.skip(f"{script.split()[0]} is not installed")
    return script


def begun(child: Any) -> int:
    assert child.stdout is not None
    return int(child.stdout.readline())


def test_a_run_that_is_stopped_ends_after_processes_with_a_group_of_their_own(
    start: Exec,  # noqa: F811
    conn: Connection,
    grouped: str,
) -> None:
    child = start(grouped, "--grace", "10s")
    pid = begun(child)
    assert os.getpgid(pid) != os.getsid(pid)
    child.send_signal(signal.SIGTERM)
    child.wait(30)
    assert not alive(pid), "a successor would run beside it"
    assert last_run(conn)[1] == "failed"


def test_processes_with_a_group_of_their_own_end_with_a_killed_pgonce(start: Exec, grouped: str) -> None:  # noqa: F811
    child = start(grouped)
    pid = begun(child)
    os.kill(child.pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), "nobody watches it any more")


def test_the_command_of_a_suspended_pgonce_has_ended_before_a_successor_may_start(
    start: Exec,  # noqa: F811
    conn: Connection,
) -> None:
    child = start("trap '' TERM; echo $$; read line", "--window", "5s", "--grace", "1h")
    pid = begun(child)
    os.kill(child.pid, signal.SIGSTOP)  # SIGTSTP does nothing where no shell could resume the process
    successor: list[Any] = []

    def started() -> bool:
        successor[:] = conn.execute("select start_job_run('job')").fetchone() or ()
        return successor[0] is not None

    wait_until(started, "the window is over")
    assert not alive(pid)
    os.kill(child.pid, signal.SIGCONT)
    assert child.wait(30) == 137
    assert conn.execute("select status from cron_job_runs where id = %s", successor).fetchone() == ("running",)


def test_the_command_of_a_pgonce_that_is_suspended_for_a_moment_goes_on(start: Exec, conn: Connection) -> None:  # noqa: F811
    child = start("echo $$; read line", "--window", "30s")
    begun(child)
    os.kill(child.pid, signal.SIGSTOP)
    os.kill(child.pid, signal.SIGCONT)
    child.communicate("\n", timeout=30)
    assert child.returncode == 0
    assert last_run(conn)[1] == "succeeded"
