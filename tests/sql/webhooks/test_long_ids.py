"""An event is found by the id of its object, customer or account, however long that id is."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from psycopg import Connection

IDS = ["x" * 255, "x" * 256, "日" * 300, "x" * 5000]
FILTERS = {"object": "p_object_id", "customer": "p_customer_id", "account": "p_account"}


@pytest.fixture(params=IDS, ids=lambda each: f"{len(each)}{each[0]}")
def long_id(request: pytest.FixtureRequest, conn: Connection[Any]) -> str:
    for event, each in (("evt_1", request.param), ("evt_2", "short")):
        body = {"id": event, "type": "pay", "account": each, "data": {"object": {"id": each, "customer": each}}}
        conn.execute("select insert_webhook_if_new(%s, 'pay', %s)", [event, json.dumps(body)])
    return str(request.param)


@pytest.mark.parametrize("by", FILTERS)
def test_by_the_list_and_by_a_filter(conn: Connection[Any], long_id: str, by: str) -> None:
    listed = f"select stripe_event_id from pgonce_list_webhooks({FILTERS[by]} => %s)".encode()
    assert conn.execute(listed, [long_id]).fetchall() == [("evt_1",)]
    found = "select e.stripe_event_id from pgonce_find_webhooks(%s, 10) f join webhook_events e using (id)"
    assert conn.execute(found, [json.dumps({by: long_id})]).fetchall() == [("evt_1",)]


def test_nothing_of_a_customer_is_erased_who_shares_the_beginning(conn: Connection[Any], long_id: str) -> None:
    conn.execute("update webhook_events set status = 'succeeded', processed_at = now()")
    if len(long_id) > 255:
        with pytest.raises(psycopg.Error, match="must not be longer than 255 characters"):
            conn.execute("select pgonce_erase_webhooks(%s)", [long_id])
    else:
        assert conn.execute("select erased from pgonce_erase_webhooks(%s)", [long_id]).fetchone() == (1,)
