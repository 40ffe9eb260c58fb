"""A handler that loses against a concurrent transaction is called again soon. One that always does has failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg  # type: ignore[import-untyped] # it has no type hints
import psycopg
import pytest
from django.db.utils import OperationalError as DjangoError
from psycopg import Connection
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.orm import Session

import pgonce
from pgonce.webhooks import conflicts
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.contract.webhooks.handler_kinds import KINDS, register
from tests.contract.webhooks.test_worker import Effects, Queue, app, effects, put, status

__all__ = ["app", "effects", "put"]

CONFLICT = "do $$ begin raise sqlstate '{}' using message = 'the version has changed'; end $$"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_a_conflict_at_each_call_is_a_failure_in_the_end(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    kind: str,
) -> None:
    monkeypatch.setattr(conflicts, "MOST", 10)
    calls: list[str] = []
    statement = CONFLICT.format(state).encode()

    def conflict(event: pgonce.Event, tx: Any) -> Any:
        calls.append(event.id)
        # in a list evt_1 shares the conflicts of evt_0; one of its own, if it comes first, would be one without a call
        is_refused = event.id == "evt_0" or (kind != "batch" and calls.count(event.id) < 3)
        return tx.execute(statement) if is_refused else None

    register(app, database, kind, conflict)
    put("pay", "evt_0", "evt_1")
    with Worker(app, database, poll=0.05, concurrency=1):
        wait_until(lambda: status(conn, "evt_0")["status"] == "failed" and effects() == ["evt_1"], "both to end")
    failed = status(conn, "evt_0")
    assert failed["attempts"] == 1
    assert "the version has changed" in failed["error_message"]
    assert calls.count("evt_0") == 10
    assert status(conn, "evt_1")["attempts"] == 1


def by_sqlalchemy(app: pgonce.App, database: str, statement: Callable[[], str]) -> None:
    url = database.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url, poolclass=NullPool)  # nothing is left open

    @app.webhook("pay", transaction="own")
    def pay(event: pgonce.Event) -> None:
        with Session(engine) as session, session.begin():
            session.execute(text(statement()))
            event.complete(session)


def by_asyncpg(app: pgonce.App, database: str, statement: Callable[[], str]) -> None:
    @app.webhook("pay", transaction="own")
    async def pay(event: pgonce.Event) -> None:
        conn = await asyncpg.connect(database)
        try:
            async with conn.transaction():
                await conn.execute(statement())
                await event.complete(conn)  # type: ignore[misc] # a coroutine, for an async session
        finally:
            await conn.close()


def by_django(app: pgonce.App, database: str, statement: Callable[[], str]) -> None:
    @app.webhook("pay", transaction="own")
    def pay(event: pgonce.Event) -> None:
        with psycopg.connect(database) as conn:
            try:
                conn.execute(statement().encode())
            except psycopg.Error as error:  # as its DatabaseErrorWrapper does, which needs a project's settings
                raise DjangoError("the version has changed") from error
            event.complete(conn)


@pytest.mark.parametrize("by", [by_sqlalchemy, by_asyncpg, by_django])
def test_a_conflict_that_another_library_raises_is_no_failure(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, by: Callable[..., None]
) -> None:
    failures: list[BaseException] = []
    app.on_error = lambda error, _event: failures.append(error)
    statements = [CONFLICT.format("40001"), CONFLICT.format("40P01"), "select 1"]
    by(app, database, lambda: statements.pop(0))
    put("pay", "evt_1")
    with Worker(app, database, poll=0.05, concurrency=1):
        wait_until(lambda: status(conn, "evt_1")["status"] != "processing", "the event to end")
    found = status(conn, "evt_1")
    assert (found["status"], found["attempts"], failures) == ("succeeded", 1, [])


class Computed(Exception):
    """As a wrapper of another library's error: what is asked of it is asked of what it wraps."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"there is no response, so no {name}")


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_that_cannot_be_examined_is_a_failure(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, kind: str
) -> None:
    def fail(event: pgonce.Event, _: Any) -> None:
        if event.id == "evt_0":
            raise Computed("boom")

    register(app, database, kind, fail)
    put("pay", "evt_0", "evt_1")
    with Worker(app, database, poll=0.05, concurrency=1):
        wait_until(lambda: status(conn, "evt_0")["status"] == "failed" and effects() == ["evt_1"], "both to end")
    assert "Computed, which cannot be printed: RuntimeError" in status(conn, "evt_0")["error_message"]
