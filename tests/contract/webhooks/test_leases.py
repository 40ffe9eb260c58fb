"""No event is handled a second time while its first handler runs: the holder of an event renews its lease."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import Connection, IsolationLevel

import pgonce
from pgonce.webhooks import calls_queue
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.contract.webhooks.test_worker import Effects, Queue, app, effects, put, settled, status

__all__ = ["app", "effects", "put"]

RUN_OUT = (
    "select clock_timestamp() > lease_expires_at + interval '1 second' from webhook_events where stripe_event_id = %s"
)


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(calls_queue), "WORKER_LEASE", calls_queue.WORKER_LEASE / 30)
    monkeypatch.setitem(vars(calls_queue), "RENEW", 0.2)


def own(
    app: pgonce.App, database: str, go: threading.Event, calls: list[str], isolation: IsolationLevel | None
) -> None:
    @app.webhook("pay", transaction="own")
    def pay(event: pgonce.Event) -> None:
        calls.append(event.id)
        with psycopg.connect(database) as conn:
            conn.isolation_level = isolation
            conn.execute("insert into effects (event) values (%s)", [event.id])
            go.wait(30)
            event.complete(conn)


@pytest.mark.parametrize("isolation", [None, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
def test_a_handler_with_its_own_transaction_keeps_its_event_longer_than_the_lease(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    isolation: IsolationLevel | None,
) -> None:
    go, calls = threading.Event(), list[str]()
    own(app, database, go, calls, isolation)
    put("pay", "evt_1")
    with Worker(app, database, poll=0.05, concurrency=2), Worker(app, database, poll=0.05, concurrency=2):
        try:
            wait_until(lambda: calls, "the handler to begin")
            wait_until(
                lambda: (conn.execute(RUN_OUT, ["evt_1"]).fetchone() or [False])[0], "the first lease to run out"
            )
            assert conn.execute("select pgonce_replay_webhook('evt_1')").fetchone() == (False,)
        finally:
            go.set()
        wait_until(lambda: settled(conn), "the handler to end")
    assert calls == ["evt_1"]
    assert (effects(), status(conn, "evt_1")["status"], status(conn, "evt_1")["attempts"]) == (
        ["evt_1"],
        "succeeded",
        1,
    )


def test_events_whose_handlers_have_their_own_transactions_are_claimed_one_at_a_time(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    go, calls = threading.Event(), list[str]()
    own(app, database, go, calls, None)
    app.webhook("other")(lambda event, tx: tx.execute("insert into effects (event) values (%s)", [event.id]) and None)
    put("pay", *[f"evt_{nr}" for nr in range(10)])
    put("other", *[f"evt_other_{nr}" for nr in range(10)])
    with Worker(app, database, poll=0.05, concurrency=2):
        try:
            wait_until(lambda: len(calls) >= 1, "a handler to begin")
            held = "select count(*) <= 2 from webhook_events where event_type = 'pay' and lease is not null"
            assert conn.execute(held.encode()).fetchone() == (True,)
        finally:
            go.set()
        wait_until(lambda: settled(conn), "all handlers to end")
    assert sorted(calls) == sorted(f"evt_{nr}" for nr in range(10))
    assert len(effects()) == 20
    found = conn.execute("select distinct attempts, status from webhook_events").fetchall()
    assert found == [(1, "succeeded")]


def test_an_async_handler_that_blocks_its_event_loop_keeps_its_event(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    go, calls = threading.Event(), list[str]()

    @app.webhook("pay", transaction="own")
    async def pay(event: pgonce.Event) -> None:
        calls.append(event.id)
        with psycopg.connect(database) as own:
            own.execute("insert into effects (event) values (%s)", [event.id])
            go.wait(30)
            event.complete(own)

    put("pay", "evt_1")
    with Worker(app, database, poll=0.05, concurrency=2), Worker(app, database, poll=0.05, concurrency=2):
        try:
            wait_until(lambda: calls, "the handler to begin")
            wait_until(
                lambda: (conn.execute(RUN_OUT, ["evt_1"]).fetchone() or [False])[0], "the first lease to run out"
            )
            renewed = "select expires_at > clock_timestamp() from pgonce_webhook_leases"
            wait_until(lambda: conn.execute(renewed.encode()).fetchall() == [(True,)], "the lease is renewed")
        finally:
            go.set()
        wait_until(lambda: settled(conn), "the handler to end")
    assert (calls, effects()) == (["evt_1"], ["evt_1"])


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_handler_that_catches_the_loss_of_its_event_is_not_called_back(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, kind: str
) -> None:
    called, errors = list[str](), list[BaseException]()
    app.on_error = lambda error, _event: errors.append(error)

    def handle(event: pgonce.Event) -> None:
        event.after_commit(lambda: called.append(event.id))
        conn.execute("update webhook_events set status = 'ignored', lease = gen_random_uuid()")  # another worker's
        with psycopg.connect(database) as own, pytest.raises(pgonce.LeaseLost):
            event.complete(own)

    @app.webhook("pay", transaction="own") if kind == "async" else lambda function: function
    async def pay_async(event: pgonce.Event) -> None:
        handle(event)

    @app.webhook("pay", transaction="own") if kind == "sync" else lambda function: function
    def pay(event: pgonce.Event) -> None:
        handle(event)

    put("pay", "evt_1")
    with Worker(app, database, poll=0.05):
        wait_until(lambda: errors, "the loss to be reported")
    assert [type(error) for error in errors] == [pgonce.LeaseLost]
    assert (called, status(conn, "evt_1")["status"]) == ([], "ignored")


@pytest.mark.parametrize("end", [lambda _: 1 / 0, lambda event: event.ignore("late")], ids=["error", "ignore"])
def test_what_a_handler_raises_after_its_commit_does_not_say_that_the_event_failed(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    caplog: pytest.LogCaptureFixture,
    end: Any,
) -> None:
    """As a hook of SQLAlchemy's after_commit or of Django's on_commit does."""
    called = list[str]()

    @app.webhook("pay", transaction="own")
    def pay(event: pgonce.Event) -> None:
        event.after_commit(lambda: called.append(event.id))
        with psycopg.connect(database) as own:
            own.execute("insert into effects (event) values (%s)", [event.id])
            event.complete(own)
        end(event)

    put("pay", "evt_1")
    with Worker(app, database, poll=0.05):
        wait_until(lambda: called, "the callback")
    assert (effects(), status(conn, "evt_1")["status"]) == (["evt_1"], "succeeded")
    [line] = caplog.messages
    assert line.startswith("the handler of event evt_1, after its commit, failed: ")


@pytest.mark.parametrize("kind", ["own", "batch", "plain"])
def test_an_event_whose_time_is_over_is_reported_once(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, kind: str
) -> None:
    errors = list[BaseException]()
    app.on_error = lambda error, _event: errors.append(error)

    def late(*_: object) -> None:
        threading.Event().wait(0.2)

    if kind == "batch":
        app.webhook_batch("pay", timeout="20 ms")(late)
    else:
        app.webhook("pay", timeout="20 ms", transaction="own" if kind == "own" else "shared")(late)
    put("pay", "evt_1")
    with Worker(app, database, poll=0.05):
        wait_until(lambda: status(conn, "evt_1")["status"] == "failed", "the failure")
    assert [type(error) for error in errors] == [TimeoutError]


def test_a_handler_that_does_not_commit_fails_and_stops_no_other_event(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    session: Callable[..., Connection[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As with a scoped_session of SQLAlchemy: its transaction stays open, and holds the lock of the event's row."""
    kept = session(autocommit=False)

    @app.webhook("pay", transaction="own")
    def pay(event: pgonce.Event) -> None:
        event.complete(kept)

    app.webhook("other")(lambda event, tx: tx.execute("insert into effects (event) values (%s)", [event.id]))
    put("pay", "evt_1")
    with Worker(app, database, poll=0.05, concurrency=1):
        wait_until(lambda: "without committing" in caplog.text, "the failure")
        put("other", "evt_2")
        wait_until(lambda: effects() == ["evt_2"], "the other event")
    kept.rollback()
    assert status(conn, "evt_1")["status"] == "processing"
