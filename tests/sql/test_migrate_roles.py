"""Migrating as a role that is not a superuser, and in a database whose settings are unusual."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from pgonce.core import migrate as schema
from pgonce.core.schema_check import check
from pgonce.errors import SchemaError
from tests.sql import catalog

Connection = psycopg.Connection[Any]


@pytest.fixture
def empty(empty_database: str) -> Iterator[Connection]:
    """A session on a database without pgonce."""
    with psycopg.connect(empty_database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def role(empty: Connection) -> Iterator[str]:
    """A new role that may create objects in public."""
    name = f"role_{uuid4().hex[:8]}"
    made = sql.Identifier(name)
    empty.execute(sql.SQL("create role {} login").format(made))
    empty.execute(sql.SQL("grant create on schema public to {}").format(made))
    yield name
    empty.execute(sql.SQL("drop owned by {} cascade").format(made))
    empty.execute(sql.SQL("drop role {}").format(made))


@pytest.fixture
def team(empty: Connection, role: str) -> Iterator[str]:
    """A role that ``role`` is a member of: on a server that several people share, it owns what each of them creates."""
    name = f"{role}_team"
    empty.execute(
        f"create role {name}; grant {name} to {role}; grant create on schema public to {name};"
        f" do $$ begin execute format('grant create on database %I to {role}', current_database()); end $$".encode()
    )
    yield name
    empty.execute(f"drop owned by {name} cascade; drop role {name}".encode())


@pytest.fixture
def url(empty_database: str, role: str) -> str:
    return empty_database.replace("//postgres@", f"//{role}@")


def test_a_role_without_rights_on_the_schema_itself_migrates_without_a_warning(url: str) -> None:
    warnings: list[str] = []
    schema.migrate(url, warn=warnings.append)
    schema.migrate(url, warn=warnings.append)
    assert warnings == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("revoke create on schema public from {}", "permission denied for schema public"),
        ("create table pgonce_migrations (version integer)", "denied for table pgonce_migrations: run it as the role"),
        ("create table webhook_events (a integer)", "webhook_events"),
        ("create function start_job_run() returns integer language sql as 'select 1'", "start_job_run"),
    ],
)
def test_a_role_that_may_not_migrate_is_told_so_in_one_line(
    url: str, empty: Connection, role: str, change: str, says: str
) -> None:
    empty.execute(sql.SQL(change).format(sql.Identifier(role)))
    before = catalog.read(empty)
    with pytest.raises(SchemaError, match=says) as caught:
        schema.migrate(url)
    assert len(str(caught.value).splitlines()) == 1
    assert catalog.read(empty) == before


def test_a_role_that_may_create_in_a_schema_and_not_use_it_is_told_so(url: str, empty: Connection, role: str) -> None:
    # such a schema is left out of the search_path, and the next one in it is that of temporary tables
    empty.execute(sql.SQL("create schema theirs; grant create on schema theirs to {}").format(sql.Identifier(role)))
    with pytest.raises(SchemaError, match="permission denied for schema theirs: run it as the role that owns"):
        schema.migrate(url, "theirs")


@pytest.mark.parametrize("kind", ["function get_checkpoint", "view pgonce_job_stats", "table webhook_events"])
def test_what_another_role_owns_stops_an_upgrade_with_the_way_out(
    url: str, empty: Connection, role: str, kind: str
) -> None:
    schema.migrate(url)
    empty.execute(sql.SQL("alter {} owner to postgres").format(sql.SQL(kind)))
    empty.execute("drop trigger pgonce_before_write on webhook_events")
    says = rf"(owner of \w+|denied for table) {kind.split()[1]}: run it as the role that owns"
    with pytest.raises(SchemaError, match=says):
        schema.migrate(url)


def test_forced_row_level_security_is_named_with_the_statement_that_ends_it(
    url: str, empty_database: str, empty: Connection
) -> None:
    schema.migrate(url)
    for (table,) in empty.execute("select tablename from pg_tables where schemaname = 'public'").fetchall():
        for change in ("enable", "force"):
            statement = sql.SQL("alter table {} {} row level security")
            empty.execute(statement.format(sql.Identifier(table), sql.SQL(change)))
    found = check(empty_database)
    assert len(found) > 10
    for line in found:
        with pytest.raises(SchemaError, match="no force row level security"):
            schema.migrate(url)
        empty.execute(line.split("to close this: ")[1].encode())
    assert schema.migrate(url) == []
    assert check(empty_database) == []


def test_a_member_of_service_role_migrates_under_forced_row_level_security(
    url: str, empty: Connection, role: str
) -> None:
    schema.migrate(url)
    empty.execute("alter table pgonce_migrations enable row level security")
    empty.execute("alter table pgonce_migrations force row level security")
    empty.execute(sql.SQL("grant service_role to {}").format(sql.Identifier(role)))
    assert schema.migrate(url) == []


def test_no_limit_of_the_role_ends_a_migrate_and_a_suspended_one_keeps_no_lock_for_long(
    empty_database: str, empty: Connection
) -> None:
    limits = ("statement_timeout", "transaction_timeout", "idle_in_transaction_session_timeout")
    found = "array[" + ", ".join(f"current_setting('{name}', true)" for name in limits) + "]"
    empty.execute(
        f"create table seen as select {found} as limits with no data;"
        f"create function watch() returns event_trigger language plpgsql as $$ begin insert into seen values ({found});"
        " end $$; create event trigger watch on ddl_command_end execute function watch()".encode()
    )
    schema.migrate(empty_database)
    assert empty.execute("select distinct limits[1], limits[3] from seen").fetchall() == [("0", "1min")]
    assert empty.execute("select from seen where limits[2] <> '0'").fetchall() == []


def test_the_check_works_where_an_event_trigger_gives_each_table_to_another_role(
    url: str, empty: Connection, team: str
) -> None:
    empty.execute(
        "create function give() returns event_trigger language plpgsql as $$ declare r record; begin"
        "  for r in select * from pg_event_trigger_ddl_commands()"
        "    where object_type in ('table', 'view', 'function') loop"
        f"   execute format('alter %s %s owner to {team}', r.object_type, r.object_identity); end loop; end $$;"
        "create event trigger give on ddl_command_end"
        "  when tag in ('CREATE TABLE', 'CREATE VIEW', 'CREATE FUNCTION') execute function give()".encode()
    )
    schema.migrate(url)
    assert [line for line in check(url) if "may create objects" not in line] == []


def test_an_event_trigger_that_forces_row_level_security_is_named_with_the_ways_out(
    url: str, empty: Connection
) -> None:
    empty.execute(
        "create function force_rls() returns event_trigger language plpgsql security definer as"
        " $$ declare r record; begin"
        " for r in select * from pg_event_trigger_ddl_commands() where object_type = 'table' loop"
        "   execute format('alter table %s enable row level security, force row level security', r.object_identity);"
        " end loop; end $$;"
        "create event trigger force_rls on ddl_command_end when tag in ('CREATE TABLE') execute function force_rls()"
    )
    with pytest.raises(SchemaError, match=r"forced .* BYPASSRLS"):
        schema.migrate(url)
    empty.execute("alter event trigger force_rls disable")
    assert schema.migrate(url)


def test_quoted_identifiers_are_no_difference(empty_database: str, empty: Connection) -> None:
    row = empty.execute("select current_database()").fetchone()
    assert row
    statement = sql.SQL("alter database {} set quote_all_identifiers = on")
    empty.execute(statement.format(sql.Identifier(row[0])))
    schema.migrate(empty_database)
    triggers = "select array_agg(oid order by oid) from pg_trigger where tgname like 'pgonce%'"
    before = empty.execute(triggers).fetchone()
    schema.migrate(empty_database)
    assert empty.execute(triggers).fetchone() == before
    assert check(empty_database) == []
