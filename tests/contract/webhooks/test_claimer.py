"""The consumers of a process share their claims."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from psycopg import AsyncConnection, Connection

import pgonce
from pgonce.core import database as databases
from pgonce.core.execute import call
from pgonce.webhooks import claimer, claimer_async, handler_connection, handler_connection_async, stripe
from pgonce.webhooks.calls import queue_webhooks
from pgonce.webhooks.calls_queue import claim_of
from pgonce.webhooks.claimer import Claimer
from pgonce.webhooks.registry import ClaimedTypes
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.faults.proxy import proxy


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("statement", [b"pgonce_claim_webhooks", b"pgonce_mark_webhook", b"; commit; "])
def test_a_statement_without_an_answer_stops_no_consumer_for_ever(
    database: str, conn: Connection[Any], monkeypatch: pytest.MonkeyPatch, kind: str, statement: bytes
) -> None:
    for module in (claimer, handler_connection) if kind == "sync" else (claimer_async, handler_connection_async):
        monkeypatch.setattr(module, "HANGS", 0.5)
    app = pgonce.App()
    conn.execute("create table effects (event text)")
    insert = "insert into effects values (%s)"

    def effect(event: pgonce.Event, tx: Connection[Any]) -> None:
        tx.execute(insert, [event.id])

    async def effect_async(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
        await tx.execute(insert, [event.id])

    app.webhook("a.b")(effect if kind == "sync" else effect_async)
    bodies = [stripe.read(b'{"id": "evt_%d", "type": "a.b", "object": "event"}' % nr) for nr in range(2)]
    succeeded = "select from webhook_events where status = 'succeeded'"
    with proxy(database) as network, databases.open_pool(database, 1) as pool:
        held = network.hold(statement)  # it is never released
        with Worker(app, network.url, poll=0.05, concurrency=1):
            call(pool, queue_webhooks(bodies[:1], [None]), "public")
            held.wait()
            call(pool, queue_webhooks(bodies[1:], [None]), "public")
            wait_until(lambda: conn.execute(succeeded).rowcount >= 1, "the other event is handled")
            network.cut()
            conn.execute("update webhook_events set lease_expires_at = clock_timestamp() where status = 'processing'")
            conn.execute("update webhook_events set next_attempt_at = clock_timestamp() where status = 'processing'")
            wait_until(lambda: conn.execute(succeeded).rowcount == 2, "both events are handled")
    assert sorted(conn.execute("select event from effects").fetchall()) == [("evt_0",), ("evt_1",)]


def test_a_claim_takes_events_for_all_consumers_that_wait_meanwhile(
    database: str, session: Callable[..., Connection[Any]]
) -> None:
    bodies = [stripe.read(b'{"id": "evt_%d", "type": "a.b", "object": "event"}' % number) for number in range(8)]
    with databases.open_pool(database, 4) as pool, ThreadPoolExecutor(4) as threads:
        call(pool, queue_webhooks(bodies, [None] * 8), "public")
        other = session(autocommit=False)
        other.execute("select pgonce_wait_for_other_claims('a.b')")
        of_all = Claimer(pool, ClaimedTypes("a.b"))
        claims = [threads.submit(of_all.claim, 2) for _ in range(4)]
        wait_until(lambda: len(of_all._waiting) == 4, "each consumer to ask for events")
        other.commit()
        batches = [claim.result() for claim in claims]
    assert sorted(event.id for batch in batches for event in batch) == [body.id for body in bodies]
    assert [len(batch) for batch in batches] == [2, 2, 2, 2]
    leases = {claim_of(event).lease for batch in batches for event in batch}
    assert len(leases) <= 2, "one for the consumer that came first, and one for all others"
