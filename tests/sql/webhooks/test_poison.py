"""Bodies that jsonb cannot hold, and bodies that are not events.

Nothing is lost, and other events of a batch are recorded.
"""

from __future__ import annotations

import json
import random
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.sql.race import value

Connection = psycopg.Connection[Any]

# body (ID is replaced), and whether the readable version keeps more than id and type
POISON = {
    "nul": (r'{"id": "ID", "type": "x", "a": "one\u0000two"}', True),
    "nul behind escapes": (r'{"id": "ID", "type": "x", "a": "\\\\\u0000", "b": "\\u0000"}', True),
    "nul in a key": (r'{"id": "ID", "type": "x", "\u0000": "b"}', True),
    "lone high surrogate": (r'{"id": "ID", "type": "x", "a": "\ud83d."}', True),
    "lone low surrogate": (r'{"id": "ID", "type": "x", "a": "\ude00\ud83d\ude00\ude00"}', True),
    "reversed surrogates": (r'{"id": "ID", "type": "x", "a": "\ude00\ud83d"}', True),
    "huge number": ('{"id": "ID", "type": "x", "a": 1e400000}', False),
    "deep nesting": ('{"id": "ID", "type": "x", "a": ' + "[" * 70_000 + "]" * 70_000 + "}", False),
}
GOOD = '{"id": "good", "n": 1}'


@pytest.fixture
def event() -> str:
    """A unique event id that sorts between those of the other events."""
    return f"evt_{uuid4().hex}"


@pytest.fixture(params=POISON.values(), ids=list(POISON))
def poison(request: pytest.FixtureRequest, event: str) -> tuple[str, bool]:
    body, readable = request.param
    return body.replace("ID", event), readable


def stored(conn: Connection, event: str) -> tuple[Any, bytes | None]:
    row = conn.execute("select payload, raw from webhook_events where stripe_event_id = %s", [event]).fetchone()
    assert row
    return row


def check_kept(conn: Connection, event: str, poison: tuple[str, bool]) -> None:
    """The column raw has the body byte for byte, and the payload is a readable version of it."""
    body, readable = poison
    payload, raw = stored(conn, event)
    assert raw == body.encode()
    assert (payload["id"], payload["type"]) == (event, "x")
    if readable:
        assert payload == {storable(name): storable(text) for name, text in json.loads(body).items()}
    else:
        assert "raw" in payload["unreadable"]


def storable(text: str) -> str:
    """Every character that jsonb can hold, and U+FFFD for each that it cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


def test_a_batch_with_poison_in_it_records_all(shared: Connection, event: str, poison: tuple[str, bool]) -> None:
    batch = [f"{event}z", event, f"{event[:-1]}"]
    query = "select stripe_event_id, outcome from pgonce_queue_webhooks(%s, '{x,x,x}', %s)"
    outcomes = shared.execute(query, [batch, [GOOD, poison[0], GOOD]]).fetchall()
    assert dict(outcomes) == dict.fromkeys(batch, "queued")
    check_kept(shared, event, poison)
    for neighbour in (batch[0], batch[2]):
        assert stored(shared, neighbour) == (json.loads(GOOD), None)


def test_poison_is_claimed_once_like_any_other_event(shared: Connection, event: str, poison: tuple[str, bool]) -> None:
    for outcome in ("claimed", "busy"):
        assert value(shared, "select outcome from claim_webhook(%s, 'x', %s)", event, poison[0]) == outcome
    check_kept(shared, event, poison)


def test_poison_is_received_with_its_id_beside_it(shared: Connection, event: str, poison: tuple[str, bool]) -> None:
    assert value(shared, "select id from receive_webhook(%s, %s, 'x')", poison[0], event)
    check_kept(shared, event, poison)


def test_poison_is_received_by_the_id_inside_it(shared: Connection, event: str, poison: tuple[str, bool]) -> None:
    receive = "select id from receive_webhook(%s)"
    if "[[[" in poison[0]:  # no parser of PostgreSQL gets to its end: the caller must name the event
        with pytest.raises(psycopg.Error) as refused:
            value(shared, receive, poison[0])
        assert refused.value.sqlstate == "22023"
    else:
        assert value(shared, receive, poison[0])
        check_kept(shared, event, poison)


def test_bytes_that_are_not_the_text_are_kept_as_received(shared: Connection, event: str) -> None:
    received = b'{"a": "\xff"}'  # not UTF-8: the caller passes a readable text and the bytes
    query = "select outcome from pgonce_queue_webhooks(array[%s], '{x}', array[%s], array[%s::bytea])"
    assert value(shared, query, event, received.decode(errors="replace"), received) == "queued"
    assert stored(shared, event) == ({"a": "\ufffd"}, received)


ENDLESS = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=9000))
REFUSED: dict[str, tuple[str | None, str | None, str | None]] = {
    "empty id": ("", "x", "{}"),
    "no id": (None, "x", "{}"),
    "an id that no index takes": (ENDLESS, "x", "{}"),
    "a type that no index takes": ("evt_m", ENDLESS, "{}"),
    "a long type": ("evt_m", "x" * 256, "{}"),
    "empty type": ("evt_m", "", "{}"),
    "no type": ("evt_m", None, "{}"),
    "no body": ("evt_m", "x", None),
    "not JSON": ("evt_m", "x", '{"id": evt_m}'),
    "not an object": ("evt_m", "x", ' ["evt_m"]'),
}


@pytest.mark.parametrize("bad, kind, body", REFUSED.values(), ids=REFUSED.keys())
def test_a_batch_with_nonsense_in_it_records_its_neighbours(
    shared: Connection, event: str, bad: str | None, kind: str | None, body: str | None
) -> None:
    first, last = event, f"{event}z"
    query = "select stripe_event_id, outcome from pgonce_queue_webhooks(%s, %s, %s)"
    batch = shared.execute(query, [[last, bad, first], ["x", kind, "x"], ["{}", body, "{}"]])
    assert dict(batch.fetchall()) == {first: "queued", bad: "refused", last: "queued"}
    alone = shared.execute(query, [[bad], [kind], [body]])
    assert alone.fetchall() == [(bad, "refused")]
    assert value(shared, "select count(*) from webhook_events where stripe_event_id = %s", bad) == 0


def test_a_batch_with_poison_keeps_the_order_of_arrival(shared: Connection, event: str) -> None:
    events = [f"{event}_{number}" for number in (3, 1, 2)]
    bodies = ["{}", r'{"a": "\u0000"}', "{}"]
    shared.execute("select pgonce_queue_webhooks(%s, '{x,x,x}', %s)", [events, bodies])
    arrived = "select array_agg(stripe_event_id order by received_at) from webhook_events where stripe_event_id like %s"
    assert value(shared, arrived, f"{event}%") == events


def test_an_error_that_no_event_is_to_blame_for_is_an_error(shared: Connection, event: str) -> None:
    query = "select outcome from pgonce_queue_webhooks(array[%s], '{x}', '{\"{}\"}', p_order_keys => array[%s])"
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        shared.execute(query, [event, ENDLESS])
