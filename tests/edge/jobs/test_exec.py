"""`pgonce exec` runs any command as a run.

The processes are real, and the tests wait for what they do without sleeping.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce.cli.process_group import STATUS_UNKNOWN, Group
from tests.conftest import wait_until
from tests.edge.command import pgonce, running
from tests.forked import PGONCE, Forked

Connection = psycopg.Connection[Any]
Exec = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(database: str) -> Iterator[Exec]:
    """Starts ``pgonce exec job ... -- sh -c script``; killed after the test."""
    opened: list[subprocess.Popen[str]] = []
    # a shell ignores it for background jobs, and processes that the tests start would inherit that
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)

    def popen(script: str, *options: str, name: str = "job") -> subprocess.Popen[str]:
        command: list[str | Path] = [
            PGONCE,
            "exec",
            name,
            *options,
            "--database-url",
            database,
            "--",
            "sh",
            "-c",
            script,
        ]
        opened.append(Forked(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return opened[-1]

    yield popen
    signal.signal(signal.SIGINT, usual)
    for each in opened:
        each.kill()
        each.communicate()


def test_a_signal_ends_a_command_that_waits_for_its_database(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d"
        with running(url, "exec", "job", "true", cwd=tmp_path) as command, silent.accept()[0]:
            command.process.send_signal(signal.SIGTERM)
            assert command.process.wait(20) == -signal.SIGTERM


def last_run(conn: Connection) -> tuple[Any, ...]:
    row = conn.execute(
        "select id::text, status, error_message from cron_job_runs order by started_at desc limit 1"
    ).fetchone()
    assert row is not None
    return row


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def processes_of(run_id: str) -> list[int]:
    found = []
    for each in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended meanwhile
            if f"PGONCE_RUN_ID={run_id}".encode() in each.read_bytes():
                found.append(int(each.parent.name))
    return found


def test_a_command_that_succeeds_is_a_run_that_succeeded_and_finds_its_ids(start: Exec, conn: Connection) -> None:
    child = start('echo "$PGONCE_RUN_ID $PGONCE_IDEMPOTENCY_KEY"; cat', "--scope", '{"batch": 3}')
    out, err = child.communicate("", timeout=30)
    assert (child.returncode, err) == (0, "")
    run_id, status, message = last_run(conn)
    assert (out.split(), status, message) == ([run_id, run_id], "succeeded", None)
    assert conn.execute("select scope, rows_processed from cron_job_runs").fetchone() == ({"batch": 3}, 0)


def test_a_command_that_fails_leaves_its_exit_code_and_its_last_lines(start: Exec, conn: Connection) -> None:
    child = start("i=0; while [ $i -lt 2000 ]; do echo line $i >&2; i=$((i+1)); done; exit 42")
    _, err = child.communicate(timeout=30)
    assert child.returncode == 42
    assert len(err.splitlines()) == 2000, "it is still shown, all of it"
    _, status, message = last_run(conn)
    assert status == "failed"
    assert message.endswith("line 1999\nexit code 42")
    assert len(message) < 4100


LOUD = "i=0; while [ $i -lt 3000 ]; do echo a line of which two thousand fill a pipe $i >&2; i=$((i+1)); done"


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", "2>&1 | true"])
def test_a_command_runs_on_when_what_it_says_can_be_written_nowhere(
    database: str, conn: Connection, where: str
) -> None:
    command = [str(PGONCE), "exec", "job", "--database-url", database, "--", "sh", "-c", f"{LOUD}; exit 3"]
    child = subprocess.Popen(["sh", "-c", f'"$@" {where}', "sh", *command], start_new_session=True)
    try:
        code = child.wait(30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    assert code == (0 if "|" in where else 3)
    _, status, message = last_run(conn)
    assert status == "failed"
    assert message.endswith("fill a pipe 2999\nexit code 3")


def test_a_command_is_stopped_when_nobody_reads_what_it_says(start: Exec, conn: Connection) -> None:
    assert start("while :; do echo a line >&2; done", "--timeout", "1s").wait(30) == 124
    assert last_run(conn)[2].startswith("timed out after ")


@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "made non-blocking by another process"])
def test_all_that_a_command_says_reaches_who_reads_it_late(database: str, conn: Connection, blocking: bool) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, blocking)
    # its guard stops the command after 4.5 s of silence: with a shorter window a slow machine's pause is long enough
    command: list[str | Path] = [PGONCE, "exec", "job", "--window", "9s", "--database-url", database, "--"]
    loud = [*command, "sh", "-c", f"{LOUD}; exit 3"]
    with subprocess.Popen(loud, stderr=writing) as child, os.fdopen(reading) as said:
        os.close(writing)
        # a heartbeat after a full pipe: pgonce waits, and its run with it
        wait_until(lambda: (conn.execute(WAITS.encode()).fetchone() or (False,))[0], "it waits, or has ended")
        assert len(said.read().splitlines()) == 3000
    assert child.returncode == 3
    assert last_run(conn)[2].endswith("fill a pipe 2999\nexit code 3")


WAITS = "select status <> 'running' or heartbeat_at > started_at + interval '2 s' from cron_job_runs"


@pytest.mark.parametrize(
    ("script", "code", "says"),
    [
        ("kill -9 $$", 137, "ended by signal 9"),
        ("exec /nonexistent", 127, "exit code 127"),
        ("exit 75", 75, "exit code 75"),
    ],
)
def test_however_a_command_ends_its_shell_exit_code_is_passed_on(
    start: Exec, conn: Connection, script: str, code: int, says: str
) -> None:
    child = start(script)
    child.communicate(timeout=30)
    assert child.returncode == code
    assert last_run(conn)[2].endswith(says)


@pytest.mark.parametrize(("script", "code"), [("exit 5", 5), ("exit 0", 0), ("kill -9 $$", 137)])
def test_an_exit_status_is_known_where_the_parent_ignores_sigchld(
    database: str, conn: Connection, script: str, code: int
) -> None:
    command = [str(PGONCE), "exec", "job", "--database-url", database, "--", "sh", "-c", script]
    done = subprocess.run(["bash", "-c", "trap '' CHLD; \"$@\"; exit $?", "bash", *command], check=False)
    assert done.returncode == code
    assert last_run(conn)[1] == ("failed" if code else "succeeded")


def test_an_exit_status_that_another_has_read_is_not_a_success() -> None:
    group = Group("/bin/sh", ["sh", "-c", "exit 0"], os.environ, 1, 60)
    os.waitpid(group.leader.pid, 0)
    assert group.has_ended(10)
    group.release()
    assert group.leader.stderr is not None
    group.leader.stderr.close()
    assert group.leader.returncode == STATUS_UNKNOWN


@pytest.mark.parametrize("number", [signal.SIGPIPE, signal.SIGXFSZ])
def test_what_python_ignores_ends_a_command_as_it_would_without_us(start: Exec, number: signal.Signals) -> None:
    child = start(f"kill -{int(number)} $$; exit 0")
    child.communicate(timeout=30)
    assert child.returncode == 128 + number


LINES = {
    "a file of its own": "{} sh -c 'echo to 3 >&3; echo to 1' 3>&1",
    "process substitution": "{} cat <(echo one) <(echo two)",
    "a lock": "exec 9>lock; flock -n 9 && {} sh -c 'flock -n 9 && echo mine; flock -n lock true; echo $?'",
    "no other files": "{} sh -c 'ls /proc/$$/fd' | xargs",
    "a limit and a mask": "ulimit -Sn 200; umask 027; {} sh -c 'ulimit -Sn; umask'",
    "a folder": "cd /; {} pwd",
    "a pipe": "printf 'x\\n%.0s' 1 2 3 | {} cat | tr x y",
    "a variable": "A='1 2' {} sh -c 'echo \"$A\"'",
    "signals that are ignored": "trap '' INT TERM; {} sh -c 'kill -INT $$; kill -TERM $$; echo on'",
    "no locale": "env -u LANG -u LC_ALL -u LC_CTYPE {} sh -c 'echo \"<${{LC_CTYPE-none}}>\"'",
    "a locale": "env -u LANG -u LC_ALL LC_CTYPE=C.UTF-8 {} sh -c 'echo \"<${{LC_CTYPE-none}}>\"'",
    "an empty PATH": "PATH= {} /bin/sh -c 'echo \"<$PATH>\"'",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_put_in_front_of_a_line_it_changes_nothing(database: str, conn: Connection, tmp_path: Path, line: str) -> None:
    ours = f"{PGONCE} exec job --database-url '{database}' --"
    plain, guarded = (
        subprocess.run(["bash", "-c", line.format(each)], cwd=tmp_path, capture_output=True, text=True, check=False)
        for each in ("", ours)
    )
    assert (guarded.returncode, guarded.stdout) == (plain.returncode, plain.stdout), guarded.stderr
    assert last_run(conn)[1] == "succeeded"


def test_a_command_under_nohup_outlives_its_terminal(database: str) -> None:
    command: list[str | Path] = ["nohup", PGONCE, "exec", "job", "--database-url", database, "--"]
    done = subprocess.run([*command, "sh", "-c", "kill -HUP $$; exit 7"], stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 7


def test_a_command_that_is_not_there_is_127(database: str, conn: Connection) -> None:
    assert pgonce(database, "exec", "job", "--", "no-such-command") == (
        127, "", "pgonce: no-such-command: not found\n",
    )  # fmt: skip
    assert last_run(conn)[1:] == ("failed", "no-such-command: not found")


def test_a_line_for_a_shell_is_told_apart_from_a_program(database: str) -> None:
    said = "pgonce: echo a && echo b: not found; a line for a shell is run by: sh -c '...'\n"
    assert pgonce(database, "exec", "job", "--", "echo a && echo b") == (127, "", said)


@pytest.mark.parametrize("where", ["by path", "on PATH"])
def test_a_file_that_is_not_executable_is_126(database: str, conn: Connection, tmp_path: Path, where: str) -> None:
    (tmp_path / "show.sh").write_text("echo never\n")
    command = str(tmp_path / "show.sh") if where == "by path" else "show.sh"
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert pgonce(database, "exec", "job", command, PATH=path) == (126, "", f"pgonce: {command}: permission denied\n")
    assert last_run(conn)[1:] == ("failed", f"{command}: permission denied")


@pytest.mark.parametrize("first", [b"#!/no/such/interpreter", b"#!/bin/sh\r"], ids=["missing", "of Windows"])
def test_a_script_whose_interpreter_is_not_there_is_127(
    database: str, conn: Connection, tmp_path: Path, first: bytes
) -> None:
    script = tmp_path / "script"
    script.write_bytes(first + b"\necho hi\n")
    script.chmod(0o755)
    said = f"pgonce: {script}: its interpreter was not found\n"
    assert pgonce(database, "exec", "job", str(script)) == (127, "", said)
    assert last_run(conn)[1] == "failed"


def test_a_script_without_a_first_line_runs_as_under_sh(database: str, conn: Connection, tmp_path: Path) -> None:
    script = tmp_path / "show.sh"
    script.write_text('echo "$0" "$@"; exit 4\n')
    script.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    for command in ("show.sh", str(script)):
        assert pgonce(database, "exec", "job", command, "a b", PATH=path) == (4, f"{script} a b\n", "")
    script.write_bytes(b"\x7fELF\0\0\0")
    assert pgonce(database, "exec", "job", str(script))[0] == 126
    assert last_run(conn)[1] == "failed"


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        (["job", "SHOW", "--schema", "other", "--timeout", "5s"], "--schema other --timeout 5s"),
        (["--key", "k", "job", "--window=1h", "SHOW", "-h", "--", "x"], "-h -- x"),
        (["job", "--", "SHOW", "--", "--key", "x"], "-- --key x"),
        (["--scope", '{"a": 1}', "--", "job", "SHOW", "--help"], "--help"),
    ],
)
def test_everything_after_the_command_belongs_to_the_command(
    database: str, tmp_path: Path, arguments: list[str], passed: str
) -> None:
    script = tmp_path / "show.sh"
    script.write_text('#!/bin/sh\necho "$@"\n')
    script.chmod(0o755)
    given = [str(script) if each == "SHOW" else each for each in arguments]
    assert pgonce(database, "exec", *given) == (0, passed + "\n", "")


def test_a_second_one_exits_with_75_and_leaves_a_row_and_another_key_runs_beside_it(
    start: Exec, conn: Connection
) -> None:
    first = start("echo begun; read line")
    # communicate() closes the stdin of the second process; that of this one stays open
    assert first.stdout is not None
    assert first.stdout.readline() == "begun\n"
    second, other = start("echo never"), start("echo beside", "--key", "b")
    out, err = second.communicate(timeout=30)
    assert (second.returncode, out, err) == (75, "", "job: skipped, another run is at work or this tick has fired\n")
    assert other.communicate(timeout=30)[0] == "beside\n"
    assert conn.execute(
        "select count(*) from cron_job_runs where status = 'skipped' and blocked_by is not null"
    ).fetchone() == (1,)


def test_a_tick_fires_once(start: Exec, conn: Connection) -> None:
    codes = []
    for _ in range(2):
        child = start("true", "--scheduled-for", "2026-01-01T06:00")
        child.communicate(timeout=30)
        codes.append(child.returncode)
    assert codes == [0, 75]
    assert conn.execute("select count(*) from cron_job_runs").fetchone() == (1,)


def test_a_command_finds_its_tick_in_its_environment_in_utc_and_a_key_for_what_it_sends(start: Exec) -> None:
    child = start('echo "$PGONCE_SCHEDULED_FOR $PGONCE_IDEMPOTENCY_KEY"', "--scheduled-for", "2026-01-01T07:00+01:00")
    out, _ = child.communicate(timeout=30)
    assert out.split() == ["2026-01-01T06:00:00+00:00", "job::2026-01-01T06:00:00+00:00"]
    child = start('echo "${PGONCE_SCHEDULED_FOR-none}"', name="no tick")
    assert child.communicate(timeout=30)[0] == "none\n"


def test_a_promise_made_by_exec_is_kept_in_the_table_and_told_when_it_is_broken(start: Exec, conn: Connection) -> None:
    child = start("true", "--expect-every", "1 day")
    assert child.communicate(timeout=30) == ("", "")
    promised = conn.execute("select job_name, every from pgonce_job_expectations").fetchall()
    assert promised == [("job", timedelta(days=1))]
    missed = "select reason from pgonce_job_missed"
    assert conn.execute(missed).fetchall() == []
    conn.execute("update cron_job_runs set started_at = now() - interval '25 hours', completed_at = now()")
    conn.execute("update pgonce_job_expectations set since = now() - interval '25 hours'")
    [(reason,)] = conn.execute(missed).fetchall()
    assert reason.startswith("it should run every 1 day; its last run succeeded at ")


def test_a_start_that_a_pause_refuses_says_so(start: Exec, conn: Connection) -> None:
    conn.execute("select pgonce_pause_job('job', 'the printer is broken')")
    child = start("echo never")
    assert child.communicate(timeout=30) == ("", "job: skipped, paused: the printer is broken\n")
    assert child.returncode == 75


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([b"bad\xff"], "'NAME': it is not UTF-8"),
        ([b"job", b"--key", b"bad\xff"], "'--key': it is not UTF-8"),
        ([b"job", b"--scheduled-for", b"0001-01-01T00:00+14:00"], "is not a time in the years 1 to 9999"),
        ([b"job", b"--scheduled-for", b"9999-12-31T23:00"], "is not a time in the years 1 to 9999"),
        ([b"job", b"--scheduled-for", b"999999 days"], "is not a time in the years 1 to 9999"),
    ],
)
def test_what_could_not_be_written_or_read_again_is_a_usage_error(
    database: str, conn: Connection, arguments: list[bytes], says: str
) -> None:
    command: list[str | bytes | Path] = [PGONCE, "exec", *arguments, "--database-url", database, "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert says in done.stderr
    assert conn.execute("select count(*) from cron_job_runs").fetchone() == (0,)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_a_command_that_cleans_up_is_waited_for(
    start: Exec, conn: Connection, number: signal.Signals
) -> None:
    child = start("trap 'echo cleaned; exit 3' TERM INT; echo begun; while :; do sleep 0.1; done")
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    child.send_signal(number)
    out, _ = child.communicate(timeout=30)
    assert (out, child.returncode) == ("cleaned\n", 3)
    _, status, message = last_run(conn)
    assert status == "failed"
    assert message.endswith("exit code 3")


def test_a_command_whose_pgonce_is_told_to_end_while_it_starts_the_run_does_not_begin(
    start: Exec, conn: Connection, session: Callable[..., Connection]
) -> None:
    holder = session(autocommit=False)
    holder.execute("lock table cron_job_runs in exclusive mode")
    child = start("echo begun")
    waits = "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    wait_until(lambda: conn.execute(waits).rowcount, "the start waits")
    child.send_signal(signal.SIGTERM)
    holder.rollback()
    assert (child.communicate(timeout=30)[0], child.returncode) == ("", 143)
    assert last_run(conn)[1:] == ("failed", "ended by SIGTERM before the command began")


def test_a_signal_of_the_command_s_own_is_passed_on_and_stops_nothing(start: Exec, conn: Connection) -> None:
    child = start(
        "trap 'echo reloaded' USR1; trap 'echo over; exit 0' USR2; echo begun; while :; do sleep 0.1; done",
        "--grace", "100ms",
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    for _ in range(2):
        child.send_signal(signal.SIGUSR1)
        assert child.stdout.readline() == "reloaded\n"
    child.send_signal(signal.SIGUSR2)
    assert (child.communicate(timeout=30)[0], child.returncode) == ("over\n", 0)
    assert last_run(conn)[1] == "succeeded"


def test_a_command_that_ignores_the_signal_is_killed_with_its_children_after_the_grace(
    start: Exec, conn: Connection
) -> None:
    child = start("trap '' TERM; sh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.1; done'", "--grace", "200ms")
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=30)
    assert child.returncode == 137
    wait_until(lambda: not alive(pid), "its child is gone, too")
    assert last_run(conn)[1] == "failed"


def test_a_command_whose_run_was_taken_over_is_stopped(start: Exec, conn: Connection) -> None:
    child = start("echo begun; while :; do sleep 0.1; done", "--window", "300ms")
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    conn.execute("select fail_job_run(id, 'taken') from cron_job_runs")
    _, err = child.communicate(timeout=30)
    assert child.returncode == 1
    assert "the run was lost" in err
    assert last_run(conn)[1:] == ("failed", "taken")


def test_a_command_that_is_asked_to_stop_or_takes_too_long_is_stopped(start: Exec, conn: Connection) -> None:
    child = start("echo begun; while :; do sleep 0.1; done", "--window", "300ms")
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    conn.execute("select pgonce_stop_job_run(id) from cron_job_runs")
    child.communicate(timeout=30)
    assert child.returncode == 1
    assert last_run(conn)[1:] == ("failed", "stopped on request")
    slow = start("while :; do sleep 0.1; done", "--timeout", "200ms")
    _, err = slow.communicate(timeout=30)
    assert (slow.returncode, err.splitlines()[-1]) == (124, "pgonce: the job job took longer than 0.2 s")
    assert last_run(conn)[2].startswith("timed out after ")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_command_ends_with_a_killed_pgonce(start: Exec) -> None:
    child = start("echo $$; while :; do sleep 0.1; done")
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), "the command ends when nobody watches it any more")


def test_a_long_command_beats_and_is_not_overlapped_however_small_its_window(start: Exec, conn: Connection) -> None:
    """A machine that stands still for 300 ms costs the run, rightly and with this reason: then another one is tried."""
    newest = (
        "select heartbeat_at > started_at + 3 * run_window, error_message from cron_job_runs order by started_at desc"
    )

    def lives_on() -> bool:
        child = start("echo begun; read line", "--window", "300ms")
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        is_old, error = wait_until(
            lambda: (row := conn.execute(newest.encode()).fetchone()) and any(row) and row,
            "it lives on past its window",
        )
        assert error in {None, "no heartbeat reached the database for 0:00:00.300000"}
        return bool(is_old) and error is None

    assert any(lives_on() for _ in range(5))
    assert conn.execute("select start_job_run('job')").fetchone() == (None,)


# the shell ends at SIGTERM; its child ends when the test ends, because its stdin is closed then
STUBBORN = "sh -c 'trap \"\" TERM; echo $$; read line'; echo never"


def test_a_run_that_is_stopped_ends_after_all_that_the_command_has_started(start: Exec, conn: Connection) -> None:
    child = start(STUBBORN, "--grace", "500ms")
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    child.send_signal(signal.SIGTERM)
    child.wait(30)
    assert not alive(pid), "the shell has ended at once, its child has to be killed"
    assert child.returncode == 143
    assert last_run(conn)[1:] == ("failed", "ended by signal 15")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the first process reaps")
def test_an_orphan_that_nobody_reaps_has_ended(database: str) -> None:
    # as in a container whose first process does not reap orphans
    first = "import ctypes, subprocess, sys; ctypes.CDLL(None).prctl(36, 1); sys.exit(subprocess.call(sys.argv[1:]))"
    ours = [sys.executable, "-c", first, str(PGONCE), "exec", "job", "--grace", "1h", "--database-url", database, "--"]
    command = [*ours, "sh", "-c", "sleep 1000 & echo $PPID; wait"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    try:
        os.kill(pid, signal.SIGTERM)
        child.communicate(timeout=30)
        assert child.returncode == 143
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_run_whose_time_is_over_ends_after_all_that_the_command_has_started(start: Exec, conn: Connection) -> None:
    child = start(STUBBORN, "--grace", "30s", "--timeout", "2s")
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stderr is not None
    pid = int(child.stdout.readline())
    assert child.stderr.readline() == "job: its time is over\n"
    assert conn.execute("select start_job_run('job')").fetchone() == (None,), "its child is at work yet"
    conn.execute("delete from cron_job_runs where status = 'skipped'")
    child.stdin.write("\n")
    child.stdin.flush()
    assert (child.wait(30), alive(pid)) == (124, False)
    assert last_run(conn)[1:] == ("failed", "timed out after 0:00:02")


def test_a_timeout_may_be_as_long_as_a_length_of_time(start: Exec) -> None:
    child = start("true", "--timeout", "200000 days")
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (0, "")


def test_the_children_of_a_command_end_with_a_killed_pgonce_however_stubborn(start: Exec) -> None:
    child = start(STUBBORN, "--window", "1s")
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), "a window later a successor would run beside it")


def test_a_killed_pgonce_asks_the_command_before_it_is_killed(start: Exec) -> None:
    child = start("exec 2>/dev/null; trap 'echo cleaned; exit' TERM; echo begun; while :; do sleep 0.1; done")
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    os.kill(child.pid, signal.SIGKILL)
    assert child.stdout.readline() == "cleaned\n"


def test_what_a_command_leaves_behind_when_it_ends_by_itself_may_stay(start: Exec, conn: Connection) -> None:
    child = start("sleep 60 >/dev/null 2>&1 & echo $!")
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    try:
        assert child.wait(30) == 0
        run_id, status, _ = last_run(conn)
        assert status == "succeeded"
        wait_until(lambda: processes_of(run_id) == [pid], "only that is left, and no guard")
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_command_of_another_user_is_waited_for_and_not_overlapped(database: str, conn: Connection) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    powerless = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"]
    may = os.getuid() == 0 and shutil.which("setpriv")
    if not may or subprocess.run([*powerless, *nobody, "true"], check=False).returncode:
        pytest.skip("only root on Linux can start a command as another user and be refused to stop it")
    ours: list[str | Path] = [*powerless, PGONCE, "exec", "job", "--grace", "100ms", "--database-url", database, "--"]
    command = [*ours, *nobody, "sh", "-c", "echo begun; read line"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == "begun\n"
        child.send_signal(signal.SIGTERM)
        assert child.stderr.readline() == (
            "job: it runs as another user and cannot be stopped from here: waiting for its end\n"
        )
        assert conn.execute("select start_job_run('job')").fetchone() == (None,)
    finally:
        _, err = child.communicate("\n", timeout=30)
    assert (child.returncode, err) == (0, "")
    assert last_run(conn)[1] == "skipped"
    assert conn.execute("select count(*) from cron_job_runs where status = 'succeeded'").fetchone() == (1,)


@pytest.mark.parametrize("command", [["job", "ls"], ["job", "ls", "--json"], ["job", "stats"]])
def test_what_is_printed_can_be_written_in_any_encoding(database: str, conn: Connection, command: list[str]) -> None:
    conn.execute("select start_job_run('nächtlich ✔', '{\"für\": \"\U0001f600\"}')")
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "DATABASE_URL": database}
    done = subprocess.run([PGONCE, *command], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    # JSON in UTF-8, whatever the encoding; text with escapes
    assert "nächtlich" in done.stdout or "n\\xe4chtlich" in done.stdout
