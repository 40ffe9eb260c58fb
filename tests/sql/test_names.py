"""Objects under names that pgonce needs: the specification's tables are adopted, everything else stops migrate."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgonce.core import migrate as schema
from pgonce.core import schema_sql, uninstall
from pgonce.core.schema_check import check
from pgonce.errors import SchemaError
from tests.sql import catalog
from tests.sql.race import value
from tests.sql.test_schema import SPECIFICATION

Connection = psycopg.Connection[Any]


@pytest.fixture
def empty(empty_database: str) -> Any:
    """A session on a database without pgonce."""
    with psycopg.connect(empty_database, autocommit=True) as conn:
        yield conn


def refused(url: str, conn: Connection, *, leads_out: bool = False) -> str:
    """The error with which migrate stops; neither migrate nor the script has changed anything.

    With ``leads_out`` the way out that it names is taken: another schema.
    """
    before = catalog.read(conn)
    with pytest.raises(SchemaError) as caught:
        schema.migrate(url)
    with pytest.raises(psycopg.Error):
        conn.execute(schema.script().encode())
    assert catalog.read(conn) == before
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert "--schema pgonce" in line
    assert "PostgREST" in line
    if leads_out:
        schema.migrate(url, "pgonce")
        assert catalog.read(conn) == before
    return line


MAKE = {
    "table": "create table {0} (a integer)",
    "partitioned table": "create table {0} (a integer) partition by range (a)",
    "view": "create view {0} as select 1 as a",
    "materialized view": "create materialized view {0} as select 1 as a",
    "sequence": "create sequence {0}",
    "index": "create table t (a integer); create index {0} on t (a)",
    "type": "create type {0} as (a integer)",
    "function": "create function {0}(point) returns text language sql as 'select null::text'",
    "procedure": "create procedure {0}(point) language sql as 'select 1'",
}
OBSTACLES = {kind: ["webhook_events", "pgonce_alerts"] for kind in MAKE} | {
    "table": ["pgonce_alerts", "pgonce_job_stats", "pgonce_shape", "pgonce_migrations", "idx_cron_runs_status"],
    "materialized view": ["webhook_events", "pgonce_alerts", "pgonce_job_stats", "pgonce_migrations"],
    "index": ["webhook_events", "pgonce_alerts", "pgonce_webhook_events_due"],
    "function": ["start_job_run", "run_job"],
    "procedure": ["start_job_run", "run_job"],
}


@pytest.mark.parametrize("kind", MAKE)
def test_an_object_of_somebody_else_stops_migrate_before_anything_is_written(
    empty_database: str, empty: Connection, kind: str
) -> None:
    for name in OBSTACLES[kind]:
        empty.execute("drop schema public cascade; create schema public")
        empty.execute(MAKE[kind].format(name).encode())
        assert refused(empty_database, empty, leads_out=name == OBSTACLES[kind][-1]).startswith(f"{kind} {name}")


@pytest.mark.parametrize("kind", ["create type pgonce_alerts as enum ('a')", "create domain cron_job_runs as text"])
def test_a_type_of_the_name_of_a_table_stops_migrate(empty_database: str, empty: Connection, kind: str) -> None:
    empty.execute(kind.encode())
    assert refused(empty_database, empty).startswith("type ")


def test_the_first_object_is_named_and_the_others_are_counted(empty_database: str, empty: Connection) -> None:
    for name in ("beat_job_run", "complete_seed", "get_checkpoint"):
        empty.execute(MAKE["function"].format(name).encode())
    assert "function beat_job_run(point) in schema public is not pgonce's (nor are 2 more)" in refused(
        empty_database, empty
    )


def test_every_function_of_ours_is_guarded_also_after_an_installation(database: str, conn: Connection) -> None:
    # a function of other arguments beside ours: PostgREST could not choose, and a call with exact types would reach it
    names = {routine.name for routine in catalog.routines(conn)}
    assert len(names) > 60
    overload = sql.SQL("create function {}(point, point) returns integer language sql as 'select 1'")
    for name in names:
        conn.execute(overload.format(sql.Identifier(name)))
    said = refused(database, conn)
    found = re.match(r"function (\w+)\(point, point\) in schema public is not pgonce's \(nor are (\d+) more\)", said)
    assert found, said
    assert found[1] in names
    assert int(found[2]) == len(names) - 1
    for name in names:
        conn.execute(sql.SQL("drop function {}(point, point)").format(sql.Identifier(name)))
    assert schema.migrate(database) == []


def test_a_trigger_of_our_name_on_an_adopted_table_stops_migrate(empty_database: str, empty: Connection) -> None:
    empty.execute(SPECIFICATION.encode())
    empty.execute("create function theirs() returns trigger language plpgsql as 'begin return new; end'")
    empty.execute(
        "create trigger pgonce_before_insert before insert on cron_job_runs for each row execute function theirs()"
    )
    assert "trigger pgonce_before_insert on cron_job_runs" in refused(empty_database, empty, leads_out=True)


APP = """
create table alerts (id integer, created_at timestamptz);
create table processed_events (event_id text primary key);
create view job_stats as select 1 as n;
create table job_retries (a integer);
create table job_schedules (a integer);
create table seed_rejects (a integer);
create function queue_webhooks(text) returns text language sql as 'select $1';
create type event_status as enum ('new', 'done');
create index alerts_due on alerts (created_at);
"""


def test_an_application_with_tables_of_its_own_is_left_untouched(empty_database: str, empty: Connection) -> None:
    empty.execute(APP.encode())
    before = catalog.read(empty)
    schema.migrate(empty_database)
    after = catalog.read(empty)
    assert all(before[kind] <= after[kind] for kind in before)
    theirs = {row[0] for kind in before for row in before[kind]}
    assert [row for kind in after for row in after[kind] - before[kind] if row[0] in theirs] == []


def test_everything_in_the_schema_is_known_by_name_and_comment(conn: Connection) -> None:
    ours = schema_sql.objects()
    found = catalog.read(conn)
    made = {row[1] for row in found["indexes"] if not row[1].endswith(("_pkey", "_key"))}
    assert made == set(ours["index"])
    assert {row[0] for row in found["routines"]} == set(ours["function"])
    assert {row[1] for row in found["triggers"]} == set(ours["trigger"])
    assert {row[0] for row in found["relations"] if row[1] in "rv"} == {*ours["table"], *ours["view"]}
    comments = conn.execute(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'v')"
        " and coalesce(obj_description(oid, 'pg_class'), '') not like 'pgonce: %'"
    )
    assert comments.fetchall() == []


def test_the_users_own_comment_on_an_adopted_table_is_kept(empty_database: str, empty: Connection) -> None:
    empty.execute(SPECIFICATION.encode())
    empty.execute("comment on table webhook_events is 'everything Stripe sends'")
    schema.migrate(empty_database)
    comment = "select obj_description('webhook_events'::regclass, 'pg_class')"
    assert value(empty, comment) == "pgonce: everything Stripe sends"
    schema.migrate(empty_database)
    assert value(empty, comment) == "pgonce: everything Stripe sends"


OTHER_SHAPES = {
    "webhook_events alter payload drop default, alter payload type json": "column payload is json, not jsonb",
    "webhook_events alter received_at type timestamp": "column received_at is timestamp without time zone, not",
    "webhook_events alter stripe_event_id type varchar(255)": "column stripe_event_id is character varying(255), not",
    "cron_job_runs drop completed_at": "has no column completed_at",
    "cron_job_runs add key text": "has a column key, which pgonce adds",
    "webhook_events add tenant text not null": "has a column tenant that is NOT NULL without a default",
    "seed_checkpoints drop rows_skipped, add rows_skipped integer generated always as (1) stored": "is generated",
}


@pytest.mark.parametrize(("change", "says"), OTHER_SHAPES.items())
def test_a_table_of_another_shape_stops_migrate(empty_database: str, empty: Connection, change: str, says: str) -> None:
    empty.execute(SPECIFICATION.encode())
    empty.execute(f"alter table {change}".encode())
    line = refused(empty_database, empty)
    assert line.startswith("table ")
    assert says in line


def test_a_table_that_others_inherit_from_stops_migrate(empty_database: str, empty: Connection) -> None:
    empty.execute(SPECIFICATION.encode())
    empty.execute("create table child () inherits (seed_checkpoints)")
    assert "inherits, or is inherited from" in refused(empty_database, empty)


@pytest.mark.parametrize("type_", ["webhook_events", "webhook_events[]"])
def test_a_table_whose_rows_are_a_columns_type_stops_migrate(
    empty_database: str, empty: Connection, type_: str
) -> None:
    empty.execute(f"{SPECIFICATION}; create table history (event {type_})".encode())
    with pytest.raises(SchemaError, match="its rows are the type of column event of table history"):
        schema.migrate(empty_database)


def test_a_table_with_a_rule_stops_migrate(empty_database: str, empty: Connection) -> None:
    empty.execute(SPECIFICATION.encode())
    empty.execute("create rule quiet as on insert to webhook_events do instead nothing")
    assert "(has a rule quiet)" in refused(empty_database, empty)


def test_an_aggregate_of_the_name_of_a_function_stops_migrate(empty_database: str, empty: Connection) -> None:
    empty.execute("create aggregate start_job_run(integer) (sfunc = int4pl, stype = integer)")
    with pytest.raises(SchemaError, match=r"^aggregate start_job_run\(integer\) in schema public is not pgonce's"):
        schema.migrate(empty_database)


STATUS = "add CHECK ((status = ANY (ARRAY['running'::text, 'succeeded'::text, 'failed'::text, 'skipped'::text])))"
# what is changed, and the statement for each table that has it adopted
DIFFERENCES = {
    (
        "alter table webhook_events alter column payload drop default",
        "alter table webhook_events alter column received_at drop not null, alter column received_at drop default",
        "alter table webhook_events alter column error_message set not null",
        "alter table webhook_events drop constraint stripe_event_id_not_empty",
        "alter table webhook_events drop constraint webhook_events_stripe_event_id_key",
        "alter table cron_job_runs drop constraint cron_job_runs_status_check",
        "alter table cron_job_runs alter column status set default 'queued'",
        "alter table seed_checkpoints set unlogged",
    ): (
        f"alter table public.cron_job_runs {STATUS}, alter column status set default 'running'::text",
        "alter table public.seed_checkpoints set logged",
        (
            "alter table public.webhook_events add CHECK ((stripe_event_id <> ''::text)), add UNIQUE (stripe_event_id),"
            " alter column error_message drop not null, alter column payload set default '{}'::jsonb,"
            " alter column received_at set default now(), alter column received_at set not null"
        ),
    ),
    (
        "alter table cron_job_runs drop constraint cron_job_runs_pkey",
        (
            "alter table cron_job_runs drop constraint cron_job_runs_status_check,"
            " add check (status in ('running', 'done'))"
        ),
    ): (f"alter table public.cron_job_runs {STATUS}, add PRIMARY KEY (id)",),
    (
        "alter table webhook_events drop constraint webhook_events_pkey, add unique (id), add primary key (event_type)",
        'alter table webhook_events alter event_type type text collate "C"',
        "alter table cron_job_runs drop constraint cron_job_runs_pkey, add primary key (id) deferrable",
        "alter table cron_job_runs add constraint numbered unique (id, started_at) deferrable initially deferred",
        "alter table cron_job_runs alter rows_skipped drop default, alter rows_skipped set not null",
        "alter table cron_job_runs alter rows_skipped add generated always as identity",
    ): (
        (
            "alter table public.cron_job_runs add PRIMARY KEY (id), add UNIQUE (id, started_at),"
            " alter column rows_skipped drop identity, alter column rows_skipped drop not null,"
            " alter column rows_skipped set default 0, drop constraint cron_job_runs_pkey, drop constraint numbered"
        ),
        (
            "alter table public.webhook_events add PRIMARY KEY (id), alter column event_type type text,"
            " drop constraint webhook_events_pkey"
        ),
    ),
}


@pytest.mark.parametrize(("changes", "statements"), DIFFERENCES.items())
def test_tables_that_differ_in_little_are_adopted_after_the_statements_that_the_messages_give(
    empty_database: str, empty: Connection, changes: tuple[str, ...], statements: tuple[str, ...]
) -> None:
    for change in (SPECIFICATION, *changes):
        empty.execute(change.encode())
    for statement in statements:
        with pytest.raises(SchemaError, match="differs from the specification") as caught:
            schema.migrate(empty_database)
        assert f'run "{statement}"; or ' in str(caught.value)
        empty.execute(statement.encode())
    schema.migrate(empty_database)
    assert value(empty, "select start_job_run('j')")
    assert value(empty, "select id from insert_webhook_if_new('evt_1', 'x', '{}')")


def test_a_typed_table_is_adopted_after_the_statement_that_the_message_gives(
    empty_database: str, empty: Connection
) -> None:
    empty.execute(SPECIFICATION.encode())
    columns = value(
        empty,
        "select string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' order by attnum)"
        " from pg_attribute where attrelid = 'seed_checkpoints'::regclass and attnum > 0",
    )
    empty.execute(f"create type seed_record as ({columns}); alter table seed_checkpoints of seed_record".encode())
    with pytest.raises(SchemaError, match=r'run "alter table public\.seed_checkpoints not of"; or '):
        schema.migrate(empty_database)
    empty.execute("alter table public.seed_checkpoints not of")
    schema.migrate(empty_database)


@pytest.mark.parametrize("comment", ["pgonce: what Stripe sends", "pgonce: being adopted"])
def test_a_comment_that_begins_as_ours_makes_no_table_ours(
    empty_database: str, empty: Connection, comment: str
) -> None:
    empty.execute(SPECIFICATION.encode())
    empty.execute("alter table webhook_events alter payload drop default, alter payload type json")
    empty.execute(f"comment on table webhook_events is '{comment}'".encode())
    assert "(column payload is json, not jsonb)" in refused(empty_database, empty)


def test_an_index_of_the_specification_in_another_form_is_named_with_the_statement(
    empty_database: str, empty: Connection
) -> None:
    empty.execute(SPECIFICATION.encode())
    empty.execute("drop index idx_webhook_events_status")
    empty.execute("create index idx_webhook_events_status on webhook_events (status)")
    with pytest.raises(SchemaError, match=r'run "drop index public\.idx_webhook_events_status"'):
        schema.migrate(empty_database)
    empty.execute("drop index public.idx_webhook_events_status")
    schema.migrate(empty_database)


EXTRAS = [
    "alter table webhook_events add column tenant text",
    "alter table webhook_events add column note text not null default ''",
    "alter table webhook_events alter column id set default md5(random()::text)::uuid",
    "alter table cron_job_runs rename constraint cron_job_runs_status_check to only_known_states",
    "create index my_own on seed_checkpoints (status)",
    "drop index idx_webhook_events_received, idx_cron_runs_started",
]


def test_a_table_with_more_than_the_specification_asks_for_is_adopted(empty_database: str, empty: Connection) -> None:
    empty.execute(SPECIFICATION.encode())
    for change in EXTRAS:
        empty.execute(change.encode())
    schema.migrate(empty_database)
    assert value(empty, "select id from insert_webhook_if_new('evt_1', 'x', '{}')")
    assert value(empty, "select start_job_run('j')")
    assert value(empty, "select seed_name from update_checkpoint('s', '{}')") == "s"
    assert check(empty_database) == []


THEIRS = """
create function handle_checkout() returns integer language sql as 'select 1';
comment on function handle_checkout is 'pgonce: handles it exactly once';
create view revenue as select 1 as cents; comment on view revenue is 'pgonce: for the dashboard';
create table effects (a integer); comment on table effects is 'pgonce: written by our handlers';
create function audit() returns trigger language plpgsql as 'begin return null; end';
comment on function audit is 'pgonce: audits it';
create trigger audit after insert on webhook_events for each row execute function audit();
"""


def test_what_the_user_calls_ours_in_a_comment_is_left_alone(database: str, conn: Connection) -> None:
    conn.execute(THEIRS.encode())
    before = catalog.read(conn)
    schema.migrate(database)
    assert catalog.read(conn) == before
    assert check(database) == []
    for planned in uninstall.statements(conn, "public", with_data=True):
        assert not re.search(r"effects|revenue|handle_checkout|trigger audit|public\.audit\b", planned), planned
