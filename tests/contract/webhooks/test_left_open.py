"""What a handler leaves open on its connection, or takes away from it, costs its own attempt and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, Connection
from psycopg.pq import TransactionStatus

import pgonce
from pgonce.core import database as databases
from pgonce.errors import DatabaseUnavailable, PgonceError, TransactionBroken
from pgonce.webhooks import stripe
from tests.conftest import wait_until
from tests.contract.webhooks.test_worker import Effects, Queue, app, effects, put, status, work, write

__all__ = ["app", "effects", "put"]

kept: list[object] = []
"""What keeps Python from closing it: a global variable here, the frame of a traceback in the field."""

ROWS = "select generate_series(1, 100000)"
OPEN = "a COPY, a stream or a pipeline was left open on the connection"
USED = "or a thread or task still uses it"
CLOSED = "the connection was closed while the handler ran"


def copy_in(tx: Connection[Any]) -> None:
    context = tx.cursor().copy("copy effects (event) from stdin")
    copy = context.__enter__()
    copy.write_row(["half"])
    kept.extend([context, copy])


def copy_out(tx: Connection[Any]) -> None:
    context = tx.cursor().copy(f"copy ({ROWS}) to stdout".encode())
    kept.extend([context, next(iter(context.__enter__()))])


def stream(tx: Connection[Any]) -> None:
    rows = tx.cursor().stream(ROWS)
    kept.extend([rows, next(rows)])


def pipeline(tx: Connection[Any]) -> None:
    context = tx.pipeline()
    kept.extend([context, context.__enter__()])
    tx.execute("insert into effects (event) values ('piped')")


def broken_pipeline(tx: Connection[Any]) -> None:
    context = tx.pipeline()
    kept.extend([context, context.__enter__()])
    tx.execute("select 1/0")


def unread_results(tx: Connection[Any]) -> None:
    tx.pgconn.send_query(b"select 1; select 2")


def statement_in_a_thread(tx: Connection[Any]) -> None:
    def wait() -> None:
        with contextlib.suppress(psycopg.Error):
            tx.execute("select pg_sleep(60)")

    threading.Thread(target=wait, daemon=True).start()
    wait_until(lambda: tx.pgconn.transaction_status == TransactionStatus.ACTIVE, "the statement")


def copy_in_a_thread(tx: Connection[Any]) -> None:
    def read() -> None:
        with (
            contextlib.suppress(psycopg.Error),
            tx.cursor().copy(b"copy (select pg_sleep(60) from generate_series(1, 9)) to stdout") as copy,
        ):
            kept.extend(copy)

    threading.Thread(target=read, daemon=True).start()
    wait_until(lambda: tx.pgconn.transaction_status == TransactionStatus.ACTIVE, "the COPY")


def raised_beside_a_thread(tx: Connection[Any]) -> None:
    statement_in_a_thread(tx)
    raise ValueError("beside a thread")


def raised_within_a_stream(tx: Connection[Any]) -> None:
    rows = tx.cursor().stream(ROWS)
    for _ in rows:
        raise ValueError("in the middle")


def close(tx: Connection[Any]) -> None:
    tx.close()


def use_closed(tx: Connection[Any]) -> None:
    tx.close()
    tx.execute("select 1")


def lose_another_database(tx: Connection[Any]) -> None:
    tx.close()
    psycopg.connect("host=127.0.0.1 port=1")


def swallowed_loss(tx: Connection[Any]) -> None:
    with contextlib.suppress(psycopg.Error):
        tx.execute("select pg_terminate_backend(pg_backend_pid())")


def timeout_after_loss(tx: Connection[Any]) -> None:
    swallowed_loss(tx)
    raise TimeoutError("of an HTTP client")  # not the end of the handler's time, which is recorded by a timer


ENDS = [
    (copy_in, OPEN),
    (copy_out, OPEN),
    (stream, OPEN),
    (pipeline, OPEN),
    (broken_pipeline, OPEN),
    (unread_results, OPEN),
    (statement_in_a_thread, USED),
    (copy_in_a_thread, USED),
    (raised_beside_a_thread, "ValueError: beside a thread"),
    (raised_within_a_stream, "ValueError: in the middle"),
    (close, CLOSED),
    (use_closed, "the connection is closed"),
    (lose_another_database, "port 1"),
    (swallowed_loss, CLOSED),
    (timeout_after_loss, "of an HTTP client"),
]
every_end = pytest.mark.parametrize(("attack", "said"), ENDS, ids=[attack.__name__ for attack, _ in ENDS])


@pytest.fixture(autouse=True)
def _forget() -> Any:
    yield
    with contextlib.suppress(psycopg.Error):
        kept.clear()


@every_end
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_what_a_handler_leaves_open_fails_its_own_event_with_a_reason(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    attack: Callable[[Connection[Any]], None],
    said: str,
) -> None:
    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)
        if event.id == "evt_2":
            attack(tx)

    put("pay", *[f"evt_{nr}" for nr in range(5)])
    work(app, database, conn, concurrency=1)
    assert sorted(effects()) == ["evt_0", "evt_1", "evt_3", "evt_4"]
    failed = status(conn, "evt_2")
    assert (failed["status"], failed["attempts"], failed["next_attempt_at"] is None) == ("failed", 1, False)
    assert said in failed["error_message"]


@every_end
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_nor_does_it_hold_up_the_rest_of_a_batch_or_the_next_one(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    attack: Callable[[Connection[Any]], None],
    said: str,
) -> None:
    @app.webhook_batch("pay")
    def pay(events: list[pgonce.Event], tx: Connection[Any]) -> None:
        for event in events:
            write(tx, event)
        if any(event.id == "evt_2" for event in events):
            attack(tx)

    put("pay", *[f"evt_{nr}" for nr in range(4)])
    work(app, database, conn, concurrency=1)
    assert sorted(effects()) == ["evt_0", "evt_1", "evt_3"]
    assert said in status(conn, "evt_2")["error_message"]


async def _copy_in(tx: AsyncConnection[Any]) -> None:
    context = tx.cursor().copy("copy effects (event) from stdin")
    kept.extend([context, await context.__aenter__()])


async def _pipeline(tx: AsyncConnection[Any]) -> None:
    context = tx.pipeline()
    kept.extend([context, await context.__aenter__()])


async def _statement_in_a_task(tx: AsyncConnection[Any]) -> None:
    async def wait() -> None:
        with contextlib.suppress(psycopg.Error):
            await tx.execute("select pg_sleep(60)")

    kept.append(asyncio.create_task(wait()))
    while tx.pgconn.transaction_status != TransactionStatus.ACTIVE:  # noqa: ASYNC110 -- psycopg sets no asyncio.Event
        await asyncio.sleep(0.001)


async def _close(tx: AsyncConnection[Any]) -> None:
    await tx.close()


@pytest.mark.parametrize(
    ("attack", "said"), [(_copy_in, OPEN), (_pipeline, OPEN), (_statement_in_a_task, USED), (_close, CLOSED)]
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_what_an_asynchronous_handler_leaves_open_costs_its_own_attempt_alone(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    attack: Any,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pgonce.core.concurrency_async.LEAVE", 0.5)  # seconds

    @app.webhook("pay")
    async def pay(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
        await tx.execute("insert into effects (event) values (%s)", [event.id])
        if event.id == "evt_1":
            await attack(tx)

    put("pay", *[f"evt_{nr}" for nr in range(3)])
    work(app, database, conn, concurrency=1)
    assert sorted(effects()) == ["evt_0", "evt_2"]
    assert said in status(conn, "evt_1")["error_message"]


def test_a_task_that_is_left_ends_although_its_handler_s_time_is_over_meanwhile(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    lent: list[AsyncConnection[Any]] = []

    @app.webhook("pay", timeout="0.3 seconds")
    async def pay(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
        for each in lent:
            with pytest.raises(psycopg.InterfaceError):
                await each.execute("select 1")
        await tx.execute("insert into effects (event) values (%s)", [event.id])
        if event.id == "evt_0":
            lent.append(tx)
            await _statement_in_a_task(tx)

    put("pay", "evt_0", "evt_1")
    work(app, database, conn, concurrency=1)
    assert effects() == ["evt_1"]
    assert "TimeoutError" in status(conn, "evt_0")["error_message"]


def test_an_asynchronous_stream_that_is_left_early_is_no_failure(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("pay")
    async def pay(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
        await tx.execute("insert into effects (event) values (%s)", [event.id])
        # So few rows arrive together with the end of the query: psycopg's cancellation finds nothing to cancel.
        async for _ in tx.cursor().stream("select generate_series(1, 10)"):
            break  # the event loop closes the generator after the handler has returned

    put("pay", "evt_0", "evt_1")
    work(app, database, conn, concurrency=1)
    assert sorted(effects()) == ["evt_0", "evt_1"]


def test_a_stream_whose_query_was_cancelled_fails_its_event_with_a_reason(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("pay")
    async def pay(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
        await tx.execute("insert into effects (event) values (%s)", [event.id])
        async for _ in tx.cursor().stream(ROWS):
            break

    @app.webhook("refund")
    def refund(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)
        for _ in tx.cursor().stream(ROWS):
            break

    put("pay", "evt_0")
    put("refund", "evt_1")
    work(app, database, conn, concurrency=1)
    assert effects() == []
    for event in ("evt_0", "evt_1"):
        assert "left a stream before its last row" in status(conn, event)["error_message"]


@pytest.mark.parametrize(
    "attack",
    [copy_in, stream, pipeline, statement_in_a_thread, raised_within_a_stream],
    ids=lambda each: each.__name__,
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_delivery_that_is_handled_where_it_arrives_ends_too(
    database: str, conn: Connection[Any], effects: Effects, attack: Callable[[Connection[Any]], None]
) -> None:
    body = json.dumps({"id": "evt_1", "type": "pay", "object": "event"}).encode()
    first = True

    def handler(event: pgonce.Event, tx: Connection[Any]) -> None:
        nonlocal first
        write(tx, event)
        if first:
            first = False
            attack(tx)

    with databases.open_pool(database, 1) as pool:
        webhooks = pgonce.Webhooks(pool, secrets=["whsec_test"])
        with pytest.raises((PgonceError, ValueError), match=r"open|in the middle"):
            webhooks.receive(body, stripe.sign(body, "whsec_test"), handler)
        assert effects() == []
        assert status(conn, "evt_1")["status"] == "failed"
        assert webhooks.receive(body, stripe.sign(body, "whsec_test"), handler) == "succeeded"
    assert effects() == ["evt_1"]


@pytest.mark.parametrize(
    ("attack", "error"),
    [(close, TransactionBroken), (swallowed_loss, DatabaseUnavailable)],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_a_delivery_whose_commit_could_not_be_sent_is_not_called_handled(
    database: str,
    conn: Connection[Any],
    effects: Effects,
    attack: Callable[[Connection[Any]], None],
    error: type[Exception],
) -> None:
    body = json.dumps({"id": "evt_1", "type": "pay", "object": "event"}).encode()

    def handler(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)
        attack(tx)

    with databases.open_pool(database, 1) as pool:
        webhooks = pgonce.Webhooks(pool, secrets=["whsec_test"])
        with pytest.raises(error, match="before the COMMIT"):  # psycopg leaves the COMMIT out, and raises nothing
            webhooks.receive(body, stripe.sign(body, "whsec_test"), handler)
    assert effects() == []
    assert status(conn, "evt_1")["status"] == "failed"


@pytest.mark.parametrize(
    "statement",
    [
        "set role pg_monitor",
        "set local role pg_monitor",
        "set session authorization pg_monitor",
        "set local session authorization pg_monitor",
        "create function pg_temp.int4div(int, int) returns int language sql as 'select 1'; set search_path = pg_temp",
    ],
)
@pytest.mark.parametrize("kind", ["each", "batch"])
def test_a_handler_may_work_under_a_role_that_has_no_right_to_anything_of_pgonce(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    statement: str,
    kind: str,
) -> None:
    users: list[Any] = []

    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        users.append(tx.execute("select current_user, session_user, current_setting('role')").fetchone())
        write(tx, event)
        for part in statement.split("; "):
            tx.execute(part.encode())

    if kind == "each":
        app.webhook("pay")(pay)
    else:
        app.webhook_batch("pay")(lambda events, tx: pay(events[0], tx))
    ids = ["evt_0", "evt_1", "evt_2"] if kind == "each" else ["evt_0"]
    put("pay", *ids)
    work(app, database, conn, concurrency=1)
    assert sorted(effects()) == ids
    assert len(set(users)) == 1
    assert conn.execute("select max(attempts) from webhook_events").fetchone() == (1,)


def test_an_asynchronous_worker_is_not_held_up_by_a_stream_that_nobody_closes(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pgonce.core.concurrency_async.LEAVE", 0.5)  # seconds

    @app.webhook("pay")
    async def pay(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
        await tx.execute("insert into effects (event) values (%s)", [event.id])
        if event.id == "evt_0":
            rows = tx.cursor().stream(ROWS)
            kept.extend([rows, await anext(rows)])

    put("pay", "evt_0", "evt_1")
    work(app, database, conn, concurrency=1)
    assert effects() == ["evt_1"]
    assert OPEN in status(conn, "evt_0")["error_message"]
