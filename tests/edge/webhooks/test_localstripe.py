"""End to end with localstripe, a third-party stand-in for Stripe: its events are received, handled and recovered."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from psycopg import Connection

from tests.conftest import wait_until
from tests.edge.command import SECRET, pgonce, running

pytest.importorskip("localstripe", reason="localstripe is not installed: make test does")

APP = """
import pgonce
app = pgonce.App()
@app.webhook("*")
def everything(event, tx):
    tx.execute("insert into effects values (%s, %s)", [event.id, event.type])
"""
KEY = "sk_test_123"


# Only its application, in a process: its own command listens on every interface and writes its data to a fixed path.
LOCALSTRIPE = """
import asyncio
from aiohttp import web
from localstripe.resources import store
from localstripe.server import app
store.dump_to_disk = lambda: None
async def serve():
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()
asyncio.run(serve())
"""


@pytest.fixture
def stripe() -> Iterator[httpx.Client]:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", LOCALSTRIPE], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=(KEY, ""), timeout=30) as client:
            yield client
        process.kill()


def create(stripe: httpx.Client, path: str, **content: Any) -> dict[str, Any]:
    answer = stripe.post(f"/v1/{path}", json=content)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def subscribe(stripe: httpx.Client, name: str) -> None:
    """Make a customer with a card and a subscription, which makes an invoice and its payment."""
    customer = create(stripe, "customers", name=name)
    card = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040, "cvc": "123"}
    method = create(stripe, "payment_methods", type="card", card=card)
    create(stripe, f"payment_methods/{method['id']}/attach", customer=customer["id"])
    settings = {"default_payment_method": method["id"]}
    create(stripe, f"customers/{customer['id']}", invoice_settings=settings)
    create(stripe, "subscriptions", customer=customer["id"], items=[{"plan": "gold"}])


def events(stripe: httpx.Client) -> dict[str, str]:
    found = stripe.get("/v1/events", params={"limit": 100}).json()["data"]
    return {event["id"]: event["type"] for event in found}


def effects(conn: Connection[Any]) -> list[tuple[str, str]]:
    return sorted(conn.execute("select event, type from effects").fetchall())


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def refusing(port: int) -> Iterator[list[int]]:
    """A receiver that closes every connection; the list gets one entry for each."""
    hung_up: list[int] = []

    def hang_up() -> None:
        with suppress(OSError):
            while True:
                listener.accept()[0].close()
                hung_up.append(1)

    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=hang_up)
        thread.start()
        yield hung_up
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(20)


def test_real_events_are_handled_once_and_what_was_missed_is_recovered(
    stripe: httpx.Client, database: str, conn: Connection[Any], tmp_path: Path
) -> None:
    conn.execute("create table effects (event text, type text)")
    (tmp_path / "shop.py").write_text(APP)
    port = free_port()  # the same again after the pause: Stripe knows one address
    hook = {"url": f"http://127.0.0.1:{port}/webhooks/stripe", "secret": SECRET}
    assert stripe.post("/_config/webhooks/shop", json=hook).status_code == 200
    product = create(stripe, "products", name="Gold", type="service")
    plan = {"id": "gold", "product": product["id"], "amount": 1000, "currency": "usd", "interval": "month"}
    serve = ["serve", "--port", str(port), "--app", "shop"]

    with running(database, *serve, cwd=tmp_path) as server:
        assert server.port == port
        create(stripe, "plans", **plan)
        subscribe(stripe, "Anna")
        received = events(stripe)
        wait_until(lambda: {event for event, _ in effects(conn)} >= received.keys() - _before(stripe), "the effects")
    assert {"customer.created", "customer.subscription.created", "invoice.created"} <= set(received.values())

    with refusing(port) as refused:  # it delivers about a second late, and once
        subscribe(stripe, "Berta")
        missed = events(stripe).keys() - received.keys()
        assert missed
        wait_until(lambda: len(refused) >= len(missed), "every delivery to have been tried in vain")

    base = str(stripe.base_url).rstrip("/")
    arguments = ["reconcile", "--app", "shop", "--api-base", base]
    with running(database, *serve, cwd=tmp_path) as server:
        assert server.port == port
        code, out, err = pgonce(database, *arguments, cwd=tmp_path, STRIPE_API_KEY=KEY)
        assert (code, err) == (0, "")
        seen, recovered, missing = [int(part.split()[0]) for part in out.split(", ")]
        assert (seen, missing) == (len(events(stripe)), 0)
        assert len(missed) <= recovered <= len(missed | _before(stripe))
        wait_until(lambda: {event for event, _ in effects(conn)} == events(stripe).keys(), "the recovered ones")
        again = pgonce(database, *arguments, cwd=tmp_path, STRIPE_API_KEY=KEY)
        assert again[1] == f"{seen} seen, 0 recovered, 0 missing\n"
    assert effects(conn) == sorted(events(stripe).items())


def _before(stripe: httpx.Client) -> set[str]:
    """The events of the product, from before the receiver was started: their delivery may have failed."""
    return {event for event, type_ in events(stripe).items() if type_.startswith("product.")}
