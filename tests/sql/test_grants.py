"""Only service_role has access: the real roles try everything that is in the catalog."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors, sql

from pgonce.core import migrate as schema
from tests.conftest import _new_database
from tests.sql import catalog
from tests.sql.race import value

Connection = psycopg.Connection[Any]

# What Supabase sets in every project, for everything that is created in public later.
SUPABASE = """
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
grant usage on schema public to anon, authenticated, service_role;
"""


@pytest.fixture(scope="module", params=["plain", "supabase"])
def granted(server: str, request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A session on a migrated database, with and without Supabase's default privileges."""
    with _new_database(server, None) as url, psycopg.connect(url, autocommit=True) as conn:
        if request.param == "supabase":
            conn.execute(SUPABASE.encode())
        schema.migrate(url)
        yield conn


@pytest.fixture(scope="module")
def stranger(server: str) -> Iterator[str]:
    """A role without any grants: it has the rights of PUBLIC."""
    name = f"stranger_{uuid4().hex[:8]}"
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(sql.SQL("create role {}").format(sql.Identifier(name)))
        yield name
        conn.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


@contextmanager
def acting_as(conn: Connection, role: str) -> Iterator[None]:
    """The block runs with this role's rights; everything in it is rolled back."""
    with conn.transaction(force_rollback=True):
        conn.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
        yield


def is_denied(conn: Connection, role: str, statement: str) -> bool:
    """Whether ``role`` may not execute this statement. Any other error means that it has access."""
    with acting_as(conn, role):
        try:
            with conn.transaction():
                conn.execute(statement.encode())
        except errors.InsufficientPrivilege:
            return True
        except psycopg.Error:
            pass
    return False


def statements(conn: Connection, through_views: bool = True) -> dict[str, str]:
    """Every access to the schema's contents: each table and view read and written, each function called."""
    found = {}
    for name, column, is_table, takes in catalog.relations(conn):
        found[f"select {name}"] = f"select {column} from {name}"
        writes = {
            "insert": f"insert into {name} default values",
            "update": f"update {name} set {column} = {column}",
            "delete": f"delete from {name}",
        }
        if is_table or through_views:
            found |= {f"{event} {name}": statement for event, statement in writes.items() if event in takes}
    for routine in catalog.routines(conn):
        found[f"call {routine.name}"] = routine.call
    return found


@pytest.mark.parametrize("role", ["anon", "authenticated", "stranger"])
def test_a_client_can_neither_touch_a_table_nor_call_a_function(granted: Connection, stranger: str, role: str) -> None:
    tried = statements(granted)
    name = stranger if role == "stranger" else role
    assert len(tried) > 35
    assert [what for what, statement in tried.items() if not is_denied(granted, name, statement)] == []


@pytest.mark.parametrize("role", ["anon", "authenticated", "stranger"])
def test_a_client_has_no_privilege_of_any_kind(granted: Connection, stranger: str, role: str) -> None:
    # also the rights that no statement above needs: truncate, references, trigger, maintain, grants on a column
    held = """
      select c.relname, a.privilege_type from pg_class c, aclexplode(c.relacl) a
      where c.relnamespace = 'public'::regnamespace and a.grantee in (0, %(role)s::regrole)
      union all select p.proname, a.privilege_type from pg_proc p, aclexplode(p.proacl) a
      where p.pronamespace = 'public'::regnamespace and a.grantee in (0, %(role)s::regrole)
      union all select a.attname, 'column' from pg_attribute a join pg_class c on c.oid = a.attrelid
      where c.relnamespace = 'public'::regnamespace and a.attacl is not null
      union all select p.proname, 'the default: PUBLIC may execute' from pg_proc p
      where p.pronamespace = 'public'::regnamespace and p.proacl is null"""
    assert granted.execute(held, {"role": stranger if role == "stranger" else role}).fetchall() == []


def test_the_service_role_can_touch_every_table_and_call_every_function(granted: Connection) -> None:
    tried = statements(granted, through_views=False)
    assert [what for what, statement in tried.items() if is_denied(granted, "service_role", statement)] == []


def test_the_service_role_can_live_all_three_lives(granted: Connection) -> None:
    # with real arguments: the functions and tables that the function uses must be granted, too
    with acting_as(granted, "service_role"):
        assert value(granted, "select insert_webhook_if_new('evt_1', 'x', '{}')")
        granted.execute("update webhook_events set status = 'succeeded', processed_at = now()")
        assert value(granted, 'select receive_webhook(\'{"id": "evt_2", "type": "x"}\')')
        assert value(granted, "select complete_webhook(id, lease) from webhook_events where stripe_event_id = 'evt_2'")
        queued = granted.execute(
            "select outcome from pgonce_queue_webhooks('{e,f}', '{x,x}', array['{}', '{\"a\": \"\\u0000\"}'])"
        )
        assert queued.fetchall() == [("queued",), ("queued",)]

        run = value(granted, "select start_job_run('j')")
        assert value(granted, "select start_job_run('j')") is None
        granted.execute("update cron_job_runs set heartbeat_at = heartbeat_at - interval '1 hour'")
        successor = value(granted, "select start_job_run('j')")
        assert value(granted, "select beat_job_run(%s)", run) is False
        granted.execute("update cron_job_runs set heartbeat_at = heartbeat_at - interval '1 hour'")
        assert value(granted, "insert into cron_job_runs (job_name) values ('j') returning id")
        assert value(granted, "select complete_job_run(%s)", successor) is False

        importer = value(granted, "select start_job_run('seed_runner', p_key => 's')")
        assert value(granted, "select pgonce_advance_seed('s', %s, 0, '{\"n\": 1}')", importer)
        assert value(granted, "select complete_seed('s')")
        for table in ("webhook_events", "cron_job_runs", "seed_checkpoints"):
            granted.execute(sql.SQL("delete from {}").format(sql.Identifier(table)))
        assert value(granted, "select purge_webhook_events() + purge_job_runs()") == 0


def test_a_service_role_made_later_is_served_after_the_next_migrate(server: str, empty_database: str) -> None:
    # roles belong to the whole server: this one is renamed for a moment, as if it did not exist yet
    with psycopg.connect(server, autocommit=True) as admin, psycopg.connect(empty_database, autocommit=True) as conn:
        admin.execute("alter role service_role rename to service_role_hidden")
        try:
            schema.migrate(empty_database)
        finally:
            admin.execute("alter role service_role_hidden rename to service_role")
        tried = statements(conn)
        assert all(is_denied(conn, "service_role", statement) for statement in tried.values())
        assert schema.migrate(empty_database) == []
        served = statements(conn, through_views=False).values()
        assert not any(is_denied(conn, "service_role", statement) for statement in served)


def test_a_client_role_that_was_let_in_meanwhile_is_shut_out_by_the_next_migrate(
    database: str, conn: Connection
) -> None:
    conn.execute("grant all on all tables in schema public to anon, public")
    conn.execute("grant execute on all functions in schema public to authenticated, public")
    schema.migrate(database)
    for role in ("anon", "authenticated"):
        assert all(is_denied(conn, role, statement) for statement in statements(conn).values())


def test_what_is_not_ours_keeps_its_grants(database: str, conn: Connection) -> None:
    conn.execute("create table theirs (id integer)")
    conn.execute("create function their_own() returns integer language sql as 'select 1'")
    conn.execute("grant select on theirs to anon")
    schema.migrate(database)
    assert not is_denied(conn, "anon", "select from theirs")
    assert not is_denied(conn, "anon", "select their_own()")


def test_no_function_acts_with_its_owners_rights_or_looks_names_up_in_the_callers_path(granted: Connection) -> None:
    query = """select proname from pg_proc where pronamespace = 'public'::regnamespace and prokind = 'f'
      and (prosecdef or prosqlbody is null
           and not exists (select from unnest(proconfig) c where c like 'search_path=%'))"""
    assert granted.execute(query.encode()).fetchall() == []


def test_no_function_is_overloaded_because_postgrest_could_not_choose(granted: Connection) -> None:
    names = [routine.name for routine in catalog.routines(granted)]
    assert len(names) == len(set(names))
