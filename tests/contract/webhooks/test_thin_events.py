"""Thin events are dispatched like all others, and of a thin and a snapshot event with equal content one is handled."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from psycopg import Connection

import pgonce
from pgonce.core import database as databases
from pgonce.core.execute import call, execute
from pgonce.webhooks import calls as webhooks
from pgonce.webhooks import stripe
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until

SNAPSHOT = {"id": "evt_s", "object": "event", "type": "customer.created", "data": {"object": {"id": "cus_1"}}}
THIN = {
    "id": "evt_t", "object": "v2.core.event", "type": "v1.customer.created", "created": "2026-11-23T10:00:00.123Z",
    "livemode": False, "snapshot_event": "evt_s",
    "related_object": {"id": "cus_1", "type": "customer", "url": "/v1/customers/cus_1"},
}  # fmt: skip


@pytest.fixture
def app(conn: Connection[Any]) -> pgonce.App:
    conn.execute("create table effects (event text)")
    return pgonce.App()


def handle(event: pgonce.Event, tx: Connection[Any]) -> None:
    tx.execute("insert into effects values (%s)", [event.id])


def handle_all(events: list[pgonce.Event], tx: Connection[Any]) -> None:
    for event in events:
        handle(event, tx)


@pytest.fixture
def work(app: pgonce.App, database: str, conn: Connection[Any]) -> Callable[..., dict[str, str]]:
    """Queue events one after the other, run a worker until all have ended, and return their states by id."""

    def work(*events: dict[str, Any]) -> dict[str, str]:
        with databases.open_pool(database, 1) as pool:
            for event in events:
                call(pool, webhooks.queue_webhooks([stripe.read(json.dumps(event).encode())]), "public")
        with Worker(app, database, poll=0.05):
            waiting = "select not exists (select from webhook_events where status = 'processing')"
            wait_until(lambda: conn.execute(waiting.encode()).fetchone() == (True,), "the worker")
        rows = conn.execute("select stripe_event_id, coalesce(ignored_reason, status) from webhook_events").fetchall()
        return dict(rows)

    return work


def effects(conn: Connection[Any]) -> list[str]:
    return [row[0] for row in conn.execute("select event from effects order by event").fetchall()]


def test_a_thin_event_is_dispatched_by_its_type_and_found_by_its_object(
    app: pgonce.App, work: Any, conn: Connection[Any]
) -> None:
    seen: list[str | None] = []
    app.webhook("v1.customer.*")(lambda event, _tx: seen.append(event.object_id))
    assert work(THIN) == {"evt_t": "succeeded"}
    assert seen == ["cus_1"]
    assert conn.execute("select object_id from webhook_events").fetchone() == ("cus_1",)


@pytest.mark.parametrize("first, second", [(SNAPSHOT, THIN), (THIN, SNAPSHOT)], ids=["snapshot first", "thin first"])
@pytest.mark.parametrize("batch", [False, True], ids=["one by one", "in batches"])
def test_of_two_twins_the_one_received_later_is_ignored(
    app: pgonce.App, work: Any, conn: Connection[Any], first: dict[str, Any], second: dict[str, Any], batch: bool
) -> None:
    for pattern in ("customer.created", "v1.customer.created"):
        (app.webhook_batch(pattern)(handle_all) if batch else app.webhook(pattern)(handle))
    assert work(first, second) == {first["id"]: "succeeded", second["id"]: f"twin of {first['id']}"}
    assert effects(conn) == [first["id"]]


def test_a_twin_that_comes_when_the_other_was_handled_long_ago_is_ignored(
    app: pgonce.App, work: Any, conn: Connection[Any]
) -> None:
    app.webhook("*")(handle)
    work(SNAPSHOT)
    assert work(THIN)["evt_t"] == "twin of evt_s"
    assert effects(conn) == ["evt_s"]


def test_an_event_is_not_ignored_in_favour_of_a_twin_without_a_handler(
    app: pgonce.App, work: Any, conn: Connection[Any]
) -> None:
    app.webhook("v1.customer.created")(handle)
    assert work(SNAPSHOT, THIN) == {"evt_s": "no handler for customer.created", "evt_t": "succeeded"}
    assert effects(conn) == ["evt_t"]


def test_an_event_is_not_ignored_in_favour_of_a_twin_that_was_ignored(
    app: pgonce.App, work: Any, conn: Connection[Any]
) -> None:
    app.webhook("customer.created")(lambda event, _tx: event.ignore("only thin ones"))
    app.webhook("v1.customer.created")(handle)
    work(SNAPSHOT)
    assert work(THIN) == {"evt_s": "only thin ones", "evt_t": "succeeded"}
    assert effects(conn) == ["evt_t"]


def test_an_earlier_event_is_ignored_when_its_later_twin_was_handled_already(
    app: pgonce.App, work: Any, conn: Connection[Any]
) -> None:
    app.webhook("*")(handle)
    work(SNAPSHOT)
    conn.execute("update webhook_events set received_at = received_at + interval '1 hour'")
    assert work(THIN)["evt_t"] == "twin of evt_s"
    assert effects(conn) == ["evt_s"]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("batch", [False, True], ids=["one by one", "in batches"])
def test_a_twin_whose_receipt_is_committed_while_the_other_is_handled_waits_for_it(
    app: pgonce.App, database: str, conn: Connection[Any], session: Callable[..., Any], fails: bool, batch: bool
) -> None:
    """Two receivers: the snapshot's INSERT began first, and the thin event is claimed before it is committed."""
    began, go = threading.Event(), threading.Event()

    def slow(event: pgonce.Event, tx: Connection[Any]) -> None:
        handle(event, tx)
        began.set()
        go.wait(30)
        if fails:
            raise ValueError

    def slow_all(events: list[pgonce.Event], tx: Connection[Any]) -> None:
        slow(events[0], tx)

    for pattern, one, all_ in (("customer.created", handle, handle_all), ("v1.customer.created", slow, slow_all)):
        (app.webhook_batch(pattern)(all_) if batch else app.webhook(pattern)(one))
    receivers = [session(autocommit=False), session(autocommit=False)]
    for receiver, event in zip(receivers, (SNAPSHOT, THIN), strict=True):
        execute(receiver, webhooks.queue_webhooks([stripe.read(json.dumps(event).encode())]), "public")
    receivers[1].commit()
    looked = (
        "select next_attempt_at > received_at or status <> 'processing' from webhook_events where event_type !~ 'v1'"
    )
    with Worker(app, database, poll=0.05):
        wait_until(began.is_set, "the thin event is being handled")
        receivers[0].commit()
        wait_until(lambda: conn.execute(looked.encode()).fetchone() == (True,), "a worker looks at the snapshot")
        go.set()
        waiting = "select not exists (select from webhook_events where status = 'processing')"
        wait_until(lambda: conn.execute(waiting.encode()).fetchone() == (True,), "both have ended")
    assert effects(conn) == (["evt_s"] if fails else ["evt_t"])
