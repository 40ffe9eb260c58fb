"""Upgrading from a release whose functions, views and triggers were different, with what the user has built on them."""

from __future__ import annotations

import subprocess
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgonce.core import embedded, schema_sql
from pgonce.core import migrate as schema
from pgonce.core.schema_check import check
from pgonce.errors import SchemaError
from tests.sql import catalog

Connection = psycopg.Connection[Any]

OLDER_STATS = """
drop view pgonce_job_stats; drop function pgonce_job_timing;
create function pgonce_job_timing(p_name text default null) returns table (job_name text, runs bigint)
  language sql set search_path from current as 'select job_name, count(*) from cron_job_runs group by 1';
comment on function pgonce_job_timing is 'pgonce: old';
create view pgonce_job_stats as select t.*, 1 as gone from pgonce_job_timing() t;
comment on view pgonce_job_stats is 'pgonce: old';
"""
OLDER = {
    "another type of the result": """
        drop function get_checkpoint;
        create function get_checkpoint(p_seed_name text) returns setof text language sql as 'select 1::text';
        comment on function get_checkpoint is 'pgonce: old'""",
    "one row, not a set": """
        drop function get_checkpoint;
        create function get_checkpoint(p_seed_name text) returns seed_checkpoints
          language sql as 'select null::seed_checkpoints';
        comment on function get_checkpoint is 'pgonce: old'""",
    "other columns, and a view of them": OLDER_STATS,
    "another name of an argument": """
        drop function complete_seed;
        create function complete_seed(p_name text) returns setof seed_checkpoints language sql as
          'select * from seed_checkpoints';
        comment on function complete_seed is 'pgonce: old'""",
    "a default that is gone": """
        create or replace function fail_seed(p_seed_name text, p_error_message text default 'x')
          returns setof seed_checkpoints language sql as 'select * from seed_checkpoints'""",
    "another language, volatility, strictness, cost, setting and rights": """
        create or replace function get_checkpoint(p_seed_name text) returns setof seed_checkpoints
          language plpgsql immutable strict security definer parallel restricted cost 7 set work_mem = '1MB'
          as 'begin end'""",
    "a function that is now a procedure": """
        drop procedure run_job;
        create function run_job(p_job_name text, p_command text, p_window interval, p_key text) returns void
          language sql as '';
        comment on function run_job is 'pgonce: old'""",
    "another signature": """
        drop function start_job_run;
        create function start_job_run(p_job_name text) returns uuid language sql as 'select null::uuid';
        comment on function start_job_run is 'pgonce: old'""",
    "two older signatures": """
        create function start_job_run(p_job_name text) returns uuid language sql as 'select null::uuid';
        comment on function start_job_run(text) is 'pgonce: older';
        create function start_job_run(integer) returns uuid language sql as 'select null::uuid';
        comment on function start_job_run(integer) is 'pgonce: oldest'""",
    "a view without a column": """
        drop view pgonce_job_missed; create view pgonce_job_missed as select ''::text as job_name;
        comment on view pgonce_job_missed is 'pgonce: old'""",
    "a view with another name and type of a column": """
        drop view pgonce_job_missed; create view pgonce_job_missed as select 1 as name, 2 as key;
        comment on view pgonce_job_missed is 'pgonce: old'""",
    "views and functions that are gone": OLDER_STATS + """
        create view pgonce_gone as select * from pgonce_job_stats; comment on view pgonce_gone is 'pgonce: old';
        create function pgonce_gone_too(v pgonce_gone) returns bigint
          begin atomic; select count(*) from pgonce_job_timing(); end;
        comment on function pgonce_gone_too is 'pgonce: old'""",
    "another name of a trigger": "alter trigger pgonce_before_write on webhook_events rename to pgonce_old",
    "another definition of a trigger": """
        drop trigger pgonce_before_insert on cron_job_runs;
        create trigger pgonce_before_insert before insert on cron_job_runs for each row
          when (new.status = 'running') execute function pgonce_cron_job_runs_before_insert()""",
    "another function of a trigger": """
        create function pgonce_old() returns trigger language plpgsql as 'begin return new; end';
        comment on function pgonce_old is 'pgonce: old'; drop trigger pgonce_before_write on webhook_events;
        create trigger pgonce_before_write before insert or update on webhook_events
          for each row execute function pgonce_old()""",
    "lost and changed comments": """
        comment on function get_checkpoint is null; comment on function start_job_run is 'our own';
        comment on table webhook_events is 'our own'; comment on table pgonce_alerts is null;
        comment on view pgonce_job_stats is null""",
}  # fmt: skip


OLDER_OVERLAPS = """
drop view pgonce_job_overlaps; drop function pgonce_find_job_overlaps;
create function pgonce_find_job_overlaps(p_since interval default '1 day') returns table (job_name text)
  language sql as 'select null::text';
comment on function pgonce_find_job_overlaps is 'pgonce: old';
create view pgonce_job_overlaps as select * from pgonce_find_job_overlaps();
comment on view pgonce_job_overlaps is 'pgonce: old';
"""


def make(conn: Connection, statements: str) -> None:
    conn.execute(statements.encode())


TOGETHER = [
    {
        "another type of the result": "get_checkpoint",
        "other columns, and a view of them": "pgonce_job_stats",
        "another name of an argument": "complete_seed",
        "a default that is gone": "fail_seed",
        "a function that is now a procedure": "run_job",
        "another signature": "start_job_run",
        "a view without a column": "pgonce_job_missed",
        "another name of a trigger": "pgonce_before_write",
        "another definition of a trigger": "pgonce_before_insert",
    },
    {
        "one row, not a set": "get_checkpoint",
        "two older signatures": "start_job_run",
        "a view with another name and type of a column": "pgonce_job_missed",
        "views and functions that are gone": "pgonce_gone",
        "another function of a trigger": "pgonce_before_write",
    },
    {"another language, volatility, strictness, cost, setting and rights": "get_checkpoint"},
    {"lost and changed comments": "get_checkpoint"},
]
"""What one older release has, each of another object, and the name by which the check names it."""


@pytest.mark.parametrize("older", TOGETHER)
def test_an_upgraded_schema_is_that_of_a_fresh_installation(
    database: str, conn: Connection, older: dict[str, str]
) -> None:
    assert {name for each in TOGETHER for name in each} == OLDER.keys()
    fresh = catalog.read(conn)
    conn.execute("select insert_webhook_if_new('evt', 'x', '{}'), start_job_run('j'), complete_seed('s')")
    rows = "select to_jsonb(e) from webhook_events e union all select to_jsonb(r) from cron_job_runs r"
    data = conn.execute(rows).fetchall()
    assert len(data) > 1
    for name in older:
        make(conn, OLDER[name])
    differs = check(database)
    assert [name for name, what in older.items() if not any(what in line for line in differs)] == [], differs
    schema.migrate(database)
    assert catalog.read(conn) == fresh
    assert check(database) == []
    assert conn.execute(rows).fetchall() == data


def test_psql_upgrades_by_the_printed_script(database: str, conn: Connection) -> None:
    fresh = catalog.read(conn)
    for older in ("one row, not a set", "another name of an argument", "other columns, and a view of them",
                  "another signature", "a view without a column", "another function of a trigger"):  # fmt: skip
        make(conn, OLDER[older])
    psql = [str(embedded.bin_dir() / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", database]
    done = subprocess.run(psql, input=schema.script(), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr
    assert catalog.read(conn) == fresh
    assert check(database) == []


def test_a_restore_without_comments_is_recognized(database: str, conn: Connection) -> None:
    fresh = catalog.read(conn)
    conn.execute(
        "do $$ declare r record; begin"
        " for r in select format('routine %s', oid::regprocedure) as o from pg_proc"
        " where pronamespace = 'public'::regnamespace union all"
        " select format('%s %s', case relkind when 'v' then 'view' else 'table' end, oid::regclass) from pg_class"
        " where relnamespace = 'public'::regnamespace and relkind in ('r', 'v') loop"
        " execute format('comment on %s is null', r.o); end loop; end $$"
    )
    schema.migrate(database)
    assert catalog.read(conn) == fresh
    assert check(database) == []


def test_grants_and_owners_of_what_is_created_again_are_kept(database: str, conn: Connection, role: str) -> None:
    name = sql.Identifier(role)
    for older in ("other columns, and a view of them", "another signature", "another name of an argument"):
        make(conn, OLDER[older])
    for grant in (
        "grant execute on function start_job_run(text) to {} with grant option",
        "grant execute on function complete_seed to {}",
        "grant select on pgonce_job_stats to {}",
        "grant update (job_name), select (gone) on pgonce_job_stats to {}",
        "grant all on function get_checkpoint to {}",
        "alter schema public owner to {}",
        "alter function complete_seed owner to {}",
        "grant execute on function complete_seed to anon",
    ):
        conn.execute(sql.SQL(grant).format(name))
    schema.migrate(database, warn=lambda _: None)
    granted = conn.execute(
        "select p.proname, a.is_grantable from pg_proc p, aclexplode(p.proacl) a"
        " where a.grantee = %(role)s::regrole and p.proowner <> a.grantee"
        " union select c.relname, a.is_grantable from pg_class c, aclexplode(c.relacl) a"
        " where a.grantee = %(role)s::regrole"
        " union select t.attname, a.is_grantable from pg_attribute t, aclexplode(t.attacl) a"
        " where a.grantee = %(role)s::regrole"
        " order by 1",
        {"role": role},
    ).fetchall()
    assert granted == [
        ("get_checkpoint", False), ("job_name", False), ("pgonce_job_stats", False), ("start_job_run", True),
    ]  # fmt: skip
    owner = "select proowner::regrole::text, has_function_privilege('anon', oid, 'execute') from pg_proc"
    assert conn.execute(owner + " where proname = 'complete_seed'").fetchone() == (role, False)


def test_a_role_that_may_create_functions_gains_nothing_by_an_older_signature(
    database: str, conn: Connection, role: str
) -> None:
    name = sql.Identifier(role)
    conn.execute(sql.SQL("grant create on schema public to {}").format(name))
    with psycopg.connect(database, autocommit=True) as other:
        other.execute(sql.SQL("set role {}").format(name))
        make(other, OLDER["two older signatures"])
        other.execute(sql.SQL("grant execute on function start_job_run(text) to {} with grant option").format(name))
        other.execute("create view pgonce_gone as select 1 as a")
        other.execute("comment on view pgonce_gone is 'pgonce: old'")
    owned = "select count(*) from pg_proc where proowner = %s::regrole or proacl::text like %s"
    schema.migrate(database, warn=lambda _: None)
    assert conn.execute(owned, [role, f"%{role}%"]).fetchone() == (0,)


OLDER_FAILURE = """
create function pgonce_kind(p_old text) returns text language sql immutable as 'select p_old';
comment on function pgonce_kind is 'pgonce: old';
drop function pgonce_failure;
create function pgonce_failure(p_old text) returns text language sql immutable as 'select p_old';
comment on function pgonce_failure is 'pgonce: old';
create function pgonce_old() returns trigger language plpgsql as 'begin return new; end';
comment on function pgonce_old is 'pgonce: old';
"""
DEPENDENT = {
    "view theirs": "create view theirs as select * from pgonce_job_stats",
    "materialized view theirs": "create materialized view theirs as select * from pgonce_job_stats",
    "view as_before": "create view as_before as select job_name from pgonce_job_overlaps",
    "view elsewhere.theirs": "create schema elsewhere; create view elsewhere.theirs as select pgonce_failure('x')",
    "function theirs()": "create function theirs() returns text begin atomic; select pgonce_failure('x'); end",
    "function theirs(text)":
        "create function theirs(a text default pgonce_kind('x')) returns text language sql as 'select null::text'",
    "function theirs(pgonce_job_stats)":
        "create function theirs(pgonce_job_stats) returns text language sql as 'select null::text'",
    "column b of table theirs":
        "create table theirs (a text, b text generated always as (pgonce_failure(a)) stored)",
    "default value for column a of table theirs": "create table theirs (a text default pgonce_kind('x'))",
    "index theirs_a": "create table theirs (a text); create index theirs_a on theirs (pgonce_failure(a))",
    "constraint c on table theirs": "create table theirs (a text, constraint c check (pgonce_failure(a) <> ''))",
    "policy p on table theirs":
        "create table theirs (a text); create policy p on theirs using (pgonce_failure(a) <> '')",
    "trigger t on table theirs":
        "create table theirs (a text);"
        "create trigger t before insert on theirs for each row execute function pgonce_old()",
}  # fmt: skip


def test_what_the_user_has_built_on_what_must_go_stops_the_upgrade_and_stays(database: str, conn: Connection) -> None:
    fresh = catalog.read(conn)
    make(conn, OLDER_STATS + OLDER_FAILURE + OLDER_OVERLAPS)
    for name, dependent in DEPENDENT.items():
        make(conn, dependent)
        before = catalog.read(conn)
        with pytest.raises(SchemaError) as caught:
            schema.migrate(database)
        said = str(caught.value)
        assert len(said.splitlines()) == 1
        assert name in said
        assert catalog.read(conn) == before
        assert any(name in line and "depends on" in line for line in check(database)), check(database)
        make(conn, "drop schema if exists elsewhere cascade")
        make(conn, "drop view if exists as_before")
        for kind in ("view", "materialized view", "table", "function"):
            if f"create {kind} theirs" in dependent:
                make(conn, f"drop {kind} theirs")
    schema.migrate(database)
    assert catalog.read(conn) == fresh


def test_a_trigger_that_is_created_again_leaves_the_rows_that_it_has_filled(database: str, conn: Connection) -> None:
    insert = 'select claim_webhook(%s, \'x\', \'{"data": {"object": {"id": "sub_1"}}}\')'
    conn.execute(insert, ["before"])
    conn.execute("drop trigger pgonce_before_write on webhook_events")
    conn.execute(insert, ["without"])
    version = "select xmin, object_id from webhook_events where stripe_event_id = %s"
    before = conn.execute(version, ["before"]).fetchone()
    schema.migrate(database)
    assert conn.execute(version, ["before"]).fetchone() == before
    row = conn.execute(version, ["without"]).fetchone()
    assert row
    assert row[1] == "sub_1"


def test_what_the_user_has_built_on_what_can_be_replaced_stays(database: str, conn: Connection) -> None:
    make(conn, "create view theirs as select *, pgonce_failure('x') from pgonce_job_stats")
    make(conn, OLDER["another name of an argument"] + ";" + OLDER["another signature"])
    schema.migrate(database)
    assert check(database) == []
    assert conn.execute("select count(*) from theirs").fetchone() == (0,)


def test_a_step_of_the_script_defines_one_function_or_view() -> None:
    # what "create or replace" refuses is found by the first name of its step
    made = [f"\n{schema_sql._COMMENT.sub('', step)}".count("\ncreate or replace ") for step in schema_sql.definitions()]
    assert max(made) == 1
    names = schema_sql.objects()
    assert sum(made) >= len(names["function"]) + len(names["view"])
