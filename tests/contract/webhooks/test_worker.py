"""A worker handles each queued event once, in its order, whatever the handler does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, Connection

import pgonce
from pgonce.core import database as databases
from pgonce.core.execute import call
from pgonce.webhooks import calls as webhooks
from pgonce.webhooks import calls_queue as queue
from pgonce.webhooks import stripe
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.faults.proxy import proxy

Queue = Callable[..., None]
Effects = Callable[[], list[str]]


@pytest.fixture
def app() -> pgonce.App:
    return pgonce.App()


@pytest.fixture
def effects(conn: Connection[Any]) -> Effects:
    """Makes the table of effects; returns a function that reads the events in it, in the order of their writing."""
    conn.execute("create table effects (nr bigint generated always as identity, event text not null)")
    return lambda: [row[0] for row in conn.execute("select event from effects order by nr").fetchall()]


@pytest.fixture
def put(database: str, app: pgonce.App) -> Iterator[Queue]:
    """Queues events as a receiver does: ``put(type, id, ..., **content)``."""
    with databases.open_pool(database, 2) as pool:

        def put(event_type: str, *ids: str, ordered: bool = True, **content: Any) -> None:
            bodies = [
                stripe.read(json.dumps({"id": each, "type": event_type, "object": "event", **content}).encode())
                for each in ids
            ]
            keys = [app.order_key(pgonce.Event(b.id, b.type, b.payload)) if ordered else None for b in bodies]
            call(pool, webhooks.queue_webhooks(bodies, keys), "public")

        yield put


def settled(conn: Connection[Any]) -> bool:
    """Whether no event is waiting or held; a failed event may be due later."""
    row = conn.execute("select count(*) from webhook_events where status = 'processing'").fetchone()
    return row is not None and row[0] == 0


def status(conn: Connection[Any], event_id: str) -> dict[str, Any]:
    row = conn.execute("select to_jsonb(e) from webhook_events e where stripe_event_id = %s", [event_id]).fetchone()
    assert row is not None
    return dict(row[0])


def work(app: pgonce.App, database: str, conn: Connection[Any], **options: Any) -> None:
    """Run a worker until everything is settled."""
    with Worker(app, database, **{"poll": 0.05, **options}):
        wait_until(lambda: settled(conn), "the worker to handle everything")


def write(tx: Connection[Any], event: pgonce.Event) -> None:
    tx.execute("insert into effects (event) values (%s)", [event.id])


def test_every_queued_event_is_handled_once(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    app.webhook("pay.*")(lambda event, tx: write(tx, event))
    ids = [f"evt_{nr}" for nr in range(300)]
    put("pay.done", *ids)
    put("pay.done", *ids[:100])
    work(app, database, conn)
    assert sorted(effects()) == sorted(ids)


def test_all_matching_handlers_run_in_order_in_one_transaction(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("pay.*")
    def first(event: pgonce.Event, tx: Connection[Any]) -> None:
        tx.execute("insert into effects (event) values ('first')")

    @app.webhook("pay.done")
    def second(event: pgonce.Event, tx: Connection[Any]) -> None:
        tx.execute("insert into effects (event) values ('second')")
        if event.attempts == 1:
            raise ValueError("not yet")

    put("pay.done", "evt_1")
    work(app, database, conn)
    assert effects() == []  # the first one's effect went with the second's failure
    conn.execute("update webhook_events set next_attempt_at = now()")
    with Worker(app, database, poll=0.05):
        wait_until(lambda: status(conn, "evt_1")["status"] == "succeeded", "the retry")
    assert effects() == ["first", "second"]


def test_a_failure_is_kept_with_its_traceback_and_does_not_touch_its_neighbours(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)
        if event.id == "evt_3":
            tx.execute("select 1/0")

    put("pay", *[f"evt_{nr}" for nr in range(8)])
    work(app, database, conn)
    assert sorted(effects()) == [f"evt_{nr}" for nr in range(8) if nr != 3]
    failed = status(conn, "evt_3")
    assert failed["status"] == "failed"
    assert "DivisionByZero" in failed["error_message"]
    assert failed["next_attempt_at"] is not None


def test_after_its_last_attempt_an_event_is_a_dead_letter_until_it_is_replayed(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    broken = True

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        if broken:
            raise ValueError("broken")
        write(tx, event)

    def attempted(times: int) -> bool:
        return status(conn, "evt_1")["attempts"] == times and settled(conn)

    put("pay", "evt_1")
    for attempt in (1, 2, 3):
        conn.execute("update webhook_events set next_attempt_at = now() where next_attempt_at is not null")
        with Worker(app, database, poll=0.05, max_attempts=3):
            wait_until(partial(attempted, attempt), "an attempt")
    dead = status(conn, "evt_1")
    assert (dead["status"], dead["next_attempt_at"]) == ("failed", None)
    broken = False
    assert conn.execute("select pgonce_replay_webhook('evt_1')").fetchone() == (True,)
    work(app, database, conn)
    assert effects() == ["evt_1"]


@pytest.mark.parametrize("way", ["commit", "rollback", "commit and begin"])
def test_a_handler_that_ends_the_transaction_fails_alone(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, way: str
) -> None:
    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)
        if event.id == "evt_bad" and event.attempts == 1:
            for statement in way.split(" and "):
                tx.execute(statement.encode())

    put("pay", "evt_1", "evt_2", "evt_bad", "evt_3", "evt_4")
    with Worker(app, database, poll=0.05, concurrency=1):
        wait_until(lambda: len(effects()) >= 4 and settled(conn), "the neighbours")
        conn.execute("update webhook_events set next_attempt_at = now() where next_attempt_at is not null")
        wait_until(lambda: "evt_bad" in effects() and settled(conn), "the culprit's retry, or its committed effect")
    assert sorted(effects()) == ["evt_1", "evt_2", "evt_3", "evt_4", "evt_bad"]


@pytest.mark.parametrize("way", ["commit", "commit and begin"])
def test_a_handler_that_commits_makes_a_dead_letter_of_its_own_event_alone(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, way: str
) -> None:
    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)
        if event.id == "evt_bad":
            for statement in way.split(" and "):
                tx.execute(statement.encode())

    put("pay", "evt_1", "evt_bad", "evt_2", "evt_3")
    work(app, database, conn, concurrency=1)
    assert sorted(effects()) == ["evt_1", "evt_2", "evt_3", "evt_bad"]  # its effect was committed, and is not doubled
    failed = status(conn, "evt_bad")
    assert (failed["status"], failed["next_attempt_at"]) == ("failed", None)
    assert "leave COMMIT" in failed["error_message"]


@pytest.mark.parametrize("method", ["commit", "rollback"])
def test_commit_and_rollback_of_the_connection_raise_inside_a_handler(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, method: str
) -> None:
    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)
        if event.id == "evt_bad":
            getattr(tx, method)()

    put("pay", "evt_1", "evt_bad", "evt_2")
    work(app, database, conn)
    assert sorted(effects()) == ["evt_1", "evt_2"]
    assert "getattr(tx, method)()" in status(conn, "evt_bad")["error_message"]


def test_a_handler_that_swallows_a_database_error_has_failed(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        try:
            tx.execute("select 1/0")
        except psycopg.Error:
            return

    put("pay", "evt_1")
    work(app, database, conn)
    assert "tx.transaction()" in status(conn, "evt_1")["error_message"]


def test_what_only_the_commit_refuses_stops_the_culprit_alone(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    conn.execute("create table plans (id int primary key)")
    conn.execute("create table orders (plan int references plans deferrable initially deferred, event text)")

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)
        if event.id == "evt_3":
            tx.execute("insert into orders values (7, %s)", [event.id])

    put("pay", *[f"evt_{nr}" for nr in range(6)])
    work(app, database, conn)
    assert sorted(effects()) == [f"evt_{nr}" for nr in range(6) if nr != 3]
    assert "ForeignKeyViolation" in status(conn, "evt_3")["error_message"]


def test_an_ignored_event_leaves_its_reason_and_no_effect(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)
        event.ignore("a test account")

    put("pay", "evt_1")
    work(app, database, conn)
    assert effects() == []
    assert (status(conn, "evt_1")["status"], status(conn, "evt_1")["ignored_reason"]) == ("ignored", "a test account")


def test_an_unhandled_type_is_ignored_and_taken_back_when_a_handler_appears(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    put("new.type", "evt_1")
    work(app, database, conn)
    assert status(conn, "evt_1")["ignored_reason"] == "no handler for new.type"
    newer = pgonce.App()
    newer.webhook("new.*")(lambda event, tx: write(tx, event))
    with Worker(newer, database, poll=0.05):
        wait_until(lambda: effects() == ["evt_1"], "the event to be taken back")


def test_several_apps_on_one_database_handle_each_the_types_they_have_handlers_for(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    other = pgonce.App()
    app.webhook("a.[xy]")(lambda event, tx: write(tx, event))
    other.webhook("b.?")(lambda event, tx: write(tx, event))
    with Worker(app, database, poll=0.05), Worker(other, database, poll=0.05):
        for nr in range(20):
            put("a.x", f"evt_a{nr}")
            put("b.x", f"evt_b{nr}")
        put("ab.x", "evt_nobody")
        wait_until(lambda: settled(conn), "both workers, and the event that neither handles")
    assert sorted(effects()) == sorted(f"evt_{each}{nr}" for each in "ab" for nr in range(20))
    ignored = conn.execute("select stripe_event_id from webhook_events where status = 'ignored'").fetchall()
    assert ignored == [("evt_nobody",)]


def test_events_of_an_app_whose_process_is_away_wait_for_it(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    conn.execute(
        "insert into pgonce_processes (id, does, host, pid, version, handlers, last_seen_at)"
        " values (gen_random_uuid(), 'events', 'other', 1, '1', '{b.*}', now() - interval '50 minutes')"
    )
    app.webhook("a.*")(lambda event, tx: write(tx, event))
    put("b.x", "evt_theirs")
    put("c.x", "evt_nobodys")
    put("a.x", "evt_ours")
    with Worker(app, database, poll=0.05):
        wait_until(lambda: status(conn, "evt_nobodys")["status"] == "ignored", "the type that no process handles")
        wait_until(lambda: effects() == ["evt_ours"], "the event that this app handles")
    assert status(conn, "evt_theirs")["status"] == "processing"


def test_what_a_handler_has_ignored_is_not_taken_back(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        event.ignore("no")

    put("pay", "evt_1")
    work(app, database, conn)
    with Worker(app, database, poll=0.05):
        put("pay", "evt_2")
        wait_until(lambda: status(conn, "evt_2")["status"] == "ignored", "the newer event")
    assert status(conn, "evt_1")["attempts"] == 1


def test_async_handlers_and_sync_handlers_work_side_by_side(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("async.*")
    async def handle(event: pgonce.Event, tx: psycopg.AsyncConnection[Any]) -> None:
        await tx.execute("insert into effects (event) values (%s)", [event.id])
        loops.add(asyncio.get_running_loop())

    @app.webhook("sync.*")
    def handle_sync(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)
        event.after_commit(note)

    async def note() -> None:
        loops.add(asyncio.get_running_loop())

    loops: set[asyncio.AbstractEventLoop] = set()
    put("async.a", *[f"evt_a{nr}" for nr in range(40)])
    put("sync.b", *[f"evt_b{nr}" for nr in range(40)])
    work(app, database, conn)
    assert sorted(effects()) == sorted([f"evt_a{nr}" for nr in range(40)] + [f"evt_b{nr}" for nr in range(40)])
    assert len(loops) == 1, "also the asynchronous callback of a plain handler may use what the async ones share"


def test_a_cancellation_that_nobody_asked_for_is_the_handlers_failure(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("async")
    async def handle(event: pgonce.Event, tx: psycopg.AsyncConnection[Any]) -> None:
        if event.id == "evt_2":
            raise asyncio.CancelledError
        await tx.execute("insert into effects (event) values (%s)", [event.id])

    put("async", "evt_1", "evt_2", "evt_3")
    work(app, database, conn)
    assert sorted(effects()) == ["evt_1", "evt_3"]
    assert "CancelledError" in status(conn, "evt_2")["error_message"]


@pytest.mark.parametrize("kind", ["sync", "sync in a statement", "async"])
def test_a_handler_over_its_time_fails_and_its_neighbours_are_given_back(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, kind: str
) -> None:
    release = threading.Event()
    if kind != "async":

        @app.webhook("pay", timeout="200 ms")
        def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
            write(tx, event)
            if event.id == "evt_slow":
                tx.execute("select pg_sleep(100)") if kind != "sync" else release.wait(20)
                write(tx, event)
    else:

        @app.webhook("pay", timeout="200 ms")
        async def pay_async(event: pgonce.Event, tx: psycopg.AsyncConnection[Any]) -> None:
            await tx.execute("insert into effects (event) values (%s)", [event.id])
            if event.id == "evt_slow":
                await asyncio.sleep(20)

    put("pay", "evt_1", "evt_2", "evt_slow", "evt_3")
    with Worker(app, database, poll=0.05):
        wait_until(lambda: settled(conn) and len(effects()) == 3, "the neighbours, while the slow one still hangs")
        assert "time limit" in status(conn, "evt_slow")["error_message"] or kind == "async"
        release.set()
    assert sorted(effects()) == ["evt_1", "evt_2", "evt_3"]
    slow = status(conn, "evt_slow")
    assert (slow["status"], slow["attempts"]) == ("failed", 1)
    assert "TimeoutError" in slow["error_message"]


def test_after_commit_is_called_once_the_effect_is_visible(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[list[str]] = []

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)
        event.after_commit(lambda: seen.append(effects()))
        event.after_commit(lambda: event.payload["a payload"])
        if event.id == "evt_2":
            raise ValueError

    put("pay", "evt_1", "evt_2")
    work(app, database, conn)
    wait_until(lambda: seen, "after_commit")
    assert seen == [["evt_1"]]
    assert any(line.startswith("after_commit of event evt_1 failed: KeyError") for line in caplog.messages)
    assert "a payload" not in caplog.text


def test_a_batch_handler_gets_lists_and_a_bad_event_stops_only_itself(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    sizes: list[int] = []

    @app.webhook_batch("pay")
    def pay(events: list[pgonce.Event], tx: Connection[Any]) -> None:
        sizes.append(len(events))
        if any(event.payload.get("bad") for event in events):
            raise ValueError("bad")
        tx.execute("insert into effects (event) select unnest(%s::text[])", [[event.id for event in events]])

    put("pay", *[f"evt_{nr}" for nr in range(9)])
    put("pay", "evt_bad", bad=True)
    work(app, database, conn)
    assert sorted(effects()) == [f"evt_{nr}" for nr in range(9)]
    assert max(sizes) > 1
    assert status(conn, "evt_bad")["status"] == "failed"


def test_ordered_events_of_one_object_are_handled_in_the_order_received(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    inside, overlapped = set(), []

    @app.webhook("sub.*", ordered=True)
    def sub(event: pgonce.Event, tx: Connection[Any]) -> None:
        if event.object_id in inside:
            overlapped.append(event.id)
        inside.add(event.object_id)
        write(tx, event)
        inside.discard(event.object_id)

    for nr in range(12):  # the ids sort the other way round: it is arrival that counts
        for name in "ab":
            put("sub.updated", f"evt_{name}{99 - nr}", data={"object": {"id": name}})
    put("sub.updated", *[f"evt_c{99 - nr}" for nr in range(5)], data={"object": {"id": "c"}})
    work(app, database, conn, concurrency=4)
    for name, count in (("a", 12), ("b", 12), ("c", 5)):
        mine = [event for event in effects() if event.startswith(f"evt_{name}")]
        assert mine == [f"evt_{name}{99 - nr}" for nr in range(count)]
    assert not overlapped


def test_a_failed_ordered_event_holds_back_its_successors_but_not_others(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    @app.webhook("sub", ordered=True)
    def sub(event: pgonce.Event, tx: Connection[Any]) -> None:
        write(tx, event)
        if event.id == "evt_a1" and event.attempts == 1:
            raise ValueError

    for event_id in ("evt_a1", "evt_a2", "evt_b1"):
        put("sub", event_id, data={"object": {"id": event_id[4]}})
    with Worker(app, database, poll=0.05):
        wait_until(lambda: effects() == ["evt_b1"], "the other object's event")
        wait_until(lambda: status(conn, "evt_a1")["status"] == "failed", "the failure")
        assert status(conn, "evt_a2")["status"] == "processing"
        conn.execute("update webhook_events set next_attempt_at = now() where stripe_event_id = 'evt_a1'")
        wait_until(lambda: effects() == ["evt_b1", "evt_a1", "evt_a2"], "the retry, and then its successor")


def test_order_is_kept_for_what_a_client_without_the_app_has_queued(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    app.webhook("sub", ordered=True)(lambda event, tx: write(tx, event))
    for nr in range(6):
        put("sub", f"evt_{9 - nr}", ordered=False, data={"object": {"id": "x"}})
    work(app, database, conn)
    assert effects() == [f"evt_{9 - nr}" for nr in range(6)]


def test_waiting_events_of_one_object_are_coalesced_into_one_call(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    app.webhook("sub.*", coalesce=True)(lambda event, tx: write(tx, event))
    for nr in range(5):
        put("sub.updated", f"evt_{nr}", data={"object": {"id": "x"}})
    work(app, database, conn)
    assert effects() == ["evt_0"]
    assert status(conn, "evt_3")["ignored_reason"] == "coalesced into evt_0"
    put("sub.updated", "evt_later", data={"object": {"id": "x"}})
    work(app, database, conn)
    assert effects() == ["evt_0", "evt_later"]


@pytest.mark.parametrize("order", ["any", "ordered", "coalesce"])
def test_an_event_that_another_function_wants_is_not_coalesced(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects, order: str
) -> None:
    app.webhook("sub.*", coalesce=True)(lambda _event, _tx: None)
    register = app.webhook("sub.deleted", ordered=order == "ordered", coalesce=order == "coalesce")
    register(lambda event, tx: write(tx, event))
    for nr, kind in enumerate(("sub.updated", "sub.deleted", "sub.updated", "sub.deleted")):
        put(kind, f"evt_{nr}", data={"object": {"id": "x"}})
    work(app, database, conn)
    assert effects() == (["evt_1"] if order == "coalesce" else ["evt_1", "evt_3"])
    assert status(conn, "evt_2")["ignored_reason"] == "coalesced into evt_0"


def test_objects_with_one_id_but_another_account_mode_or_type_are_not_coalesced(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    app.webhook("plan.*", coalesce=True)(lambda event, tx: write(tx, event))
    for event_id, account, live, kind in (
        ("evt_a", "acct_A", True, "plan"),
        ("evt_b", "acct_B", True, "plan"),
        ("evt_test", "acct_A", False, "plan"),
        ("evt_ours", None, True, "plan"),
        ("evt_kind", "acct_A", True, "product"),
        ("evt_again", "acct_A", True, "plan"),
    ):
        content = {"data": {"object": {"id": "gold", "object": kind}}, "livemode": live}
        put("plan.updated", event_id, **content, **({"account": account} if account else {}))
    work(app, database, conn)
    assert sorted(effects()) == ["evt_a", "evt_b", "evt_kind", "evt_ours", "evt_test"]
    assert status(conn, "evt_again")["ignored_reason"] == "coalesced into evt_a"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"data": {"object": {"object": "customer", "id": "cus_1"}}}, "cus_1"),
        ({"data": {"object": {"object": "invoice", "id": "in_1", "customer": "cus_1"}}}, "cus_1"),
        ({"data": {"object": {"object": "invoice", "id": "in_1", "customer": {"id": "cus_1"}}}}, "cus_1"),
        ({"data": {"object": {"object": "invoice", "id": "in_1", "customer": None}}}, None),
        ({"data": {"object": ["customer"]}}, None),
        ({"data": None}, None),
    ],
)
def test_the_customer_of_every_clients_event_is_kept_beside_it(
    conn: Connection[Any], put: Queue, content: dict[str, Any], found: str | None
) -> None:
    put("x", "evt_queued", **content)
    insert = "insert into webhook_events (stripe_event_id, event_type, payload) values ('evt_plain', 'x', %s)"
    conn.execute(insert, [json.dumps(content)])
    rows = conn.execute("select customer_id from webhook_events").fetchall()
    assert rows == [(found,), (found,)]


def test_an_event_whose_process_died_is_claimed_alone_and_ends_as_a_dead_letter(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue
) -> None:
    put("pay", *[f"evt_{nr}" for nr in range(5)])
    claimed = conn.execute("select id from pgonce_claim_webhooks(10)").fetchall()
    assert len(claimed) == 5
    for attempt in (2, 3):
        conn.execute("update webhook_events set lease_expires_at = now() - interval '1 second'")
        again = conn.execute(
            "select stripe_event_id, attempts from pgonce_claim_webhooks(10, p_max_attempts => 3)"
        ).fetchall()
        assert len(again) == 1
        assert again[0][1] == attempt
    conn.execute("update webhook_events set lease_expires_at = now() - interval '1 second', attempts = 3")
    assert conn.execute("select * from pgonce_claim_webhooks(10, p_max_attempts => 3)").fetchall() == []
    dead = conn.execute("select count(*) from webhook_events where status = 'failed' and next_attempt_at is null")
    assert dead.fetchone() == (5,)


def test_a_direct_clients_live_event_is_not_touched_and_an_expired_one_only_when_adopting(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    app.webhook("pay")(lambda event, tx: write(tx, event))
    for event_id in ("evt_live", "evt_expired"):
        conn.execute("insert into webhook_events (stripe_event_id, event_type) values (%s, 'pay')", [event_id])
    conn.execute("update webhook_events set lease_expires_at = now() where stripe_event_id = 'evt_expired'")
    put("pay", "evt_queued")
    with Worker(app, database, poll=0.05):
        wait_until(lambda: effects() == ["evt_queued"], "the queued event")
    assert status(conn, "evt_expired")["status"] == "processing"
    with databases.open_pool(database, 1) as pool:
        assert call(pool, queue.adopt_webhooks(), "public") == 1
    with Worker(app, database, poll=0.05):
        wait_until(lambda: effects() == ["evt_queued", "evt_expired"], "the adopted event")
    assert status(conn, "evt_live")["status"] == "processing"


def test_a_specification_style_client_works_beside_a_worker(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    app.webhook("pay")(lambda event, tx: write(tx, event))
    with Worker(app, database, poll=0.05):
        insert = (
            "insert into webhook_events (stripe_event_id, event_type, payload) values ('evt_1', 'pay', '{}')"
            " on conflict do nothing returning id"
        )
        assert conn.execute(insert.encode()).fetchone() is not None
        assert conn.execute(insert.encode()).fetchone() is None
        put("pay", "evt_2")
        wait_until(lambda: effects() == ["evt_2"], "the worker's own event")
        conn.execute(
            "update webhook_events set status = 'succeeded', processed_at = now() where stripe_event_id = 'evt_1'"
        )
    assert effects() == ["evt_2"]


def test_a_stopping_worker_finishes_what_it_has_in_hand(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    started, go = threading.Event(), threading.Event()

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        started.set()
        go.wait(20)
        write(tx, event)

    put("pay", "evt_1")
    worker = Worker(app, database, poll=0.05).start()
    assert started.wait(20)
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    go.set()
    stopping.join(20)
    assert effects() == ["evt_1"]
    assert status(conn, "evt_1")["status"] == "succeeded"


def test_a_deadlock_between_two_batches_costs_no_attempt_and_no_backoff(
    app: pgonce.App, database: str, conn: Connection[Any], put: Queue, effects: Effects
) -> None:
    conn.execute("create table accounts (id int primary key, paid int not null default 0)")
    conn.execute("insert into accounts select generate_series(1, 2)")
    meet = threading.Barrier(2)

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        accounts = event.payload["accounts"]
        tx.execute("update accounts set paid = paid + 1 where id = %s", [accounts[0]])
        if not conn_has_met():
            meet.wait(20)
        tx.execute("update accounts set paid = paid + 1 where id = %s", [accounts[1]])
        write(tx, event)

    calls: list[int] = []

    def conn_has_met() -> bool:
        calls.append(1)
        return len(calls) > 2

    put("pay", "evt_1", accounts=[1, 2])
    with Worker(app, database, poll=0.05, concurrency=2):
        wait_until(lambda: len(calls) == 1, "the first to hold its first account")
        put("pay", "evt_2", accounts=[2, 1])
        wait_until(lambda: len(effects()) == 2 and settled(conn), "both, one of them at its second go", 25)
    assert sorted(effects()) == ["evt_1", "evt_2"]
    assert [status(conn, each)["attempts"] for each in ("evt_1", "evt_2")] == [1, 1]
    assert conn.execute("select paid from accounts").fetchall() == [(2,), (2,)]


def test_async_handlers_run_although_the_database_was_away_when_their_pool_was_opened(
    app: pgonce.App, database: str, put: Queue, effects: Effects
) -> None:
    @app.webhook("pay")
    async def pay(event: pgonce.Event, tx: AsyncConnection[Any]) -> None:
        await tx.execute("insert into effects (event) values (%s)", [event.id])

    put("pay", "evt_1")
    with proxy(database) as network:
        network.watch(b"pgonce_take_back_webhooks", network.refuse)  # the last call of the start
        with Worker(app, network.url, poll=0.05):
            wait_until(lambda: network.refused, "the pool to be refused")
            network.up()
            wait_until(lambda: effects() == ["evt_1"], "the event to be handled")


def test_a_worker_that_has_been_stopped_does_not_seem_to_start_again(app: pgonce.App, database: str) -> None:
    worker = Worker(app, database)
    with worker:
        pass
    with pytest.raises(pgonce.InvalidArgument, match="started before: make another one"):
        worker.start()
