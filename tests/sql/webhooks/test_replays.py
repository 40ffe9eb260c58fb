"""Replays as objects: every cell of the table in webhooks_replays.sql, and what a step does with the events."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.sql import transitions
from tests.sql.race import value
from tests.sql.transitions import Cell, attempt, check_complete, rows

Connection = psycopg.Connection[Any]

CELLS = transitions.read("webhooks_replays")
STATES = {"absent", "planned", "running", "stopping", "done", "stopped"}
VERBS = {"pgonce_start_replay", "pgonce_stop_replay", "pgonce_step_replays"}


@pytest.fixture
def database(swept_database: str) -> str:
    return swept_database


@pytest.fixture(autouse=True)
def no_replays(conn: Connection) -> None:
    conn.execute("delete from pgonce_replays")


def put(conn: Connection, count: int = 1, status: str = "failed", prefix: str = "evt", **columns: str) -> None:
    names, values = "".join(f", {name}" for name in columns), "".join(f", {each}" for each in columns.values())
    conn.execute(
        f"insert into webhook_events (stripe_event_id, event_type, status, queued, received_at{names})"
        f" select '{prefix}_' || n, 'a.b', '{status}', true, now() + n * interval '1 second'{values}"
        f" from generate_series(1, {count}) n".encode()
    )


def plan(conn: Connection, wanted: dict[str, Any] | None = None, **more: Any) -> int:
    arguments = {"p_filter": json.dumps({"state": "dead"} if wanted is None else wanted), "p_who": "ann", **more}
    call = ", ".join(f"{name} => %({name})s" for name in arguments)
    return int(conn.execute(f"select pgonce_plan_replay({call})".encode(), arguments).fetchone()[0])  # type: ignore[index]


def items(conn: Connection, replay: int) -> dict[str, str]:
    found = rows(conn, "select * from pgonce_replay_items where replay_id = %s order by position", replay)
    return {each["stripe_event_id"]: each["state"] for each in found}


def in_state(conn: Connection, state: str) -> int:
    if state == "absent":
        return 0
    put(conn)
    replay = plan(conn)
    if state != "planned":
        conn.execute("update pgonce_replays set status = 'running', started_at = now()")
    if state in {"stopping", "halted", "stopped"}:
        conn.execute("update pgonce_replay_items set state = 'queued'")
        conn.execute("update webhook_events set status = 'processing'")
        assert value(conn, "select pgonce_stop_replay(%s, 'ann')", replay) is True
    if state in {"handled", "halted", "done", "stopped"}:
        conn.execute("update pgonce_replay_items set state = 'succeeded'")
    if state in {"done", "stopped"}:
        assert value(conn, "select pgonce_step_replays()") == 1
    return replay


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_verb_moves_a_replay_as_the_table_says(conn: Connection, cell: Cell) -> None:
    replay = in_state(conn, cell.state)
    calls: dict[str, Callable[[], Any]] = {
        "pgonce_start_replay": lambda: value(conn, "select pgonce_start_replay(%s)", replay),
        "pgonce_stop_replay": lambda: value(conn, "select pgonce_stop_replay(%s, 'bob')", replay),
        "pgonce_step_replays": lambda: value(conn, "select pgonce_step_replays(%s)", replay),
    }
    before = rows(conn, "select * from pgonce_replays")
    answer = attempt(calls[cell.verb])
    after = rows(conn, "select * from pgonce_replays")
    if cell.to in transitions.REFUSALS:
        assert answer == {"false": False, "none": 0}.get(cell.to, cell.to)
        assert after == before
    else:
        assert answer >= 1
        assert [each["status"] for each in after] == [cell.to]
    if cell.verb == "pgonce_stop_replay" and cell.to in {"stopped", "stopping"}:
        assert after[0]["stopped_by"] == "bob"


def test_every_state_stands_exactly_once_under_every_verb() -> None:
    special = {(state, "pgonce_step_replays") for state in ("handled", "halted")}
    check_complete(CELLS, STATES, VERBS, special)


def test_a_plan_writes_down_the_matching_events_oldest_first_and_changes_none(conn: Connection) -> None:
    put(conn, 3)
    put(conn, 2, "succeeded", "done", customer_id="'x'")
    put(conn, 1, "processing", "live")
    before = rows(conn, "select * from webhook_events order by id")
    assert list(items(conn, plan(conn))) == ["evt_1", "evt_2", "evt_3"]
    replay = plan(conn, {"type": "a.*"}, p_why="mended")
    assert set(items(conn, replay)) == {"evt_1", "evt_2", "evt_3", "done_1", "done_2"}
    assert rows(conn, "select * from webhook_events order by id") == before
    found = value(conn, "select plan from pgonce_replays where id = %s", replay)
    assert (found["events"], found["succeeded"], found["failed"], found["more"]) == (5, 2, 3, False)
    assert found["types"] == [{"type": "a.b", "events": 5, "has_handler": False}]


def test_a_plan_without_events_is_none_and_leaves_nothing(conn: Connection) -> None:
    assert value(conn, """select pgonce_plan_replay('{"state": "dead"}', 'ann')""") is None
    assert rows(conn, "select * from pgonce_replays") == []


@pytest.mark.parametrize(
    "call",
    [
        """pgonce_plan_replay('{"state": "dead"}', '')""",
        """pgonce_plan_replay('{"state": "odd"}', 'ann')""",
        """pgonce_plan_replay('{"regex": ".*"}', 'ann')""",
        """pgonce_plan_replay('{}', 'ann', p_limit => 0)""",
        """pgonce_plan_replay('{}', 'ann', p_at_once => 0)""",
    ],
)
def test_a_plan_that_cannot_be_made_is_refused(conn: Connection, call: str) -> None:
    assert attempt(lambda: value(conn, f"select {call}")) == "22023"
    assert rows(conn, "select * from pgonce_replays") == []


def test_an_event_that_has_changed_since_it_was_seen_is_left_as_it_is(conn: Connection) -> None:
    put(conn, 5)
    replay = plan(conn)
    conn.execute("update webhook_events set status = 'succeeded' where stripe_event_id = 'evt_1'")
    conn.execute("update webhook_events set lease = gen_random_uuid() where stripe_event_id = 'evt_2'")  # failed anew
    conn.execute("delete from webhook_events where stripe_event_id = 'evt_3'")
    assert value(conn, "select pgonce_start_replay(%s)", replay) is True
    assert items(conn, replay) == {
        "evt_1": "changed", "evt_2": "changed", "evt_3": "changed", "evt_4": "queued", "evt_5": "queued",
    }  # fmt: skip
    left = "select stripe_event_id, status from webhook_events where status <> 'processing' order by 1"
    assert conn.execute(left).fetchall() == [("evt_1", "succeeded"), ("evt_2", "failed")]
    kept = "select what, worker from pgonce_webhook_attempts where replay_id = %s"
    assert conn.execute(kept.encode(), [replay]).fetchall() == [("replayed", "ann")] * 2


def test_no_more_than_asked_for_are_queued_and_not_handled(conn: Connection) -> None:
    put(conn, 7)
    replay = plan(conn, p_at_once=3)
    assert value(conn, "select pgonce_start_replay(%s)", replay) is True
    waiting = "select array_agg(stripe_event_id order by received_at) from webhook_events where status = 'processing'"
    assert value(conn, waiting) == ["evt_1", "evt_2", "evt_3"]
    assert value(conn, "select pgonce_step_replays()") == 0, "nothing was handled, so nothing moves"
    conn.execute("update webhook_events set status = 'succeeded' where stripe_event_id in ('evt_1', 'evt_2')")
    assert value(conn, "select pgonce_step_replays()") == 4
    assert value(conn, waiting) == ["evt_3", "evt_4", "evt_5"]
    conn.execute("update webhook_events set status = 'failed' where status = 'processing'")
    conn.execute("delete from webhook_events where stripe_event_id = 'evt_3'")
    assert value(conn, "select pgonce_step_replays()") == 5
    conn.execute("update webhook_events set status = 'ignored' where status = 'processing'")
    while value(conn, "select pgonce_step_replays()"):
        pass
    assert value(conn, "select status from pgonce_replays") == "done"
    assert list(items(conn, replay).values()) == [
        "succeeded", "succeeded", "changed", "failed", "failed", "ignored", "ignored",
    ]  # fmt: skip


def test_ten_replays_that_wait_for_a_handler_do_not_hold_up_the_next_one(conn: Connection) -> None:
    put(conn, 10, prefix="waits")
    for number in range(1, 11):
        conn.execute("select pgonce_start_replay(%s)", [plan(conn, {"ids": [f"waits_{number}"]})])
    put(conn, 2)
    replay = plan(conn, p_at_once=1)
    conn.execute("select pgonce_start_replay(%s)", [replay])
    conn.execute("update webhook_events set status = 'succeeded' where stripe_event_id = 'evt_1'")
    for _ in range(100):  # a worker calls it again and again
        conn.execute("select pgonce_step_replays()")
    assert items(conn, replay) == {"evt_1": "succeeded", "evt_2": "queued"}


def test_a_stopped_replay_queues_nothing_more(conn: Connection) -> None:
    put(conn, 3)
    replay = plan(conn, p_at_once=1)
    conn.execute("select pgonce_start_replay(%s)", [replay])
    assert value(conn, "select pgonce_stop_replay(%s, 'ann')", replay) is True
    conn.execute("update webhook_events set status = 'succeeded' where status = 'processing'")
    assert value(conn, "select pgonce_step_replays()") == 2, "an outcome, and the end"
    assert sorted(items(conn, replay).values()) == ["planned", "planned", "succeeded"]
    assert value(conn, "select status from pgonce_replays") == "stopped"


def test_of_two_workers_one_takes_the_step_and_the_other_does_not_wait(conn: Connection, session: Any) -> None:
    put(conn, 2)
    replay = plan(conn, p_at_once=1)
    conn.execute("select pgonce_start_replay(%s)", [replay])
    conn.execute("update webhook_events set status = 'succeeded' where status = 'processing'")
    other = session(autocommit=False)
    assert value(other, "select pgonce_step_replays()") == 2
    assert value(conn, "select pgonce_step_replays()") == 0
    other.rollback()
    assert value(conn, "select pgonce_step_replays()") == 2


def test_an_expired_event_of_a_client_is_replayed_if_it_is_named_and_a_live_one_is_not(conn: Connection) -> None:
    for event, ahead in (("evt_dead", -1), ("evt_live", 1)):
        conn.execute(
            "insert into webhook_events (stripe_event_id, event_type, lease_expires_at)"
            " values (%s, 'a.b', now() + %s * interval '1 minute')",
            [event, ahead],
        )
    replay = plan(conn, {"ids": ["evt_dead", "evt_live", "evt_nobody"]})
    conn.execute("select pgonce_start_replay(%s)", [replay])
    assert items(conn, replay) == {"evt_dead": "queued", "evt_live": "changed"}


def test_the_plan_says_whether_the_running_workers_have_the_code_that_failed(conn: Connection) -> None:
    conn.execute("delete from pgonce_processes")
    put(conn, processed_at="clock_timestamp()")
    register = "select pgonce_register_process(%s, 'events', 'h', 1, '1', p_handlers => '{a.*}')"
    first, second = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
    plans = "select plan -> 'same_code', plan #> '{types,0,has_handler}' from pgonce_replays where id = %s"
    assert conn.execute(plans.encode(), [plan(conn)]).fetchone() == (False, False)
    conn.execute(register.encode(), [first])
    conn.execute("update pgonce_processes set started_at = now() - interval '1 hour'")
    assert conn.execute(plans.encode(), [plan(conn)]).fetchone() == (True, True)
    conn.execute(register.encode(), [second])
    assert conn.execute(plans.encode(), [plan(conn)]).fetchone() == (False, True)
    conn.execute("delete from pgonce_processes")
