"""``migrate --check`` finds what is behind, altered or open; each warning gives the statement that closes it."""

from __future__ import annotations

import shlex
import subprocess
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from pgonce.core import embedded
from pgonce.core import migrate as schema
from pgonce.core.schema_check import check
from pgonce.errors import PgonceError, SchemaError
from tests.conftest import with_database
from tests.debian_server import debian_server
from tests.sql import catalog
from tests.sql.race import value
from tests.sql.test_schema import ODD_NAMES, SPECIFICATION

Connection = psycopg.Connection[Any]


def closing(line: str) -> bytes:
    """The statement that a warning gives."""
    return line.split("to close this: ")[1].encode()


def test_a_fresh_installation_is_current_and_the_check_writes_nothing(database: str, conn: Connection) -> None:
    before = catalog.read(conn)
    assert check(database) == []
    assert catalog.read(conn) == before
    assert value(conn, "select count(*) from pg_namespace where nspname like 'pgonce%'") == 0


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_installation_in_any_schema_is_current(database: str, name: str) -> None:
    run = f"run `pgonce migrate --schema {shlex.quote(name)}`"
    assert check(database, name) == [f"pgonce is not installed in schema {name}: {run}"]
    schema.migrate(database, name)
    assert check(database, name) == []
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(sql.SQL("drop function {}.ignore_webhook").format(sql.Identifier(name)))
    assert {line.partition(" is missing: ")[2] for line in check(database, name)} == {run}


def test_adopted_tables_are_current(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute(SPECIFICATION.encode())
        assert check(empty_database) == ["pgonce is not installed in schema public: run `pgonce migrate`"]
    schema.migrate(empty_database)
    assert check(empty_database) == []


def test_the_check_waits_for_no_writer_and_no_writer_for_it(database: str, conn: Connection) -> None:
    impatient = psycopg.conninfo.make_conninfo(database, options="-c lock_timeout=5s")
    with conn.transaction():
        conn.execute("lock table webhook_events, cron_job_runs, seed_checkpoints in row exclusive mode")
        assert check(impatient) == []


FUNCTION = "function {} is not as this release makes it"
MIGRATED = {
    "create or replace function get_checkpoint(p_seed_name text) returns setof seed_checkpoints"
    " language sql stable as 'select null::seed_checkpoints'": FUNCTION.format("get_checkpoint(p_seed_name text)"),
    "alter function fail_seed(text, text) security definer":
        FUNCTION.format("fail_seed(p_seed_name text, p_error_message text)"),
    "alter function beat_job_run(uuid) set search_path = x": FUNCTION.format("beat_job_run(p_run_id uuid)"),
    "drop function complete_seed(text)": "function complete_seed(p_seed_name text) is missing",
    "alter table webhook_events disable trigger pgonce_before_write": "trigger pgonce_before_write on webhook_events",
    "drop trigger pgonce_before_insert on cron_job_runs": "trigger pgonce_before_insert on cron_job_runs is missing",
    "drop policy pgonce_service_role on webhook_events": "policy pgonce_service_role on webhook_events is missing",
    "revoke insert on webhook_events from service_role": "grant to service_role INSERT on webhook_events is missing",
    "revoke execute on function complete_job_run from service_role":
        "grant to service_role EXECUTE on complete_job_run(p_run_id uuid, ",
}  # fmt: skip
"""What is altered, each of another object, and what is said of it: `pgonce migrate` mends these."""
OTHERS = {
    "drop index pgonce_cron_job_runs_one_running": "index pgonce_cron_job_runs_one_running is missing",
    "update pg_index set indisvalid = false where indexrelid = 'idx_cron_runs_status'::regclass":
        "index idx_cron_runs_status is not as",
    "alter table webhook_events alter lease drop default": "column webhook_events.lease is not as",
    "alter table webhook_events drop constraint webhook_events_status_check": "constraint webhook_events CHECK",
    "alter table cron_job_runs drop column progress_total": "column cron_job_runs.progress_total is missing",
    "alter table seed_checkpoints set unlogged": "table public.seed_checkpoints is unlogged, so that a crash",
    "drop table pgonce_job_retries": "table pgonce_job_retries is missing",
    "grant select on webhook_events to anon": "role anon may SELECT table public.webhook_events; to close this:",
    "grant execute on function get_checkpoint(text) to public": "role PUBLIC may EXECUTE function public.",
    "grant select (payload, raw) on webhook_events to authenticated":
        "role authenticated may SELECT (payload), SELECT (raw) table public.webhook_events; to close this: revoke all ",
    "grant usage on sequence pgonce_audit_id_seq to anon":
        "role anon may USAGE sequence public.pgonce_audit_id_seq; to close this: revoke all on sequence public.",
    "grant create on schema public to public": "role PUBLIC may create objects in schema public",
    "grant create on schema public to anon": "role anon may create objects in schema public",
    "create function complete_seed(point) returns int language sql as 'select 1'": "function complete_seed(point) in",
}  # fmt: skip


@pytest.mark.parametrize(
    "alterations", [MIGRATED, OTHERS, {"delete from pgonce_migrations": "pgonce is not installed"}]
)
def test_whatever_is_altered_or_opened_is_named(database: str, conn: Connection, alterations: dict[str, str]) -> None:
    for change in alterations:
        conn.execute(change.encode())
    found = check(database)
    for says in alterations.values():
        assert any(line.startswith(says) for line in found), found
    if alterations is MIGRATED:
        assert all(line.endswith(": run `pgonce migrate`") for line in found), found
        schema.migrate(database)
        assert check(database) == []


HARMLESS = [
    "create table theirs (id integer)",
    "create index my_own on webhook_events (event_type)",
    "alter table webhook_events add column tenant text",
    "alter table webhook_events enable row level security",
    "create view on_top as select * from pgonce_job_stats",
]


def test_what_the_user_adds_is_no_difference(database: str, conn: Connection) -> None:
    for change in HARMLESS:
        conn.execute(change.encode())
    assert check(database) == []


def test_a_table_that_lacks_what_a_function_needs_is_named_by_the_check_that_migrate_names(
    database: str, conn: Connection
) -> None:
    conn.execute("alter table webhook_events drop column deliveries")
    with pytest.raises(SchemaError, match=r"^column .*deliveries does not exist: .* --check says what it lacks$"):
        schema.migrate(database)
    missing = "column webhook_events.deliveries is missing: make it as `pgonce sql` has it"
    assert missing in check(database)


def test_a_newer_release_is_refused(database: str, conn: Connection) -> None:
    conn.execute("insert into pgonce_migrations (version, name) values (9999, 'from_the_future')")
    with pytest.raises(SchemaError, match="newer"):
        check(database)


def test_a_role_that_may_not_create_schemas_is_told_what_the_check_needs(database: str, role: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(sql.SQL("grant select on pgonce_migrations to {}").format(sql.Identifier(role)))
    url = database.replace("//postgres@", f"//{role}@")
    with pytest.raises(PgonceError, match="needs the right to create a schema"):
        check(url)


@pytest.mark.parametrize(
    "opened",
    [
        "grant create on schema public to {}",
        "grant all on webhook_events to {}",
        "alter table webhook_events owner to {}",
        "grant select on webhook_events to {0}; grant {0} to anon",
        # migrate cannot revoke what somebody else has granted
        (
            "grant execute on function get_checkpoint to {0} with grant option; set role {0};"
            " grant execute on function get_checkpoint to anon; reset role"
        ),
    ],
)
def test_migrate_warns_of_a_role_that_could_undo_the_grants_and_its_statement_closes_it(
    database: str, conn: Connection, role: str, opened: str
) -> None:
    conn.execute(sql.SQL(opened).format(sql.Identifier(role)))
    warnings: list[str] = []
    assert schema.migrate(database, warn=warnings.append) == []
    (line,) = warnings
    assert role in line
    assert check(database) == [line]
    conn.execute(closing(line))
    assert schema.migrate(database, warn=warnings.append) == []
    assert warnings == [line]
    assert check(database) == []


def test_migrate_warns_of_an_unlogged_table_and_its_statement_closes_it(database: str, conn: Connection) -> None:
    conn.execute("alter table webhook_events set unlogged")
    warnings: list[str] = []
    schema.migrate(database, warn=warnings.append)
    assert check(database) == warnings
    conn.execute(closing(warnings[0]))
    assert check(database) == []


def test_a_schema_that_everybody_may_create_in_is_warned_of(empty_database: str) -> None:
    # as in every database made before PostgreSQL 15, upgraded ones too
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute("grant create on schema public to public")
        warnings: list[str] = []
        schema.migrate(empty_database, warn=warnings.append)
        (line,) = warnings
        assert line.endswith("to close this: revoke create on schema public from PUBLIC")
        conn.execute(closing(line))
    assert check(empty_database) == []


def test_the_owner_of_the_schema_and_superusers_are_trusted(database: str, conn: Connection, role: str) -> None:
    conn.execute(sql.SQL("create schema theirs authorization {}").format(sql.Identifier(role)))
    warnings: list[str] = []
    schema.migrate(database, "theirs", warn=warnings.append)
    assert warnings == []


@pytest.mark.parametrize("when", ["before", "after", "at every create table"])
def test_row_level_security_makes_no_difference_to_a_member_of_service_role(
    empty_database: str, server: str, when: str
) -> None:
    name = f"api_{uuid4().hex[:8]}"
    member = sql.Identifier(name)
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute(sql.SQL("create role {} login in role service_role").format(member))
        try:
            if when == "at every create table":  # as Supabase does
                conn.execute(
                    "create function protect() returns event_trigger language plpgsql as $$ declare r record; begin"
                    " for r in select * from pg_event_trigger_ddl_commands() where object_type = 'table' loop"
                    " execute format('alter table %s enable row level security', r.object_identity); end loop; end $$"
                )
                conn.execute(
                    "create event trigger protect on ddl_command_end when tag in ('CREATE TABLE')"
                    " execute function protect()"
                )
            if when == "before":
                conn.execute(SPECIFICATION.encode())
                conn.execute("alter table webhook_events enable row level security")
            schema.migrate(empty_database)
            if when == "after":
                for (table,) in conn.execute("select tablename from pg_tables where schemaname = 'public'").fetchall():
                    conn.execute(sql.SQL("alter table {} enable row level security").format(sql.Identifier(table)))
            with psycopg.connect(empty_database.replace("//postgres@", f"//{name}@"), autocommit=True) as api:
                assert value(api, "select count(*) from pgonce_queue_webhooks('{e}', '{x}', array['{}'])") == 1
                assert value(api, "select id from insert_webhook_if_new('evt_2', 'x', '{}')")
                assert value(api, "select count(*) from webhook_events") == 2
                assert value(api, "select start_job_run('j')")
                assert value(api, "select count(*) from pgonce_job_stats") == 1
                assert value(api, "select seed_name from update_checkpoint('s', '{}')") == "s"
            assert check(empty_database) == []
        finally:
            conn.execute(sql.SQL("drop role {}").format(member))


def test_a_policy_is_made_anew_only_where_it_differs(database: str, conn: Connection) -> None:
    policies = "select oid from pg_policy order by oid"
    before = conn.execute(policies).fetchall()
    assert len(before) > 8
    schema.migrate(database)
    assert conn.execute(policies).fetchall() == before
    conn.execute("alter policy pgonce_service_role on webhook_events using (false)")
    assert check(database) == [
        "policy pgonce_service_role on webhook_events is not as this release makes it: run `pgonce migrate`"
    ]
    schema.migrate(database)
    assert check(database) == []


def test_a_view_shows_nobody_more_than_its_tables_do(database: str, conn: Connection, role: str) -> None:
    if conn.info.server_version < 150000:
        pytest.skip("PostgreSQL has security_invoker from 15 on")
    for (view,) in conn.execute("select viewname from pg_views where schemaname = 'public'").fetchall():
        conn.execute(sql.SQL("grant select on {} to {}").format(sql.Identifier(view), sql.Identifier(role)))
        with psycopg.connect(database, autocommit=True) as other:
            other.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                other.execute(sql.SQL("select * from {}").format(sql.Identifier(view)))


def test_a_line_takes_no_more_than_the_right_that_it_names(database: str, conn: Connection, role: str) -> None:
    name = sql.Identifier(role)
    conn.execute(sql.SQL("grant select, trigger on cron_job_runs to {}").format(name))
    for line in check(database):
        conn.execute(closing(line))
    held = "select has_table_privilege(%s, 'cron_job_runs', p) from unnest(array['select', 'trigger']) p"
    assert conn.execute(held, [role]).fetchall() == [(True,), (False,)]


def test_members_of_the_owner_are_trusted_as_the_owner_is(empty_database: str, server: str) -> None:
    # as "alter role deploy set role app" has it, where several people deploy
    owner, member = (f"{each}_{uuid4().hex[:8]}" for each in ("owner", "deploy"))
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute(f"create role {owner}; create role {member} login in role {owner}".encode())
        try:
            conn.execute(f"create schema app authorization {owner}; grant create on schema app to {member}".encode())
            conn.execute(f"alter role {member} set role to {owner}".encode())
            warnings: list[str] = []
            schema.migrate(empty_database.replace("//postgres@", f"//{member}@"), "app", warn=warnings.append)
            assert warnings == check(empty_database, "app") == []
        finally:
            conn.execute(f"drop owned by {owner}, {member} cascade; drop role {owner}, {member}".encode())


def test_default_privileges_for_new_tables_are_no_difference(database: str, conn: Connection) -> None:
    conn.execute("alter default privileges grant all on tables to service_role")
    conn.execute("alter default privileges grant all on functions to service_role")
    try:
        assert check(database) == []
    finally:
        conn.execute("alter default privileges revoke all on tables from service_role")
        conn.execute("alter default privileges revoke all on functions from service_role")


@pytest.mark.parametrize("name", ["public", "Mixed Case", "pg"])
def test_a_restore_of_a_dump_is_no_difference(database: str, empty_database: str, name: str) -> None:
    schema.migrate(database, name)
    tools = embedded.bin_dir()
    dump = subprocess.run([str(tools / "pg_dump"), database], capture_output=True, check=True).stdout
    restore = [str(tools / "psql"), "-X", "-q", empty_database]
    subprocess.run(restore, input=dump, capture_output=True, check=True)
    assert check(empty_database, name) == []


def test_a_restore_without_privileges_is_a_few_lines_which_migrate_closes(
    database: str, conn: Connection, empty_database: str
) -> None:
    conn.execute("drop table pgonce_alerts cascade")  # a missing table is one line, too
    tools = embedded.bin_dir()
    dump = subprocess.run([str(tools / "pg_dump"), "-x", database], capture_output=True, check=True).stdout
    restore = [str(tools / "psql"), "-X", "-q", empty_database]
    subprocess.run(restore, input=dump.replace(b"\r", b"\n"), capture_output=True, check=True)  # as a text tool may
    found = [line for line in check(empty_database) if "pgonce_alert" not in line]
    assert [line for line in found if "grant to service_role" not in line and "may EXECUTE" not in line] == [
        line for line in found if "more lines like the last one: run `pgonce migrate`" in line
    ]
    assert len(found) == 4
    table = [line for line in check(database) if "pgonce_alerts" in line]
    assert table == ["table pgonce_alerts is missing: make it as `pgonce sql` has it"]
    with psycopg.connect(empty_database, autocommit=True) as restored:
        restored.execute("drop table pgonce_migrations")  # so that the migrations run again
    schema.migrate(empty_database)
    assert check(empty_database) == []


def test_a_migrate_in_a_turkish_database_makes_no_trigger_again() -> None:
    # there lower('INSERT') is another word
    with debian_server() as url, psycopg.connect(url, autocommit=True) as admin:
        admin.execute("create database tr locale_provider icu icu_locale 'tr-TR' template template0")
        there = with_database(url, "tr")
        schema.migrate(there)
        with psycopg.connect(there, autocommit=True) as conn:
            assert value(conn, "select lower('I')") == "ı"
            triggers = "select array_agg(oid order by oid) from pg_trigger where tgname like 'pgonce%'"
            before = value(conn, triggers)
            schema.migrate(there)
            assert value(conn, triggers) == before
        assert check(there) == []
