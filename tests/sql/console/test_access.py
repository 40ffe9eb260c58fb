"""Sessions and attempts to log in: every cell of the transitions, and the limits under concurrency."""

from __future__ import annotations

import hashlib
from typing import Any

import psycopg
import pytest

from tests.sql import transitions
from tests.sql.race import Open, together, value

Connection = psycopg.Connection[Any]

CELLS = transitions.read("console_access")
STATES = {"absent", "live", "expired"}
TOKEN = hashlib.sha256(b"token").digest()
LOG_IN = "select pgonce_console_open_session(%s, 'ops', 'operator', 'credential', '192.0.2.1', '192.0.2.1')"


@pytest.fixture
def database(swept_database: str) -> str:
    return swept_database


@pytest.fixture(autouse=True)
def _empty(conn: Connection) -> None:
    conn.execute("truncate pgonce_console_sessions, pgonce_console_logins, pgonce_audit")


def test_every_state_is_listed_under_every_verb() -> None:
    verbs = {"pgonce_console_use_session", "pgonce_console_end_session"}
    transitions.check_complete(CELLS, STATES, verbs, set())


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_session_goes_from_state_to_state_as_listed(conn: Connection, cell: transitions.Cell) -> None:
    if cell.state != "absent":
        conn.execute(LOG_IN, [TOKEN])
    if cell.state == "expired":
        conn.execute("update pgonce_console_sessions set expires_at = now() - interval '1 second'")
    before = value(conn, "select to_jsonb(s) from pgonce_console_sessions s")
    rows = conn.execute(f"select * from {cell.verb}(%s)".encode(), [TOKEN]).fetchall()
    after = value(conn, "select to_jsonb(s) from pgonce_console_sessions s")
    if cell.to == "none":
        assert (rows, after) == ([], before)
    elif cell.to == "false":
        assert (rows, after) == ([(False,)], before)
    elif cell.to == "absent":
        assert (rows, after) == ([(True,)], None)
    else:
        assert ([row[1] for row in rows], after) == (["ops"], before)


def test_an_operator_is_named_and_a_reader_is_refused(conn: Connection) -> None:
    operator = value(conn, LOG_IN, TOKEN)
    assert value(conn, "select pgonce_console_operator(%s)", operator) == "ops"
    reader = value(conn, "select pgonce_console_identify('host', 'eva', 'reader', '')")
    for session in (reader, "00000000-0000-0000-0000-000000000000", None):
        with pytest.raises(psycopg.Error) as caught:
            conn.execute("select pgonce_console_operator(%s)", [session])
        assert caught.value.sqlstate == "PT403"
    conn.execute("update pgonce_console_sessions set expires_at = now()")
    with pytest.raises(psycopg.Error, match="this session has ended"):
        conn.execute("select pgonce_console_operator(%s)", [operator])


def test_a_user_of_the_host_has_one_session_for_a_role_and_address(conn: Connection) -> None:
    identify = "select pgonce_console_identify('host', 'eva', %s, %s)"
    first = value(conn, identify, "reader", "192.0.2.1")
    assert value(conn, identify, "reader", "192.0.2.1") == first
    others = {value(conn, identify, "operator", "192.0.2.1"), value(conn, identify, "reader", "192.0.2.2")}
    assert len(others - {first}) == 2


@pytest.mark.parametrize("role", ["admin", "", None])
def test_there_are_two_roles(conn: Connection, role: str | None) -> None:
    with pytest.raises(psycopg.errors.IntegrityError):
        conn.execute("select pgonce_console_identify('host', 'eva', %s, '')", [role])


def test_attempts_at_the_same_time_do_not_exceed_the_limit(session: Open) -> None:
    sessions = [session() for _ in range(12)]
    begin = "select allowed from pgonce_console_begin_login('ops', '192.0.2.1')"
    assert sum(together(sessions, lambda conn: value(conn, begin))) == 5


def test_an_address_that_tries_many_names_is_refused(conn: Connection) -> None:
    allowed = [
        value(conn, "select allowed from pgonce_console_begin_login(%s, '192.0.2.1')", f"name {n}") for n in range(52)
    ]
    assert (allowed[:50], allowed[50:]) == ([True] * 50, [False] * 2)
    assert value(conn, "select allowed from pgonce_console_begin_login('name 1', '192.0.2.2')") is True


def test_a_login_forgets_the_failed_attempts_of_this_account_from_this_address(conn: Connection) -> None:
    for address in ("192.0.2.1", "192.0.2.2"):
        for _ in range(3):
            conn.execute("select pgonce_console_begin_login('ops', %s)", [address])
    conn.execute(LOG_IN, [TOKEN])
    assert conn.execute("select distinct address from pgonce_console_logins").fetchall() == [("192.0.2.2",)]


def test_logging_in_and_out_is_in_the_audit(conn: Connection) -> None:
    conn.execute(LOG_IN, [TOKEN])
    conn.execute("select pgonce_console_end_session(%s)", [TOKEN])
    lines = conn.execute("select actor, source, address, action from pgonce_audit order by id").fetchall()
    assert lines == [("ops", "console", "192.0.2.1", "login"), ("ops", "console", "192.0.2.1", "logout")]
