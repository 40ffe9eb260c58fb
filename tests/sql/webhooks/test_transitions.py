"""Every cell of the transition table at the head of webhooks_inbox.sql, run against the database.

A builder for each state (``from``), a caller for each verb; the rule for ``to`` stands in transitions.py.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.sql import transitions
from tests.sql.race import value
from tests.sql.transitions import Cell, Row, attempt, rows

Connection = psycopg.Connection[Any]

STATES = {
    "absent", "waiting", "held", "heldq", "expired", "expiredq", "failed", "failedq", "succeeded", "ignored",
    "unhandled",
}  # fmt: skip
VERBS = {"insert_webhook_if_new", "pgonce_queue_webhooks", "complete_webhook", "fail_webhook", "ignore_webhook"}
STRAY = {("stray", "insert_webhook_if_new"), ("strayheld", "insert_webhook_if_new")}
CELLS = transitions.read("webhooks_inbox")


class Event:
    """An event in a state, with its own id."""

    def __init__(self, conn: Connection, state: str) -> None:
        self.conn, self.event, self.id, self.lease = conn, f"evt_{uuid4().hex}", uuid4(), uuid4()
        conn.execute("delete from pgonce_processes")
        if state.startswith("stray"):
            state = {"stray": "waiting", "strayheld": "heldq"}[state]
            conn.execute("select pgonce_register_process(%s, 'events', 'h', 1, '1', p_handlers => '{y}')", [uuid4()])
        if state in {"waiting", "failedq"}:
            self.queue_webhooks()
        elif state != "absent":
            self.claim_webhook()
        if state in {"heldq", "expiredq"}:
            self.queue_webhooks()
        if state.startswith("expired"):
            self.set("lease_expires_at = clock_timestamp() - interval '1 hour'")
        if state == "failedq":  # as a worker does it: it claims a queued event, and fails
            self.set("lease = gen_random_uuid(), lease_expires_at = clock_timestamp() + interval '5 minutes'")
        if state != "absent":
            row = self.row()
            assert row
            self.id, self.lease = row["id"], row["lease"]
        if state in {"failed", "failedq"}:
            assert self.fail_webhook() is True
        elif state == "succeeded":
            assert self.complete_webhook() is True
        elif state == "ignored":
            assert self.ignore_webhook() is True
        elif state == "unhandled":
            query = "select ignore_webhook(%s, %s, 'no handler for x', p_unhandled => true)"
            assert value(conn, query, self.id, self.lease) is True
        assert self.state() == state

    def set(self, assignment: str) -> None:
        self.conn.execute(f"update webhook_events set {assignment} where stripe_event_id = %s".encode(), [self.event])

    def row(self) -> Row:
        found = rows(
            self.conn, "select *, lease_expires_at > clock_timestamp() as live from webhook_events"
            " where stripe_event_id = %s", self.event,
        )  # fmt: skip
        if found:
            del found[0]["deliveries"]  # it counts; the state is in the others
        return found[0] if found else None

    def state(self) -> str:
        row = self.row()
        if row is None:
            return "absent"
        if row["status"] == "processing":
            if row["lease"] is None:
                return "waiting" if row["queued"] else "nobody's"
            return ("held" if row["live"] else "expired") + ("q" if row["queued"] else "")
        if row["status"] == "ignored" and row["lease"] is None:
            return "unhandled"
        return str(row["status"]) + ("q" if row["status"] == "failed" and row["queued"] else "")

    def insert_webhook_if_new(self) -> UUID | None:
        return value(self.conn, "select id from insert_webhook_if_new(%s, 'x', '{}')", self.event)

    def receive_webhook(self) -> UUID | None:
        body = json.dumps({"id": self.event, "type": "x"})
        return value(self.conn, "select id from receive_webhook(%s)", body)

    def claim_webhook(self) -> str:
        return str(value(self.conn, "select outcome from claim_webhook(%s, 'x', '{}')", self.event))

    def queue_webhooks(self) -> str:
        query = "select outcome from pgonce_queue_webhooks(array[%s], '{x}', '{\"{}\"}')"
        return str(value(self.conn, query, self.event))

    def queue_and_claim(self) -> UUID:
        query = "select id, lease from pgonce_queue_webhooks(array[%s], '{x}', '{\"{}\"}', p_lease_for => '30 seconds')"
        found = self.conn.execute(query.encode(), [self.event]).fetchone()
        assert found
        self.id, self.lease = found
        return self.lease

    def complete_webhook(self) -> bool:
        return bool(value(self.conn, "select complete_webhook(%s, %s)", self.id, self.lease))

    def fail_webhook(self) -> bool:
        return bool(value(self.conn, "select fail_webhook(%s, %s, 'why')", self.id, self.lease))

    def ignore_webhook(self) -> bool:
        return bool(value(self.conn, "select ignore_webhook(%s, %s, 'why')", self.id, self.lease))


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_verb_moves_an_event_as_the_table_says(shared: Connection, cell: Cell) -> None:
    event = Event(shared, cell.state)
    before = event.row()
    answer = attempt(getattr(event, cell.verb.removeprefix("pgonce_")))
    after = event.row()
    if cell.to in {"false", "PT409"}:
        assert answer == {"false": False}.get(cell.to, cell.to)
        assert after == before
        return
    assert event.state() == cell.to
    assert after is not None
    if cell.verb == "insert_webhook_if_new":
        # a row if, and only if, the caller got a new lease
        assert answer == (after["id"] if before is None or after["lease"] != before["lease"] else None)
    elif cell.verb == "pgonce_queue_webhooks":
        assert answer == ("done" if cell.to in {"succeeded", "ignored"} else "queued")
    elif cell.verb == "queue_and_claim":
        assert answer == after["lease"] is not None
        assert after["attempts"] == 1
        assert event.complete_webhook() is True
    else:
        assert answer is True
    if cell.to == cell.state:
        assert after == before


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.verb == "insert_webhook_if_new"], ids=str)
def test_the_other_ways_to_claim_an_event_move_it_alike(shared: Connection, cell: Cell) -> None:
    event = Event(shared, cell.state)
    before = event.row()
    answer = event.claim_webhook()
    after = event.row()
    is_mine = after is not None and after["lease"] != (before and before["lease"])
    if is_mine:
        assert (answer, event.state()) == ("claimed", cell.to)
    else:
        assert after == before
        assert answer == {"PT409": "busy", "succeeded": "done", "ignored": "done"}.get(cell.to, "queued")

    other = Event(shared, cell.state)
    before = other.row()
    answer = attempt(other.receive_webhook)
    found = other.row()
    assert found
    assert answer == (cell.to if cell.to == "PT409" else found["id"] if is_mine else None)
    assert found == before if cell.to == "PT409" else other.state() == cell.to


def test_what_is_there_or_waits_for_its_object_is_not_claimed_where_it_is_queued(shared: Connection) -> None:
    event, new = Event(shared, "waiting"), uuid4().hex
    query = (
        "select stripe_event_id, outcome, lease from"
        " pgonce_queue_webhooks(%s, '{x,x,x,x}', array_fill('{}'::text, '{4}'),"
        " p_order_keys => %s, p_lease_for => '30 seconds')"
    )
    ids, keys = [event.event, f"{new}_1", f"{new}_2", f"{new}_1"], [None, None, "sub_1", None]
    found = {row[0]: row[1:] for row in shared.execute(query.encode(), [ids, keys]).fetchall()}
    assert {event_id: outcome for event_id, (outcome, _) in found.items()} == dict.fromkeys(ids, "queued")
    assert [event_id for event_id, (_, lease) in found.items() if lease] == [f"{new}_1"]
    assert event.state() == "waiting"


@pytest.mark.parametrize("verb", ["complete_webhook", "fail_webhook", "ignore_webhook"])
@pytest.mark.parametrize("state", sorted(STATES))
def test_a_lease_that_does_not_fit_moves_nothing(shared: Connection, state: str, verb: str) -> None:
    event = Event(shared, state)
    before = event.row()
    for lease in (uuid4(), None):
        event.lease = lease  # type: ignore[assignment]
        assert getattr(event, verb)() is False
        assert event.row() == before


def test_every_state_stands_exactly_once_under_every_verb() -> None:
    transitions.check_complete(CELLS, STATES, VERBS, {("absent", "queue_and_claim"), *STRAY})
