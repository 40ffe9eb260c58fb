"""Where a payload is stored: outside its row, so that the row's later versions are small."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from psycopg import Connection
from psycopg.rows import dict_row

STORED_OUTSIDE = """
select pg_relation_size(reltoastrelid) > 0 from pg_class where oid = 'webhook_events'::regclass
"""


@pytest.mark.parametrize(("size", "outside"), [(40, False), (500, True), (1000, True), (1950, True), (5000, True)])
def test_a_payload_is_stored_outside_its_row_and_is_still_there_after_a_claim_and_a_mark(
    conn: Connection[Any], size: int, outside: bool
) -> None:
    payload = {"id": "evt_1", "type": "pay", "x": random.Random(size).randbytes(size // 2).hex()}
    row = "select payload, filler from webhook_events"
    conn.execute("select pgonce_queue_webhooks('{evt_1}', '{pay}', array[%s])", [json.dumps(payload)])
    assert conn.execute(STORED_OUTSIDE.encode()).fetchone() == (outside,)
    conn.execute("select pgonce_mark_webhook(id, lease) from pgonce_claim_webhooks(1)")
    assert conn.execute(row.encode()).fetchone() == (payload, None)


@pytest.mark.parametrize(
    "end", ["complete_webhook(id, lease)", "fail_webhook(id, lease, 'x')", "ignore_webhook(id, lease, 'x')"]
)
def test_an_event_that_has_ended_has_no_filler(conn: Connection[Any], end: str) -> None:
    payload = json.dumps({"id": "evt_1", "type": "pay", "x": "y" * 1000})
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, payload) values ('evt_1', 'pay', %s)", [payload]
    )
    assert conn.execute(f"select {end} from webhook_events".encode()).fetchone() == (True,)
    assert conn.execute("select filler from webhook_events").fetchone() == (None,)


def test_the_filler_is_not_shown(conn: Connection[Any]) -> None:
    payload = json.dumps({"id": "evt_1", "type": "pay", "x": "y" * 1000})
    conn.execute("select pgonce_queue_webhooks('{evt_1}', '{pay}', array[%s])", [payload])
    shown = conn.cursor(row_factory=dict_row).execute("select pgonce_get_webhook('evt_1') as event").fetchone()
    assert shown is not None
    assert "filler" not in shown["event"]


def test_the_ids_of_recorded_events_ascend_with_the_time(conn: Connection[Any]) -> None:
    for nr in range(3):
        conn.execute("select pgonce_queue_webhooks(array[%s], '{pay}', '{\"{}\"}')", [f"evt_{nr}"])
        conn.execute("select pg_sleep(0.002)")
    ids = [row[0] for row in conn.execute("select id from webhook_events order by stripe_event_id").fetchall()]
    assert ids == sorted(ids)
    assert {each.version for each in ids} == {7}
