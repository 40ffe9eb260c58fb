"""Every cell of the transition table of webhooks_batch.sql, run against the database."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql import transitions
from tests.sql.transitions import Cell, rows
from tests.sql.webhooks.test_transitions_claim import Queued

Connection = psycopg.Connection[Any]

CELLS = transitions.read("webhooks_batch")
VERBS = {
    "pgonce_mark_webhook": "select pgonce_mark_webhook(%s, %s) is not null as answer",
    "pgonce_complete_webhooks": "select true as answer from pgonce_complete_webhooks(array[%s::uuid], array[%s::uuid])",
    "pgonce_fail_committed_webhook": "select pgonce_fail_committed_webhook(%s, %s, 'sent COMMIT') as answer",
}


def call(conn: Connection, verb: str, event: Queued) -> bool:
    found = rows(conn, VERBS[verb], event.id, event.lease)
    return bool(found and found[0]["answer"])


def test_the_table_lists_every_verb_and_no_cell_twice() -> None:
    listed = [(cell.state, cell.verb) for cell in CELLS]
    assert len(listed) == len(set(listed))
    assert {cell.verb for cell in CELLS} == set(VERBS)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_verb_moves_an_event_as_the_table_says(shared: Connection, cell: Cell) -> None:
    event = Queued(shared, cell.state)
    if cell.to == "dead":
        event.set("queued = true")
    before = event.row()
    answer = call(shared, cell.verb, event)
    if cell.to == "none":
        assert not answer
        assert event.row() == before
    else:
        assert answer
        assert event.state_in_queue() == cell.to
        assert event.row()["lease"] == event.lease  # type: ignore[index]


@pytest.mark.parametrize("verb", VERBS)
def test_another_lease_moves_nothing(shared: Connection, verb: str) -> None:
    event = Queued(shared, "succeeded" if "fail" in verb else "heldq")
    before = event.row()
    event.lease = Queued(shared, "heldq").lease
    assert not call(shared, verb, event)
    assert event.row() == before
