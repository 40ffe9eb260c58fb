"""One transaction for each event: a handler cannot tell that a worker handles several events in a row."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, Connection
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader

import pgonce
from pgonce.core.database import open_pool
from pgonce.webhooks import stripe
from pgonce.webhooks.handler_connection import _FLUSH
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.contract.webhooks.test_worker import Effects, Queue, app, effects, put, settled, status, work, write

__all__ = ["app", "effects", "put"]

STATE = """
select current_setting('search_path'), current_setting('timezone'), current_setting('statement_timeout'),
       current_user::text, to_regclass('staging') is null and to_regclass('pg_temp.staging') is null,
       (select count(*) from pg_cursors where is_holdable),
       (select count(*) from pg_prepared_statements where from_sql),
       (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
       (select count(*) from pg_listening_channels()), current_setting('app.tenant', true)
"""
LEFT = {
    "a setting of the transaction": "set local search_path = tenant, public",
    "a setting of the session": "set timezone = 'Asia/Kathmandu'; set search_path = tenant",
    "a time limit": "set statement_timeout = '7s'",
    "a custom setting": "select set_config('app.tenant', 'a', false)",
    "a role": "set role service_role",
    "a temporary table until the commit": "create temp table staging (id int) on commit drop",
    "a temporary table": "create temp table staging (id int)",
    "a cursor": "declare c cursor with hold for select 1",
    "a prepared statement": "prepare p as select 1",
    "a session lock": "select pg_advisory_lock(1)",
    "a channel": "listen something",
    "deferred constraints": "set constraints all deferred",
}


@pytest.fixture
def long_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of three events may take longer than 0.2 s: a busy machine needs more."""
    for module in ("executor", "executor_async"):
        monkeypatch.setattr(f"pgonce.webhooks.{module}.CHAIN", 60)


@pytest.fixture
def database_with_tenant(database: str, conn: Connection[Any]) -> str:
    conn.execute("create schema tenant")
    return database


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_nothing_that_a_handler_leaves_on_its_connection_reaches_the_next_event(
    app: pgonce.App,
    database_with_tenant: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    kind: str,
    left: str,
) -> None:
    conn.execute("grant all on effects to service_role")
    found: list[Any] = []
    if kind == "sync":

        @app.webhook("pay")
        def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
            found.append(tx.execute(STATE).fetchone())
            tx.execute("insert into public.effects (event) values (%s)", [event.id])
            for statement in left.split("; "):
                tx.execute(statement.encode())
            if event.id == "evt_2":
                raise ValueError("a failure leaves nothing, too")
    else:

        @app.webhook("pay")
        async def pay_async(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
            found.append(await (await tx.execute(STATE)).fetchone())
            await tx.execute("insert into public.effects (event) values (%s)", [event.id])
            for statement in left.split("; "):
                await tx.execute(statement.encode())
            if event.id == "evt_2":
                raise ValueError("a failure leaves nothing, too")

    put("pay", *[f"evt_{nr}" for nr in range(5)])
    work(app, database_with_tenant, conn, concurrency=1)
    assert sorted(effects()) == ["evt_0", "evt_1", "evt_3", "evt_4"]
    assert len(found) == 5
    assert len({(*row[:9], row[9] or "") for row in found}) == 1


def test_neither_row_factory_nor_adapters_nor_notices_of_one_handler_reach_the_next_event(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    notices: list[Any] = []

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        row = tx.execute("select 1::int8, true").fetchone()
        assert row == (1, True), row
        write(tx, event)
        tx.execute("do $$ begin raise warning 'x'; end $$")
        tx.row_factory = dict_row
        tx.cursor_factory = psycopg.ClientCursor
        tx.adapters.register_loader("int8", TextLoader)
        tx.adapters.register_loader("bool", TextLoader)
        tx.add_notice_handler(lambda _: notices.append(event.id))
        tx.execute("select 1", prepare=True)

    put("pay", *[f"evt_{nr}" for nr in range(6)])
    work(app, database, conn, concurrency=1)
    assert len(effects()) == 6
    assert notices == []


def test_a_slow_event_keeps_no_other_waiting_and_those_before_it_are_committed(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    go = threading.Event()

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)
        if event.id == "evt_1":
            go.wait(30)

    put("pay", *[f"evt_{nr}" for nr in range(9)])
    with Worker(app, database, poll=0.05, concurrency=2):
        try:
            wait_until(lambda: len(effects()) == 8, "all others, while one handler is at work")
            assert [status(conn, f"evt_{nr}")["attempts"] for nr in range(9)] == [1] * 9
        finally:
            go.set()
    assert len(effects()) == 9


def test_a_slow_async_event_keeps_no_other_waiting(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    slow = asyncio.Event()

    @app.webhook("pay")
    async def pay(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
        await tx.execute("insert into effects (event) values (%s)", [event.id])
        if event.id == "evt_1":
            await asyncio.wait_for(slow.wait(), 30)
        elif event.id == "evt_last":
            slow.set()

    put("pay", *[f"evt_{nr}" for nr in range(9)])
    with Worker(app, database, poll=0.05, concurrency=2):
        wait_until(lambda: len(effects()) == 8, "all others, while one handler is at work")
        put("pay", "evt_last")
        wait_until(lambda: settled(conn), "the slow one")
    assert len(effects()) == 10


def test_what_a_chain_has_not_begun_in_its_time_is_given_back_and_no_attempt_is_counted(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        tx.execute("select pg_sleep(0.06)")
        write(tx, event)

    @app.webhook_batch("batch")
    def batch(events: list[pgonce.Event], tx: Connection[Any]) -> None:
        tx.execute("select pg_sleep(0.25)")
        for event in events:
            write(tx, event)

    put("pay", *[f"evt_{nr}" for nr in range(12)])
    put("batch", *[f"evt_b{nr}" for nr in range(6)])
    work(app, database, conn, concurrency=1)
    assert len(effects()) == len(set(effects())) == 18
    assert conn.execute("select distinct attempts from webhook_events").fetchall() == [(1,)]
    assert conn.execute("select * from pgonce_webhook_attempts").fetchall() == []


def test_resetting_a_connection_never_forgets_a_statement_that_the_server_has_prepared(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @app.webhook_batch("batch")
    def batch(events: list[pgonce.Event], tx: Connection[Any]) -> None:
        for event in events:
            write(tx, event)

    app.webhook("pay")(lambda event, tx: write(tx, event))
    with Worker(app, database, poll=0.02, concurrency=1):
        for nr in range(16):  # claims, and rounds with events of one kind only
            put("pay" if nr % 8 == 7 else "batch", f"evt_{nr}")
            wait_until(lambda nr=nr: len(effects()) == nr + 1, "the event")  # type: ignore[misc]
    assert "already exists" not in caplog.text
    assert "does not exist" not in caplog.text


def callbacks_and_handlers(app: pgonce.App, seen: list[str], *, is_async: bool, **options: Any) -> None:
    def note(what: str) -> Callable[[], None]:
        return lambda: seen.append(what)

    if not is_async:

        @app.webhook("pay", **options)
        def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
            seen.append(f"handler {event.id}")
            event.after_commit(note(f"callback {event.id}"))
            write(tx, event)
    else:

        @app.webhook("pay", **options)
        async def pay_async(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
            async def callback() -> None:
                await asyncio.sleep(0)
                seen.append(f"callback {event.id}")

            seen.append(f"handler {event.id}")
            event.after_commit(callback)
            await tx.execute("insert into effects (event) values (%s)", [event.id])


@pytest.mark.usefixtures("long_chain")
@pytest.mark.parametrize("is_async", [False, True])
def test_callbacks_wait_for_the_commit_of_the_chain_that_is_on_disk(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, is_async: bool
) -> None:
    seen: list[str] = []
    callbacks_and_handlers(app, seen, is_async=is_async)
    put("pay", "evt_1", "evt_2", "evt_3")
    work(app, database, conn, concurrency=1)
    wait_until(lambda: len(seen) == 6, "all callbacks")
    assert sorted(seen[:3]) == [f"handler evt_{nr}" for nr in (1, 2, 3)]
    assert [line.split()[1] for line in seen[:3]] == [line.split()[1] for line in seen[3:]]
    assert sorted(effects()) == ["evt_1", "evt_2", "evt_3"]


@pytest.mark.usefixtures("long_chain")
@pytest.mark.parametrize(("durable", "commits"), [("chain", ["off", "off", "on"]), ("each", ["on", "on", "on"])])
def test_all_commits_of_a_chain_but_the_last_are_asynchronous_unless_each_is_to_be_durable(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    durable: str,
    commits: list[str],
) -> None:
    conn.execute("create table commits (nr int generated always as identity, synchronous text)")
    conn.execute(
        "create function note() returns trigger language plpgsql as $$ begin"
        " insert into commits (synchronous) values (current_setting('synchronous_commit')); return null; end $$"
    )
    conn.execute(
        "create constraint trigger noted after insert on effects deferrable initially deferred"
        " for each row execute function note()"
    )
    callbacks_and_handlers(app, [], is_async=False, durable=durable)
    put("pay", "evt_1", "evt_2", "evt_3")
    work(app, database, conn, concurrency=1)
    assert [row[0] for row in conn.execute("select synchronous from commits order by nr").fetchall()] == commits
    assert len(effects()) == 3


@pytest.mark.parametrize(
    ("usual", "then"), [("off", "local"), ("on", "on"), ("remote_apply", "remote_apply")], ids=lambda name: name
)
def test_what_comes_before_a_callback_waits_for_standbys_as_before(
    conn: Connection[Any], usual: str, then: str
) -> None:
    conn.execute(f"set synchronous_commit = {usual}".encode())
    conn.execute(_FLUSH.removesuffix("; commit").encode())
    assert conn.execute("show synchronous_commit").fetchone() == (then,)


@pytest.mark.usefixtures("long_chain")
@pytest.mark.parametrize("last", ["failed", "commits asynchronously", "as all commits, by a setting of the database"])
def test_a_callback_after_a_chain_whose_last_commit_is_not_on_disk_finds_its_own_there(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    last: str,
) -> None:
    committed: list[str] = []
    on_disk: list[bool] = []

    def look() -> None:
        found = conn.execute("select pg_current_wal_flush_lsn() >= %s::pg_lsn", committed).fetchone()
        on_disk.append(bool(found and found[0]))

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        if event.id == "evt_2":  # the first one's commit has been written by now
            committed.extend(tx.execute("select pg_current_wal_insert_lsn()::text").fetchone() or ())
            if last == "failed":
                event.retry(in_="1 hour")
            if last == "commits asynchronously":
                tx.execute("set local synchronous_commit to off")
            return
        write(tx, event)
        event.after_commit(look)

    put("pay", "evt_1", "evt_2")
    if "setting" in last:
        conn.execute(f"alter database {conn.info.dbname} set synchronous_commit = off".encode())
    with Worker(app, database, poll=30, concurrency=1):
        wait_until(lambda: on_disk, "the callback")
    assert on_disk == [True]
    assert effects() == ["evt_1"]


@pytest.mark.parametrize("kind", ["handled at once", "with a transaction of its own"])
def test_a_callback_comes_after_the_disk_although_commits_are_asynchronous(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, kind: str
) -> None:
    conn.execute(f"alter database {conn.info.dbname} set synchronous_commit = off".encode())
    written: list[Any] = []
    on_disk: list[Any] = []

    def look() -> None:
        on_disk.extend(conn.execute("select pg_current_wal_flush_lsn() >= %s::pg_lsn", written).fetchone() or ())

    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)
        written.extend(tx.execute("select pg_current_wal_insert_lsn()::text").fetchone() or ())
        event.after_commit(look)

    if kind == "handled at once":
        with open_pool(database, 2) as pool:
            assert pgonce.Webhooks(pool).handle(stripe.read(b'{"id": "evt_1", "type": "pay"}'), pay) == "succeeded"
    else:

        @app.webhook("pay", transaction="own")
        def pay_alone(event: pgonce.Event) -> None:
            with psycopg.connect(database) as tx:
                pay(event, tx)
                event.complete(tx)

        put("pay", "evt_1")
        with Worker(app, database, poll=30):
            wait_until(lambda: on_disk, "the callback")
    assert (on_disk, effects()) == ([True], ["evt_1"])


def test_every_attempt_begins_with_a_fresh_event_and_no_callbacks(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    seen: list[str] = []

    @app.webhook_batch("pay")
    def pay(events: list[pgonce.Event], tx: Connection[Any]) -> None:
        for event in events:
            event.object.pop("amount")  # KeyError, if the first try had left its mark
            event.after_commit(partial(seen.append, event.id))
            write(tx, event)
        if any(event.id == "evt_bad" for event in events):
            raise ValueError

    put("pay", "evt_1", "evt_2", "evt_bad", "evt_3", data={"object": {"id": "x", "amount": 1}})
    work(app, database, conn, concurrency=1)
    wait_until(lambda: len(seen) >= 3, "the callbacks")
    assert sorted(seen) == ["evt_1", "evt_2", "evt_3"]
    assert sorted(effects()) == ["evt_1", "evt_2", "evt_3"]


def test_a_handler_that_wants_an_event_later_uses_up_no_attempt(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    attempts: list[int] = []

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        attempts.append(event.attempts)
        write(tx, event)
        if len(attempts) < 4:
            try:
                event.retry(in_="30 seconds" if len(attempts) == 3 else "10 ms")
            except Exception:  # noqa: BLE001 -- what many handlers have; it must not catch this
                return

    put("pay", "evt_1")
    with Worker(app, database, poll=0.05, max_attempts=2):
        wait_until(lambda: len(attempts) == 3, "two retries")
        due = "select next_attempt_at > now() + interval '20 seconds', attempts, status from webhook_events"
        wait_until(lambda: conn.execute(due.encode()).fetchone() == (True, 0, "processing"), "the third")
        conn.execute("update webhook_events set next_attempt_at = now()")
        wait_until(lambda: effects() == ["evt_1"], "the last attempt")
    assert attempts == [1, 1, 1, 1]


def test_a_decision_to_ignore_is_not_caught_by_a_handlers_own_except_clause(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        try:
            write(tx, event)
            event.ignore("not ours")
        except Exception:  # noqa: BLE001 -- what many handlers have; it must not catch this
            return

    put("pay", "evt_1")
    work(app, database, conn)
    assert effects() == []
    assert status(conn, "evt_1")["ignored_reason"] == "not ours"


@pytest.mark.usefixtures("long_chain")
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_callbacks_of_a_committed_event_run_when_the_next_one_loses_the_connection(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, kind: str
) -> None:
    called: list[str] = []

    def handle(event: pgonce.Event) -> None:
        event.after_commit(partial(called.append, event.id))
        if event.id == "evt_0":  # the mark of evt_1 is in one message with this COMMIT, and waits for this lock
            other.execute("select from webhook_events where stripe_event_id = 'evt_1' for update")

    @app.webhook("pay") if kind == "sync" else lambda function: function
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)
        handle(event)

    @app.webhook("pay") if kind == "async" else lambda function: function
    async def pay_async(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
        await tx.execute("insert into effects (event) values (%s)", [event.id])
        handle(event)

    put("pay", "evt_0", "evt_1")
    with psycopg.connect(database) as other, Worker(app, database, concurrency=1, poll=0.05):
        waits = "from pg_stat_activity where wait_event_type = 'Lock' and query like '%pgonce_mark_webhook%'"
        ended = f"select pg_terminate_backend(pid) {waits}".encode()
        wait_until(lambda: conn.execute(ended).fetchall(), "the mark of evt_1 to wait")
        other.rollback()
        wait_until(lambda: settled(conn), "the worker to handle everything")
    assert sorted(effects()) == sorted(called) == ["evt_0", "evt_1"]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_event_whose_asynchronous_commit_was_forgotten_is_called_back_once(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, kind: str
) -> None:
    """A crash of the server, as the worker sees it: the mark and the effect of evt_0 are gone, and the connection."""
    called: list[str] = []
    crashed = threading.Event()

    def handle(event: pgonce.Event) -> None:
        event.after_commit(partial(called.append, event.id))
        if event.id == "evt_1" and event.attempts == 1:
            with psycopg.connect(database, autocommit=True) as other:
                other.execute("delete from effects where event = 'evt_0'")
                other.execute(
                    "update webhook_events set status = 'processing', next_attempt_at = received_at,"
                    " lease_expires_at = now() where stripe_event_id = 'evt_0'"
                )
                its = "from pg_stat_activity where application_name = 'pgonce worker'"
                ended = other.execute(f"select pg_terminate_backend(pid, 10000) {its}".encode()).fetchall()
            assert ended == [(True,)]
            crashed.set()

    @app.webhook("pay") if kind == "sync" else lambda function: function
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        handle(event)
        write(tx, event)

    @app.webhook("pay") if kind == "async" else lambda function: function
    async def pay_async(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
        handle(event)
        await tx.execute("insert into effects (event) values (%s)", [event.id])

    put("pay", "evt_0", "evt_1")
    with Worker(app, database, concurrency=1, poll=0.05):
        assert crashed.wait(30)
        wait_until(lambda: effects() == ["evt_0"], "evt_0 to be handled again")
        conn.execute("update webhook_events set lease_expires_at = now() where status = 'processing'")
        wait_until(lambda: settled(conn), "the worker to handle everything")
    assert sorted(effects()) == sorted(called) == ["evt_0", "evt_1"]
