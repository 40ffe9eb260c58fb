"""Every cell of the transition table at the head of core_processes.sql, and the lists of processes."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.sql import transitions
from tests.sql.transitions import Cell, attempt, check_complete, rows

Connection = psycopg.Connection[Any]
CELLS = transitions.read("core_processes")
VERBS = {"pgonce_register_process", "pgonce_beat_process", "pgonce_end_process"}


def test_every_state_stands_exactly_once_under_every_verb() -> None:
    check_complete(CELLS, {"absent", "live", "dead"}, VERBS, set())


def register(conn: Connection, process: UUID, does: str = "jobs", **arguments: Any) -> Any:
    of_process = UUID(int=arguments.get("p_pid", 7))
    given = {"p_host": "web-1", "p_pid": 7, "p_version": "1", "p_process": of_process, **arguments}
    named = "".join(f", {name} => %s" for name in given)
    query = f"select pgonce_register_process(%s, %s{named}) as said"
    return rows(conn, query, process, does, *given.values())[0]["said"]


def silent_for(conn: Connection, process: UUID, interval: str) -> None:
    conn.execute(
        "update pgonce_processes set last_seen_at = clock_timestamp() - %s::interval,"
        " started_at = clock_timestamp() - interval '2 days' where id = %s",
        [interval, process],
    )


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_verb_moves_a_process_as_the_table_says(conn: Connection, cell: Cell) -> None:
    process = uuid4()
    if cell.state != "absent":
        register(conn, process)
        silent_for(conn, process, "10 seconds" if cell.state == "live" else "61 seconds")
    before = rows(conn, "select * from pgonce_processes")
    if cell.verb == "pgonce_register_process":
        answer = attempt(lambda: register(conn, process))
    else:
        answer = attempt(lambda: rows(conn, f"select {cell.verb}(%s) as said", process)[0]["said"])
    after = rows(conn, "select * from pgonce_processes")
    if cell.to == "false":
        assert answer is False
        assert after == before
    elif cell.to == "absent":
        assert answer is True
        assert after == []
    else:
        assert answer
        [live] = rows(conn, "select id, started_at from pgonce_live_processes")
        assert live["id"] == process
        assert [live["started_at"]] == [row["started_at"] for row in (before or after)], "it started when it started"


def test_a_row_without_a_sign_of_life_for_a_day_is_deleted_at_the_next_start_and_not_before(conn: Connection) -> None:
    forgotten, remembered = uuid4(), uuid4()
    for process, silence in ((forgotten, "25 hours"), (remembered, "23 hours")):
        register(conn, process)
        silent_for(conn, process, silence)
    started = uuid4()
    register(conn, started)
    assert {row["id"] for row in rows(conn, "select id from pgonce_processes")} == {remembered, started}


def test_after_the_clock_was_set_back_a_dead_process_is_dead_after_a_minute(conn: Connection) -> None:
    """It counted as live until the clock had caught up."""
    dead, live = uuid4(), uuid4()
    for process in (dead, live):
        register(conn, process)
        silent_for(conn, process, "-1 hour")
    listed = "select array_agg(live) as live from pgonce_list_processes()"
    assert rows(conn, listed) == [{"live": [False]}]
    rows(conn, "select pgonce_beat_process(%s)", live)
    seen = "select last_seen_at <= clock_timestamp() as past from pgonce_processes"
    assert rows(conn, seen) == [{"past": True}] * 2


def test_the_services_that_are_counted_are_live_and_of_one_kind(conn: Connection) -> None:
    silent = uuid4()
    for process, does in ((uuid4(), "events"), (uuid4(), "events"), (silent, "events"), (uuid4(), "jobs")):
        register(conn, process, does)
    silent_for(conn, silent, "2 minutes")
    counted = "select pgonce_count_live_processes(does) as n from unnest('{events,alerts}'::text[]) as does"
    assert [row["n"] for row in rows(conn, counted)] == [2, 0]


def test_the_services_of_a_process_are_one_line_and_other_processes_are_not_in_it(conn: Connection) -> None:
    register(conn, uuid4(), "events", p_handlers=["invoice.*"], p_capacity=4)
    register(conn, uuid4(), "jobs", p_jobs=["letters"], p_capacity=16)
    register(conn, uuid4(), "jobs", p_jobs=["reports"], p_process=uuid4())  # in another container
    register(conn, uuid4(), "jobs", p_pid=8, p_jobs=["stats"])
    lines = rows(conn, "select host, pid, does, handlers, jobs, capacity, live from pgonce_list_processes()")
    assert lines == [
        {"host": "web-1", "pid": 7, "does": ["events", "jobs"], "handlers": ["invoice.*"], "jobs": ["letters"],
         "capacity": 20, "live": True},
        {"host": "web-1", "pid": 7, "does": ["jobs"], "handlers": [], "jobs": ["reports"],
         "capacity": None, "live": True},
        {"host": "web-1", "pid": 8, "does": ["jobs"], "handlers": [], "jobs": ["stats"],
         "capacity": None, "live": True},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "outdated"),
    [
        ({"p_release": "1"}, {"p_release": "2"}, [True, False]),
        ({"p_release": "2", "p_digest": "a"}, {"p_release": "2", "p_digest": "b"}, [False, False]),
        ({"p_digest": "a"}, {"p_digest": "b"}, [True, False]),
        ({"p_digest": "a"}, {"p_digest": "a"}, [False, False]),
        ({"p_app": "other", "p_release": "1"}, {"p_release": "2"}, [False, False]),
        ({"p_app": "", "p_digest": "a"}, {"p_app": "", "p_digest": "b"}, [False, False]),
    ],
    ids=["a release each", "one release, another set of jobs", "no release told, other jobs", "alike", "another app",
         "no app told"],
)  # fmt: skip
def test_a_process_of_another_release_than_the_newest_start_of_its_app_is_outdated(
    conn: Connection, old: dict[str, str], new: dict[str, str], outdated: list[bool]
) -> None:
    register(conn, uuid4(), p_pid=1, **{"p_app": "shop", **old})
    register(conn, uuid4(), p_pid=2, **{"p_app": "shop", **new})
    assert [line["outdated"] for line in rows(conn, "select outdated from pgonce_list_processes()")] == outdated


def test_each_kind_of_service_is_compared_with_the_newest_one_of_its_kind(conn: Connection) -> None:
    for pid, digest in ((1, "a"), (2, "b")):
        register(conn, uuid4(), "events", p_app="shop", p_pid=pid, p_digest=digest)
        register(conn, uuid4(), "receives", p_app="shop", p_pid=pid, p_digest=f"{digest} without handlers")
    found = rows(conn, "select pid, outdated from pgonce_list_processes()")
    assert found == [{"pid": 1, "outdated": True}, {"pid": 2, "outdated": False}]
