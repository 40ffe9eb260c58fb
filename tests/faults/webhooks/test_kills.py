"""A process is killed -9 at every point of handling an event; after the redelivery its effect is there exactly once."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from pgonce import EventBusy, Webhooks
from pgonce.webhooks import stripe
from tests.conftest import wait_until
from tests.faults.child import Start
from tests.faults.proxy import Proxy

Db = psycopg.Connection[Any]

BODY = json.dumps({"id": "evt_1", "type": "effect"}).encode()

SYNC = """
import sys
from pgonce import Webhooks
from pgonce.core.database import find, open_pool
from pgonce.webhooks import stripe
from tests.faults.webhooks.shop import app

body, lease = sys.argv[1].encode(), sys.argv[2]
with open_pool(find()) as pool:
    webhooks = Webhooks(pool, secrets=["whsec_test"], lease=lease)
    print("outcome:", webhooks.receive(body, stripe.sign(body, "whsec_test"), app.handle), flush=True)
"""

ASYNC = """
import asyncio, sys
from pgonce import AsyncWebhooks
from pgonce.core.database import find, open_async_pool
from pgonce.webhooks import stripe

async def handler(event, tx):
    await tx.execute("insert into effects (name) values (%s)", [event.id])

async def main():
    body, lease = sys.argv[1].encode(), sys.argv[2]
    async with await open_async_pool(find()) as pool:
        webhooks = AsyncWebhooks(pool, secrets=["whsec_test"], lease=lease)
        print("outcome:", await webhooks.receive(body, stripe.sign(body, "whsec_test"), handler), flush=True)

asyncio.run(main())
"""

# handles slowly: prints that it has begun, and continues when it gets a line
SLOW = """
import sys
from pgonce import Webhooks
from pgonce.core.database import find, open_pool
from pgonce.webhooks import stripe

def handler(event, tx):
    tx.execute("insert into effects (name) values (%s)", [event.id])
    print("inside", flush=True)
    sys.stdin.readline()
    tx.execute("insert into effects (name) values (%s)", [event.id])

body, lease = sys.argv[1].encode(), sys.argv[2]
with open_pool(find()) as pool:
    Webhooks(pool, lease=lease).handle(stripe.read(body), handler)
"""

# the message that the proxy holds | whether it holds the answer instead | the state that the redelivery finds
POINTS = {
    "before the claim": (b"claim_webhook", False, "succeeded"),
    "after the claim": (b"claim_webhook", True, "succeeded"),
    "before the mark": (b"complete_webhook", False, "succeeded"),
    "after the mark": (b"complete_webhook", True, "succeeded"),
    "in the handler, after the effect": (b"insert into effects", True, "succeeded"),
    "after the handler": (b"RELEASE", False, "succeeded"),
    "before the commit": (b"COMMIT", False, "succeeded"),
    "after the commit": (b"COMMIT", True, "done"),
}


def redeliver(database: str) -> str:
    with ConnectionPool(database, kwargs={"autocommit": True}, min_size=1, open=True) as pool:
        webhooks = Webhooks(pool, secrets=["whsec_test"])
        insert = "insert into effects (name) values (%s)"
        signature = stripe.sign(BODY, "whsec_test")
        return webhooks.receive(BODY, signature, lambda event, tx: tx.execute(insert, [event.id]))


def effects(db: Db) -> int:
    return db.execute("select count(*) from effects where name = 'evt_1'").fetchall()[0][0]


def sessions(db: Db) -> int:
    """The sessions of other clients than the test."""
    others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    return db.execute(others).fetchall()[0][0]


def expire(db: Db) -> None:
    db.execute("update webhook_events set lease_expires_at = clock_timestamp() where status = 'processing'")


@pytest.mark.parametrize("code", [SYNC, ASYNC], ids=["sync", "async"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_the_redelivery_makes_the_effect_exactly_once(
    network: Proxy, start: Start, database: str, db: Db, point: str, code: str
) -> None:
    message, answer, then = POINTS[point]
    held = network.hold(message, answer=answer)
    child = start(sys.executable, "-c", code, BODY.decode(), "5 minutes", database=network.url)
    held.wait()
    child.kill()
    network.cut()
    wait_until(lambda: sessions(db) == 0, "the server has noticed")
    assert effects(db) == (1 if then == "done" else 0)
    if db.execute("select 1 from webhook_events where status = 'processing'").fetchone():
        with pytest.raises(EventBusy):  # no client knows yet that it is dead: a 200 would lose the event
            redeliver(database)
        expire(db)
    assert redeliver(database) == then
    assert redeliver(database) == "done"
    assert effects(db) == 1


def test_a_handler_that_is_stopped_loses_its_event_when_its_lease_is_over(start: Start, database: str, db: Db) -> None:
    child = start(sys.executable, "-c", SLOW, BODY.decode(), "1 second")
    child.until("inside")
    child.stop()
    # no client takes it over yet: its own idle_in_transaction_session_timeout ends it and unlocks the row
    wait_until(lambda: not db.execute(IDLE).fetchone(), "the stopped handler's transaction is ended")
    assert redeliver(database) == "succeeded"
    child.signal(signal.SIGCONT)
    child.tell("go on")
    assert child.end() == 1
    assert "idle-in-transaction timeout" in child.said
    assert redeliver(database) == "done"
    assert effects(db) == 1
    assert db.execute("select status, attempts from webhook_events").fetchall() == [("succeeded", 2)]


IDLE = "select 1 from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'"
