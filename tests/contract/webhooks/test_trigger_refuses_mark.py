"""A trigger of the user's that refuses one event's end fails that event, and stops none of the others."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import Connection

import pgonce
from tests.contract.webhooks.handler_kinds import register
from tests.contract.webhooks.test_worker import Effects, Queue, app, effects, put, status, work

__all__ = ["app", "effects", "put"]

TRIGGER = """
create function archive() returns trigger language plpgsql as
$$ begin if new.status = 'succeeded' and new.stripe_event_id = 'evt_0' then {} end if; return new; end $$;
create trigger archive {} update on webhook_events for each row execute function archive()
"""
REFUSALS = [
    ("raise 'not archived';", "after", "archive()"),
    ("perform 1 / 0;", "after", "archive()"),
    ("raise unique_violation;", "after", "archive()"),
    ("return null;", "before", "look at the trigger archive"),
]


@pytest.mark.parametrize("kind", ["plain", "async", "batch"])
@pytest.mark.parametrize(("does", "when", "says"), REFUSALS)
def test_the_event_whose_end_a_trigger_refuses_fails_and_the_others_are_handled(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    does: str,
    when: str,
    says: str,
    kind: str,
) -> None:
    register(app, database, kind)
    conn.execute(TRIGGER.format(does, when).encode())
    put("pay", *[f"evt_{number}" for number in range(5)])
    work(app, database, conn, concurrency=1)
    assert sorted(effects()) == ["evt_1", "evt_2", "evt_3", "evt_4"]
    failed = status(conn, "evt_0")
    assert (failed["status"], failed["attempts"], failed["next_attempt_at"] is None) == ("failed", 1, False)
    assert says in failed["error_message"]
