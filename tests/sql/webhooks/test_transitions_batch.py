"""Every cell of the transition table of webhooks_batch.sql, run against the database, and the seal of a batch."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql import transitions
from tests.sql.transitions import Cell, rows
from tests.sql.webhooks.test_transitions_claim import Queued

Connection = psycopg.Connection[Any]

CELLS = transitions.read("webhooks_batch")
COMPLETE = "select pgonce_complete_webhooks(%s::uuid[], %s::uuid[], true) as id"
UNMARK = "select pgonce_unmark_webhooks(%s::uuid[], %s::uuid[]) as unmarked"
UNSEAL = "select set_config('pgonce.sealed', 'off', true)"


def call(conn: Connection, query: str, *events: Queued) -> list[Any]:
    found = rows(conn, query, [event.id for event in events], [event.lease for event in events])
    return [next(iter(row.values())) for row in found]


def test_the_table_lists_both_verbs_and_no_cell_twice() -> None:
    listed = [(cell.state, cell.verb) for cell in CELLS]
    assert len(listed) == len(set(listed))
    assert {cell.verb for cell in CELLS} == {"pgonce_complete_webhooks", "pgonce_unmark_webhooks"}


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_verb_moves_a_batch_as_the_table_says(shared: Connection, cell: Cell) -> None:
    event = Queued(shared, "heldq" if cell.state == "marked" else cell.state)
    with shared.transaction():
        if cell.state == "marked":
            assert call(shared, COMPLETE, event) == [event.id]
        before = event.row()
        answer = call(shared, COMPLETE if cell.verb == "pgonce_complete_webhooks" else UNMARK, event)
        shared.execute(UNSEAL)
    if cell.to == "none":
        assert answer == ([] if cell.verb == "pgonce_complete_webhooks" else [0])
        assert event.row() == before
    else:
        assert answer == ([event.id] if cell.verb == "pgonce_complete_webhooks" else [1])
        assert event.state_in_queue() == cell.to
        assert event.row()["lease"] == event.lease  # type: ignore[index]


def test_a_mark_of_an_earlier_transaction_or_of_another_lease_stays(shared: Connection) -> None:
    event, other = Queued(shared, "heldq"), Queued(shared, "heldq")
    with shared.transaction():
        assert call(shared, COMPLETE, event) == [event.id]
        event.lease = other.lease
        assert call(shared, UNMARK, event) == [0]
        shared.execute(UNSEAL)
    assert event.state_in_queue() == "succeeded"


def test_a_mark_can_be_taken_back_behind_a_savepoint_that_was_rolled_back(shared: Connection) -> None:
    good, bad = Queued(shared, "heldq"), Queued(shared, "heldq")
    with shared.transaction():
        assert set(call(shared, COMPLETE, good, bad)) == {good.id, bad.id}
        with pytest.raises(psycopg.errors.DivisionByZero), shared.transaction():
            shared.execute("select 1/0")
        assert call(shared, UNMARK, bad) == [1]
        shared.execute(UNSEAL)
    assert (good.state_in_queue(), bad.state_in_queue()) == ("succeeded", "heldq")


@pytest.mark.parametrize("stolen", [False, True])
def test_a_sealed_batch_cannot_be_committed(shared: Connection, stolen: bool) -> None:
    first, second = Queued(shared, "heldq"), Queued(shared, "heldq")
    if stolen:  # the first is no longer ours: the seal goes to the second
        first.set("lease = gen_random_uuid()")
    with pytest.raises(psycopg.errors.InvalidTransactionTermination, match="leave COMMIT"), shared.transaction():
        assert set(call(shared, COMPLETE, first, second)) == ({second.id} if stolen else {first.id, second.id})
    assert (first.state_in_queue(), second.state_in_queue()) == ("heldq", "heldq")


def test_a_seal_is_of_its_transaction_only(shared: Connection) -> None:
    first, second = Queued(shared, "heldq"), Queued(shared, "heldq")
    with shared.transaction():
        call(shared, COMPLETE, first)
        shared.execute(UNSEAL)
    with shared.transaction():  # the row without lease_expires_at is written again, by somebody who knows nothing of it
        first.set("lease_expires_at = null")
        assert rows(shared, "select complete_webhook(%s, %s) as done", second.id, second.lease) == [{"done": True}]
    assert second.state_in_queue() == "succeeded"
