"""A trigger or rule of the user's that keeps an event from being written is an error that names it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql.race import value

Connection = psycopg.Connection[Any]

TRIGGER = """
create function tenant_filter() returns trigger language plpgsql as $$ begin {} end $$;
create trigger tenant_filter before {} on webhook_events for each row execute function tenant_filter()
"""
RECEIVERS = {
    "a batch": "select * from pgonce_queue_webhooks('{evt_0,evt_1}', '{x,x}', array['{}', '{}'])",
    "a batch for a worker": "select * from pgonce_queue_webhooks('{evt_1}', '{x}', '{\"{}\"}', p_lease_for => '30 s')",
    "a claim": "select * from claim_webhook('evt_1', 'x', '{}')",
    "a plain client": "select * from insert_webhook_if_new('evt_1', 'x', '{}')",
    "readiness": "select pgonce_check_inbox()",
}


@pytest.mark.parametrize("receive", RECEIVERS.values(), ids=RECEIVERS)
@pytest.mark.parametrize("does", ["return null;", "new.stripe_event_id := 'x' || new.stripe_event_id; return new;"])
def test_an_event_that_a_trigger_leaves_out_or_renames_is_an_error_that_names_the_trigger(
    conn: Connection, receive: str, does: str
) -> None:
    conn.execute(TRIGGER.format(does, "insert").encode())
    with pytest.raises(psycopg.Error, match=r"does not keep event .* the trigger tenant_filter") as raised:
        conn.execute(receive.encode())
    assert raised.value.sqlstate == "PT503"
    assert value(conn, "select count(*) from webhook_events") == 0


@pytest.mark.parametrize("when", ["immediate", "deferred"])
def test_a_constraint_that_refuses_deliveries_is_not_ready(conn: Connection, when: str) -> None:
    conn.execute(
        "create table kinds (name text primary key);"
        f"alter table webhook_events add foreign key (event_type) references kinds deferrable initially {when}".encode()
    )
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        conn.execute("select pgonce_check_inbox()")


def test_a_rule_that_leaves_events_out_is_not_ready(conn: Connection) -> None:
    conn.execute("create rule quiet as on insert to webhook_events do instead nothing")
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        conn.execute("select pgonce_check_inbox()")


@pytest.mark.parametrize("receive", RECEIVERS.values(), ids=RECEIVERS)
def test_other_triggers_do_no_harm(conn: Connection, receive: str) -> None:
    conn.execute(TRIGGER.format("new.id := gen_random_uuid(); return new;", "insert").encode())
    conn.execute("alter table webhook_events add column tenant text not null default 'a'")
    conn.execute("alter table webhook_events add column kind text generated always as (event_type) stored")
    conn.execute(receive.encode())


def test_a_trigger_that_keeps_events_from_being_claimed_is_an_error(conn: Connection) -> None:
    conn.execute("select * from pgonce_queue_webhooks('{evt_1}', '{x}', '{\"{}\"}')")
    conn.execute(TRIGGER.format("return null;", "update").encode())
    with pytest.raises(psycopg.Error, match=r"event evt_1 .* the trigger tenant_filter"):
        conn.execute("select * from pgonce_claim_webhooks()")


@pytest.mark.parametrize("mark", ["complete_webhook", "pgonce_mark_webhook"])
def test_a_trigger_that_keeps_an_event_from_being_marked_is_an_error(conn: Connection, mark: str) -> None:
    claimed = conn.execute("select id, lease from claim_webhook('evt_1', 'x', '{}')").fetchone()
    conn.execute(TRIGGER.format("return null;", "update").encode())
    with pytest.raises(psycopg.Error, match=r"event evt_1 .* the trigger tenant_filter"):
        conn.execute(f"select {mark}(%s, %s)".encode(), claimed)
    conn.execute("drop trigger tenant_filter on webhook_events")
    conn.execute(f"select {mark}(%s, %s)".encode(), claimed)
    assert value(conn, "select status from webhook_events") == "succeeded"
