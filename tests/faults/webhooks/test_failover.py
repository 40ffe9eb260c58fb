"""A receiver during a switchover.

The old primary becomes read-only and keeps its sockets, and the standby is promoted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

import pgonce
from pgonce.webhooks import stripe
from tests.faults.replicas import Replicas, replicas

SECRET = "whsec_test"
Deliver = Callable[[str], Awaitable[int]]


def with_receiver(url: str, work: Callable[[Deliver, httpx.AsyncClient], Awaitable[None]]) -> None:
    receiver = pgonce.receiver(pgonce.App(), secrets=[SECRET], url=url, worker=False)

    async def main() -> None:
        here = httpx.ASGITransport(app=receiver)
        async with receiver.lifespan(), httpx.AsyncClient(transport=here, base_url="http://here") as client:

            async def deliver(event_id: str) -> int:
                body = json.dumps({"id": event_id, "type": "pay"}).encode()
                headers = {"Stripe-Signature": stripe.sign(body, SECRET)}
                return (await client.post("/webhooks/stripe", content=body, headers=headers)).status_code

            await work(deliver, client)

    asyncio.run(main())


async def until(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await done():
            pass


def recorded(pair: Replicas, name: str) -> set[str]:
    with pair.connect(name) as conn:
        return {row[0] for row in conn.execute("select stripe_event_id from webhook_events").fetchall()}


@pytest.mark.parametrize("killed", [False, True], ids=["read-only", "killed"])
def test_deliveries_go_to_the_server_that_can_write_and_none_that_was_answered_200_is_lost(killed: bool) -> None:
    with replicas(synchronous=True) as pair:
        # both hosts, without target_session_attrs
        url = pair.url.replace("target_session_attrs=read-write", "application_name=x")
        assert "target_session_attrs" not in url

        async def work(deliver: Deliver, client: httpx.AsyncClient) -> None:
            assert await deliver("evt_before") == 200
            if killed:
                await asyncio.to_thread(pair.fail_over)
            else:
                await asyncio.to_thread(turn_read_only, pair)
                status = await deliver("evt_during")
                assert status == 503
                assert (await client.get("/readyz")).status_code == 503
                await asyncio.to_thread(promote, pair)
            answered: list[Any] = []

            async def is_accepted() -> bool:
                answered.append(await deliver("evt_after"))
                return answered[-1] == 200

            await until(is_accepted)
            assert set(answered) <= {200, 503}

        with_receiver(url, work)
        assert {"evt_before", "evt_after"} <= recorded(pair, "standby")


def turn_read_only(pair: Replicas) -> None:
    """Make every session of the primary read-only, including the open ones."""
    with pair.connect("primary") as conn:
        conn.execute("alter system set default_transaction_read_only = on")
        conn.execute("select pg_reload_conf()")


def promote(pair: Replicas) -> None:
    with pair.connect("standby") as conn:
        conn.execute("alter system reset primary_conninfo")
        conn.execute("select pg_promote()")
