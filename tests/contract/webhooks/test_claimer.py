"""The consumers of a process share their claims."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from psycopg import Connection

from pgonce.core import database as databases
from pgonce.core.execute import call
from pgonce.webhooks import stripe
from pgonce.webhooks.calls import queue_webhooks
from pgonce.webhooks.calls_queue import claim_of
from pgonce.webhooks.claimer import Claimer
from pgonce.webhooks.registry import ClaimedTypes
from tests.conftest import wait_until


def test_a_claim_takes_events_for_all_consumers_that_wait_meanwhile(
    database: str, session: Callable[..., Connection[Any]]
) -> None:
    bodies = [stripe.read(b'{"id": "evt_%d", "type": "a.b", "object": "event"}' % number) for number in range(8)]
    with databases.open_pool(database, 4) as pool, ThreadPoolExecutor(4) as threads:
        call(pool, queue_webhooks(bodies, [None] * 8), "public")
        other = session(autocommit=False)
        other.execute("select pgonce_wait_for_other_claims('a.b')")
        claimer = Claimer(pool, ClaimedTypes("a.b"))
        claims = [threads.submit(claimer.claim, 2) for _ in range(4)]
        wait_until(lambda: len(claimer._waiting) == 4, "each consumer to ask for events")
        other.commit()
        batches = [claim.result() for claim in claims]
    assert sorted(event.id for batch in batches for event in batch) == [body.id for body in bodies]
    assert [len(batch) for batch in batches] == [2, 2, 2, 2]
    leases = {claim_of(event).lease for batch in batches for event in batch}
    assert len(leases) <= 2, "one for the consumer that came first, and one for all others"
