"""Every cell of the transition tables at the heads of the seeds' SQL files, run against the database.

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
VERBS = {
    "get_checkpoint", "update_checkpoint", "pgonce_advance_seed", "pgonce_restart_seed", "complete_seed", "fail_seed",
    "pgonce_leave_seed",
}  # fmt: skip
# special cases of a state, which are listed only under the verbs that distinguish them
SPECIAL = {
    *((state, "pgonce_advance_seed") for state in ("repeated", "lost", "in_parts")), ("lost", "pgonce_restart_seed"),
    ("in_parts", "complete_seed"),
}  # fmt: skip
CELLS = transitions.read("seeds_checkpoint")
ZERO: dict[str, Any] = {
    "rows_inserted": 0,
    "rows_skipped": 0,
    "rows_seen": 0,
    "total_inserted": 0,
    "batch": 0,
    "last_checkpoint": {},
}


class Seed:
    """A seed in a state, with its own name, and with a run that may advance it."""

    key = ""
    table = "seed_checkpoints"

    def __init__(self, conn: Connection, state: str) -> None:
        self.conn, self.name = conn, f"seed_{uuid4().hex}"
        self.run = self.start()
        self.batch = 0
        if state == "in_parts":
            self.call("select from pgonce_begin_partitions(%s, '{a}')", self.name)
        elif state == "whole":
            Seed.verb(self, "update_checkpoint")
        elif state != "absent":
            self.make()
        if state == "complete":
            self.complete()
        elif state == "failed":
            self.fail("an older reason")
        elif state == "repeated":
            self.batch = 0
        elif state == "lost":
            conn.execute("update cron_job_runs set heartbeat_at = now() - interval '1 hour' where id = %s", [self.run])
            assert self.start() not in {None, self.run}

    def make(self) -> None:
        self.verb("update_checkpoint")
        self.batch = 1

    def start(self) -> Any:
        return value(self.conn, "select start_job_run('seed_runner', p_key => %s)", self.name + self.key)

    def row(self) -> Row:
        found = rows(self.conn, f"select * from {self.table} where seed_name = %s", self.name)
        return found[0] if found else None

    def verb(self, name: str) -> Row:
        calls: dict[str, tuple[Any, ...]] = {
            "get_checkpoint": ("select * from get_checkpoint(%s)",),
            "update_checkpoint": ("select * from update_checkpoint(%s, '{\"n\": 9}', 3, 2)",),
            "pgonce_advance_seed": (
                "select * from pgonce_advance_seed(%s, %s, %s, '{\"n\": 9}', 3, 2)", self.run, self.batch,
            ),
            "pgonce_restart_seed": ("select * from pgonce_restart_seed(%s, %s)", self.run),
            "complete_seed": ("select * from complete_seed(%s)",),
            "fail_seed": ("select * from fail_seed(%s, %s)", "why"),
            "pgonce_leave_seed": ("select * from pgonce_leave_seed(%s, %s)", "why"),
        }  # fmt: skip
        query, *arguments = calls[name]
        return self.call(query, self.name, *arguments)

    def call(self, query: str, *arguments: Any) -> Row:
        found = rows(self.conn, query, *arguments)
        return found[0] if found else None

    def complete(self) -> Row:
        return self.verb("complete_seed")

    def fail(self, reason: str) -> Row:
        return self.call("select * from fail_seed(%s, %s)", self.name, reason)


class Part(Seed):
    """The same for a partition; the seed has a second partition."""

    key = "/a"
    table = "(select * from pgonce_seed_partitions where partition = 'a') p"

    def make(self) -> None:
        self.call("select from pgonce_begin_partitions(%s, '{a}')", self.name)
        self.verb("pgonce_advance_partition")
        self.batch = 1

    def verb(self, name: str) -> Row:
        calls: dict[str, tuple[Any, ...]] = {
            "pgonce_begin_partitions": ("select * from pgonce_begin_partitions(%s, '{a}')",),
            "pgonce_advance_partition": (
                "select * from pgonce_advance_partition(%s, 'a', %s, %s, '{\"n\": 9}', 3, 2)", self.run, self.batch,
            ),
            "pgonce_restart_partition": ("select * from pgonce_restart_partition(%s, 'a', %s)", self.run),
            "pgonce_complete_partition": ("select * from pgonce_complete_partition(%s, 'a')",),
            "pgonce_fail_partition": ("select * from pgonce_fail_partition(%s, 'a', 'why')",),
            "pgonce_leave_partition": ("select * from pgonce_leave_partition(%s, 'a', 'why')",),
        }  # fmt: skip
        query, *arguments = calls[name]
        return self.call(query, self.name, *arguments)

    def complete(self) -> Row:
        return self.verb("pgonce_complete_partition")

    def fail(self, reason: str) -> Row:
        return self.call("select * from pgonce_fail_partition(%s, 'a', %s)", self.name, reason)

    def seed(self) -> dict[str, Any]:
        found = rows(self.conn, "select * from seed_checkpoints where seed_name = %s", self.name)
        return found[0] if found else {}


def check(seed: Seed, cell: Cell) -> tuple[Row, Row]:
    """Run the cell; the row before and after it."""
    before = seed.row()
    answer = attempt(lambda: seed.verb(cell.verb))
    after = seed.row()
    if cell.to in {"none", "PT404", "PT409", "22023"} or cell.verb == "get_checkpoint":
        assert answer == (before if cell.verb == "get_checkpoint" else {"none": None}.get(cell.to, cell.to))
        assert after == before
        return before, after
    assert after is not None
    assert answer == after, "every verb of a seed answers with the row as it is afterwards"
    assert after["status"] == cell.to
    old = before or ZERO
    if "restart" in cell.verb:
        assert [after[name] for name in ("rows_inserted", "rows_skipped", "rows_seen")] == [0, 0, 0]
        assert after["total_inserted"] == old["total_inserted"], "sums of all time go on"
        assert (after["last_checkpoint"], after["batch"]) == ({}, old["batch"] + bool(before))
    elif "advance" in cell.verb or "update" in cell.verb:
        assert after["last_checkpoint"] == {"n": 9}
        assert after["batch"] == old["batch"] + 1
        assert (after["rows_inserted"], after["rows_skipped"]) == (old["rows_inserted"] + 3, old["rows_skipped"] + 2)
        assert after["total_inserted"] == old["total_inserted"] + 3
    else:
        for column in ("last_checkpoint", "batch", "rows_inserted", "rows_skipped"):
            assert after[column] == old[column]
    reason = "why" if "fail" in cell.verb or "leave" in cell.verb else "an older reason"
    assert after["error_message"] == (reason if cell.to == "failed" else None)
    assert (after["completed_at"] is not None) == (cell.to == "complete")
    if cell.state == cell.to == "complete":
        assert before is not None
        assert after["completed_at"] == before["completed_at"]
        if "fail" in cell.verb:
            assert after == before
    return before, after


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_verb_moves_a_seed_as_the_table_says(shared: Connection, cell: Cell) -> None:
    check(Seed(shared, cell.state), cell)


def test_every_state_stands_exactly_once_under_every_verb() -> None:
    transitions.check_complete(CELLS, STATES, VERBS, SPECIAL)


# Partitions ----------------------------------------------------------------------------------------------------------

PART_CELLS = transitions.read("seeds_partition")


@pytest.mark.parametrize("cell", PART_CELLS, ids=str)
@pytest.mark.parametrize("is_last", [True, False])
def test_a_verb_moves_a_partition_as_the_table_says(shared: Connection, cell: Cell, is_last: bool) -> None:
    part = Part(shared, cell.state)
    if not is_last and cell.state != "whole":
        part.call("select from pgonce_begin_partitions(%s, '{b}')", part.name)
    seed = part.seed()
    check(part, cell)
    found = part.seed()
    if cell.to in {"none", "PT404", "PT409", "22023"} or (cell.state == "complete" and "fail" in cell.verb):
        assert found == seed, "and the sums stay as they are"
        return
    expected = cell.to if is_last or cell.to != "complete" else "in_progress"
    if cell.verb == "pgonce_begin_partitions":
        expected = "complete" if cell.to == "complete" and is_last else "in_progress"
    elif cell.to == "complete" and not is_last and seed:
        expected = seed["status"]
    assert found["status"] == expected
    row = part.row()
    assert row is not None
    for column in ("rows_inserted", "rows_skipped", "rows_seen", "total_inserted"):
        assert found[column] == row[column], "the seed has the sums"


def test_every_state_of_a_partition_stands_exactly_once_under_every_verb() -> None:
    verbs = {f"pgonce_{verb}_partition" for verb in ("advance", "restart", "complete", "fail", "leave")}
    special = {(state, f"pgonce_{verb}_partition") for state, verb in
               [("repeated", "advance"), ("lost", "advance"), ("lost", "restart")]}  # fmt: skip
    special.add(("whole", "pgonce_begin_partitions"))
    transitions.check_complete(PART_CELLS, STATES, verbs | {"pgonce_begin_partitions"}, special)


@pytest.mark.parametrize("batch", ["null", "-1"])
def test_a_batch_without_a_number_adds_to_no_sum(shared: Connection, batch: str) -> None:
    part = Part(shared, "in_progress")
    before = (part.row(), part.seed())
    for call in (f"advance_partition(%s, 'a', %s, {batch}", f"advance_seed(%s, %s, {batch}"):
        query = f"select from pgonce_{call}, '{{\"n\": 1}}', 7)"
        assert attempt(lambda query=query: part.call(query, part.name, part.run)) == "22023"  # type: ignore[misc]
    assert (part.row(), part.seed()) == before


@pytest.mark.parametrize("names", ["null", "'{}'", "'{a,null}'", "array['']"])
def test_partitions_need_names(shared: Connection, names: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        shared.execute(f"select pgonce_begin_partitions('s', {names})".encode())


# What operators do ---------------------------------------------------------------------------------------------------

OPERATE_CELLS = transitions.read("seeds_operate")
REJECT_VERBS = {"pgonce_reject_seed_rows", "pgonce_resolve_reject"}


class Operated:
    """A seed that an operator pauses, resumes or resets."""

    def __init__(self, conn: Connection, state: str) -> None:
        self.conn, self.name = conn, f"seed_{uuid4().hex}"
        if state == "running":  # its first batch is not committed yet: a run, and no row
            value(conn, "select start_job_run('seed_runner', p_key => %s)", self.name)
        if state in {"idle", "paused"}:
            rows(conn, "select from update_checkpoint(%s, '{\"n\": 1}')", self.name)
        if state == "paused":
            rows(conn, "select from pgonce_pause_seed(%s)", self.name)

    @property
    def state(self) -> str:
        found = rows(self.conn, "select paused_at from seed_checkpoints where seed_name = %s", self.name)
        if found and found[0]["paused_at"]:
            return "paused"
        if rows(self.conn, "select from pgonce_get_runners(%s) where alive", self.name):
            return "running"
        return "idle" if found else "unknown"


@pytest.mark.parametrize("cell", [cell for cell in OPERATE_CELLS if cell.verb not in REJECT_VERBS], ids=str)
def test_a_verb_of_an_operator_does_as_the_table_says(shared: Connection, cell: Cell) -> None:
    seed = Operated(shared, cell.state)
    if cell == ("running", "pgonce_resume_seed", "running"):
        rows(shared, "select from update_checkpoint(%s, '{\"n\": 1}')", seed.name)
    assert seed.state == cell.state
    answer = attempt(lambda: value(shared, f"select to_jsonb(s) from {cell.verb}(%s) s", seed.name))
    if cell.to in {"false", "PT404", "PT409"}:
        assert answer == {"false": False}.get(cell.to, cell.to)
        assert seed.state == cell.state
    else:
        assert answer
        assert seed.state == cell.to


def test_every_state_of_an_operated_seed_stands_once_under_every_verb() -> None:
    cells = [cell for cell in OPERATE_CELLS if cell.verb not in REJECT_VERBS]
    verbs = {"pgonce_pause_seed", "pgonce_resume_seed", "pgonce_reset_seed"}
    transitions.check_complete(cells, {"unknown", "running", "idle", "paused"}, verbs, set())
    rejects = [cell for cell in OPERATE_CELLS if cell.verb in REJECT_VERBS]
    transitions.check_complete(rejects, {"absent", "stored"}, REJECT_VERBS, set())


@pytest.mark.parametrize("cell", [cell for cell in OPERATE_CELLS if cell.verb in REJECT_VERBS], ids=str)
def test_a_verb_of_a_reject_does_as_the_table_says(shared: Connection, cell: Cell) -> None:
    name = f"seed_{uuid4().hex}"
    rows(shared, "select from update_checkpoint(%s, '{\"n\": 1}', 5, 5)", name)
    shared.execute("update seed_checkpoints set rows_rejected = 1, total_rejected = 1 where seed_name = %s", [name])
    store = (
        """select pgonce_reject_seed_rows(%s, '[{"row_number": 7, "cursor": 1, "row": {"id": "x"}, "error": "no"}]')"""
    )
    if cell.state == "stored":
        assert value(shared, store, name) == 1
    count = "select count(*) from pgonce_get_rejects(%s)"
    if cell.verb == "pgonce_reject_seed_rows":
        before = value(shared, count, name)
        assert value(shared, store, name) == before + 1 == value(shared, count, name)
        assert value(shared, "select pgonce_count_rejects(%s)", name) == before + 1
        return
    stored = rows(shared, "select id from pgonce_get_rejects(%s)", name)
    answer = value(shared, "select pgonce_resolve_reject(%s, p_rows_inserted => 1)", stored[0]["id"] if stored else 0)
    assert answer is (cell.to == "absent")
    assert value(shared, count, name) == 0
    sums = "select array[rows_inserted, rows_rejected, total_inserted, total_rejected] from get_checkpoint(%s)"
    assert value(shared, sums, name) == ([6, 0, 6, 0] if answer else [5, 1, 5, 1])


def test_counters_stop_at_the_largest_integer_and_the_sums_of_all_time_go_on(shared: Connection) -> None:
    name = f"seed_{uuid4().hex}"
    for _ in range(2):
        rows(shared, "select from update_checkpoint(%s, '{\"n\": 1}', 2000000000)", name)
    run = value(shared, "select start_job_run('seed_runner', p_key => %s)", name)
    rows(shared, "select from pgonce_advance_seed(%s, %s, 2, '{\"n\": 1}', 2000000000)", name, run)
    counted = "select array[rows_inserted, rows_seen, total_inserted] from get_checkpoint(%s)"
    assert value(shared, counted, name) == [2147483647, 6_000_000_000, 6_000_000_000]
    rows(shared, "select from pgonce_restart_seed(%s, %s)", name, run)
    assert value(shared, counted, name) == [0, 0, 6_000_000_000]


def test_the_last_sixty_batches_are_kept_with_their_time(shared: Connection) -> None:
    seed = Seed(shared, "absent")
    for batch in range(70):
        seed.batch = batch
        seed.verb("pgonce_advance_seed")
    found = rows(shared, "select batch, rows, committed_at from pgonce_seed_batches where seed_name = %s", seed.name)
    found.sort(key=lambda row: row["batch"])
    assert [row["batch"] for row in found] == [*range(10, 70)]
    assert {row["rows"] for row in found} == {5}
    assert [row["committed_at"] for row in found] == sorted(row["committed_at"] for row in found)
