"""Ending an event as ignored, by an operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.sql.race import value

Connection = psycopg.Connection[Any]
STATES = {
    # state: the columns that make it, and whether an operator may end it as ignored
    "dead": ("status = 'failed', next_attempt_at = null", True),
    "failed, tried again later": ("status = 'failed', next_attempt_at = now() + interval '1 hour'", True),
    "failed, not queued": ("status = 'failed', queued = false, next_attempt_at = null", True),
    "its worker died": ("lease = gen_random_uuid(), lease_expires_at = now() - interval '1 minute'", True),
    "its client died": (
        "queued = false, next_attempt_at = null, lease = gen_random_uuid(), lease_expires_at = now() - interval '1 s'",
        True,
    ),
    "waiting": ("lease = null, lease_expires_at = null", False),
    "held": ("lease = gen_random_uuid(), lease_expires_at = now() + interval '1 minute'", False),
    "succeeded": ("status = 'succeeded', next_attempt_at = null", False),
    "ignored": ("status = 'ignored', ignored_reason = 'why', next_attempt_at = null", False),
}
IGNORE = "select pgonce_console_ignore_webhook(%s, 'evt_1', %s)"


@pytest.fixture
def conn(shared: Connection) -> Iterator[Connection]:
    """A transaction that is rolled back."""
    with shared.transaction(force_rollback=True):
        shared.execute("select pgonce_queue_webhooks('{evt_1}', '{invoice.paid}', array['{}'])")
        yield shared


@pytest.fixture
def operator(conn: Connection) -> UUID:
    found: UUID = value(conn, "select pgonce_console_identify('host', 'ada', 'operator', '')")
    return found


def event(conn: Connection) -> tuple[Any, ...]:
    found = conn.execute(
        "select status, ignored_reason, next_attempt_at, lease from webhook_events where stripe_event_id = 'evt_1'"
    ).fetchone()
    assert found is not None
    return found


@pytest.mark.parametrize("state", STATES)
def test_what_has_failed_or_lost_its_handler_can_be_ignored_and_nothing_else(
    conn: Connection, operator: UUID, state: str
) -> None:
    columns, possible = STATES[state]
    conn.execute(f"update webhook_events set {columns}".encode())
    before = event(conn)
    assert conn.execute(IGNORE, [operator, "no handler is needed"]).fetchone() == (possible,)
    if not possible:
        assert event(conn) == before
        assert value(conn, "select count(*) from pgonce_audit where action = 'ignore'") == 0
        return
    assert event(conn)[:3] == ("ignored", "by ada: no handler is needed", None)
    lines = "select actor, object, after, reason from pgonce_audit where action = 'ignore'"
    assert conn.execute(lines.encode()).fetchall() == [("ada", "evt_1", "ignored", "no handler is needed")]
    # a worker that starts takes back what had no handler: not this one
    conn.execute("select pgonce_take_back_webhooks('^invoice.paid$')")
    assert event(conn)[0] == "ignored"


def test_a_renewed_lease_is_held(conn: Connection, operator: UUID) -> None:
    conn.execute("update webhook_events set lease = gen_random_uuid(), lease_expires_at = now() - interval '1 minute'")
    conn.execute("insert into pgonce_webhook_leases select id, lease, now() + interval '1 minute' from webhook_events")
    assert conn.execute(IGNORE, [operator, "why"]).fetchone() == (False,)


def test_a_reader_is_refused_and_a_reason_is_needed(conn: Connection, operator: UUID) -> None:
    conn.execute("update webhook_events set status = 'failed', next_attempt_at = null")
    reader = value(conn, "select pgonce_console_identify('host', 'bob', 'reader', '')")
    with pytest.raises(psycopg.Error, match="bob is a reader"), conn.transaction():
        conn.execute(IGNORE, [reader, "why"])
    with pytest.raises(psycopg.Error, match="a reason is needed"), conn.transaction():
        conn.execute(IGNORE, [operator, ""])
    assert event(conn)[0] == "failed"


def test_an_event_that_a_handler_has_locked_is_left_to_it(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn, psycopg.connect(database) as handler:
        conn.execute("select pgonce_queue_webhooks('{evt_1}', '{invoice.paid}', array['{}'])")
        conn.execute("update webhook_events set status = 'failed', next_attempt_at = null")
        operator = value(conn, "select pgonce_console_identify('host', 'ada', 'operator', '')")
        handler.execute("select from webhook_events for update")
        with pytest.raises(psycopg.Error, match="a handler is at work on event evt_1"):
            conn.execute(IGNORE, [operator, "why"])
        with pytest.raises(psycopg.Error, match="there is no event evt_2"):
            conn.execute("select pgonce_console_ignore_webhook(%s, 'evt_2', 'why')", [operator])
