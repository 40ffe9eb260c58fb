"""Calling a function of the wrong kind does nothing, so it must never count as a success, wherever it is called."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection

import pgonce
import pgonce.testing
from pgonce.core import database as databases
from pgonce.core.execute import call
from pgonce.errors import InvalidArgument
from pgonce.webhooks import calls as webhooks
from pgonce.webhooks import handler_connection, handler_connection_async, stripe
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until

PLAIN = "called as a plain"
COROUTINE = "called as an asynchronous one"


async def promise(*_: Any) -> None:
    pytest.fail("it must not run")


def generator(*_: Any) -> Iterator[None]:
    yield pytest.fail("it must not run")


async def stream(*_: Any) -> Any:
    yield pytest.fail("it must not run")


def plain(_event: Any, tx: Any) -> None:
    assert tx is not None


def hidden(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function around an asynchronous one, as a decorator makes it that was written for plain functions."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def call_back(*_: Any) -> None:
    pytest.fail("it must not run")


@contextlib.contextmanager
def entered(*_: Any) -> Iterator[None]:
    yield pytest.fail("it must not run")


@contextlib.asynccontextmanager
async def entered_async(*_: Any) -> AsyncIterator[None]:
    yield pytest.fail("it must not run")


LAZY: dict[str, Callable[..., Any]] = {
    "contextmanager": entered,
    "asynccontextmanager": entered_async,
    "map": lambda *given: map(call_back, given),
    "filter": lambda *given: filter(call_back, given),
    "starmap": lambda *given: itertools.starmap(call_back, [given]),
    "partial": lambda *given: functools.partial(call_back, *given),
    "function": lambda *_: call_back,
    "method": lambda *_: Method().run,
}


class Method:
    def run(self) -> None:
        pytest.fail("it must not run")


def body(name: str, event_type: str = "pay") -> bytes:
    return json.dumps({"id": name, "type": event_type, "object": "event"}).encode()


def event(db: Connection[Any], name: str) -> tuple[str, str | None]:
    found = db.execute("select status, error_message from webhook_events where stripe_event_id = %s", [name]).fetchone()
    assert found
    return found[0], found[1]


def runs(db: Connection[Any], name: str) -> list[tuple[Any, ...]]:
    return db.execute("select status, error_message from cron_job_runs where job_name = %s", [name]).fetchall()


@pytest.mark.parametrize("wrong", [promise, generator, stream])
def test_a_delivery_whose_plain_handler_is_none_has_failed(
    module_database: str, db: Connection[Any], name: str, wrong: Callable[..., Any]
) -> None:
    app = pgonce.App()
    app.webhook("pay")(hidden(wrong))  # a generator that no decorator hides is refused at registration
    with databases.open_pool(module_database, 1) as pool:
        for handler in wrong, app.handle:
            with pytest.raises(InvalidArgument, match=PLAIN):
                pgonce.Webhooks(pool).handle(stripe.read(body(name)), handler)
    status, reason = event(db, name)
    assert status == "failed"
    assert reason
    assert PLAIN in reason


def test_a_delivery_whose_asynchronous_handler_is_none_has_failed(
    module_database: str, db: Connection[Any], name: str
) -> None:
    app = pgonce.App()
    app.webhook("pay")(plain)

    async def main() -> None:
        async with await databases.open_async_pool(module_database, 1) as pool:
            for handler in plain, app.handle_async:
                with pytest.raises(InvalidArgument, match=COROUTINE):
                    await pgonce.AsyncWebhooks(pool).handle(stripe.read(body(name)), handler)  # type: ignore[arg-type]

    asyncio.run(main())
    assert event(db, name)[0] == "failed"


def test_an_endpoint_answers_500_where_a_handler_is_asynchronous(
    module_database: str, db: Connection[Any], name: str
) -> None:
    app = pgonce.App()
    app.webhook("pay")(promise)
    endpoint = pgonce.Endpoint(app, secrets=["whsec_x"], url=module_database)
    response = endpoint.handle(body(name), {"Stripe-Signature": stripe.sign(body(name), "whsec_x")})
    assert response.status == 500
    assert "InvalidArgument" in json.loads(response.body)["error"]
    status, reason = event(db, name)
    assert (status, PLAIN in str(reason)) == ("failed", True)


def test_a_job_that_has_only_promised_has_failed(module_database: str, db: Connection[Any], name: str) -> None:
    app = pgonce.App()
    app.job(name)(hidden(promise))
    with databases.open_pool(module_database, 1) as pool:
        jobs = pgonce.Jobs(pool)
        with pytest.raises(InvalidArgument, match=PLAIN):
            jobs.job(name)(promise)
        with pytest.raises(InvalidArgument, match=PLAIN):
            jobs.job(name)(hidden(promise))()
    with pytest.raises(InvalidArgument, match=PLAIN):
        pgonce.testing.run(app, name, url=module_database)

    async def main() -> None:
        async with await databases.open_async_pool(module_database, 1) as pool:
            jobs = pgonce.AsyncJobs(pool)
            with pytest.raises(InvalidArgument, match=COROUTINE):
                await jobs.job(name)(lambda _: None)()  # type: ignore[arg-type, return-value]

    asyncio.run(main())
    assert [status for status, _ in runs(db, name)] == ["failed"] * 3


@pytest.mark.parametrize("kind", ["shared", "own", "batch"])
def test_a_worker_does_not_count_a_hidden_coroutine_as_a_success(
    database: str, conn: Connection[Any], kind: str
) -> None:
    app = pgonce.App()
    if kind == "batch":
        app.webhook_batch("pay")(hidden(promise))
    else:
        app.webhook("pay", transaction="own" if kind == "own" else "shared")(hidden(promise))
    with databases.open_pool(database, 1) as pool:
        call(pool, webhooks.queue_webhooks([stripe.read(body("evt_1"))], [None]), "public")
    with Worker(app, database, poll=0.05):
        wait_until(lambda: event(conn, "evt_1")[0] == "failed", "the event fails")
    reason = event(conn, "evt_1")[1]
    assert reason
    assert PLAIN in reason


@pytest.mark.parametrize("kind", ["shared", "own", "batch", "async"])
def test_a_worker_does_not_count_what_has_not_run_as_a_success(database: str, conn: Connection[Any], kind: str) -> None:
    app = pgonce.App()
    for name, function in LAZY.items():
        if kind == "batch":
            app.webhook_batch(name)(function)
        elif kind == "async":
            app.webhook(name)(promised(function))
        else:
            app.webhook(name, transaction="own" if kind == "own" else "shared")(function)
    bodies = [stripe.read(body(f"evt_{name}", name)) for name in LAZY]
    with databases.open_pool(database, 1) as pool:
        call(pool, webhooks.queue_webhooks(bodies), "public")
    ended = "select stripe_event_id, status, error_message from webhook_events where status <> 'processing'"
    with Worker(app, database, poll=0.05):
        wait_until(lambda: conn.execute(ended.encode()).rowcount == len(LAZY), "the events to end")
    for name, status, reason in conn.execute(ended.encode()).fetchall():
        assert status == "failed", name
        assert "which has not run" in reason


def promised(function: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapper(*given: Any) -> Any:
        return function(*given)

    return wrapper


def test_a_cursor_is_a_result(database: str, conn: Connection[Any]) -> None:
    app = pgonce.App()
    app.webhook("pay")(lambda _, tx: tx.execute("select 1"))
    with databases.open_pool(database, 1) as pool:
        assert pgonce.Webhooks(pool).handle(stripe.read(body("evt_1")), app.handle) == "succeeded"
        assert (
            pgonce.Webhooks(pool).handle(stripe.read(body("evt_2")), lambda _, tx: tx.execute("select 1"))
            == "succeeded"
        )


class Pay:
    """Objects of this class have no hash, as those of a dataclass."""

    __hash__ = None  # type: ignore[assignment]

    async def __call__(self, event: pgonce.Event, tx: psycopg.AsyncConnection[Any]) -> None:
        await tx.execute("insert into effects (event) values (%s)", [event.id])

    @staticmethod
    async def pay(event: pgonce.Event, tx: psycopg.AsyncConnection[Any]) -> None:
        await Pay()(event, tx)


class PayAll:
    __hash__ = None  # type: ignore[assignment] # the same

    async def __call__(self, events: list[pgonce.Event], tx: psycopg.AsyncConnection[Any]) -> None:
        for event in events:
            await Pay.pay(event, tx)


@pytest.mark.parametrize(
    "register",
    [
        lambda app: app.webhook("pay")(Pay()),
        lambda app: app.webhook("pay", coalesce=True)(Pay()),
        lambda app: app.webhook("pay")(functools.partial(Pay())),
        lambda app: app.webhook("pay")(vars(Pay)["pay"]),  # as the decorator above @staticmethod gets it
        lambda app: app.webhook_batch("pay")(PayAll()),
        lambda app: app.webhook_batch("pay")(functools.partial(PayAll())),
    ],
    ids=["object", "coalesce", "partial", "staticmethod", "batch", "partial batch"],
)
def test_a_worker_runs_an_object_whose_call_is_asynchronous(
    database: str, conn: Connection[Any], register: Callable[[pgonce.App], object]
) -> None:
    conn.execute("create table effects (event text)")
    app = pgonce.App()
    register(app)
    with databases.open_pool(database, 1) as pool:
        call(pool, webhooks.queue_webhooks([stripe.read(body("evt_1"))], [None]), "public")
    with Worker(app, database, poll=0.05):
        wait_until(lambda: event(conn, "evt_1")[0] != "processing", "the event is handled")
    assert event(conn, "evt_1") == ("succeeded", None)
    assert conn.execute("select event from effects").fetchall() == [("evt_1",)]


def test_an_asynchronous_callback_runs_after_the_commit_and_its_error_is_logged(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []

    async def callback() -> None:
        await asyncio.sleep(0)
        ran.append(name)
        raise ValueError(f"{name} went wrong")

    of = pgonce.Event(name, "pay", {})
    of.after_commit(callback)
    handler_connection.call_back(of)
    asyncio.run(handler_connection_async.call_back(of))
    assert ran == [name, name]
    assert caplog.text.count(f"after_commit of event {name} failed: ValueError (callback, test_callables.py:") == 2
    assert "went wrong" not in caplog.text
