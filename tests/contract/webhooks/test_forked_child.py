"""A forked child that leaves a handler commits nothing on its parent's connection."""

from __future__ import annotations

import json
import os
from typing import Any

import psycopg
import pytest

import pgonce
from pgonce.core import database as databases
from pgonce.core.execute import call
from pgonce.testing import drain
from pgonce.webhooks import stripe
from pgonce.webhooks.calls import queue_webhooks
from pgonce.webhooks.inline import Webhooks
from tests.conftest import wait_until

BODY = json.dumps({"id": "evt_1", "type": "a.b", "object": "event"}).encode()


def forks() -> bool:
    """Fork. True in the child; in the parent False, when the child has ended."""
    child = os.fork()
    if child == 0:
        return True
    wait_until(lambda: os.waitpid(child, os.WNOHANG) == (child, 0), "the child to end")
    return False


def plain(app: pgonce.App) -> None:
    @app.webhook("a.b")
    def handle(event: pgonce.Event, tx: psycopg.Connection[Any]) -> None:
        tx.execute("insert into effects values ('before')")
        if not forks():
            tx.execute("insert into effects values ('after')")


def asynchronous(app: pgonce.App) -> None:
    @app.webhook("a.b")
    async def handle(event: pgonce.Event, tx: psycopg.AsyncConnection[Any]) -> None:
        await tx.execute("insert into effects values ('before')")
        if not forks():
            await tx.execute("insert into effects values ('after')")


def batch(app: pgonce.App) -> None:
    @app.webhook_batch("a.b")
    def handle(events: list[pgonce.Event], tx: psycopg.Connection[Any]) -> None:
        tx.execute("insert into effects values ('before')")
        if not forks():
            tx.execute("insert into effects values ('after')")


@pytest.fixture
def app(conn: psycopg.Connection[Any]) -> pgonce.App:
    conn.execute("create table effects (what text)")
    return pgonce.App()


def assert_handled_once(conn: psycopg.Connection[Any]) -> None:
    assert conn.execute("select what from effects").fetchall() == [("before",), ("after",)]
    assert conn.execute("select status, attempts from webhook_events").fetchall() == [("succeeded", 1)]


@pytest.mark.parametrize("register", [plain, asynchronous, batch], ids=lambda each: each.__name__)
def test_a_child_that_leaves_a_handler_ends_and_its_parent_commits_all(
    database: str, conn: psycopg.Connection[Any], app: pgonce.App, register: Any
) -> None:
    register(app)
    with databases.open_pool(database, 1) as pool:
        call(pool, queue_webhooks([stripe.read(BODY)], [None]), "public")
    assert drain(app, url=database) == 1
    assert_handled_once(conn)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_forked_child_that_leaves_a_callback_is_ended_too(
    database: str, conn: psycopg.Connection[Any], app: pgonce.App, *, is_async: bool
) -> None:
    def callback() -> None:
        if not forks():
            with psycopg.connect(database) as own:
                own.execute("insert into effects values ('before'), ('after')")

    if is_async:

        @app.webhook("a.b")
        async def handle_async(event: pgonce.Event, tx: psycopg.AsyncConnection[Any]) -> None:
            event.after_commit(callback)

    else:
        app.webhook("a.b")(lambda event, _tx: event.after_commit(callback))
    with databases.open_pool(database, 1) as pool:
        call(pool, queue_webhooks([stripe.read(BODY)], [None]), "public")
    assert drain(app, url=database) == 1
    assert_handled_once(conn)


def test_a_forked_child_of_an_inline_handler_is_ended_too(
    database: str, conn: psycopg.Connection[Any], app: pgonce.App
) -> None:
    plain(app)
    with databases.open_pool(database, 2) as pool:
        webhooks = Webhooks(pool, secrets=["whsec_test"])
        assert webhooks.receive(BODY, stripe.sign(BODY, "whsec_test"), app.handle) == "succeeded"
    assert_handled_once(conn)
