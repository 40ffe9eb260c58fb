"""`pgonce job run`, `ls`, `show`, `stop` and `stats`, each against real runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.conftest import wait_until
from tests.edge import command
from tests.edge.command import on_a_terminal
from tests.forked import PGONCE, Forked

Connection = psycopg.Connection[Any]
Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., tuple[int, str, str]]
APP = """
import asyncio, os, sys, threading
import pgonce
app = pgonce.App()

@app.job("counts", key="k")
def counts(run):
    run.processed(run.scope.get("rows", 1))
    run.skipped(2)

@app.job("patient", window="3 s")
def patient(run):
    run.progress(3, 4)
    print("begun", flush=True)
    while not run.stop_requested:
        threading.Event().wait(0.01)

@app.job("cancelled", window="3 s")
async def cancelled(run):
    print("begun", flush=True)
    await asyncio.Event().wait()

@app.job("flaky", retries=2, backoff="1 ms")
def flaky(run):
    with run.transaction() as tx:
        tries = tx.execute("select count(*) from cron_job_runs where job_name = %s", [run.name]).fetchone()[0]
    if tries < 3:
        raise ValueError(f"try {tries}")

@app.job("shaky", retries=2, backoff="1 ms", slots=2)
def shaky(run):
    flaky(run)

@app.job("hopeless", retries=1, backoff="1 ms")
async def hopeless(run):
    raise ValueError("never")

@app.job("exits")
def exits(run):
    sys.exit(os.system("exit 1"))

@app.job("waits", retries=2, backoff="1 s")
def waits(run):
    raise ValueError("not yet")

@app.job("hardy", retries=9, backoff="100 ms")
def hardy(run):
    pass

@app.job("forks")
def forks(run):
    if child := os.fork():
        run.processed(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    elif "code" in run.scope:
        sys.exit(run.scope["code"])

@app.job("forks_async")
async def forks_async(run):
    forks(run)

@app.job("endless", timeout="100 ms")
async def endless(run):
    await asyncio.Event().wait()

@app.job("unlucky", timeout="1 hour")
def unlucky(run):
    raise TimeoutError("of a socket")

@app.job("deaf", timeout="100 ms")
def deaf(run):
    while not run.timed_out:
        threading.Event().wait(0.01)
    with run.transaction() as tx:
        tx.execute("create table written_too_late ()")
"""


@pytest.fixture
def start(database: str, tmp_path: Path) -> Start:
    """Starts ``pgonce job ...`` beside the app above."""
    (tmp_path / "clockwork.py").write_text(APP)

    def popen(*arguments: str) -> subprocess.Popen[str]:
        words = [str(PGONCE), *_job(database, arguments)]
        return Forked(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return popen


@pytest.fixture
def run(database: str, tmp_path: Path) -> Run:
    """Runs ``pgonce job ...`` to its end."""
    (tmp_path / "clockwork.py").write_text(APP)
    return lambda *arguments: command.run(_job(database, arguments), os.environ, tmp_path)


def _job(database: str, arguments: Sequence[str]) -> list[str]:
    app = ["--app", "clockwork"] if arguments[0] == "run" else []
    return ["job", *arguments, "--database-url", database, *app]


def result(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def data(done: tuple[int, str, str]) -> Any:
    code, out, err = done
    assert (code, err) == (0, "")
    return json.loads(out)


def test_run_takes_scope_and_key_and_says_what_it_did(run: Run, conn: Connection) -> None:
    assert run("run", "counts", "--scope", '{"rows": 1200}', "--key", "b") == (
        0, "counts: succeeded, 1,200 processed, 2 skipped\n", "",
    )  # fmt: skip
    assert run("run", "counts")[0] == 0
    rows = conn.execute("select key, scope, rows_processed, rows_skipped from cron_job_runs order by key").fetchall()
    assert rows == [("b", {"rows": 1200}, 1200, 2), ("k", {}, 1, 2)]


def test_run_while_one_is_at_work_exits_with_75(run: Run, conn: Connection) -> None:
    conn.execute("select start_job_run('counts', p_key => 'k')")
    assert run("run", "counts") == (75, "", "counts: skipped, another run is at work\n")
    conn.execute("select fail_job_run(id, 'over') from cron_job_runs where status = 'running'")
    conn.execute("select pgonce_pause_job('counts', 'the printer is broken')")
    assert run("run", "counts") == (75, "", "counts: skipped, paused: the printer is broken\n")


@pytest.mark.parametrize("scope", ["{", "[1]", "3"])
def test_a_scope_that_is_no_object_is_a_usage_error(run: Run, scope: str) -> None:
    code, _, err = run("run", "counts", "--scope", scope)
    assert code == 2
    assert "--scope" in err


def test_run_retries_as_the_job_says_and_the_exit_code_is_the_last_ones(run: Run, conn: Connection) -> None:
    assert run("run", "flaky")[0] == 0
    assert run("run", "shaky")[0] == 0
    code, _, err = run("run", "hopeless")
    assert code == 1
    assert err.rstrip().endswith("ValueError: never")
    found = "select job_name, attempt, status from cron_job_runs order by started_at"
    assert conn.execute(found.encode()).fetchall() == [
        ("flaky", 1, "failed"), ("flaky", 2, "failed"), ("flaky", 3, "succeeded"),
        ("shaky", 1, "failed"), ("shaky", 2, "failed"), ("shaky", 3, "succeeded"),
        ("hopeless", 1, "failed"), ("hopeless", 2, "failed"),
    ]  # fmt: skip


def test_a_run_that_has_failed_never_ends_the_command_with_0(run: Run, conn: Connection) -> None:
    assert run("run", "exits") == (1, "", "")
    assert conn.execute("select status from cron_job_runs").fetchall() == [("failed",)]


def test_run_holds_no_connection_between_two_attempts(start: Start, conn: Connection) -> None:
    running = start("run", "waits")
    assert running.stderr is not None
    for pause in ("1", "2"):
        assert running.stderr.readline().endswith(f"next attempt in 0:00:0{pause}\n")
    others = "select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    wait_until(lambda: conn.execute(others).rowcount == 0 and running.poll() is None, "its connections are closed")
    running.terminate()
    assert result(running)[0] == 128 + signal.SIGTERM


@pytest.mark.parametrize("name", ["forks", "forks_async"])
@pytest.mark.parametrize("code", [None, 0, 3])
def test_a_forked_child_says_nothing_about_the_run_of_its_parent(run: Run, name: str, code: int | None) -> None:
    done = run("run", name, "--scope", "{}" if code is None else f'{{"code": {code}}}')
    assert done == (0, f"{name}: succeeded, {code or 0} processed, 0 skipped\n", "")


def test_run_tries_again_when_there_was_no_database(start: Start, conn: Connection, server: str) -> None:
    allow = sql.SQL("alter database {} allow_connections {}")
    with psycopg.connect(server, autocommit=True) as beside:
        beside.execute(allow.format(sql.Identifier(conn.info.dbname), sql.SQL("false")))
        running = start("run", "hardy")
        assert running.stderr is not None
        assert running.stderr.readline().endswith("next attempt in 0:00:00.100000\n")
        beside.execute(allow.format(sql.Identifier(conn.info.dbname), sql.SQL("true")))
    code, out, _ = result(running)
    assert (code, out) == (0, "hardy: succeeded, 0 processed, 0 skipped\n")
    assert conn.execute("select attempt, status from cron_job_runs").fetchall() == [(1, "succeeded")]


@pytest.mark.parametrize("name", ["patient", "cancelled"])
def test_stop_ends_a_run_within_a_heartbeat_and_ls_and_show_say_how_it_stands(
    start: Start, run: Run, conn: Connection, name: str
) -> None:
    running = start("run", name)
    assert running.stdout is not None
    assert running.stdout.readline() == "begun\n"
    [line] = data(run("ls", "--job", name, "--status", "running", "--json"))
    if name == "patient":
        wait_until(lambda: conn.execute("select progress_total from cron_job_runs").fetchone() == (4,), "a heartbeat")
        assert "3 of 4 (75 %)" in run("ls")[1]
    assert run("stop", line["id"]) == (0, f"{line['id']}: asked to stop\n", "")
    code, _, err = result(running)
    assert code == 1
    assert err.endswith(f"pgonce: run {line['id']} of job {name}: stopped on request\n")
    shown = data(run("show", line["id"], "--json"))
    assert (shown["status"], shown["error_message"]) == ("failed", "stopped on request")
    assert "stopped on request" in run("show", line["id"])[1]
    assert run("stop", line["id"]) == (1, "", f"pgonce: run {line['id']} has ended\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("name", ["patient", "cancelled"])
def test_a_signal_ends_the_run_and_blocks_no_successor(
    start: Start, conn: Connection, name: str, number: signal.Signals
) -> None:
    # a shell ignores SIGINT for background jobs, and nohup ignores SIGHUP; processes that the tests start would inherit
    # it
    usual = {each: signal.signal(each, signal.default_int_handler) for each in (signal.SIGINT, signal.SIGHUP)}
    running = start("run", name)
    for each, handler in usual.items():
        signal.signal(each, handler)
    assert running.stdout is not None
    assert running.stdout.readline() == "begun\n"
    running.send_signal(number)
    assert result(running) == (128 + number, "", f"{name}: stopped by {number.name}\n")
    row = conn.execute("select status, error_message from cron_job_runs").fetchone()
    assert row is not None
    assert row[0] == "failed"
    assert row[1].rstrip().endswith(f": stopped by {number.name}")


@pytest.mark.parametrize("since", ["999999 days", "0001-01-01T00:00+14:00", "9999-12-31T23:00"])
def test_a_moment_beyond_the_calendar_is_a_usage_error(run: Run, since: str) -> None:
    code, _, said = run("ls", "--since", since)
    assert code == 2
    assert "is not a time in the years 1 to 9999" in said


@pytest.mark.parametrize("name", ["endless", "deaf"])
def test_a_run_whose_time_is_over_has_failed_and_writes_no_more(run: Run, conn: Connection, name: str) -> None:
    assert run("run", name) == (124, "", f"pgonce: the job {name} took longer than 0.1 s\n")
    row = conn.execute("select status, error_message, to_regclass('written_too_late') from cron_job_runs").fetchone()
    assert row == ("failed", "timed out after 0:00:00.100000", None)


def test_a_timeout_of_something_that_the_job_waited_for_is_an_error_as_any_other(run: Run) -> None:
    code, _, err = run("run", "unlucky")
    assert code == 1
    assert err.endswith("TimeoutError: of a socket\n")


def test_ls_filters_and_show_knows_no_other_run(run: Run, conn: Connection) -> None:
    conn.execute(
        "insert into cron_job_runs (job_name, status, started_at) values ('a', 'succeeded', now() - interval '3 days'),"
        " ('a', 'failed', now() - interval '1 minute'), ('b', 'succeeded', now())"
    )
    assert [each["job_name"] for each in data(run("ls", "--since", "1 day", "--json"))] == ["b", "a"]
    assert len(data(run("ls", "--job", "a", "--json"))) == 2
    assert len(data(run("ls", "--limit", "1", "--json"))) == 1
    assert run("ls", "--status", "running") == (0, "", "no such runs\n")
    assert run("ls", "--job", "a", "--status", "running") == (0, "", "no such runs\n")
    conn.execute("select pgonce_expect_job('c', '1 day')")  # an alert that it did not run names this command
    code, out, said = run("ls", "--job", "c")
    assert (code, out.splitlines()[1].split()[:3]) == (0, ["c", "○", "new"])
    assert said.startswith("c has never run: `pgonce ps` shows whether a worker has it;")
    assert run("ls", "--job", "d")[2].startswith("d has never run: it is not scheduled or expected either")
    missing = "00000000-0000-0000-0000-000000000000"
    assert run("show", missing) == (1, "", f"pgonce: there is no job run {missing}\n")
    assert run("stop", missing) == (1, "", f"pgonce: there is no job run {missing}\n")
    assert run("show", "x")[0] == 2


RUN = "0190a1b2-c3d4-4e5f-8a9b-0c1d2e3f4a5b"


def test_on_a_terminal_of_80_columns_the_runs_are_a_table_and_a_run_is_found_by_its_first_digits(
    database: str, conn: Connection, run: Run
) -> None:
    conn.execute(
        "insert into cron_job_runs (id, job_name, status, completed_at, duration_ms, error_message)"
        " values (%s, 'birthday_letters', 'failed', now(), 754000, %s)",
        [RUN, "ValueError: " + "seven " * 20],
    )
    lines = on_a_terminal(80, database, "job", "ls", "--job", "birthday_letters")
    assert lines[0].split() == ["run", "job", "state", "started", "took", "reason"]
    assert re.match(r"0190a1b2  birthday_letters  ✗ failed  \d\S* \w+ ago +13 min  ValueError", lines[1])
    assert all(len(line) <= 80 for line in lines)
    for digits in ("0190a1b2", "0190", RUN.upper(), RUN.replace("-", "")):
        assert data(run("show", digits, "--json"))["id"] == RUN
    conn.execute("insert into cron_job_runs (id, job_name) values ('0190ffff-c3d4-4e5f-8a9b-0c1d2e3f4a5b', 'b')")
    code, _, said = run("show", "0190")
    assert code == 1
    assert said.startswith("pgonce: several runs begin with 0190: 0190a1b2-")
    assert run("show", "0191") == (1, "", "pgonce: there is no job run 0191\n")


@pytest.mark.parametrize("columns", [80, 120])
def test_show_says_in_sentences_how_a_run_stands(database: str, conn: Connection, columns: int) -> None:
    tick = "2026-03-08 07:00:00+00"
    start = "select start_job_run('sync', '{\"batch\": 3}', '15 minutes', 'eu', %s, 3, '1 m', 'web-2:28114')"
    conn.execute(start, [tick])
    conn.execute(
        "update cron_job_runs set id = %s, started_at = now() - interval '43 min', rows_processed = 1234,"
        " progress_done = 340, progress_total = 1000, progress_at = now() - interval '2 min 5 s'",
        [RUN],
    )
    head, *lines = on_a_terminal(columns, database, "job", "show", RUN[:6])
    assert head == "sync eu  0190a1b2  ● running"
    said = {line.strip().partition("  ")[0]: line.strip().partition("  ")[2].strip() for line in lines}
    assert said["tick"] == tick.removesuffix("+00")
    assert said["started"].endswith(", 43 min ago")
    assert said["at work for"] == "43 min"
    assert said["heartbeat"].endswith("without one for 15 min the run counts as dead")
    assert said["progress"] == "340 of 1,000 (34 %), 2 min ago"
    assert said["rows"] == "1,234 processed, 0 skipped"
    assert (said["attempt"], said["process"], said["scope"]) == ("1 of 4", "web-2:28114", '{"batch": 3}')
    assert "blocked by" not in said, "what is empty is left out"
    assert any(line.startswith("what it is ") for line in lines)
    conn.execute("select fail_job_run(id, E'Traceback\\n\\nValueError: no') from cron_job_runs")
    head, *lines = on_a_terminal(columns, database, "job", "show", RUN[:6])
    assert head == "sync eu  0190a1b2  ✗ failed"
    assert any(re.match(r"  ended +20.*, after 43 min$", line) for line in lines)
    place = lines.index("reason")
    assert lines[place + 1 : place + 4] == ["Traceback", "", "ValueError: no"]
    assert any(line.startswith("what to do ") for line in lines[place:])


def test_ls_has_a_line_for_each_job_with_what_is_usual_what_comes_next_and_what_is_wrong(
    database: str, conn: Connection, run: Run
) -> None:
    conn.execute(
        "insert into cron_job_runs (job_name, key, status, started_at, completed_at, duration_ms)"
        " select 'sync', 'eu', 'succeeded', now() - n * interval '1 hour', now(), 540000 + n * 10000"
        " from generate_series(1, 20) n"
    )
    conn.execute("select start_job_run('sync', p_key => 'eu'), start_job_run('sync', p_key => 'eu')")
    conn.execute(
        "insert into cron_job_runs (job_name, status, started_at, completed_at, error_message, duration_ms)"
        " values ('broken', 'failed', now() - interval '4 minutes', now(), E'Traceback\\nValueError: no', 200)"
    )
    conn.execute(
        "insert into cron_job_runs (job_name, status, started_at, completed_at, duration_ms)"
        " values ('dump', 'succeeded', now() - interval '3 days', now() - interval '3 days', 42000)"
    )
    assert run("expect", "dump", "--every", "1 day")[0] == 0
    conn.execute("update pgonce_job_expectations set since = now() - interval '2 days'")
    assert run("expect", "dump", "--within", "20 minutes")[1] == "dump: expected in less than 20 min\n"
    refusal = "pgonce: pass --every or --within, or --never: see pgonce job expect --help\n"
    assert run("expect", "dump")[::2] == (2, refusal)
    assert run("pause", "broken", "--reason", "the partner is down", "--until", "2 hours")[0] == 0
    unknown = "new: no running worker has this job: no worker runs, see `pgonce ps`\n"
    assert run("schedule", "new", "--cron", "0 3 1 1 *")[::2] == (0, unknown)
    code, out, _ = run("ls")
    assert code == 0
    assert "next (UTC)" in out.splitlines()[0], "a job may have another zone"
    found = {line.split("  ")[0]: line for line in out.splitlines()}
    assert re.search(r"● running +\d+ s ago .*9 to 12 min .*blocks 1 start\b", found["sync eu"])
    paused = r"○ paused +4 min ago +0.2 s .*until (tomorrow|\d\d:\d\d): the partner is down, ValueError: no"
    assert re.search(paused, found["broken"])
    assert re.search(r"! missed .*42 s .*it should run every 1 day; its last run succeeded at", found["dump"])
    assert re.search(r"○ new +– +– .*20\d\d-01-01", found["new"])
    assert out.splitlines()[-1].startswith("look: pgonce job show ")
    assert on_a_terminal(120, database, "job", "ls")[0].split()[:2] == ["job", "state"]


def test_a_run_whose_process_died_is_silent_in_the_lists_as_soon_as_its_window_is_over(
    run: Run, conn: Connection
) -> None:
    conn.execute("select start_job_run('dead', p_window => '1 hour')")
    assert "● running" in run("ls")[1]
    conn.execute("update cron_job_runs set heartbeat_at = '2026-01-01 06:00+00'")
    for options in ([], ["--job", "dead"]):
        said = run("ls", *options)[1]
        assert "! silent" in said
        assert "no sign of life since 2026-01-01 06:00:00 UTC: its process is gone or cut off" in said
    conn.execute("insert into pgonce_job_heartbeats (run_id) select id from cron_job_runs")
    assert "● running" in run("ls")[1], "it keeps its heartbeats elsewhere"


def test_a_run_that_hangs_is_found_with_its_process_and_ended_with_a_reason(
    start: Start, run: Run, conn: Connection
) -> None:
    running = start("run", "patient")
    assert running.stdout is not None
    assert running.stdout.readline() == "begun\n"
    running.send_signal(signal.SIGSTOP)
    [line] = data(run("ls", "--status", "running", "--json"))
    shown = run("show", line["id"][:8])[1]
    assert re.search(rf"process +\S+:{running.pid}\n", shown)
    assert run("stop", line["id"][:8])[0] == 0
    assert run("end", line["id"][:8], "--reason", "its disk is gone") == (0, f"{line['id']}: ended\n", "")
    assert run("end", line["id"], "--reason", "again") == (1, "", f"pgonce: run {line['id']} has ended\n")
    row = conn.execute("select status, error_message from cron_job_runs").fetchone()
    assert row == ("failed", "ended by hand: its disk is gone")
    running.send_signal(signal.SIGCONT)
    assert result(running)[0] == 1, "it has lost its run"


def test_a_paused_job_is_skipped_by_whoever_starts_it_until_it_is_resumed(run: Run, conn: Connection) -> None:
    _, out, said = run("pause", "counts", "--reason", "why", "--until", "2 hours")
    assert out.startswith("counts: paused until ")
    assert said.startswith("counts has never run, and no worker or schedule has it: see pgonce job ls")
    assert run("run", "counts")[0] == 75
    code, out, said = run("pause", "counts", "--reason", "a disk")
    assert (code, out) == (0, "counts: paused\n")
    assert re.fullmatch("before, it was paused until .* UTC: why\n", said)
    assert run("resume", "counts") == (0, "counts: resumed\n", "")
    assert run("resume", "counts") == (1, "", "pgonce: job counts is not paused\n")
    assert run("run", "counts")[0] == 0
    code, _, said = run("pause", "counts", "--reason", "why", "--until", "2020-01-01")
    assert (code, said) == (1, "pgonce: the end of a pause must be in the future\n")
    code, _, said = run("pause", "counts", "--reason", "why", "--until", "tomorrow")
    assert (code, said.count("\n")) == (2, 1)
    assert 'cannot read "tomorrow" as a time: use "2 hours" (from now), 2026-11-23' in said
    code, _, said = run("pause", "counts", "--reason", "why", "--until", "99999999 days")
    assert (code, said) == (1, "pgonce: 99999999 days from now is after the year 9999: leave --until out\n")


def test_a_request_that_no_worker_takes_up_says_so(run: Run, conn: Connection) -> None:
    said = "counts: requested, but no running worker has this job: "
    assert run("request", "counts") == (1, "", f"pgonce: {said}no worker runs, see `pgonce ps`\n")
    process = (
        "insert into pgonce_processes (id, does, host, pid, version, jobs, last_seen_at)"
        " values (gen_random_uuid(), 'jobs', 'h', %s, '1', %s, clock_timestamp() - %s::interval)"
    )
    conn.execute(process, [1, [f"job{number}" for number in range(12)], "0 s"])
    conn.execute(process, [2, ["counts"], "2 minutes"])
    shown = "job0, job1, job10, job11, job2, job3, job4, job5, job6, job7 and 2 others"
    assert run("request", "counts") == (1, "", f"pgonce: {said}those that run have {shown}\n")
    conn.execute(process, [3, ["counts"], "0 s"])
    code, _, said = run("request", "counts", "--wait", "0")
    assert (code, said) == (0, "counts: requested; no worker has taken it up within 0 s: see pgonce ps\n")
    kept = conn.execute("select count(*) from pgonce_job_requests").fetchone()
    assert kept == (1,), "for a worker that starts in time; the same request, until it is answered"


def test_a_line_break_or_an_escape_in_a_name_reaches_no_line_that_is_printed(run: Run, conn: Connection) -> None:
    name = "x\ny\x1b[31mz\r\x9b"  # letters that are in no id
    conn.execute("select start_job_run(%s)", [name])
    [(run_id,)] = conn.execute("select id::text from cron_job_runs").fetchall()
    for words in (
        ["ls"], ["ls", "--job", name], ["stats"], ["show", run_id], ["run", name], ["request", name, "--wait", "0"],
        ["pause", name, "--reason", name], ["ls", "--job", name], ["resume", name], ["resume", name],
        ["schedule", name], ["schedule", name, "--cron", "@daily"], ["schedule"], ["schedule", name, "--remove"],
        ["expect", name, "--never"], ["expect", name, "--every", "1 day"], ["end", run_id, "--reason", name],
    ):  # fmt: skip
        _, out, said = run(*words)
        assert not [sign for sign in out + said if not sign.isprintable() and sign != "\n"], words
        assert all("x y [31mz  " in line or "x" not in line[:2] for line in (out + said).splitlines()), words


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--cron", "* * *"], "has not five fields"),
        (["--every", "0 s"], "must be longer than zero"),
        (["--remove"], "has no schedule"),
        (["--cron", "@daily", "--grace", "soon"], "is not a length of time"),
    ],
)
def test_a_schedule_that_cannot_be_read_is_refused_in_one_line(run: Run, options: list[str], says: str) -> None:
    code, _, said = run("schedule", "counts", *options)
    assert code == 1
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "words", ["counts", "counts --cron @daily --every 1h", "counts --cron @daily --remove", "--cron @daily"]
)
def test_options_of_a_schedule_that_exclude_each_other_are_a_usage_error(run: Run, words: str) -> None:
    code, out, said = run("schedule", *words.split())
    assert (code, out, said.count("\n")) == (2, "", 1)


def test_on_a_narrow_terminal_the_statistics_stay_a_table(database: str, conn: Connection) -> None:
    conn.execute(
        "insert into cron_job_runs (job_name, status, started_at, completed_at, duration_ms, rows_processed)"
        " select 'birthday_letters', 'succeeded', now(), now(), 12345, 7 from generate_series(1, 3)"
    )
    lines = on_a_terminal(60, database, "job", "stats")
    assert len(lines) == 2
    assert lines[1].startswith("birthday_let")
    assert all(len(line) <= 60 for line in lines)
    assert len(on_a_terminal(120, database, "job", "stats")) == 2


def test_stats_are_those_of_the_runs_and_the_trend_is_against_the_period_before(run: Run, conn: Connection) -> None:
    insert = (
        "insert into cron_job_runs"
        " (job_name, status, started_at, completed_at, duration_ms, rows_processed, error_message)"
        " select 'j', %s, now() - %s::interval, now() - %s::interval, n * 10, 100, %s from generate_series(1, %s) n"
    )
    conn.execute(insert, ["succeeded", "8 days", "8 days", None, 50])
    conn.execute(insert, ["succeeded", "1 day", "1 day", None, 100])
    conn.execute(insert, ["failed", "2 days", "1 hour", "Traceback\nValueError: no", 25])
    conn.execute(insert, ["skipped", "1 day", "1 day", "overlap", 5])
    [stats] = data(run("stats", "j", "--json"))
    expected = {
        "runs": 125,
        "succeeded": 100,
        "failed": 25,
        "skipped": 5,
        "success_rate": 0.8,
        "rows_per_second": 198.0,
    }
    assert {name: stats[name] for name in expected} == expected
    durations = [stats[name] for name in ("p50_ms", "p95_ms", "p99_ms", "max_ms", "previous_p50_ms", "trend")]
    assert durations == [500, 950, 990, 1000, 250, 1.0]
    assert stats["last_failure"] == "ValueError: no"
    assert "+100.0 %" in run("stats")[1]
    assert conn.execute("select runs, p50_ms from pgonce_job_stats").fetchall() == [(125, 500)]
    assert run("stats", "j", "--since", "1 hour") == (0, "", "no runs in that time\n")
    assert data(run("stats", "j", "--since", "900000000 days", "--json"))[0]["runs"] == 175


def test_an_overlap_made_by_hand_is_in_the_view_and_none_else_is(conn: Connection) -> None:
    for job, key, status, started, ended in (
        ("a", "", "succeeded", "10:00", "11:00"),
        ("a", "", "failed", "11:00", "12:00"),
        ("a", "k", "succeeded", "10:30", "10:40"),
        ("a", "", "skipped", "10:30", "10:30"),
        ("b", "", "succeeded", "10:00", "11:00"),
        ("b", "", "succeeded", "10:59", "11:30"),
    ):
        conn.execute(
            "insert into cron_job_runs (job_name, key, status, started_at, completed_at) values (%s, %s, %s, %s, %s)",
            [job, key, status, f"2026-01-01 {started}+00", f"2026-01-01 {ended}+00"],
        )
    found = conn.execute(
        "select job_name, to_char(started_at at time zone 'UTC', 'HH24:MI'), fenced"
        " from pgonce_find_job_overlaps('100 years')"
    ).fetchall()
    assert found == [("b", "10:59", False)]


def test_what_was_at_work_before_the_period_counts_and_what_started_before_it_is_not_listed(conn: Connection) -> None:
    insert = (
        "insert into cron_job_runs (job_name, status, started_at, completed_at, worked_until) values"
        " (%s, %s, now() - %s::interval, now() - %s::interval, now() - %s::interval)"
    )
    conn.execute(insert, ["old", "succeeded", "9 days", "8 days", None])
    conn.execute(insert, ["old", "succeeded", "9 days", "8 days", None])
    conn.execute(insert, ["before", "succeeded", "7.5 days", "1 day", None])
    conn.execute(insert, ["before", "succeeded", "2 days", "1 day", None])
    conn.execute(insert, ["runs", "running", "90 days", None, None])
    conn.execute(insert, ["runs", "failed", "1 hour", "1 hour", None])
    conn.execute(insert, ["zombie", "failed", "3 hours", "2 hours", "1 hour"])
    conn.execute(insert, ["zombie", "succeeded", "90 minutes", "80 minutes", None])
    found = conn.execute("select job_name, fenced from pgonce_job_overlaps order by job_name").fetchall()
    assert found == [("before", False), ("runs", False), ("zombie", True)]
