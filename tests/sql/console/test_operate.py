"""The actions on jobs, runs and imports: only an operator's session may, and each leaves its line in the audit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

Connection = psycopg.Connection[Any]

# action: arguments after the session
ACTIONS = {
    "request_job_run": "'j', p_reason => 'why'",
    "pause_job": "'j', 'why'",
    "resume_job": "'paused', 'why'",
    "stop_run": "RUN, 'why'",
    "end_run": "RUN, 'why'",
    "expect_job": "'j', '1 day', p_reason => 'why'",
    "forget_job_expectation": "'expected', p_reason => 'why'",
    "pause_seed": "'s', 'why'",
    "resume_seed": "'paused', 'why'",
    "reset_seed": "'s', 'why'",
    "retry_seed_rejects": "'s', 'why'",
}
RUN = uuid4()


@pytest.fixture
def conn(shared: Connection) -> Iterator[Connection]:
    """A transaction that is rolled back, with something to do each action to."""
    with shared.transaction(force_rollback=True):
        shared.execute("delete from pgonce_audit")  # of the migration
        shared.execute("insert into cron_job_runs (id, job_name) values (%s, 'j')", [RUN])
        shared.execute("select pgonce_pause_job('paused', 'x'), pgonce_expect_job('expected', '1 day')")
        shared.execute("insert into seed_checkpoints (seed_name, paused_at) values ('s', null), ('paused', now())")
        shared.execute("insert into pgonce_seed_rejects (seed_name, row_number, error) values ('s', 1, 'x')")
        yield shared


def session(conn: Connection, role: str) -> UUID:
    row = conn.execute("select pgonce_console_identify('host', 'ann', %s, '10.0.0.1')", [role]).fetchone()
    assert row
    return row[0]


def act(conn: Connection, action: str, who: UUID) -> Any:
    arguments = ACTIONS[action].replace("RUN", f"'{RUN}'")
    row = conn.execute(f"select pgonce_console_{action}('{who}', {arguments})".encode()).fetchone()
    return row and row[0]


@pytest.mark.parametrize("action", ACTIONS)
def test_an_operators_action_is_in_the_audit_with_who_from_where_and_why(conn: Connection, action: str) -> None:
    act(conn, action, session(conn, "operator"))
    lines = conn.execute("select actor, source, address, reason, refused, before, after from pgonce_audit").fetchall()
    assert len(lines) == 1
    assert lines[0][:5] == ("ann", "console", "10.0.0.1", "why", False)
    assert lines[0][6]


@pytest.mark.parametrize("action", ACTIONS)
def test_a_reader_is_refused_and_nothing_changes(conn: Connection, action: str) -> None:
    tables = "cron_job_runs", "pgonce_job_pauses", "pgonce_job_requests", "pgonce_job_expectations", "seed_checkpoints"
    state = "select " + ", ".join(f"(select array_agg(t::text) from {table} t)" for table in tables)
    before = conn.execute(state.encode()).fetchall()
    reader = session(conn, "reader")
    with pytest.raises(psycopg.Error, match="ann is a reader") as refused, conn.transaction():
        act(conn, action, reader)
    assert refused.value.sqlstate == "PT403"
    assert conn.execute(state.encode()).fetchall() == before


@pytest.mark.parametrize("action", ["resume_job", "stop_run", "end_run", "forget_job_expectation", "resume_seed"])
def test_what_changed_nothing_leaves_no_line(conn: Connection, action: str) -> None:
    who = session(conn, "operator")
    conn.execute("select complete_job_run(%s)", [RUN])
    for nobody in ("resume_job", "forget_job_expectation"):
        act(conn, nobody, who)
    act(conn, "resume_seed", who)
    lines = conn.execute("select count(*) from pgonce_audit").fetchone()
    assert act(conn, action, who) is False
    assert conn.execute("select count(*) from pgonce_audit").fetchone() == lines


def test_the_audit_has_what_was_before(conn: Connection) -> None:
    who = session(conn, "operator")
    pause = "select pgonce_console_pause_job(%s, 'paused', 'again', '2040-01-01 00:00Z')"
    assert conn.execute(pause, [who]).fetchone() == ("paused: x",)
    row = conn.execute("select before, after from pgonce_audit").fetchone()
    assert row
    assert row[0] == "paused: x"
    assert row[1] == "paused until 2040-01-01 00:00 UTC"


def test_an_action_on_what_does_not_exist_is_an_error(conn: Connection) -> None:
    who = session(conn, "operator")
    for call in ("stop_run(%s, gen_random_uuid())", "end_run(%s, gen_random_uuid(), 'x')", "pause_seed(%s, 'nobody')"):
        with pytest.raises(psycopg.Error) as refused, conn.transaction():
            conn.execute(f"select pgonce_console_{call}".encode(), [who])
        assert refused.value.sqlstate == "PT404"


def test_an_expectation_that_is_not_given_stays_as_it_was(conn: Connection) -> None:
    operator = session(conn, "operator")
    for arguments in ("'1 day', '1 hour'", "null, p_within => '20 minutes'", "'2 days'", "null, p_within => '1 hour'"):
        conn.execute(f"select pgonce_console_expect_job('{operator}', 'j', {arguments})".encode())
    found = conn.execute("select every, grace, within from pgonce_job_expectations where job_name = 'j'").fetchall()
    assert found == [(timedelta(days=2), timedelta(minutes=5), timedelta(hours=1))]
    last = conn.execute("select before, after from pgonce_audit order by id desc limit 1").fetchone()
    assert last == (
        "every 2 days, 5 minutes later; in less than 20 minutes",
        "every 2 days, 5 minutes later; in less than 1 hour",
    )
    assert conn.execute("select count(*) from pgonce_job_missed").fetchone() == (0,)


def test_a_job_of_which_only_its_length_is_expected_is_never_missed(conn: Connection) -> None:
    conn.execute(
        "select pgonce_expect_job('j', null, p_within => '1 s'), pgonce_expect_job('j', null, '0', 'k', '1 s')"
    )
    conn.execute("update pgonce_job_expectations set since = now() - interval '1 year'")
    assert conn.execute("select count(*) from pgonce_job_missed where job_name = 'j'").fetchone() == (0,)


@pytest.mark.parametrize("arguments", ["null", "null, p_within => '0'", "'1 day', p_within => '-1 s'", "'0'"])
def test_an_expectation_of_nothing_or_of_no_time_is_refused(conn: Connection, arguments: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        conn.execute(f"select pgonce_expect_job('j', {arguments})".encode())


def test_a_form_that_is_sent_twice_requests_one_run_until_a_worker_has_answered(conn: Connection) -> None:
    operator = session(conn, "operator")
    first = act(conn, "request_job_run", operator)
    assert act(conn, "request_job_run", operator) == first
    assert conn.execute("select count(*) from pgonce_audit").fetchone() == (1,)
    others = ["'j', 'k'", "'j', null, '{\"n\": 1}'", "'j2'"]
    for arguments in others:
        conn.execute(f"select pgonce_console_request_job_run('{operator}', {arguments})".encode())
    assert conn.execute("select count(*) from pgonce_job_requests").fetchone() == (4,)
    conn.execute("update pgonce_job_requests set answered_at = now()")
    assert act(conn, "request_job_run", operator) != first
