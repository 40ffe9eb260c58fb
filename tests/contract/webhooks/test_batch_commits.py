"""A handler that commits by itself has committed the mark of its event, or of its batch: none may count as done."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from psycopg import AsyncConnection, Connection

import pgonce
from pgonce.webhooks import executor, executor_async
from pgonce.webhooks.calls import Ignored
from tests.contract.webhooks.test_worker import Effects, Queue, app, effects, put, status, work

__all__ = ["app", "effects", "put"]

INSERT = "insert into effects (event) select unnest(%s::text[])"


def _fail() -> None:
    raise ValueError("in the second half")


def _ignore() -> None:
    raise Ignored("after the fact")


@pytest.mark.parametrize("last", [_fail, _ignore])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_event_whose_handler_commits_and_then_fails_is_a_dead_letter(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    kind: str,
    last: Callable[[], None],
) -> None:
    if kind == "sync":

        @app.webhook("pay")
        def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
            tx.execute(INSERT, [[event.id]])
            if event.id == "evt_1":
                tx.execute("commit")
                last()
    else:

        @app.webhook("pay")
        async def pay_async(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
            await tx.execute(INSERT, [[event.id]])
            if event.id == "evt_1":
                await tx.execute("commit")
                last()

    put("pay", "evt_0", "evt_1", "evt_2")
    work(app, database, conn, concurrency=1)
    assert sorted(effects()) == ["evt_0", "evt_1", "evt_2"]
    found = status(conn, "evt_1")
    assert (found["status"], found["next_attempt_at"]) == ("failed", None)
    assert last.__name__ in found["error_message"]
    assert {status(conn, each)["status"] for each in ("evt_0", "evt_2")} == {"succeeded"}


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("end", ["commit", "commit and chain"])
@pytest.mark.parametrize("then", [_fail, lambda: None], ids=["fails", "returns"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_events_of_a_batch_handler_that_commits_are_dead_letters_with_the_reason(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    kind: str,
    then: Callable[[], None],
    end: str,
    count: int,
) -> None:
    seen: list[BaseException] = []
    app.on_error = lambda error, _event: seen.append(error)
    if kind == "sync":

        @app.webhook_batch("pay")
        def pay(events: list[pgonce.Event], tx: Connection[Any]) -> None:
            tx.execute(INSERT, [[event.id for event in events]])
            tx.execute(end.encode())
            then()
    else:

        @app.webhook_batch("pay")
        async def pay_async(events: list[pgonce.Event], tx: AsyncConnection[Any]) -> None:
            await tx.execute(INSERT, [[event.id for event in events]])
            await tx.execute(end.encode())
            then()

    put("pay", *[f"evt_{number}" for number in range(count)])
    work(app, database, conn, concurrency=1)
    assert len(effects()) == count
    rows = "select status, next_attempt_at is null, error_message from webhook_events"
    found = conn.execute(rows.encode()).fetchall()
    assert {row[:2] for row in found} == {("failed", True)}
    assert all(("second half" if then is _fail else "ended the transaction") in row[2] for row in found)
    assert len(seen) == count


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_batch_whose_connection_cannot_be_reset_after_its_commit_has_succeeded(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr(executor if kind == "sync" else executor_async, "RESET", "select 1/0")
    called: list[str] = []

    def handle(events: list[pgonce.Event]) -> tuple[str, list[list[str]]]:
        for event in events:
            event.after_commit(partial(called.append, event.id))
        return INSERT, [[event.id for event in events]]

    @app.webhook_batch("pay") if kind == "sync" else lambda function: function
    def pay(events: list[pgonce.Event], tx: Connection[Any]) -> None:
        tx.execute(*handle(events))

    @app.webhook_batch("pay") if kind == "async" else lambda function: function
    async def pay_async(events: list[pgonce.Event], tx: AsyncConnection[Any]) -> None:
        await tx.execute(*handle(events))

    put("pay", "evt_0", "evt_1", "evt_2")
    work(app, database, conn, concurrency=1)
    assert conn.execute("select distinct status, attempts from webhook_events").fetchall() == [("succeeded", 1)]
    assert sorted(effects()) == sorted(called) == ["evt_0", "evt_1", "evt_2"]
