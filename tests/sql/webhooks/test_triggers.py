"""The columns that triggers compute are there whatever the session's role in a replication is."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgonce.core import migrate as schema
from pgonce.core.schema_check import check

PAYLOAD = (
    '{"account": "acct_1", "livemode": true, "data": {"object": {"id": "sub_1", "object": "s", "customer": "cus_1"}}}'
)


@pytest.mark.parametrize("role", ["origin", "local", "replica"])
def test_each_row_has_its_searchable_columns(conn: psycopg.Connection[Any], role: str) -> None:
    conn.execute(f"set session_replication_role = {role}".encode())
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, payload) values ('github:1', 'a.b', %s)", [PAYLOAD]
    )
    conn.execute("update webhook_events set status = 'failed', error_message = 'KeyError: 1'")
    columns = "provider, object_id, customer_id, account, livemode, failure"
    assert conn.execute(f"select {columns} from webhook_events".encode()).fetchall() == [
        ("github", "sub_1", "cus_1", "acct_1", True, "KeyError: …")
    ]


OF_CUSTOMERS = [
    '{"data": {"object": {"id": "cus_1", "object": "customer"}}}',
    '{"data": {"object": {"object": "invoice", "customer": {"id": "cus_1"}}}}',
    '{"data": {"object": {"object": "invoice", "customer": null, "customer_account": "cus_1"}}}',
    '{"data": {"object": {"object": "payment_method"}, "previous_attributes": {"customer": "cus_1"}}}',
    '{"object": "v2.core.event", "related_object": {"id": "cus_1", "type": "customer"}}',
]


@pytest.mark.parametrize("payload", OF_CUSTOMERS)
def test_the_customer_is_found_wherever_a_payload_names_it(conn: psycopg.Connection[Any], payload: str) -> None:
    insert = "insert into webhook_events (stripe_event_id, event_type, payload) values ('evt_1', 'x', %s)"
    conn.execute(insert, [payload])
    assert conn.execute("select customer_id from webhook_events").fetchall() == [("cus_1",)]


@pytest.mark.parametrize("state", ["disable", "enable", "enable replica"])
def test_a_trigger_in_another_state_is_found_and_repaired(
    database: str, conn: psycopg.Connection[Any], state: str
) -> None:
    conn.execute(f"alter table webhook_events {state} trigger pgonce_before_write".encode())
    [line] = check(database)
    assert "pgonce_before_write" in line
    schema.migrate(database)
    assert check(database) == []
