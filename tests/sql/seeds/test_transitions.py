"""Every cell of the transition table at the head of seeds_checkpoint.sql, run against the database.

A builder for each state (``from``), a caller for each verb; the rule for ``to`` stands in transitions.py.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.sql import transitions
from tests.sql.race import value
from tests.sql.transitions import Cell, Row, attempt, rows

Connection = psycopg.Connection[Any]

STATES = {"absent", "in_progress", "complete", "failed"}
VERBS = {"get_checkpoint", "update_checkpoint", "pgonce_advance_seed", "complete_seed", "fail_seed"}
# the same row seen with other eyes: listed only under the verb that can tell
SPECIAL = {("repeated", "pgonce_advance_seed"), ("lost", "pgonce_advance_seed")}
CELLS = transitions.read("seeds_checkpoint")


class Seed:
    """A seed in a state, under a name of its own, with a run that may advance it."""

    def __init__(self, conn: Connection, state: str) -> None:
        self.conn, self.name = conn, f"seed_{uuid4().hex}"
        self.run = self.start()
        self.batch = 0
        if state != "absent":
            self.update_checkpoint()
            self.batch = 1
        if state == "complete":
            self.complete_seed()
        elif state == "failed":
            self.fail_seed("an older reason")
        elif state == "repeated":
            self.batch = 0
        elif state == "lost":
            conn.execute("update cron_job_runs set heartbeat_at = now() - interval '1 hour' where id = %s", [self.run])
            assert self.start() not in {None, self.run}

    def start(self) -> Any:
        return value(self.conn, "select start_job_run('seed_runner', p_key => %s)", self.name)

    def row(self) -> Row:
        found = rows(self.conn, "select * from seed_checkpoints where seed_name = %s", self.name)
        return found[0] if found else None

    def call(self, query: str, *arguments: Any) -> Row:
        found = rows(self.conn, query, *arguments)
        return found[0] if found else None

    def get_checkpoint(self) -> Row:
        return self.call("select * from get_checkpoint(%s)", self.name)

    def update_checkpoint(self) -> Row:
        return self.call("select * from update_checkpoint(%s, '{\"n\": 9}', 3, 2)", self.name)

    def advance_seed(self) -> Row:
        query = "select * from pgonce_advance_seed(%s, %s, %s, '{\"n\": 9}', 3, 2)"
        return self.call(query, self.name, self.run, self.batch)

    def complete_seed(self) -> Row:
        return self.call("select * from complete_seed(%s)", self.name)

    def fail_seed(self, reason: str = "why") -> Row:
        return self.call("select * from fail_seed(%s, %s)", self.name, reason)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_verb_moves_a_seed_as_the_table_says(shared: Connection, cell: Cell) -> None:
    seed = Seed(shared, cell.state)
    before = seed.row()
    answer = attempt(getattr(seed, cell.verb.removeprefix("pgonce_")))
    after = seed.row()
    if cell.to in {"none", "PT409"} or cell.verb == "get_checkpoint":
        assert answer == (before if cell.verb == "get_checkpoint" else {"none": None}.get(cell.to, cell.to))
        assert after == before
        return
    assert after is not None
    assert answer == after, "every verb of a seed answers with the row as it is afterwards"
    assert after["status"] == cell.to
    old = before or {"rows_inserted": 0, "rows_skipped": 0, "batch": 0, "last_checkpoint": {}, "error_message": None}
    if cell.verb in {"update_checkpoint", "pgonce_advance_seed"}:
        assert after["last_checkpoint"] == {"n": 9}
        assert after["batch"] == old["batch"] + 1
        assert (after["rows_inserted"], after["rows_skipped"]) == (old["rows_inserted"] + 3, old["rows_skipped"] + 2)
    else:
        for column in ("last_checkpoint", "batch", "rows_inserted", "rows_skipped"):
            assert after[column] == old[column]
    assert after["error_message"] == ("why" if cell.to == "failed" else None)
    assert (after["completed_at"] is not None) == (cell.to == "complete")
    if cell.state == cell.to == "complete":
        assert before is not None
        assert after["completed_at"] == before["completed_at"]
        if cell.verb == "fail_seed":
            assert after == before


def test_every_state_stands_exactly_once_under_every_verb() -> None:
    transitions.check_complete(CELLS, STATES, VERBS, SPECIAL)
