"""The connection is cut at every message of every way to handle an event: each effect happens exactly once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from itertools import count
from typing import Annotated, Any, TypeAlias

import httpx
import pytest
from psycopg import AsyncConnection, Connection
from psycopg.types.json import Jsonb

import pgonce
from pgonce.cli.actor import audited
from pgonce.cli.options import Database
from pgonce.core import database as databases
from pgonce.core.call import Call, value
from pgonce.core.execute import call
from pgonce.webhooks import stripe
from pgonce.webhooks.calls_replays import erase_webhooks
from pgonce.webhooks.claimer import Claimer
from pgonce.webhooks.claimer_async import AsyncClaimer
from pgonce.webhooks.consumer import Consumer
from pgonce.webhooks.consumer_async import AsyncConsumer
from tests.conftest import wait_until
from tests.contract.webhooks.handler_kinds import KINDS, register
from tests.contract.webhooks.test_worker import Effects, Queue, app, effects, put, write
from tests.faults.proxy import Proxy, proxy

__all__ = ["app", "effects", "put"]

SECRET = "whsec_test"
Attempt: TypeAlias = Callable[[str], object]
"""Delivers the event with this id, or handles what is due; may raise anything."""


def signed(event_id: str) -> tuple[bytes, str]:
    body = json.dumps(
        {"id": event_id, "type": "pay", "data": {"object": {"id": event_id, "customer": "cus_1"}}}
    ).encode()
    return body, stripe.sign(body, SECRET)


async def write_async(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
    await tx.execute("insert into effects (event) values (%s)", [event.id])


@contextmanager
def consumer(app: pgonce.App, url: str) -> Iterator[Attempt]:
    types = app.claimed_types(asynchronous=False)
    assert types
    with databases.open_pool(url, 3) as pool:
        one = Consumer(app, Claimer(pool, types), lambda _: True)

        def handle(_: str) -> None:
            while one.run_once() or one.run_once():  # every other time those of transactions of their own come first
                pass

        yield handle


@contextmanager
def consumer_async(app: pgonce.App, url: str) -> Iterator[Attempt]:
    types = app.claimed_types(asynchronous=True)
    assert types
    with asyncio.Runner() as runner:
        pool = runner.run(databases.open_async_pool(url, 3))
        one = AsyncConsumer(app, AsyncClaimer(pool, types), lambda _: True)

        async def handle() -> None:
            while await one.run_once() or await one.run_once():
                pass

        yield lambda _: runner.run(handle())
        runner.run(pool.close())


@contextmanager
def inline_async(_: pgonce.App, url: str) -> Iterator[Attempt]:
    with asyncio.Runner() as runner:
        pool = runner.run(databases.open_async_pool(url, 2))
        webhooks = pgonce.AsyncWebhooks(pool, secrets=[SECRET])
        yield lambda event_id: runner.run(webhooks.receive(*signed(event_id), write_async))
        runner.run(pool.close())


@contextmanager
def endpoint(app: pgonce.App, url: str, *, queue: bool = False) -> Iterator[Attempt]:
    receiving = pgonce.Endpoint(app, secrets=[SECRET], url=url, queue=queue)

    def deliver(event_id: str) -> None:
        body, signature = signed(event_id)
        assert receiving.handle(body, {"stripe-signature": signature}).status == 200

    yield deliver
    receiving._pool().close()


@contextmanager
def over_http(served: Any, start: Any, stop: Any = None) -> Iterator[Attempt]:
    transport = httpx.ASGITransport(served, raise_app_exceptions=False)

    async def deliver(event_id: str) -> None:
        body, signature = signed(event_id)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            headers = {"stripe-signature": signature}
            assert (await client.post("/webhooks/stripe", content=body, headers=headers)).status_code == 200

    with asyncio.Runner() as runner:
        runner.run(start())
        yield lambda event_id: runner.run(deliver(event_id))
        runner.run(stop())


def receiver(app: pgonce.App, url: str) -> Any:
    served = pgonce.receiver(app, secrets=[SECRET], url=url, worker=False)
    return over_http(served, served.start, served.stop)


def inbox(_: pgonce.App, url: str) -> Any:
    fastapi = pytest.importorskip("fastapi", reason="fastapi is not installed: make test does")
    from pgonce.integrations.fastapi import Delivery, Inbox

    box, api, stack = Inbox(secrets=[SECRET], url=url), fastapi.FastAPI(), AsyncExitStack()

    async def route(delivery: Any) -> None:
        await write_async(delivery.event, delivery.tx)

    route.__annotations__ = {"delivery": Annotated[Delivery, box.delivery], "return": None}
    api.post("/webhooks/stripe")(route)
    return over_http(api, lambda: stack.enter_async_context(box.lifespan()), stack.aclose)


@contextmanager
def replay(_: pgonce.App, url: str) -> Iterator[Attempt]:
    """Replays dead letters."""
    with databases.open_pool(url, 2) as pool:

        def attempt(event_id: str) -> None:
            args = {"p_filter": Jsonb({"ids": [event_id], "state": "dead"}), "p_who": "me"}
            if number := call(pool, Call("pgonce_plan_replay", args, value), "public"):
                call(pool, Call("pgonce_start_replay", {"p_id": number}, value), "public")

        yield attempt


WAYS: dict[str, Any] = {
    "AsyncWebhooks": inline_async,
    "Endpoint": endpoint,
    "Endpoint(queue=True)": lambda app, url: endpoint(app, url, queue=True),
    "receiver": receiver,
    "Inbox of FastAPI": inbox,
    **{f"worker, {kind}": consumer_async if kind == "async" else consumer for kind in KINDS},
    "replay": replay,
}
QUEUED = {"replay", "receiver", "Endpoint(queue=True)"}
"""Others handle what these queue."""
LATER = """update webhook_events set lease_expires_at = least(lease_expires_at, now()),
next_attempt_at = case when queued then least(next_attempt_at, now()) end
where status = 'processing' or next_attempt_at > now()"""
DEAD = """update webhook_events set status = 'failed', next_attempt_at = null, lease = gen_random_uuid()
where stripe_event_id = %s"""


@pytest.mark.parametrize("way", WAYS)
def test_wherever_the_connection_is_cut_each_effect_happens_once(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, way: str
) -> None:
    kind = way.removeprefix("worker, ")
    with proxy(database) as network:
        if kind in KINDS:
            register(app, network.url, kind)
        else:
            app.webhook("pay")(lambda event, tx: write(tx, event))
        with WAYS[way](app, network.url) as attempt:
            sent = cut_everywhere(network, conn, attempt, way, put)
    if way in QUEUED:
        with consumer(app, database) as handle:
            handle("")
    assert sorted(effects()) == sorted(sent)
    assert conn.execute("select distinct status from webhook_events").fetchall() == [("succeeded",)]


def cut_everywhere(network: Proxy, conn: Connection[Any], attempt: Attempt, way: str, put: Queue) -> list[str]:
    """Attempt each of many events while the connection is cut at another message, and again until it is done."""
    sent: list[str] = []
    for number in count():
        for answer in (False, True):
            event = f"evt_{number}_{answer}"
            ids = [event, f"{event}_next"] if way.startswith("worker") and "own" not in way else [event]
            if way.startswith("worker") or way == "replay":
                put("pay", *ids)
            if way == "replay":
                conn.execute(DEAD.encode(), [event])
            network.cut_at(number, answer=answer)
            until_done(conn, attempt, ids, way)
            sent += ids
        if not network.has_cut:
            assert number >= (1 if way in QUEUED else 4)
            return sent
    raise AssertionError


def until_done(conn: Connection[Any], attempt: Attempt, ids: list[str], way: str) -> None:
    states = {"succeeded", *(["processing"] if way in QUEUED else [])}
    query = "select status from webhook_events where stripe_event_id = any(%s)"
    found: list[str] = []
    for _ in range(20):
        is_answered = False
        with suppress(Exception):
            attempt(ids[0])
            is_answered = True
        found = [row[0] for row in conn.execute(query, [ids]).fetchall()]
        is_done = len(found) == len(ids) and {*found} <= states
        if is_done and (is_answered or way.startswith("worker")):
            return
        if is_answered and not way.startswith("worker"):
            break  # there is no other delivery
        if way not in QUEUED:
            conn.execute(LATER.encode())
    pytest.fail(f"{way}: {ids} are {found}")


ERASED = """select count(*) filter (where payload ? 'erased'),
  (select count(*) from pgonce_webhook_attempts where what = 'erased'),
  (select coalesce(sum(2), 0) from pgonce_audit where action = 'erase') from webhook_events"""


def test_wherever_the_connection_is_cut_an_erasure_is_whole_or_nothing_and_may_be_repeated(
    database: str, conn: Connection[Any]
) -> None:
    event = """insert into webhook_events (stripe_event_id, event_type, status, payload)
    values (%s, 'pay', 'failed', '{"data": {"object": {"customer": "cus_1"}}}')"""
    wanted = erase_webhooks("cus_1", None, "me", dry_run=False)

    def erase(pool: Any) -> None:  # as the command does
        db = Database(database, "public")
        db.pool = pool
        audited(db, wanted, "erase", "customer", "cus_1", str)

    def erased() -> tuple[Any, ...]:
        [found] = conn.execute(ERASED.encode()).fetchall()
        return found

    def is_erased_by_hand() -> bool:  # the server may not have noticed yet that the other connection was cut
        erase(direct)
        return erased()[:2] == (2, 2)

    with (
        proxy(database) as network,
        databases.open_pool(network.url, 1) as pool,
        databases.open_pool(database, 1) as direct,
    ):
        for number in count():
            for answer in (False, True):
                conn.execute("truncate webhook_events, pgonce_webhook_attempts, pgonce_audit")
                conn.cursor().executemany(event.encode(), [["evt_1"], ["evt_2"]])
                network.cut_at(number, answer=answer)
                with suppress(Exception):
                    erase(pool)
                assert erased() in {(0, 0, 0), (2, 2, 2)}
                wait_until(is_erased_by_hand, "the repetition erases")
            if not network.has_cut:
                assert number >= 3
                return
