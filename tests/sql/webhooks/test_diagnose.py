"""The diagnosis of an event: every cause is found by the event's row, and the documentation lists the same causes."""

from __future__ import annotations

import shlex
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from pgonce.cli import main as command
from tests.edge.test_named_commands import wrong
from tests.sql.race import value
from tests.sql.transitions import rows
from tools import diagnoses

Connection = psycopg.Connection[Any]

WORKER = (
    "select pgonce_register_process(gen_random_uuid(), 'events', 'h', 1, '1', p_handlers => '{%s}', p_capacity => 4)"
)
PAST, AHEAD = "now() - interval '1 minute'", "now() + interval '1 hour'"

# kind: the columns of evt_1, and whether a worker that handles its type is running
CAUSES: dict[str, tuple[dict[str, str], bool]] = {
    "handled": ({"lease_expires_at": AHEAD}, True),
    "orphaned": ({"lease_expires_at": PAST}, True),
    "died": ({"lease_expires_at": PAST, "queued": "true", "next_attempt_at": PAST}, True),
    "no_worker": ({"lease": "null", "queued": "true", "next_attempt_at": PAST}, False),
    "unhandled": ({"lease": "null", "queued": "true", "next_attempt_at": "now()"}, False),
    "late": ({"lease": "null", "queued": "true", "next_attempt_at": "now() - interval '6 minutes'"}, True),
    "due": ({"lease": "null", "queued": "true", "next_attempt_at": PAST}, True),
    "behind": ({"lease": "null", "queued": "true", "next_attempt_at": AHEAD, "order_key": "'sub_1'"}, True),
    "postponed": ({"lease": "null", "queued": "true", "next_attempt_at": AHEAD}, True),
    "retrying": ({"status": "'failed'", "queued": "true", "next_attempt_at": AHEAD}, True),
    "dead": ({"status": "'failed'", "queued": "true"}, True),
    "redelivered": ({"status": "'failed'"}, True),
    "abandoned": ({"status": "'failed'", "received_at": "now() - interval '4 days'"}, True),
    "no_handler": (
        {"status": "'ignored'", "queued": "true", "ignored_reason": "'no handler for a.b'", "lease": "null"},
        False,
    ),
    "absent": ({}, False),
}


def put(conn: Connection, event: str, columns: dict[str, str]) -> None:
    columns = {"stripe_event_id": f"'{event}'", "event_type": "'a.b'", "error_message": "'KeyError: ''x'''", **columns}
    names, values = ", ".join(columns), ", ".join(columns.values())
    conn.execute(f"insert into webhook_events ({names}) values ({values})".encode())


def diagnose(conn: Connection, event: str = "evt_1") -> list[dict[str, Any]]:
    return rows(conn, "select * from pgonce_diagnose_webhook(%s)", event)


@pytest.fixture
def database(swept_database: str) -> str:
    return swept_database


@pytest.fixture(autouse=True)
def no_processes(conn: Connection) -> None:
    conn.execute("delete from pgonce_processes")


@pytest.mark.parametrize("kind", CAUSES)
def test_the_cause_is_read_from_the_row_and_its_command_runs(conn: Connection, database: str, kind: str) -> None:
    columns, has_worker = CAUSES[kind]
    if has_worker:
        conn.execute((WORKER % "a.*").encode())
    else:
        conn.execute((WORKER % "c.*,axb").encode())
    if kind == "behind":
        put(conn, "evt_0", {"order_key": "'sub_1'", "received_at": PAST, "queued": "true", "next_attempt_at": AHEAD})
    if columns:
        put(conn, "evt_1", columns)
    [found] = diagnose(conn)
    assert found["kind"] == kind
    assert "\n" not in found["evidence"]
    assert found["evidence"].endswith(".")
    assert {"behind": "evt_0, a.b, is not finished.", "dead": "KeyError: 'x', attempt 1."}.get(kind) in {
        None, found["evidence"],
    }  # fmt: skip
    words = shlex.split(found["command"])
    assert words[0] == "pgonce"
    assert wrong(" ".join(words[1:])) is None
    if words[1] != "worker":
        done = CliRunner().invoke(command, [*words[1:], "--database-url", database])
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    "columns",
    [
        {"status": "'ignored'", "queued": "true", "ignored_reason": "'no handler wants it'"},
        {"status": "'succeeded'"},
        {"status": "'ignored'", "ignored_reason": "'test'"},
        {"status": "'ignored'"},
    ],
)
def test_a_final_event_has_no_diagnosis(conn: Connection, columns: dict[str, str]) -> None:
    put(conn, "evt_1", columns)
    assert diagnose(conn) == []


def test_an_event_whose_lease_has_run_out_in_the_transaction_of_its_handler_is_not_called_dead(
    conn: Connection, session: Any
) -> None:
    put(conn, "evt_1", {"lease_expires_at": PAST, "queued": "true", "next_attempt_at": PAST})
    handler = session(autocommit=False)
    handler.execute("select pgonce_mark_webhook(id, lease) from webhook_events")
    assert [(each["kind"], each["evidence"]) for each in diagnose(conn)] == [
        ("handled", "A transaction has locked its row.")
    ]
    handler.rollback()
    assert diagnose(conn)[0]["kind"] == "no_worker"


def test_an_event_waits_for_a_handler_that_a_process_had_within_the_hour(conn: Connection) -> None:
    conn.execute((WORKER % "a.*").encode())
    conn.execute("update pgonce_processes set last_seen_at = now() - interval '30 minutes'")
    put(conn, "evt_1", {"lease": "null", "queued": "true", "next_attempt_at": "now()"})
    assert diagnose(conn)[0]["kind"] == "no_worker"
    conn.execute((WORKER % "c.*").encode())
    assert diagnose(conn)[0]["kind"] == "no_worker"
    conn.execute("delete from pgonce_processes where 'a.*' = any (handlers)")
    assert diagnose(conn)[0]["kind"] == "unhandled"


@pytest.mark.parametrize("handles", ["a.*", "c.*"])
def test_an_event_that_its_handler_has_postponed_waits_for_its_time(conn: Connection, handles: str) -> None:
    conn.execute((WORKER % handles).encode())
    put(conn, "evt_1", {"lease": "null", "queued": "true", "next_attempt_at": AHEAD})
    [found] = diagnose(conn)
    assert found["kind"] == "postponed"
    assert found["evidence"].startswith("Its next attempt is at ")


def test_a_lease_that_is_renewed_elsewhere_counts(conn: Connection) -> None:
    put(conn, "evt_1", {"lease_expires_at": PAST, "queued": "true", "next_attempt_at": PAST})
    assert value(conn, "select pgonce_renew_webhook(id, lease) from webhook_events") is True
    assert [each["kind"] for each in diagnose(conn)] == ["handled"]


def test_the_sentences_of_the_page_are_those_of_the_database(conn: Connection) -> None:
    found = [tuple(row.values()) for row in rows(conn, "select * from pgonce_webhook_causes()")]
    assert found == diagnoses.causes("webhooks")
    assert {kind for kind, *_ in found} == set(CAUSES)
