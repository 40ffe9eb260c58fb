"""Webhooks, against every caller: whatever happens to an event, its effect happens exactly once, now or later."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from datetime import timedelta
from typing import Any

import anyio
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from pgonce import App, AsyncWebhooks, Webhooks
from pgonce.core.database import open_async_pool
from pgonce.errors import (
    DatabaseUnavailable,
    EventBusy,
    InvalidArgument,
    InvalidPayload,
    LeaseLost,
    PgonceError,
    SchemaError,
    SignatureError,
    TransactionBroken,
)
from pgonce.webhooks import inline, inline_async, refusals, stripe
from pgonce.webhooks.calls import Event
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.contract.callers import SECRET, Async, Caller, PlainSql, Sync, Tx, spawn
from tests.contract.conftest import BINDINGS, CALLERS
from tests.faults.proxy import Proxy

Db = psycopg.Connection[Any]
Open = Callable[[str, str], Caller]


def body(name: str, event_type: str = "invoice.paid") -> bytes:
    return json.dumps({"id": name, "type": event_type, "data": {"object": {"id": "in_1"}}}).encode()


def effect(event: Event, tx: Tx) -> None:
    tx.execute("insert into effects (name, note) values (%s, %s)", [event.id, event.idempotency_key])


def effects(db: Db, name: str) -> int:
    return db.execute("select count(*) from effects where name = %s", [name]).fetchall()[0][0]


def row(db: Db, name: str) -> Any:
    found = db.execute("select * from webhook_events where stripe_event_id = %s", [name])
    columns = [column.name for column in found.description or ()]
    rows = found.fetchall()
    return dict(zip(columns, rows[0], strict=True)) if rows else None


def expire(db: Db, name: str) -> None:
    """What time does: the lease runs out."""
    expired = "update webhook_events set lease_expires_at = clock_timestamp() where stripe_event_id = %s"
    assert db.execute(expired, [name]).rowcount == 1


# Once ---------------------------------------------------------------------------------------------------------------


def test_a_first_delivery_is_handled_once(caller: Caller, db: Db, name: str) -> None:
    seen: list[Event] = []

    def handler(event: Event, tx: Tx) -> None:
        seen.append(event)
        effect(event, tx)

    assert caller.deliver(body(name), handler) == "succeeded"
    assert effects(db, name) == 1
    assert [(e.id, e.type, e.object, e.attempts) for e in seen] == [(name, "invoice.paid", {"id": "in_1"}, 1)]
    stored = row(db, name)
    assert (stored["status"], stored["attempts"], stored["error_message"]) == ("succeeded", 1, None)
    assert stored["payload"] == json.loads(body(name))
    assert stored["processed_at"] >= stored["received_at"]
    assert stored["raw"] is None


def test_a_duplicate_is_done_already(caller: Caller, db: Db, name: str) -> None:
    caller.deliver(body(name), effect)
    before = row(db, name)
    assert [caller.deliver(body(name), effect) for _ in range(3)] == ["done"] * 3
    assert (effects(db, name), row(db, name)) == (1, before)


def test_mark_and_effect_become_visible_at_the_same_moment(caller: Caller, db: Db, name: str) -> None:
    def handler(event: Event, tx: Tx) -> None:
        effect(event, tx)
        assert (effects(db, name), row(db, name)["status"]) == (0, "processing")

    caller.deliver(body(name), handler)
    assert (effects(db, name), row(db, name)["status"]) == (1, "succeeded")


def test_two_deliveries_at_once_make_one_effect(caller: Caller, db: Db, name: str) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(event: Event, tx: Tx) -> None:
        effect(event, tx)
        entered.set()
        assert leave.wait(20)

    first = spawn(caller.deliver, body(name), slow)
    assert entered.wait(20)
    with pytest.raises(EventBusy):
        caller.deliver(body(name), effect)
    leave.set()
    assert first.result(20) == "succeeded"
    assert caller.deliver(body(name), effect) == "done"
    assert effects(db, name) == 1


# Failing ------------------------------------------------------------------------------------------------------------


def boom(event: Event, tx: Tx) -> None:
    effect(event, tx)
    raise RuntimeError("boom")


def test_a_handler_that_raises_is_rolled_back_and_leaves_its_traceback(caller: Caller, db: Db, name: str) -> None:
    with pytest.raises(RuntimeError, match="boom"):
        caller.deliver(body(name), boom)
    assert effects(db, name) == 0
    stored = row(db, name)
    assert stored["status"] == "failed"
    assert "Traceback" in stored["error_message"]
    assert "in boom" in stored["error_message"]
    assert "RuntimeError: boom" in stored["error_message"]


def test_the_next_delivery_of_a_failed_event_is_its_retry(caller: Caller, db: Db, name: str) -> None:
    attempts = []

    def second_time_lucky(event: Event, tx: Tx) -> None:
        attempts.append((event.attempts, event.idempotency_key))
        effect(event, tx)
        if len(attempts) < 3:
            raise RuntimeError("boom")

    for _ in range(2):
        with pytest.raises(RuntimeError):
            caller.deliver(body(name), second_time_lucky)
    assert caller.deliver(body(name), second_time_lucky) == "succeeded"
    assert effects(db, name) == 1
    assert (row(db, name)["status"], row(db, name)["error_message"]) == ("succeeded", None)
    assert [number for number, _ in attempts] == [1, 2, 3]
    assert len({key for _, key in attempts}) == 1
    assert name in attempts[0][1]


class Stop(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize("error", [Stop("now"), asyncio.CancelledError("now")])
def test_what_is_not_an_exception_fails_the_attempt_too(
    caller: Caller, db: Db, name: str, error: BaseException
) -> None:
    def interrupted(event: Event, tx: Tx) -> None:
        effect(event, tx)
        raise error

    with pytest.raises((type(error), futures.CancelledError)):
        caller.deliver(body(name), interrupted)
    assert (effects(db, name), row(db, name)["status"]) == (0, "failed")
    assert type(error).__name__ in row(db, name)["error_message"]
    assert caller.deliver(body(name), effect) == "succeeded"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_and_exit_in_a_handler_fail_the_attempt(
    open_caller: Open, module_database: str, db: Db, name: str, error: type[BaseException]
) -> None:
    def interrupted(event: Event, tx: Tx) -> None:
        effect(event, tx)
        raise error

    with pytest.raises(error):
        open_caller("sync", module_database).deliver(body(name), interrupted)
    assert (effects(db, name), row(db, name)["status"]) == (0, "failed")


def test_ctrl_c_in_an_async_handler_fails_the_attempt(module_database: str, db: Db, name: str) -> None:
    async def interrupted(_event: Event, _tx: Any) -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        async with await open_async_pool(module_database, 2) as pool:
            await AsyncWebhooks(pool).handle(stripe.read(body(name)), interrupted)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert row(db, name)["status"] == "failed"


def test_a_cancelled_async_delivery_fails_the_attempt_at_once(module_database: str, db: Db, name: str) -> None:
    async def main() -> None:
        async def deliver(inside: Callable[[], object]) -> None:
            async def waits(event: Event, tx: Any) -> None:
                await tx.execute("insert into effects (name) values (%s)", [event.id])
                inside()
                await asyncio.Event().wait()

            await AsyncWebhooks(pool).handle(stripe.read(body(name)), waits)

        async with await open_async_pool(module_database, 2) as pool:
            task: asyncio.Task[None] = asyncio.create_task(deliver(lambda: task.cancel("now")))
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as limit:
                    await deliver(lambda: limit.reschedule(0))
            with anyio.CancelScope() as scope:  # cancels every await in it anew, also those that clean up
                await deliver(scope.cancel)
            assert scope.cancelled_caught

    asyncio.run(main())
    assert (effects(db, name), row(db, name)["status"], row(db, name)["attempts"]) == (0, "failed", 3)


def test_a_delivery_that_is_cancelled_after_its_claim_was_committed_fails_at_once(
    module_database: str, db: Db, name: str
) -> None:
    """The claim waits for a lock. It is committed between the cancellation and the next round of the event loop."""
    waiting = "select exists (select from pg_locks where not granted and relation = 'webhook_events'::regclass)"

    async def handler(event: Event, tx: Any) -> None:
        await tx.execute("insert into effects (name) values (%s)", [event.id])

    async def main() -> None:
        async with await open_async_pool(module_database, 2) as pool:
            with db.transaction():
                db.execute("lock table webhook_events")
                task = asyncio.create_task(AsyncWebhooks(pool).handle(stripe.read(body(name)), handler))
                while db.execute(waiting).fetchone() == (False,):  # noqa: ASYNC110 -- the database sets no Event
                    await asyncio.sleep(0.01)
                task.cancel()
            wait_until(lambda: row(db, name) is not None, "the claim is committed")
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert (effects(db, name), row(db, name)["status"]) == (0, "failed")


def test_a_handler_that_swallows_a_database_error_does_not_succeed(caller: Caller, db: Db, name: str) -> None:
    def careless(event: Event, tx: Tx) -> None:
        effect(event, tx)
        with suppress(psycopg.Error):
            tx.execute("select 1 / 0")

    with pytest.raises(psycopg.Error):
        caller.deliver(body(name), careless)
    assert (effects(db, name), row(db, name)["status"]) == (0, "failed")


def test_an_error_that_comes_only_at_commit_fails_the_attempt(caller: Caller, db: Db, name: str) -> None:
    db.execute("create table if not exists late (id int unique deferrable initially deferred)")

    def doubled(event: Event, tx: Tx) -> None:
        effect(event, tx)
        tx.execute("insert into late values (1), (1)")

    with pytest.raises(psycopg.errors.UniqueViolation):
        caller.deliver(body(name), doubled)
    assert (effects(db, name), row(db, name)["status"]) == (0, "failed")


ENDING = """
create table if not exists ending (id int);
create or replace function end_session() returns trigger language plpgsql as $$ begin
  perform pg_terminate_backend(pg_backend_pid()), pg_sleep(60);
end $$;
drop trigger if exists ends on ending;
create constraint trigger ends after insert on ending deferrable initially deferred
  for each row execute function end_session();
"""


@pytest.mark.parametrize("at", ["the handler", "the commit"])
def test_an_attempt_whose_connection_dies_fails_and_the_next_delivery_succeeds(
    caller: Caller, db: Db, name: str, at: str
) -> None:
    db.execute(ENDING.encode())

    def killed(event: Event, tx: Tx) -> None:
        effect(event, tx)
        if at == "the commit":
            tx.execute("insert into ending values (1)")
            return
        [pid] = flat(tx.execute("select pg_backend_pid() as pid").fetchall())
        db.execute("select pg_terminate_backend(%s, 10000)", [pid])
        tx.execute("select 1")

    with pytest.raises((psycopg.OperationalError, DatabaseUnavailable)):
        caller.deliver(body(name), killed)
    assert (effects(db, name), row(db, name)["status"]) == (0, "failed")
    assert caller.deliver(body(name), effect) == "succeeded"
    assert effects(db, name) == 1


# Leases -------------------------------------------------------------------------------------------------------------


def plain_insert(db: Db, name: str) -> None:
    """A client that knows only the specification inserts the row, which means that it handles the event itself."""
    db.execute("insert into webhook_events (stripe_event_id, event_type) values (%s, 'invoice.paid')", [name])


def test_an_event_in_a_live_lease_is_busy(caller: Caller, db: Db, name: str) -> None:
    plain_insert(db, name)
    before = row(db, name)
    with pytest.raises(EventBusy):
        caller.deliver(body(name), effect)
    assert (effects(db, name), row(db, name)) == (0, before)


@pytest.mark.parametrize("kind", BINDINGS)
def test_an_event_that_an_open_transaction_has_claimed_is_busy_within_seconds(
    module_database: str, open_caller: Open, db: Db, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each duplicate would take a thread and a connection for as long as that transaction is open."""
    for module in (inline, inline_async):
        monkeypatch.setattr(module, "ALONE", "100ms")
    caller = open_caller(kind, module_database)
    with psycopg.connect(module_database) as other:
        other.execute("select claim_webhook(%s, 'invoice.paid', %s)", [name, body(name).decode()])
        with pytest.raises(EventBusy):
            spawn(caller.deliver, body(name), effect).result(20)
        other.rollback()
    assert redeliver(caller, name) == "succeeded"
    assert effects(db, name) == 1


def test_an_event_whose_lease_has_run_out_is_taken_over(caller: Caller, db: Db, name: str) -> None:
    plain_insert(db, name)
    expire(db, name)
    assert caller.deliver(body(name), effect) == "succeeded"
    assert (effects(db, name), row(db, name)["attempts"]) == (1, 2)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_delivery_during_which_the_right_to_update_is_away_is_handled_when_its_lease_is_over(
    module_database: str, open_caller: Open, db: Db, name: str, kind: str
) -> None:
    caller = open_caller(kind, make_conninfo(module_database, options="-c role=service_role"))
    db.execute("grant insert on effects to service_role; revoke update on webhook_events from service_role")
    with pytest.raises(SchemaError):
        caller.deliver(body(name), effect)
    db.execute("grant update on webhook_events to service_role")
    with pytest.raises(EventBusy):
        caller.deliver(body(name), effect)
    expire(db, name)
    assert caller.deliver(body(name), effect) == "succeeded"
    assert effects(db, name) == 1


@pytest.mark.parametrize("kind", BINDINGS)
def test_a_claim_ends_within_a_minute_and_the_transaction_may_be_idle_for_longer(
    module_database: str, open_caller: Open, db: Db, name: str, kind: str
) -> None:
    found: list[Any] = []

    def handler(_event: Event, tx: Tx) -> None:
        idle = "current_setting('idle_in_transaction_session_timeout')"
        left = f"select lease_expires_at - received_at, {idle} from webhook_events where stripe_event_id = %s"
        found.extend(db.execute(left.encode(), [name]).fetchone() or ())
        found.extend(flat(tx.execute(f"select {idle}").fetchall()))

    assert open_caller(kind, module_database).deliver(body(name), handler) == "succeeded"
    assert timedelta(seconds=59) < found[0] <= timedelta(seconds=61)
    assert found[2] == "5min"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_delivery_waits_for_a_database_that_is_gone_after_its_claim_once(
    network: Proxy, db: Db, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = inline if kind == "sync" else inline_async
    monkeypatch.setattr(module, "END_SECONDS", 0.01)
    waits: list[float | None] = []
    about_to_begin = network.hold(b"pgonce.transaction")

    class Pool(ConnectionPool[Any]):
        def getconn(self, timeout: float | None = None) -> Any:
            waits.append(timeout)
            return super().getconn(timeout)

    class AsyncPool(AsyncConnectionPool[Any]):
        async def getconn(self, timeout: float | None = None) -> Any:
            waits.append(timeout)
            return await super().getconn(timeout)

    def deliver() -> None:
        options = {"autocommit": True}
        with Pool(network.url, kwargs=options, min_size=1, max_size=1, open=True, timeout=30) as pool:
            Webhooks(pool).handle(stripe.read(body(name)), effect)

    async def deliver_async() -> None:
        pool = AsyncPool(network.url, kwargs={"autocommit": True}, min_size=1, max_size=1, open=False, timeout=30)
        async with pool:
            await AsyncWebhooks(pool).handle(stripe.read(body(name)), lambda *_: pytest.fail("no handler was called"))

    delivery = spawn(deliver if kind == "sync" else lambda: asyncio.run(deliver_async()))
    about_to_begin.wait()
    network.down()
    with pytest.raises(DatabaseUnavailable):
        delivery.result(60)
    network.up()
    assert row(db, name)["status"] == "processing"
    assert [wait is not None and wait < 1 for wait in waits] == [False, False, True]


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    "statement", [b"claim_webhook", b"pgonce.transaction", b"complete_webhook", b"RELEASE", b"COMMIT"]
)
def test_a_delivery_ends_although_the_server_does_not_answer(
    network: Proxy, open_caller: Open, db: Db, name: str, kind: str, statement: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline if kind == "sync" else inline_async, "HANGS", 0.2)
    caller = open_caller(kind, network.url)
    network.hold(statement)
    with pytest.raises(DatabaseUnavailable):
        spawn(caller.deliver, body(name), effect).result(60)
    network.cut()  # what is held is lost
    if (claimed := row(db, name)) and claimed["status"] == "processing":  # it was locked, so no failure is recorded
        wait_until(lambda: not db.execute(OPEN, [f"pgonce {claimed['id']}"]).fetchone(), "its session has ended")
        expire(db, name)
    wait_until(lambda: redeliver(caller, name) in {"succeeded", "done"}, "the redelivery")
    assert effects(db, name) == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_decision_to_retry_ends_although_the_server_does_not_answer(
    network: Proxy, open_caller: Open, db: Db, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline if kind == "sync" else inline_async, "END_SECONDS", 0.2)
    network.hold(b"pgonce_postpone_webhook")
    with pytest.raises(DatabaseUnavailable):
        open_caller(kind, network.url).deliver(body(name), lambda event, _tx: event.retry(in_="1 second"))


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_no_delivery_waits_longer_for_a_connection_than_stripe_for_an_answer(
    database: str, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline if kind == "sync" else inline_async, "HANGS", 0.2)
    event = stripe.read(body(name))
    size: dict[str, Any] = {"min_size": 1, "max_size": 1, "timeout": 3600}

    def deliver() -> None:
        with ConnectionPool(database, open=True, **size) as pool, pool.connection():
            Webhooks(pool).handle(event, effect)

    async def deliver_async() -> None:
        async with AsyncConnectionPool(database, open=False, **size) as pool, pool.connection():
            await AsyncWebhooks(pool).handle(event, lambda *_: pytest.fail("no handler was called"))

    with pytest.raises(DatabaseUnavailable):
        deliver() if kind == "sync" else asyncio.run(deliver_async())


def test_an_event_that_a_worker_will_do_is_queued(caller: Caller, db: Db, name: str) -> None:
    queue = "select stripe_event_id, outcome from pgonce_queue_webhooks(%s, %s, %s)"
    assert db.execute(queue, [[name], ["invoice.paid"], [body(name).decode()]]).fetchall() == [(name, "queued")]
    assert caller.deliver(body(name), effect) == "queued"
    assert (effects(db, name), row(db, name)["attempts"]) == (0, 0)


def test_an_open_handler_keeps_its_event_beyond_its_lease(caller: Caller, db: Db, name: str) -> None:
    def slow(event: Event, tx: Tx) -> None:
        effect(event, tx)
        expired = "select lease_expires_at < clock_timestamp() as yes from webhook_events where stripe_event_id = %s"
        # asked through tx, because the server ends an idle transaction at the end of the lease, and not a busy one
        wait_until(lambda: True in flat(tx.execute(expired, [event.id]).fetchall()), "the lease is over")
        with pytest.raises(EventBusy):  # its row is locked, and locked means live
            caller.deliver(body(name), effect, lease="1 minute")

    assert caller.deliver(body(name), slow, lease="1 second") == "succeeded"
    assert effects(db, name) == 1


def flat(rows: Any) -> list[Any]:
    """The values, whatever the row factory."""
    return [value for each in rows for value in (each.values() if isinstance(each, dict) else each)]


def picky(event: Event, tx: Tx) -> None:
    effect(event, tx)
    event.ignore("not today")


@pytest.mark.parametrize("kind", CALLERS)
@pytest.mark.parametrize(
    ("held", "handler"),
    [(b"complete_webhook", boom), (b"ignore_webhook", picky)],  # ignored: the rollback has released the row
    ids=["before its mark", "before it ignores the event"],
)
def test_a_zombie_is_told_that_the_event_is_no_longer_its_own_and_writes_nothing(
    module_database: str, network: Proxy, open_caller: Open, db: Db, name: str, kind: str, held: bytes, handler: Any
) -> None:
    zombie = open_caller(kind, network.url)
    about_to_mark = network.hold(held)
    stuck = spawn(zombie.deliver, body(name), handler)
    about_to_mark.wait()
    expire(db, name)
    assert PlainSql(module_database).deliver(body(name), effect) == "succeeded"
    about_to_mark.release()
    with pytest.raises(LeaseLost):
        stuck.result(20)
    assert (effects(db, name), row(db, name)["status"], row(db, name)["error_message"]) == (1, "succeeded", None)


# Handlers that end the transaction ----------------------------------------------------------------------------------


def commits(_: Event, tx: Tx) -> None:
    tx.commit()


def says_commit(_: Event, tx: Tx) -> None:
    tx.execute("commit")


def says_commit_and_goes_on(event: Event, tx: Tx) -> None:
    tx.execute("commit")
    tx.execute("begin")
    tx.execute("insert into effects (name, note) values (%s, 'behind the commit')", [event.id])


@pytest.mark.parametrize("end", [commits, says_commit, says_commit_and_goes_on])
def test_a_handler_that_commits_is_an_error_and_never_doubles_its_effect(
    caller: Caller, db: Db, name: str, end: Any
) -> None:
    def handler(event: Event, tx: Tx) -> None:
        effect(event, tx)
        end(event, tx)

    with pytest.raises((PgonceError, psycopg.Error)) as caught:
        caller.deliver(body(name), handler)
    if isinstance(caller, Sync | Async) and end is not commits:
        assert isinstance(caught.value, TransactionBroken)
        assert "COMMIT" in str(caught.value)
    # its own COMMIT also committed the mark, so the event is done; otherwise nothing was committed, and the retry
    # handles it
    assert caller.deliver(body(name), effect) in {"done", "succeeded"}
    assert effects(db, name) == 1


def test_a_handler_that_rolls_back_is_an_error_and_has_not_succeeded(caller: Caller, db: Db, name: str) -> None:
    def handler(event: Event, tx: Tx) -> None:
        effect(event, tx)
        tx.execute("rollback")

    with pytest.raises((PgonceError, psycopg.Error)):
        caller.deliver(body(name), handler)
    assert (effects(db, name), row(db, name)["status"]) == (0, "failed")
    assert caller.deliver(body(name), effect) == "succeeded"


# Ignoring -----------------------------------------------------------------------------------------------------------


def test_an_ignored_event_is_final_and_its_effect_rolled_back(caller: Caller, db: Db, name: str) -> None:
    assert caller.deliver(body(name), picky) == "ignored"
    stored = row(db, name)
    assert (effects(db, name), stored["status"], stored["ignored_reason"]) == (0, "ignored", "not today")
    assert caller.deliver(body(name), effect) == "done"
    assert effects(db, name) == 0


def test_an_event_of_a_type_without_a_handler_is_ignored_and_says_so(caller: Caller, db: Db, name: str) -> None:
    app = App()
    app.webhook("invoice.*")(effect)
    kind = f"customer.{name}"
    assert caller.deliver(body(name, kind), app.handle) == "ignored"
    assert row(db, name)["status"] == "ignored"
    assert f"no handler for {kind}" in row(db, name)["ignored_reason"]
    assert caller.deliver(body(name + "x", "invoice.paid"), app.handle) == "succeeded"
    # the app of a worker on the same database may have a handler
    assert db.execute("select pgonce_take_back_webhooks(%s)", [kind]).fetchone() == (1,)
    assert caller.deliver(body(name, kind), app.handle) == "queued"


def test_what_another_app_has_no_handler_for_is_handled_where_there_is_one(
    caller: Caller, db: Db, module_database: str, name: str
) -> None:
    app = App()
    app.webhook("invoice.*")(effect)
    assert caller.deliver(body(name, "customer.created"), app.handle) == "ignored"
    assert caller.deliver(body(name, "customer.created"), effect) == "succeeded"
    recorded = name + "x"
    queue = "select outcome from pgonce_queue_webhooks(array[%s], '{customer.created}', array[%s])"
    with Worker(app, module_database, poll=60):  # it has just looked, and ends the event as ignored later
        db.execute(queue, [recorded, body(recorded, "customer.created").decode()])

        def deliver() -> str | None:
            with suppress(EventBusy):  # the worker is looking at it
                return caller.deliver(body(recorded, "customer.created"), effect)
            return None

        assert wait_until(deliver, "the worker does not hold it") == "succeeded"
    assert (effects(db, name), effects(db, recorded)) == (1, 1)


# Payloads that jsonb cannot hold ------------------------------------------------------------------------------------

POISON = {
    "NUL": b'"a\\u0000b"',
    "lone surrogates": b'"\\ud800 \\udc00 \\ud83d\\ude00"',
    "a number": b"1e400000",
    "depth": b"[" * 70_000 + b"]" * 70_000,
    "bytes": b'"\xff\xfe"',
}


@pytest.mark.parametrize("kind", POISON)
def test_a_payload_that_jsonb_cannot_hold_is_handled_and_kept_byte_for_byte(
    caller: Caller, db: Db, name: str, kind: str
) -> None:
    raw = b'{"id":"%s","created":1,"type":"invoice.paid","x":%s}' % (name.encode(), POISON[kind])
    seen: list[dict[str, Any]] = []

    def handler(event: Event, tx: Tx) -> None:
        seen.append(event.payload)
        effect(event, tx)

    assert caller.deliver(raw, handler) == "succeeded"
    assert caller.deliver(raw, handler) == "done"
    assert effects(db, name) == 1
    assert bytes(row(db, name)["raw"]) == raw
    assert (row(db, name)["payload"]["id"], row(db, name)["payload"]["type"]) == (name, "invoice.paid")
    assert [(each["id"], each["type"]) for each in seen] == [(name, "invoice.paid")]
    if kind in {"NUL", "lone surrogates"}:
        assert seen[0]["x"] == json.loads(POISON[kind])


TOKENS = [
    "\\\\", "\\u0000", "\\u0001", "\\ud800", "\\udbff", "\\udc00", "\\uDFFF", "\\ud83d\\ude00", "u0000", "ud800", '\\"',
    "a", "é", "\\u", "0000", "🐎", " ", "\\n",
]  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(TOKENS), max_size=8).map("".join))
def test_whatever_is_read_is_also_taken_in(db: Db, text: str) -> None:
    raw = b'{"id":"evt_%d","type":"t","x":"%s"}' % (hash(text) & 2**60 - 1, text.encode())
    try:
        read = stripe.read(raw)
    except InvalidPayload:
        return
    db.execute("delete from webhook_events where stripe_event_id = %s", [read.id])
    claim = "select outcome from claim_webhook(%s, %s, %s, %s)"
    assert db.execute(claim, [read.id, read.type, read.text, read.raw]).fetchall() == [("claimed",)]
    stored = row(db, read.id)
    assert stored["payload"]["id"] == read.id
    if stored["raw"] is not None:
        assert bytes(stored["raw"]) == raw
    else:
        assert stored["payload"] == json.loads(raw)


# Bad input, at the bindings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw", [b"", b"no", b"[]", b'{"id":"","type":"t"}', b'{"type":"t"}', b'{"id":"evt_1","type":""}', b'"x"']
)
def test_what_is_no_event_is_refused_and_nothing_is_stored(caller: Caller, db: Db, raw: bytes) -> None:
    before = db.execute("select count(*) from webhook_events").fetchall()
    with pytest.raises(InvalidPayload):
        caller.deliver(raw, effect)
    assert db.execute("select count(*) from webhook_events").fetchall() == before


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_function_returns_the_secrets_for_each_delivery(module_database: str, name: str, kind: str) -> None:
    secrets = ["whsec_old"]

    async def nothing(_event: Event, _tx: Any) -> None:
        pass

    async def receive_async(header: str) -> str:
        async with await open_async_pool(module_database, 2) as pool:
            return await AsyncWebhooks(pool, secrets=lambda: secrets[0]).receive(body(name), header, nothing)

    def receive(secret: str) -> str:
        header = stripe.sign(body(name), secret)
        if kind == "async":
            return asyncio.run(receive_async(header))
        with Sync(module_database).pool as pool:
            return Webhooks(pool, secrets=lambda: secrets[0]).receive(body(name), header, effect)

    assert receive("whsec_old") == "succeeded"
    secrets[0] = "whsec_new"
    assert receive("whsec_new") == "done"
    with pytest.raises(SignatureError):
        receive("whsec_old")


@pytest.mark.parametrize("lease", ["0 s", "soon"])
def test_a_lease_that_is_none_is_refused(module_database: str, lease: str) -> None:
    with Sync(module_database).pool as pool, pytest.raises(InvalidArgument, match="the lease"):
        Webhooks(pool, lease=lease)


def test_a_wrong_signature_is_refused_and_counted_and_nothing_is_stored(
    module_database: str, db: Db, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "EVERY", 0)
    with Sync(module_database).pool as pool:
        webhooks = Webhooks(pool, secrets=["whsec_other", SECRET])
        for header in (None, "", "t=1,v1=0", stripe.sign(body(name), "whsec_wrong"), stripe.sign(b"{}", SECRET)):
            with pytest.raises(SignatureError):
                webhooks.receive(body(name), header, effect)
        assert row(db, name) is None
        counted = "select reason, deliveries from pgonce_list_refused_deliveries() order by 1"
        assert db.execute(counted).fetchall() == [("header", 3), ("signature", 2)]
        assert webhooks.receive(body(name), stripe.sign(body(name), SECRET), effect) == "succeeded"


def test_without_a_secret_nothing_is_let_in(module_database: str, db: Db, name: str) -> None:
    with Sync(module_database).pool as pool, pytest.raises(InvalidArgument, match="secret"):
        Webhooks(pool).receive(body(name), stripe.sign(body(name), ""), effect)
    assert row(db, name) is None


# The ambiguous commit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_lost_answer_to_the_commit_is_unavailable_and_the_redelivery_finds_it_done(
    network: Proxy, open_caller: Open, db: Db, name: str, kind: str
) -> None:
    caller = open_caller(kind, network.url)
    answer = network.hold(b"COMMIT", answer=True)
    delivery = spawn(caller.deliver, body(name), effect)
    answer.wait()
    network.cut()
    with pytest.raises(DatabaseUnavailable):
        delivery.result(20)
    assert redeliver(caller, name) == "done"
    assert effects(db, name) == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_lost_commit_is_unavailable_and_the_redelivery_behind_the_lease_does_it(
    network: Proxy, open_caller: Open, db: Db, name: str, kind: str
) -> None:
    caller = open_caller(kind, network.url)
    commit = network.hold(b"COMMIT")
    delivery = spawn(caller.deliver, body(name), effect)
    commit.wait()
    network.cut()
    with pytest.raises(DatabaseUnavailable):
        delivery.result(20)
    wait_until(lambda: not db.execute(OPEN, [f"pgonce {row(db, name)['id']}"]).fetchone(), "its session has ended")
    assert effects(db, name) == 0
    expire(db, name)
    assert redeliver(caller, name) == "succeeded"
    assert effects(db, name) == 1


OPEN = "select 1 from pg_stat_activity where application_name = %s"


def redeliver(caller: Caller, name: str) -> str:
    """Deliver again and again, as Stripe does. A pool notices each of its dead connections only when it uses it."""

    def answer() -> str | None:
        try:
            return caller.deliver(body(name), effect)
        except DatabaseUnavailable:
            return None

    return str(wait_until(answer, "the redelivery is answered"))
