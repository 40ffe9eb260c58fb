"""Every cell of the transition tables at the heads of jobs_guard.sql and jobs_batch.sql, run against the database.

A builder for each state (``from``), a caller for each verb; the rule for ``to`` stands in transitions.py.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.sql import transitions
from tests.sql.race import value
from tests.sql.transitions import Cell, attempt, rows

Connection = psycopg.Connection[Any]

STATES = {"absent", "running", "stale", "succeeded", "failed", "skipped"}
VERBS = {
    "start_job_run", "start_again", "pgonce_start_job_runs", "insert", "beat_job_run", "complete_job_run",
    "pgonce_complete_job_runs", "fail_job_run", "pgonce_fence_job_run",
}  # fmt: skip
# special cases of a state, which are listed only under the verbs that distinguish them
SPECIAL = {
    ("ticked", "start_job_run"), ("ticked", "pgonce_start_job_runs"), ("abandoned", "fail_job_run"),
    ("paused", "start_job_run"), ("paused", "pgonce_start_job_runs"),
}  # fmt: skip
CELLS = [cell for file in ("jobs_guard", "jobs_batch", "jobs_fence") for cell in transitions.read(file)]
TICK = "2026-01-01 06:00+00"
MOVED = {"status", "completed_at", "duration_ms", "error_message", "heartbeat_at", "transactions", "progress_at"}


class Run:
    """A run in a state, of a job of its own; ``id`` is the run that a verb names."""

    def __init__(self, conn: Connection, state: str) -> None:
        self.conn, self.job, self.id, self.tick = conn, f"job_{uuid4().hex}", uuid4(), None
        if state == "ticked":
            self.tick = TICK
        if state == "paused":
            conn.execute("select pgonce_pause_job(%s, 'why')", [self.job])
        elif state != "absent":
            self.id = self.start_job_run()
        if state == "skipped":
            holder = self.id
            assert self.start_job_run() is None
            self.id = value(conn, "select id from cron_job_runs where blocked_by = %s", holder)
            value(conn, "select complete_job_run(%s)", holder)
        elif state in {"stale", "abandoned"}:
            conn.execute("update cron_job_runs set heartbeat_at = now() - interval '1 hour' where id = %s", [self.id])
        elif state in {"succeeded", "ticked"}:
            assert self.complete_job_run() is True
        elif state == "failed":
            assert self.fail_job_run() is True
        if state == "abandoned":
            assert value(conn, "select pgonce_abandon_job_run(%s, '')", self.job) is True

    def all(self) -> dict[UUID, dict[str, Any]]:
        found = rows(self.conn, "select * from cron_job_runs where job_name = %s", self.job)
        return {row["id"]: row for row in found}

    def start_job_run(self) -> Any:
        return value(self.conn, "select start_job_run(%s, p_scheduled_for => %s)", self.job, self.tick)

    def start_again(self) -> Any:
        return self.id == value(self.conn, "select start_job_run(%s, p_run_id => %s)", self.job, self.id)

    def start_job_runs(self) -> Any:
        if rows(self.conn, "select from pgonce_job_pauses where job_name = %s", self.job):
            query = "select (pgonce_start_job_runs(array[%s], '{null}', '{1 hour}', array[''], '{null}'))[1]"
            return value(self.conn, query, self.job)
        before, answer, after = value(
            self.conn,
            "select pgonce_start_job_runs(%s, array_fill(null::jsonb, '{3}'), array_fill('1 hour'::interval, '{3}'),"
            " '{a,\"\",b}', %s)",
            [self.job] * 3, [None, self.tick, None],
        )  # fmt: skip
        found = value(
            self.conn,
            "with companions as (delete from cron_job_runs where id in (%s, %s) and status = 'running' returning key)"
            " select array_agg(key order by key) from companions",
            before, after,
        )  # fmt: skip
        assert found == ["a", "b"]
        return answer

    def insert(self) -> Any:
        return value(self.conn, "insert into cron_job_runs (job_name) values (%s) returning id", self.job)

    def beat_job_run(self) -> Any:
        return value(self.conn, "select beat_job_run(%s)", self.id)

    def fence_job_run(self) -> Any:
        return value(self.conn, "select pgonce_fence_job_run(%s, 0)", self.id)

    def complete_job_run(self) -> Any:
        return value(self.conn, "select complete_job_run(%s)", self.id)

    def complete_job_runs(self) -> Any:
        other = value(self.conn, "select start_job_run(%s)", uuid4().hex)
        answer, also = value(
            self.conn, "select pgonce_complete_job_runs(array[%s, %s], '{null,1}', '{null,2}')", self.id, other
        )
        assert also is True
        assert rows(self.conn, "select rows_processed, rows_skipped from cron_job_runs where id = %s", other) == [
            {"rows_processed": 1, "rows_skipped": 2}
        ]
        return answer

    def fail_job_run(self) -> Any:
        return value(self.conn, "select fail_job_run(%s, 'why')", self.id)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_verb_moves_a_run_as_the_table_says(shared: Connection, cell: Cell) -> None:
    run = Run(shared, cell.state)
    before = run.all()
    answer = attempt(getattr(run, cell.verb.removeprefix("pgonce_")))
    after = run.all()
    if cell.to in {"false", "none", "PT404", "PT409", "23505"}:
        assert answer == {"false": False, "none": None}.get(cell.to, cell.to)
        assert after == before
        return
    new = [after[id_] for id_ in after.keys() - before.keys()]
    if cell.verb in {"start_job_run", "pgonce_start_job_runs", "insert"}:
        assert [row["status"] for row in new] == [cell.to]
        assert answer == (new[0]["id"] if cell.to == "running" else None)
        assert new[0]["blocked_by"] == (run.id if cell.to == "skipped" and cell.state != "paused" else None)
        if cell.state == "paused":
            assert new[0]["error_message"] == "paused: why"
        if cell.state == "stale":
            closed = after[run.id]
            assert closed["status"] == "failed"
            assert closed["error_message"].startswith("abandoned: ")
            assert closed["completed_at"] is not None
            assert closed["duration_ms"] is not None
            del before[run.id]
    else:
        assert answer is True
        assert [row["id"] for row in new] == ([run.id] if cell.state == "absent" else [])
        assert after[run.id]["status"] == cell.to
        # what it says it does, and nothing more
        if before and (cell.state != cell.to or cell.verb in {"start_again", "beat_job_run", "pgonce_fence_job_run"}):
            moved = {name for name in after[run.id] if after[run.id][name] != before[run.id][name]}
            assert moved <= MOVED
            del before[run.id]
    assert {id_: after[id_] for id_ in before} == before


def test_an_id_of_another_job_is_refused(shared: Connection) -> None:
    run = Run(shared, "running")
    before = run.all()
    assert attempt(lambda: value(shared, "select start_job_run('another', p_run_id => %s)", run.id)) == "PT409"
    assert run.all() == before


def test_a_failed_run_cannot_be_failed_for_another_reason(shared: Connection) -> None:
    run = Run(shared, "failed")
    before = run.all()
    assert value(shared, "select fail_job_run(%s, 'another reason')", run.id) is False
    assert run.all() == before


def test_every_state_stands_exactly_once_under_every_verb() -> None:
    transitions.check_complete(CELLS, STATES, VERBS, SPECIAL)
