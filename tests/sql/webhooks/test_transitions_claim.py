"""Every cell of the transition table at the head of webhooks_claim.sql, run against the database.

The table lists, for each verb, the states in which it may find an event; webhooks_inbox.sql has the other states.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql import transitions
from tests.sql.race import value
from tests.sql.transitions import Cell, attempt
from tests.sql.webhooks.test_transitions import Event

Connection = psycopg.Connection[Any]

VERBS = {
    "pgonce_claim_webhooks",
    "pgonce_release_webhooks",
    "pgonce_postpone_webhook",
    "pgonce_ignore_unhandled_webhooks",
    "pgonce_adopt_webhooks",
    "pgonce_take_back_webhooks",
    "pgonce_renew_webhook",
    "pgonce_replay_webhook",
    "pgonce_replay_webhooks",
}
CELLS = [*transitions.read("webhooks_claim"), *transitions.read("webhooks_replay")]
# a state of this table, the state of webhooks_inbox.sql that it is made from, and the assignment that makes it
DERIVED = {
    "failed": ("failedq", "next_attempt_at = clock_timestamp()"),
    "dead": ("failedq", "next_attempt_at = null"),
    "exhausted": ("expiredq", "attempts = 12"),
    "ignored": ("ignored", "queued = true, ignored_reason = 'no handler for x'"),  # so says its handler
}
MAX_ATTEMPTS = 12


class Queued(Event):
    """An event in a state of webhooks_claim.sql."""

    def __init__(self, conn: Connection, state: str) -> None:
        origin, assignment = DERIVED.get("expiredq" if state == "renewed" else state, (state, ""))
        origin = "expiredq" if state == "renewed" else origin
        super().__init__(conn, origin)
        if assignment:
            self.set(assignment)
        if state == "renewed":
            assert self.renew_webhook() is True

    def state_in_queue(self) -> str:
        row = self.row()
        found = self.state()
        if row and found == "failedq":
            return "dead" if row["next_attempt_at"] is None else "failed"
        if row and found == "expiredq":
            live = "select exists (select from pgonce_webhook_leases where event_id = %s and expires_at > now())"
            return "renewed" if value(self.conn, live, row["id"]) else found
        return found

    def claim_webhooks(self) -> Any:
        # only this event is due, because all cells share the database
        query = "select count(*) from pgonce_claim_webhooks(100, p_types => %s)"
        self.set(f"event_type = '{self.event}'") if self.row() else None
        return value(self.conn, query, f"^{self.event}$")

    def release_webhooks(self) -> Any:
        return value(self.conn, "select pgonce_release_webhooks(array[%s], array[%s])", self.id, self.lease)

    def postpone_webhook(self) -> Any:
        return value(self.conn, "select pgonce_postpone_webhook(%s, %s, '1 minute')", self.id, self.lease)

    def ignore_unhandled_webhooks(self) -> Any:
        self.set("event_type = 'x'")
        self.conn.execute("delete from pgonce_processes")
        return value(self.conn, "select pgonce_ignore_unhandled_webhooks()")

    def adopt_webhooks(self) -> Any:
        return value(self.conn, "select pgonce_adopt_webhooks()")

    def take_back_webhooks(self) -> Any:
        self.set(f"event_type = '{self.event}'") if self.row() else None
        return value(self.conn, "select pgonce_take_back_webhooks(%s)", f"^{self.event}$")

    def renew_webhook(self) -> Any:
        return value(self.conn, "select pgonce_renew_webhook(%s, %s)", self.id, self.lease)

    def replay_webhooks(self) -> Any:
        row = self.row()
        assert row
        query = "select count(*) from pgonce_replay_webhooks(array[%s], array[%s], array[%s::uuid])"
        return value(self.conn, query, self.event, row["status"], row["lease"])

    def replay_webhook(self) -> Any:
        return value(self.conn, "select pgonce_replay_webhook(%s)", self.event)


def test_the_table_lists_every_verb_and_no_cell_twice() -> None:
    listed = [(cell.state, cell.verb) for cell in CELLS]
    assert len(listed) == len(set(listed))
    assert {cell.verb for cell in CELLS} == VERBS


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_verb_moves_a_queued_event_as_the_table_says(shared: Connection, cell: Cell) -> None:
    event = Queued(shared, cell.state)
    state = "expiredq" if cell.state == "exhausted" else cell.state
    assert event.state_in_queue() == state
    lease = (event.row() or {}).get("lease")
    answer = attempt(getattr(event, cell.verb.removeprefix("pgonce_")))
    if cell.to == "PT404":
        assert answer == "PT404"
        return
    after = event.row()
    assert after is not None
    assert event.state_in_queue() == cell.to
    if cell.verb == "pgonce_claim_webhooks":
        assert answer == (1 if cell.to == "heldq" and cell.state != "heldq" else 0)
        assert (after["lease"] != lease) == (answer == 1)
    elif cell.verb == "pgonce_renew_webhook":
        assert answer is (cell.to in {"heldq", "renewed"})
        assert after["lease"] == lease
    elif cell.verb == "pgonce_replay_webhook":
        assert answer is (cell.to == "waiting")
        assert cell.to != "waiting" or after["attempts"] == 0
    elif cell.to == cell.state:
        assert after["lease"] == lease


def test_of_many_workers_one_looks_for_unhandled_events_in_a_while(shared: Connection) -> None:
    look = "select pgonce_ignore_unhandled_webhooks(p_every => '1 hour')"
    shared.execute("delete from pgonce_upkeep")
    Queued(shared, "waiting")
    shared.execute("delete from pgonce_processes")
    assert value(shared, look) > 0
    Queued(shared, "waiting")
    assert value(shared, look) == 0
    shared.execute("update pgonce_upkeep set done_at = done_at - interval '2 hours'")
    assert value(shared, look) > 0
    Queued(shared, "waiting")
    shared.execute("update pgonce_upkeep set done_at = done_at + interval '1 day'")  # the clock was set back
    assert value(shared, look) > 0


@pytest.mark.parametrize("status", ["succeeded", "ignored"])
def test_what_a_plain_update_has_ended_is_not_due_and_holds_back_no_other_of_its_object(
    shared: Connection, status: str
) -> None:
    first, second = Queued(shared, "waiting"), Queued(shared, "waiting")
    for event in (first, second):
        event.set(f"order_key = '{first.event}'")
    first.set(f"status = '{status}'")
    due = "select count(*) from pgonce_due_webhooks(clock_timestamp(), 1000) where stripe_event_id = %s"
    assert [value(shared, due, event.event) for event in (first, second)] == [0, 1]
    assert second.claim_webhooks() == 1
