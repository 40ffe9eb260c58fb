"""A verified delivery is recorded, whatever its content, and whatever other deliveries are in the same INSERT."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg
import pytest
from psycopg import Connection

import pgonce
from pgonce.core import database as databases
from pgonce.errors import DatabaseUnavailable, EventBusy
from pgonce.webhooks import inbox_writer, stripe
from pgonce.webhooks.inbox_writer import InboxWriter, order_key
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.faults.proxy import proxy
from tests.faults.webhooks import odd_headers
from tests.faults.webhooks.odd_bodies import odd_bodies

Session = Callable[..., Connection[Any]]


def with_writer(url: str, work: Callable[[InboxWriter], Coroutine[Any, Any, Any]]) -> Any:
    async def main() -> Any:
        async with await databases.open_async_pool(url, 4) as pool:
            return await work(InboxWriter(pool))

    return asyncio.run(main())


def record_all(url: str, bodies: list[stripe.Body], keys: list[str | None]) -> list[Any]:
    """The outcomes of deliveries that arrive at the same moment; an exception is returned in place of an outcome."""

    async def work(writer: InboxWriter) -> Any:
        pairs = zip(bodies, keys, strict=True)
        return await asyncio.gather(*(writer.record(*pair) for pair in pairs), return_exceptions=True)

    return list(with_writer(url, work))


def body(nr: object, **more: Any) -> stripe.Body:
    return stripe.read(json.dumps({"id": f"evt_{nr}", "type": "pay", **more}).encode())


def recorded(conn: Connection[Any]) -> set[str]:
    return {row[0] for row in conn.execute("select stripe_event_id from webhook_events").fetchall()}


ORDERED = pgonce.App()


@ORDERED.webhook("pay", ordered=True)
def in_order(event: pgonce.Event, tx: Any) -> None:
    pass


@pytest.mark.parametrize("odd", ["a\0b", "\ud800", "x" * 5000, "\0" * 300], ids=ascii)
@pytest.mark.parametrize("place", ["object", "account", "api_version", "related", "snapshot", "kind"])
def test_what_an_id_holds_stops_neither_its_event_nor_those_beside_it(
    database: str, conn: Connection[Any], odd: str, place: str
) -> None:
    places: dict[str, dict[str, Any]] = {
        "object": {"data": {"object": {"id": odd}}},
        "account": {"account": odd, "data": {"object": {"id": "sub_1"}}},
        "api_version": {"api_version": odd},
        "related": {"related_object": {"id": odd}},
        "snapshot": {"snapshot_event": odd},
        "kind": {"data": {"object": {"id": "sub_1", "object": odd}}},
    }
    bodies = [body(1), body(2, **places[place]), body(3)]
    assert record_all(database, bodies, [order_key(ORDERED, each) for each in bodies]) == ["queued"] * 3
    assert recorded(conn) == {"evt_1", "evt_2", "evt_3"}


def test_a_key_that_the_database_refuses_fails_its_own_delivery_alone(database: str, conn: Connection[Any]) -> None:
    keys = [None, "a\0b", "\ud800", None]  # not cleaned, as `order_key` would have done
    outcomes = record_all(database, [body(nr) for nr in range(4)], keys)
    assert outcomes[0] == outcomes[3] == "queued"
    assert all(isinstance(outcome, Exception) for outcome in outcomes[1:3])
    assert recorded(conn) == {"evt_0", "evt_3"}


def test_a_key_function_that_raises_fails_the_event_with_its_traceback_and_not_the_delivery(
    database: str, conn: Connection[Any]
) -> None:
    app = pgonce.App()

    @app.webhook("pay", ordered=True, key=lambda event: event.object["metadata"]["tenant"])
    def pay(event: pgonce.Event, tx: Any) -> None:
        raise AssertionError("not called")

    assert record_all(database, [body(1)], [order_key(app, body(1))]) == ["queued"]
    failed = "select error_message from webhook_events where status = 'failed'"
    with Worker(app, database):
        [(message,)] = wait_until(lambda: conn.execute(failed.encode()).fetchall(), "the event has failed")
    assert "KeyError: 'metadata'" in message
    assert "test_recorded_whatever.py" in message


def test_numbers_that_jsonb_would_write_with_all_their_zeros_can_be_read_back(
    database: str, conn: Connection[Any]
) -> None:
    app = pgonce.App()
    seen: list[Any] = []

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Any) -> None:
        seen.append(event.payload["x"])

    huge = stripe.read(b'{"id":"evt_1","type":"pay","x":[%s 0]}' % (b"1e131071," * 5_000))
    assert record_all(database, [huge, body(2, x=1)], [None, None]) == ["queued", "queued"]
    with Worker(app, database):
        wait_until(lambda: len(seen) == 2, "both are handled")
    size = conn.execute("select max(length(payload::text)) from webhook_events").fetchone()
    assert size is not None
    assert size[0] < 100_000


def test_odd_bodies_are_recorded_and_handled(database: str, conn: Connection[Any]) -> None:
    app = pgonce.App()
    handled: list[str] = []

    @app.webhook("*")
    def anything(event: pgonce.Event, tx: Any) -> None:
        handled.append(event.id)

    bodies = [stripe.read(raw) for raw in odd_bodies(300, seed=7)]
    half = len(bodies) // 2
    assert set(record_all(database, bodies[:half], [None] * half)) == {"queued"}
    everything = pgonce.App()
    everything.webhook("*", ordered=True)(anything)
    assert set(record_all(database, bodies[half:], [order_key(everything, each) for each in bodies[half:]])) == {
        "queued"
    }
    assert recorded(conn) == {each.id for each in bodies}
    conn.execute("update webhook_events set order_key = null")  # events of one object wait for each other
    with Worker(app, database, concurrency=2):
        wait_until(lambda: len(set(handled)) == len(bodies), "all are handled", 60)


# Locks --------------------------------------------------------------------------------------------------------------


def test_a_delivery_by_itself_is_recorded_as_it_is_among_others(database: str, conn: Connection[Any]) -> None:
    # no fewer bodies: some of them must have raw bytes, and an INSERT for one delivery is another statement
    bodies = [stripe.read(raw) for raw in odd_bodies(150, seed=7)]
    keys = [order_key(ORDERED, each) if number % 3 else None for number, each in enumerate(bodies)]
    assert any(each.raw for each in bodies)
    assert any(keys)
    columns = "stripe_event_id, event_type, payload::text, raw, order_key, queued, attempts, lease, status"
    rows = f"select {columns} from webhook_events order by stripe_event_id".encode()

    async def one_by_one(writer: InboxWriter) -> list[str]:
        return [await writer.record(*pair) for pair in zip(bodies, keys, strict=True)]

    outcomes = with_writer(database, one_by_one)
    alone = conn.execute(rows).fetchall()
    assert set(outcomes) == {"queued"}
    assert len(alone) == len({each.id for each in bodies})
    conn.execute("delete from webhook_events")
    assert set(record_all(database, bodies, keys)) == {"queued"}
    assert conn.execute(rows).fetchall() == alone


def test_an_event_in_another_client_s_open_transaction_costs_one_delivery(
    database: str, conn: Connection[Any], session: Session
) -> None:
    other = session(autocommit=False)
    other.execute("insert into webhook_events (stripe_event_id, event_type) values ('evt_0', 'pay')")
    outcomes = record_all(database, [body(0), body(0), *map(body, range(1, 9))], [None] * 10)
    assert [type(each) for each in outcomes[:2]] == [EventBusy, EventBusy]
    assert outcomes[2:] == ["queued"] * 8
    other.rollback()
    assert record_all(database, [body(0)], [None]) == ["queued"]


def test_a_table_that_is_locked_is_a_database_that_is_away(
    database: str, conn: Connection[Any], session: Session
) -> None:
    other = session(autocommit=False)
    other.execute("lock table webhook_events in access exclusive mode")
    outcomes = record_all(database, [body(nr) for nr in range(20)], [None] * 20)
    assert {type(each) for each in outcomes} == {DatabaseUnavailable}
    other.rollback()
    assert record_all(database, [body(1)], [None]) == ["queued"]


def test_a_read_only_server_is_a_database_that_is_away_and_its_connection_is_left(
    database: str, conn: Connection[Any]
) -> None:
    async def main() -> None:
        async with await databases.open_async_pool(database, 1) as pool:
            writer = InboxWriter(pool)
            assert await writer.record(body(1), None) == "queued"
            async with pool.connection() as only:  # as a primary that was demoted and has kept its sessions
                await only.execute("set default_transaction_read_only = on")
            with pytest.raises(DatabaseUnavailable, match="read-only"):
                await writer.record(body(2), None)
            assert await writer.record(body(2), None) == "queued"  # on a new connection

    asyncio.run(main())
    assert recorded(conn) == {"evt_1", "evt_2"}


def test_a_server_that_answers_no_more_keeps_no_later_delivery_waiting(
    database: str, conn: Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_writer, "HANGS", 0.5)
    with proxy(database) as network:

        async def main() -> None:
            async with await databases.open_async_pool(network.url, 4) as pool:
                writer = InboxWriter(pool)
                hanging = []
                for nr in range(2):  # as many as are in flight at once; none of them is ever released
                    held = network.hold(b"pgonce_queue_webhooks")
                    hanging.append(asyncio.create_task(writer.record(body(nr), None)))
                    await asyncio.to_thread(held.wait)
                done, _ = await asyncio.wait(hanging, timeout=60)
                assert [type(each.exception()) for each in done] == [DatabaseUnavailable] * 2
                assert await writer.record(body(2), None) == "queued"

        asyncio.run(main())
    assert recorded(conn) == {"evt_2"}


def test_a_statement_that_no_host_acknowledges_is_given_up_after_a_minute(database: str) -> None:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        pytest.skip("this system has no TCP_USER_TIMEOUT")
    with (
        proxy(database) as network,
        databases.open_pool(network.url, 1) as pool,
        pool.connection() as conn,
        socket.socket(fileno=os.dup(conn.fileno())) as wire,
    ):
        assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


def test_a_pool_connects_only_to_a_server_that_can_write_unless_told_otherwise(
    database: str, conn: Connection[Any]
) -> None:
    conn.execute(f'alter database "{conn.info.dbname}" set default_transaction_read_only = on'.encode())
    with pytest.raises(DatabaseUnavailable, match="target_session_attrs=any"):
        databases.open_pool(database, 1)
    with databases.open_pool(f"{database}{'&' if '?' in database else '?'}target_session_attrs=any", 1) as pool:
        pool.wait()


@pytest.mark.parametrize("fault", ["disk full", "deadlock", "too many connections"])
def test_what_is_the_database_s_fault_is_answered_with_503_and_names_nothing(fault: str) -> None:
    from pgonce.webhooks.responses import failure

    errors = {
        "disk full": psycopg.errors.DiskFull('could not extend file "base/16384": No space left on device'),
        "deadlock": psycopg.errors.DeadlockDetected("deadlock detected: relation 16384 of host db.internal"),
        "too many connections": psycopg.errors.TooManyConnections("too many connections for role app at db.internal"),
    }
    answer = failure(errors[fault])
    assert answer.status == 503
    for inside in (b"16384", b"db.internal", b"role", b"device"):
        assert inside not in answer.body


def test_waiting_for_locks_stays_below_what_stripe_waits_for_an_answer() -> None:
    seconds = {"ms": 0.001, "s": 1.0}

    def length(text: str) -> float:
        return float(text.rstrip("ms")) * seconds[text.lstrip("0123456789")]

    together = length(inbox_writer.TOGETHER) + inbox_writer.MOST * length(inbox_writer.AGAIN)
    assert max(together, length(inbox_writer.ALONE)) < 15


# Headers ------------------------------------------------------------------------------------------------------------


def test_an_odd_signature_header_is_a_400_and_never_a_500(database: str, conn: Connection[Any]) -> None:
    pytest.importorskip("stripe", reason="Stripe's own library is not installed: make test does")
    receiver = pgonce.receiver(pgonce.App(), secrets=[odd_headers.SECRET], url=database, worker=False)

    async def main() -> Any:
        async with receiver.lifespan():
            return await odd_headers.answers(receiver, odd_headers.odd_headers(3000, seed=11))

    statuses = asyncio.run(main())
    assert statuses[200] > 200
    assert statuses[400] > 1500
    assert recorded(conn) == {"evt_header"}
