"""Lists on a terminal.

One row for each thing, the reason is last and is cut, and the shown ids can be used in commands.
"""

# ruff: noqa: E501 -- rows of a table
from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import wait_until
from tests.edge.command import COMMAND, environment, on_a_terminal, pgonce

Connection = psycopg.Connection[Any]
LONG = "evt_1SXvjASde5KgyNdHocfCBeqf"


@pytest.fixture
def inbox(conn: Connection) -> Connection:
    """Five events: dead, waiting for its next attempt, succeeded, ignored, being handled."""
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, attempts, received_at, queued, next_attempt_at,"
        " object_id, error_message, ignored_reason) values"
        " (%s, 'invoice.paid', 'failed', 5, now() - interval '2 min 9 s', true, null, 'in_1SXLk',"
        "  E'Traceback (most recent call last):\\n  File \"/srv/shop/billing.py\", line 88, in sync\\n    x\\nKeyError: ''discounts''', null),"
        " ('evt_2', 'customer.subscription.updated', 'failed', 1, now() - interval '41 min 5 s', true,"
        "  now() + interval '40.5 s', null, repeat('timed out ', 20), null),"
        " ('evt_3', 'a.b', 'succeeded', 1, now() - interval '2 days', true, null, null, null, null),"
        " ('evt_4', 'a.b', 'ignored', 1, now() - interval '3 days', true, null, null, null, 'no handler for a.b'),"
        " ('evt_5', E'a.\\x1b[31mb', 'processing', 1, now() - interval '4 days', false, null, null, null, null)",
        [LONG],
    )
    return conn


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_events_are_one_row_each_and_no_line_is_wider_than_the_terminal(
    database: str, inbox: Connection, columns: int
) -> None:
    head, *rows = on_a_terminal(columns, database, "webhook", "ls")
    assert head.split()[:4] == ["event", "type", "state", "tries"]
    assert len(rows) == 7, "five events, where to look and what to do"
    assert max(map(len, [head, *rows])) <= columns
    first = rows[0].split()
    if columns >= 120:
        assert (first[0], "2 min ago" in rows[0]) == (LONG, True)
    if columns >= 200:
        assert rows[0].rstrip().endswith("KeyError: 'discounts'")
    if columns >= 80:
        assert first[0].rstrip("…")[:14] == LONG[:14]
        assert "✗ dead" in rows[0]
        assert "● in " in rows[1]
        assert rows[1].rstrip().endswith("…")
        assert [sign in row for sign, row in zip("✔○●", rows[2:5], strict=True)] == [True] * 3
    assert "\x1b" not in rows[4]
    assert rows[5] == f"look: pgonce webhook show {LONG}"


def test_what_is_cut_on_a_terminal_is_whole_in_a_pipe_and_in_json(database: str, inbox: Connection) -> None:
    _, out, _ = pgonce(database, "webhook", "ls")
    assert "timed out " * 19 in out
    assert LONG in out
    _, out, _ = pgonce(database, "webhook", "ls", "--json")
    assert json.loads(out)[1]["reason"].count("timed out") == 20


def test_the_commands_below_the_list_run(database: str, inbox: Connection) -> None:
    _, out, _ = pgonce(database, "webhook", "ls")
    commands = [line.partition(": ")[2].split() for line in out.splitlines()[-2:]]
    assert [pgonce(database, *command[1:])[0] for command in commands] == [0, 0]


def test_an_event_is_found_by_what_a_narrow_list_has_left_of_its_id(database: str, inbox: Connection) -> None:
    for given in (LONG[:14], LONG[:14] + "…", LONG):
        code, out, _ = pgonce(database, "webhook", "show", given)
        assert (code, LONG in out) == (0, True)
    inbox.execute("insert into webhook_events (stripe_event_id, event_type) values (%s, 'a.b')", [LONG[:20] + "other"])
    code, _, err = pgonce(database, "webhook", "show", LONG[:14])
    assert code == 1
    assert LONG in err
    assert LONG[:20] + "other" in err
    assert pgonce(database, "webhook", "show", "evt_none")[0] == 1
    assert pgonce(database, "webhook", "replay", LONG[:14], "--dry-run")[0] == 1
    code, out, _ = pgonce(database, "webhook", "replay", LONG[:24])
    assert (code, out.splitlines()[-1]) == (0, "1 of 1 queued again")


@pytest.mark.parametrize("columns", [80, 120])
def test_imports_are_one_row_each_with_numbers_to_the_right(database: str, conn: Connection, columns: int) -> None:
    conn.execute(
        "insert into seed_checkpoints (seed_name, status, rows_inserted, rows_skipped, last_checkpoint, last_updated_at,"
        " paused_at) values ('web_kjv_chapters', 'complete', 31102, 0, '{\"last_book\": \"REV\", \"last_chapter\": 22}',"
        " now() - interval '12 min', null), ('people:people.csv', 'failed', 5, 7, '{}', now() - interval '2 days', null),"
        " ('paused', 'in_progress', 0, 0, '{}', now(), now())"
    )
    head, *rows = on_a_terminal(columns, database, "seed", "ls")
    assert len(rows) == 3
    assert max(map(len, [head, *rows])) <= columns
    by_name = {row.split()[0]: row for row in rows}
    assert "✔ complete" in by_name["web_kjv_chapters"]
    assert "○ paused" in by_name["paused"]
    assert {row.find("31,102") + 6 for row in rows if "31,102" in row} == {
        by_name["people:people.csv"].find("5 ") + 1
    }, "numbers end in the same column"


def test_jobs_at_work_come_first_and_no_length_of_time_is_cut(database: str, conn: Connection) -> None:
    conn.execute(
        "insert into cron_job_runs (job_name, status, started_at, completed_at, duration_ms, error_message)"
        " select 'the_export_of_the_ledger', 'succeeded', now() - n * interval '1 hour', now(), n * 600000, null"
        " from generate_series(1, 6) n union all select 'broken', 'failed', now() - interval '2 hours', now() - interval '2 hours', 5, 'x'"
    )
    conn.execute("select start_job_run('at work')")
    conn.execute("update cron_job_runs set started_at = now() - interval '3 hours' where job_name = 'at work'")
    conn.execute(
        "insert into pgonce_job_pauses (job_name, reason) values ('at work', 'the disk is full ' || repeat('x', 90))"
    )
    _, *rows = on_a_terminal(80, database, "job", "ls")
    assert [row.split()[0][:8] for row in rows[:3]] == ["at", "broken", "the_expo"]
    assert "● running" in rows[0]  # paused is what comes after it
    assert "the disk" in rows[0]
    assert "10 min to 1 h" in rows[2]
    _, *rows = on_a_terminal(120, database, "job", "stats")
    by_name = {row.split()[0].rstrip("…"): row for row in rows}
    assert "2 h ago  x" in by_name["broken"]


def test_many_rejected_rows_are_one_line_for_each_reason(database: str, conn: Connection) -> None:
    conn.execute("insert into seed_checkpoints (seed_name, status, rows_rejected) values ('people', 'complete', 60)")
    reject = (
        "insert into pgonce_seed_rejects (seed_name, row_number, error, reason, column_name)"
        " select 'people', n, 'x', 'reason ' || n %% 2, 'price' from generate_series(1, %s) n"
    )
    conn.execute(reject, [50])
    head, *rows = on_a_terminal(80, database, "seed", "rejects", "people")
    assert (head.split(), len(rows)) == (["reason", "column", "row"], 51)
    conn.execute(reject, [1201])
    assert [line.rstrip() for line in on_a_terminal(80, database, "seed", "rejects", "people")] == [
        "reason    column  rows  first row",
        "reason 1  price    626          1",
        "reason 0  price    625          2",
        "values: pgonce seed rejects people --csv",
    ]
    *rows, more = on_a_terminal(80, database, "seed", "show", "people")
    assert rows[-1].split()[0] == "20"
    assert more == "more: pgonce seed rejects people"


def test_a_silent_process_was_at_work(database: str, conn: Connection) -> None:
    conn.execute(
        "insert into pgonce_processes (id, does, host, pid, version, busy, busy_with, last_seen_at) values"
        " (gen_random_uuid(), 'events', 'web', 1, '1', 1, '{evt_1}', now()),"
        " (gen_random_uuid(), 'events', 'web', 2, '1', 1, '{evt_2}', now() - interval '5 minutes')"
    )
    said = on_a_terminal(80, database, "ps")
    assert "web 1  at work on evt_1" in said
    assert "web 2  was at work on evt_2" in said


def test_colour_is_for_terminals_alone(database: str, inbox: Connection) -> None:
    assert "\x1b" not in pgonce(database, "webhook", "ls")[1]
    assert "\x1b" not in pgonce(database, "doctor")[1]


def test_watch_draws_again_until_ctrl_c_and_outlives_an_error(database: str, conn: Connection, tmp_path: Path) -> None:
    with (tmp_path / "screen").open("w+b") as screen:
        watching = subprocess.Popen(
            [*COMMAND, "webhook", "ls", "--watch"], env=environment(database), stdout=screen, stderr=screen
        )
        try:

            def printed(text: str) -> bool:
                assert watching.poll() is None
                return text in (tmp_path / "screen").read_text("utf-8")

            wait_until(lambda: printed("no such events"), "the first drawing")
            conn.execute("alter table webhook_events rename to elsewhere")
            wait_until(lambda: printed("pgonce: "), "a drawing that fails")
            conn.execute("alter table elsewhere rename to webhook_events")
            conn.execute("insert into webhook_events (stripe_event_id, event_type) values ('evt_new', 'a.b')")
            wait_until(lambda: printed("evt_new"), "the new event")
        finally:
            watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 0
    for command in (["ps"], ["doctor"], ["job", "ls"], ["seed", "ls"]):
        code, _, err = pgonce(database, *command, "--watch", "--json")
        assert (code, "--watch draws for people: leave out --json" in err) == (2, True)
