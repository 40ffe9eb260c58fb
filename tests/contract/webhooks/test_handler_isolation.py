"""What a handler's code sets, raises or cancels stays with its own event, and no worker ends by it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from psycopg import Connection

import pgonce
from pgonce.core import database as databases
from pgonce.errors import EventBusy
from pgonce.webhooks import stripe
from pgonce.webhooks.calls import Ignored, Postponed
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.contract.webhooks.test_worker import Effects, Queue, app, effects, put, settled, status, work, write

__all__ = ["app", "effects", "put"]

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
KINDS = ["sync", "async"]
Tx = Any


def register(app: pgonce.App, kind: str, body: Callable[[pgonce.Event], object], **options: Any) -> None:
    """A handler that writes its event, then calls ``body``."""

    @app.webhook("pay", **options)
    def handle(event: pgonce.Event, tx: Tx) -> None:
        write(tx, event)
        body(event)

    @app.webhook("async.pay", **options)
    async def handle_async(event: pgonce.Event, tx: Tx) -> None:
        await tx.execute("insert into effects (event) values (%s)", [event.id])
        body(event)

    app.handlers[:] = [each for each in app.handlers if each.is_async is (kind == "async")]


def type_of(kind: str) -> str:
    return "pay" if kind == "sync" else "async.pay"


@pytest.mark.parametrize("kind", KINDS)
def test_a_context_variable_reaches_the_handlers_own_callbacks_and_no_other_event(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, kind: str
) -> None:
    found, later = [], []

    def body(event: pgonce.Event) -> None:
        found.append(tenant.get())
        tenant.set(event.id)
        event.after_commit(lambda: later.append((event.id, tenant.get())))

    register(app, kind, body)
    ids = [f"evt_{number}" for number in range(5)]
    put(type_of(kind), *ids)
    token = tenant.set("of the request that started the worker")
    try:
        work(app, database, conn, concurrency=1)
    finally:
        tenant.reset(token)
    assert found == ["nobody"] * 5
    assert later == [(each, each) for each in ids]


@pytest.mark.parametrize("kind", KINDS)
def test_handlers_of_one_event_share_its_context(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, kind: str
) -> None:
    found = []
    register(app, kind, lambda event: tenant.set(event.id))
    first = app.handlers[0]
    if kind == "sync":
        app.webhook("p*")(lambda _event, _tx: found.append(tenant.get()))
    else:

        @app.webhook("async.*")
        async def second(_event: pgonce.Event, _tx: Tx) -> None:
            found.append(tenant.get())

    assert app.handlers[0] is first
    put(type_of(kind), "evt_1", "evt_2")
    work(app, database, conn, concurrency=1)
    assert found == ["evt_1", "evt_2"]


def _raise(error: BaseException) -> None:
    raise error


ENDS: dict[str, Callable[[pgonce.Event], object]] = {
    "exits": lambda _event: sys.exit(1),
    "is interrupted": lambda _event: _raise(KeyboardInterrupt()),
    "is cancelled": lambda _event: _raise(asyncio.CancelledError()),
    "ignores its event": lambda event: event.ignore("too late"),
    "postpones its event": lambda event: event.retry("1 hour"),
}


def _broken(*_: object, **__: object) -> Any:
    raise LookupError("outside of a request")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("broken", ["filter", "record factory"])
def test_what_logging_raises_ends_no_worker_and_takes_no_outcome_away(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, kind: str, broken: str
) -> None:
    register(app, kind, lambda event: _raise(ValueError()) if event.id == "evt_1" else None)
    put(type_of(kind), "evt_1", "evt_2")
    log, factory = logging.getLogger("pgonce"), logging.getLogRecordFactory()
    if broken == "filter":
        log.addFilter(_broken)
    else:
        logging.setLogRecordFactory(lambda name, *args: _broken() if name == "pgonce" else factory(name, *args))
    try:
        work(app, database, conn, concurrency=1)
    finally:
        log.removeFilter(_broken)
        logging.setLogRecordFactory(factory)
    assert (status(conn, "evt_1")["status"], effects()) == ("failed", ["evt_2"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_callback_that_ends_does_not_end_the_worker_nor_the_other_callbacks(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    end: Callable[[pgonce.Event], object],
) -> None:
    called: list[str] = []

    def body(event: pgonce.Event) -> None:
        event.after_commit(lambda: end(event))
        event.after_commit(lambda: called.append(event.id))

    register(app, kind, body)
    with Worker(app, database, poll=0.05, concurrency=1):
        for number in (1, 2):  # the second is claimed after the first one's callbacks
            put(type_of(kind), f"evt_{number}")
            wait_until(partial(called.__contains__, f"evt_{number}"), "the callbacks")
    assert effects() == ["evt_1", "evt_2"]
    assert "after_commit of event evt_1 failed" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_key_function_that_ends_does_not_end_the_worker(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    kind: str,
    end: Callable[[pgonce.Event], object],
) -> None:
    register(app, kind, lambda _event: None, ordered=True, key=lambda e: end(e) if e.id == "evt_1" else "k")
    put(type_of(kind), "evt_1", ordered=False)
    with Worker(app, database, poll=0.05, concurrency=1):
        wait_until(lambda: status(conn, "evt_1")["attempts"] == 1 or status(conn, "evt_1")["next_attempt_at"], "it")
        wait_until(lambda: status(conn, "evt_1")["lease_expires_at"] is None or settled(conn), "its outcome")
        put(type_of(kind), "evt_2", ordered=False)
        wait_until(lambda: effects() == ["evt_2"], "the next event")


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_for_errors_that_exits_takes_no_outcome_away(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, kind: str
) -> None:
    app.on_error = lambda _error, _event: sys.exit(1)
    register(app, kind, lambda event: event.payload["missing"])
    put(type_of(kind), "evt_1", "evt_2")
    work(app, database, conn, concurrency=1)
    assert [status(conn, each)["status"] for each in ("evt_1", "evt_2")] == ["failed", "failed"]


@pytest.mark.parametrize(
    ("group", "outcome"),
    [
        (BaseExceptionGroup("tasks", [Ignored("nothing to do")]), "ignored"),
        (BaseExceptionGroup("tasks", [BaseExceptionGroup("inner", [Ignored("a"), Ignored("b")])]), "ignored"),
        (BaseExceptionGroup("tasks", [Ignored("nothing to do"), KeyError("id")]), "failed"),
        (ExceptionGroup("tasks", [KeyError("id")]), "failed"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_decision_in_an_exception_group_is_a_decision_unless_an_error_is_beside_it(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    kind: str,
    group: BaseExceptionGroup[BaseException],
    outcome: str,
) -> None:
    register(app, kind, lambda _event: _raise(group))
    put(type_of(kind), "evt_1")
    work(app, database, conn)
    assert status(conn, "evt_1")["status"] == outcome
    assert effects() == []


def test_a_task_of_a_handlers_group_may_postpone_the_event(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("pay")
    async def handle(event: pgonce.Event, tx: Tx) -> None:
        async def later() -> None:
            event.retry("1 hour")

        async with asyncio.TaskGroup() as group:
            group.create_task(tx.execute("insert into effects (event) values ('x')"))
            group.create_task(later())

    put("pay", "evt_1")
    with Worker(app, database, poll=0.05):
        wait_until(lambda: status(conn, "evt_1")["next_attempt_at"] > status(conn, "evt_1")["received_at"], "it")
    assert (status(conn, "evt_1")["status"], status(conn, "evt_1")["attempts"], effects()) == ("processing", 0, [])


def test_a_delivery_handled_where_it_arrives_knows_decisions_in_groups_too(
    database: str, conn: Connection[Any]
) -> None:
    with databases.open_pool(database, 1) as pool:
        webhooks = pgonce.Webhooks(pool)
        body = stripe.read(b'{"id": "evt_1", "type": "pay"}')
        with pytest.raises(EventBusy):
            webhooks.handle(body, lambda _event, _tx: _raise(BaseExceptionGroup("", [Postponed(timedelta(hours=1))])))
        assert webhooks.handle(body, lambda _e, _tx: _raise(BaseExceptionGroup("", [Ignored("no")]))) == "ignored"


@pytest.mark.parametrize(
    "end",
    [
        lambda: asyncio.current_task().cancel(),  # type: ignore[union-attr]
        lambda: asyncio.get_running_loop().create_task(_exit()),
        lambda: sys.exit(1),
    ],
    ids=["cancels its task", "exits in a task", "exits"],
)
def test_an_async_handler_that_ends_its_task_ends_no_worker(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    caplog: pytest.LogCaptureFixture,
    end: Callable[[], object],
) -> None:
    caplog.set_level(logging.CRITICAL, "asyncio")

    @app.webhook("pay")
    async def handle(event: pgonce.Event, tx: Tx) -> None:
        await tx.execute("insert into effects (event) values (%s)", [event.id])
        if event.id == "evt_1":
            end()
            await asyncio.sleep(0)

    with Worker(app, database, poll=0.05, concurrency=1):
        for number in (1, 2):
            put("pay", f"evt_{number}")
            wait_until(lambda: settled(conn), "the outcome")
    assert effects()[-1] == "evt_2"
    assert status(conn, "evt_1")["attempts"] == 1


async def _exit() -> None:
    sys.exit(1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_handler_may_empty_its_list(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, kind: str
) -> None:
    called: list[str] = []

    def take(events: list[pgonce.Event]) -> list[str]:
        taken = []
        while events:
            event = events.pop()
            event.after_commit(lambda event=event: called.append(event.id))  # type: ignore[misc]
            taken.append(event.id)
        return taken

    if kind == "sync":
        app.webhook_batch("pay")(
            lambda events, tx: tx.execute("insert into effects (event) select unnest(%s::text[])", [take(events)])
        )
    else:

        @app.webhook_batch("pay")
        async def pay(events: list[pgonce.Event], tx: Tx) -> None:
            await tx.execute("insert into effects (event) select unnest(%s::text[])", [take(events)])

    put("pay", "evt_1", "evt_2", "evt_3")
    work(app, database, conn, concurrency=1)
    assert sorted(called) == sorted(effects()) == ["evt_1", "evt_2", "evt_3"]


def test_an_event_loop_that_has_ended_gets_no_more_events(
    app: pgonce.App, database: str, conn: Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    register(app, "async", lambda _event: None)
    with Worker(app, database, poll=0.05, concurrency=1) as worker:
        wait_until(lambda: worker.room() > 0, "the consumer")
        assert worker._async_consumers is not None
        worker._async_consumers.cancel()  # as a loop does at its end, where no lifespan has stopped the worker
        assert worker.room() == 0
    assert "the event loop of the asynchronous handlers has ended" in caplog.text
