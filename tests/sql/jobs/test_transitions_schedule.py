"""Every cell of the transition table at the head of jobs_schedule.sql, run against the database."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.sql import transitions
from tests.sql.transitions import Cell, attempt, rows

Connection = psycopg.Connection[Any]
CELLS = transitions.read("jobs_schedule")
STATES = {"absent", "running", "stopping", "stale", "succeeded", "failed", "due", "skipped"}
VERBS = {"pgonce_report_job_run", "pgonce_stop_job_run", "pgonce_retry_job_run"}


def test_every_state_stands_exactly_once_under_every_verb() -> None:
    listed = [(cell.state, cell.verb) for cell in CELLS]
    assert len(listed) == len(set(listed))
    assert set(listed) == {(state, verb) for state in STATES for verb in VERBS}


def put(conn: Connection, state: str, job: str) -> Any:
    def one(query: str, *arguments: Any) -> Any:
        row = conn.execute(query.encode(), arguments).fetchone()
        return row[0] if row else None

    if state == "absent":
        return uuid4()
    run = one("select start_job_run(%s, p_retries => %s, p_backoff => '1 day')", job, int(state == "due"))
    if state == "skipped":
        assert one("select start_job_run(%s)", job) is None
        skipped = one("select id from cron_job_runs where blocked_by = %s", run)
        one("select complete_job_run(%s)", run)
        return skipped
    if state == "stale":
        conn.execute("update cron_job_runs set heartbeat_at = now() - interval '1 hour' where id = %s", [run])
    elif state == "stopping":
        one("select pgonce_stop_job_run(%s)", run)
    elif state == "succeeded":
        one("select complete_job_run(%s)", run)
    elif state in {"failed", "due"}:
        one("select fail_job_run(%s, 'why')", run)
    return run


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_verb_moves_a_run_as_the_table_says(conn: Connection, cell: Cell) -> None:
    run = put(conn, cell.state, "job")
    before = rows(conn, "select * from cron_job_runs order by started_at")
    call = {"pgonce_report_job_run": "select pgonce_report_job_run(%s, 3, 4, 5, 6)"}.get(
        cell.verb, f"select {cell.verb}(%s)"
    )
    answer = attempt(lambda: rows(conn, call, run)[0][cell.verb])
    after = rows(conn, "select * from cron_job_runs order by started_at")
    if cell.to in {"lost", "none", "false", "PT404"}:
        assert answer == {"none": None, "false": False}.get(cell.to, cell.to)
        assert after == before
        return
    [row] = [each for each in after if each["id"] == (answer if cell.verb == "pgonce_retry_job_run" else run)]
    if cell.verb == "pgonce_report_job_run":
        assert answer == cell.to
        figures = ("rows_processed", "rows_skipped", "progress_done", "progress_total")
        assert [row[name] for name in figures] == [3, 4, 5, 6]
    elif cell.verb == "pgonce_stop_job_run":
        assert answer is True
        assert (row["stop_requested_at"] is not None) == (cell.to == "stopping")
        assert rows(conn, "select * from pgonce_job_retries") == []
    else:
        assert (row["status"], row["attempt"], row["retry_of"]) == ("running", 2, run)
        assert rows(conn, "select * from pgonce_job_retries") == []


def test_a_retry_waits_for_another_run_and_gives_way_to_a_newer_tick(conn: Connection) -> None:
    run = put(conn, "due", "job")
    other = rows(conn, "select start_job_run('job') as id")[0]["id"]
    assert rows(conn, "select pgonce_retry_job_run(%s) as id", run) == [{"id": None}]
    assert len(rows(conn, "select * from pgonce_job_retries")) == 1, "it is still to be done"
    rows(conn, "select complete_job_run(%s)", other)
    tick = rows(conn, "select start_job_run('job', p_scheduled_for => now()) as id")[0]["id"]
    rows(conn, "select complete_job_run(%s)", tick)
    assert rows(conn, "select pgonce_retry_job_run(%s) as id", run) == [{"id": None}]
    assert rows(conn, "select * from pgonce_job_retries") == [], "the tick has done the work"
