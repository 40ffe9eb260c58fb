"""`pgonce serve` gets 200 deliveries of one event at the same time, and is killed with -9 during many deliveries."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import httpx
import psycopg

from pgonce.webhooks import stripe
from tests.conftest import wait_until
from tests.contract.callers import spawn
from tests.faults.child import PGONCE, Child, Start

Db = psycopg.Connection[Any]

RETRIED = {409, 500, 502, 503}
"""What Stripe delivers again after."""


def serve(start: Start) -> tuple[Child, str]:
    """A server on a free port, and its address."""
    server = start(*PGONCE, "serve", "--port", "0", PGONCE_WEBHOOK_SECRET="whsec_test")
    return server, server.until(r"running on (http://[\d.:]+)")[1]


def deliver(base: str, event_ids: Iterable[str], at_once: int) -> list[int]:
    """Post an event for each id; returns the status of each answer, 0 if there was none."""

    async def main() -> list[int]:
        limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
        async with httpx.AsyncClient(base_url=base, limits=limits, timeout=60) as client:

            async def post(event_id: str) -> int:
                body = json.dumps({"id": event_id, "type": "effect"}).encode()
                headers = {"Stripe-Signature": stripe.sign(body, "whsec_test")}
                try:
                    return (await client.post("/webhooks/stripe", content=body, headers=headers)).status_code
                except httpx.HTTPError:
                    return 0

            return await asyncio.gather(*map(post, event_ids))

    return asyncio.run(main())


def waiting(db: Db) -> int:
    """Events without an outcome."""
    return db.execute("select count(*) from webhook_events where status = 'processing'").fetchall()[0][0]


def effects(db: Db) -> Counter[str]:
    return Counter(row[0] for row in db.execute("select name from effects").fetchall())


def test_200_deliveries_of_one_event_at_once_make_one_effect(start: Start, db: Db) -> None:
    server, base = serve(start)
    answers = deliver(base, ["evt_1"] * 200, 200)
    assert set(answers) <= {200} | RETRIED
    left = answers.count(200)
    while left < 200:  # as Stripe does it; the first answer has decided, so the others are soon 200
        left += deliver(base, ["evt_1"] * (200 - left), 200).count(200)
    wait_until(lambda: not waiting(db), "the event is handled")
    assert effects(db) == {"evt_1": 1}
    assert db.execute("select status, attempts from webhook_events").fetchall() == [("succeeded", 1)]
    assert "Traceback" not in server.said


def test_killed_in_the_middle_of_many_deliveries_each_has_its_effect_once(start: Start, db: Db) -> None:
    server, base = serve(start)
    ids = [f"evt_{number}" for number in range(150)]
    delivering = spawn(deliver, base, ids + ids[::3], 16)
    wait_until(lambda: effects(db).total() > 30, "it is in the middle")
    server.kill()
    first = dict(zip(ids, delivering.result(60), strict=False))
    assert 0 in first.values()
    answered = {event_id for event_id, code in first.items() if code == 200}
    recorded = {row[0] for row in db.execute("select stripe_event_id from webhook_events").fetchall()}
    assert answered <= recorded  # an event that got a 200 is never delivered again, so it must be there
    server, base = serve(start)
    # the lease of a dead worker expires by itself; here it is ended at once
    db.execute("update webhook_events set lease_expires_at = clock_timestamp() where status = 'processing'")
    wanted = sorted(set(ids) - answered)
    while wanted:
        wanted = [event_id for event_id, code in zip(wanted, deliver(base, wanted, 16), strict=True) if code != 200]
    wait_until(lambda: not waiting(db), "all are handled", 60)
    assert effects(db) == dict.fromkeys(ids, 1)
    assert server.process.poll() is None
