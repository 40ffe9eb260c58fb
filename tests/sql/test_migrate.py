"""Migrating repeatedly, at the same time, over hand-made tables, and over the schema of an older or a newer release."""

from __future__ import annotations

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from pgonce.core import embedded
from pgonce.core import migrate as schema
from pgonce.errors import SchemaError
from tests.conftest import wait_until
from tests.sql import catalog
from tests.sql.race import background, value
from tests.sql.test_schema import SPECIFICATION

Connection = psycopg.Connection[Any]
NAMES = [name for _, name, _ in schema.migrations()]

WAITING = """select count(*) from pg_stat_activity
where datname = current_database() and wait_event_type = 'Lock' and wait_event = 'advisory'"""


@pytest.fixture
def empty(empty_database: str) -> Any:
    """A session on a database without pgonce."""
    with psycopg.connect(empty_database, autocommit=True) as conn:
        yield conn


def test_migrating_twice_changes_nothing(empty_database: str, empty: Connection) -> None:
    assert schema.migrate(empty_database) == NAMES
    before = catalog.read(empty)
    applied = empty.execute("select * from pgonce_migrations").fetchall()
    assert schema.migrate(empty_database) == []
    assert catalog.read(empty) == before
    assert empty.execute("select * from pgonce_migrations").fetchall() == applied


def test_a_second_migrate_waits_for_the_first_and_then_succeeds(empty_database: str, empty: Connection) -> None:
    with psycopg.connect(empty_database) as first:
        first.execute(schema.script().encode())  # all of it, not committed yet
        with background(lambda: schema.migrate(empty_database), first.close) as second:
            wait_until(lambda: value(empty, WAITING) == 1, "the second migrate waits for the first one's lock")
            assert catalog.read(empty)["relations"] == set()
            first.commit()
    second.result()
    assert schema.applied(empty) == {version for version, _, _ in schema.migrations()}


def test_eight_migrates_at_once_all_succeed(empty_database: str, empty: Connection, conn: Connection) -> None:
    gun = threading.Barrier(8)

    def migrate(_: int) -> list[str]:
        gun.wait(60)
        return schema.migrate(empty_database)

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(migrate, range(8)))) == 8
    assert catalog.read(empty) == catalog.read(conn)
    assert value(empty, "select count(*) from pgonce_migrations") == len(NAMES)


def test_migrating_again_waits_for_no_writer(database: str, conn: Connection) -> None:
    with conn.transaction():
        conn.execute("select insert_webhook_if_new('evt', 'x', '{}'), start_job_run('j'), complete_seed('s')")
        impatient = psycopg.conninfo.make_conninfo(database, options="-c lock_timeout=5s")
        assert schema.migrate(impatient) == []


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_a_migrate_that_waited_does_not_claim_the_work_of_the_other(
    empty_database: str, empty: Connection, isolation: str
) -> None:
    empty.execute(f"alter database {empty.info.dbname} set default_transaction_isolation = '{isolation}'".encode())
    with psycopg.connect(empty_database) as first:
        first.execute(schema.script().encode())
        with background(lambda: schema.migrate(empty_database), first.close) as second:
            wait_until(lambda: value(empty, WAITING) == 1, "the second migrate waits for the first one's lock")
            first.commit()
    assert second.result() == []


def test_hand_made_tables_are_adopted_with_their_rows(empty_database: str, empty: Connection, conn: Connection) -> None:
    empty.execute(SPECIFICATION.encode())
    empty.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, payload, received_at) values"
        " ('evt_done', 'a', 'succeeded', '{\"data\": {\"object\": {\"id\": \"sub_1\"}}}', '2025-01-01'),"
        " ('evt_failed', 'a', 'failed', '{}', '2025-01-01'),"
        " ('evt_crashed', 'a', 'processing', '[]', '2025-01-01')"
    )
    empty.execute(
        "insert into cron_job_runs (job_name, status) values ('a', 'running'), ('a', 'succeeded'), ('b', 'running')"
    )
    empty.execute(
        "insert into seed_checkpoints (seed_name, last_checkpoint, rows_inserted) values ('s', '{\"n\": 1}', 7)"
    )
    old = {
        table: empty.execute(sql.SQL("select * from {} order by id").format(sql.Identifier(table))).fetchall()
        for table in ("webhook_events", "cron_job_runs", "seed_checkpoints")
    }
    assert schema.migrate(empty_database) == NAMES

    assert catalog.read(empty) == catalog.read(conn)
    for table, rows in old.items():
        adopted = empty.execute(sql.SQL("select * from {} order by id").format(sql.Identifier(table))).fetchall()
        assert [row[: len(rows[0])] for row in adopted] == rows
    assert value(empty, "select object_id from webhook_events where stripe_event_id = 'evt_done'") == "sub_1"
    # the crashed event gets one more lease, and can then be taken over
    empty.execute(
        "update webhook_events set lease_expires_at = clock_timestamp() where stripe_event_id = 'evt_crashed'"
    )
    for event, free in (("evt_done", False), ("evt_failed", True), ("evt_crashed", True)):
        claimed = empty.execute("select * from insert_webhook_if_new(%s, 'a', '{}')", [event]).fetchone()
        assert (claimed is not None) == free
    assert value(empty, "select rows_inserted from get_checkpoint('s')") == 7
    assert value(empty, "select start_job_run('a')") is None


def test_runs_that_crashed_before_the_adoption_do_not_stop_it(empty_database: str, empty: Connection) -> None:
    # without pgonce a crashed run is never closed: every crash has left one more running row of the same job
    empty.execute(SPECIFICATION.encode())
    empty.execute(
        "insert into cron_job_runs (job_name, started_at) values"
        " ('a', now() - interval '2 days'), ('a', now() - interval '1 day'), ('a', now()), ('b', now())"
    )
    assert schema.migrate(empty_database) == NAMES
    states = empty.execute("select job_name, status from cron_job_runs order by job_name, started_at").fetchall()
    assert states == [("a", "failed"), ("a", "failed"), ("a", "running"), ("b", "running")]
    assert value(empty, "select bool_and(error_message like 'abandoned%') from cron_job_runs where status = 'failed'")


def test_functions_that_this_release_no_longer_has_are_dropped(database: str, conn: Connection) -> None:
    before = catalog.read(conn)
    conn.execute("create function pgonce_long_gone(integer) returns integer language sql as 'select 1'")
    conn.execute("comment on function pgonce_long_gone is 'pgonce: old'")
    conn.execute("create procedure pgonce_gone_too() language sql as 'select 1'")
    conn.execute("comment on procedure pgonce_gone_too is 'pgonce: old'")
    assert catalog.read(conn) != before
    schema.migrate(database)
    assert catalog.read(conn) == before


@pytest.mark.parametrize(
    "name", ["start_job_run", "complete_webhook", "pgonce_queue_webhooks", "purge_job_runs", "pgonce_advance_seed"]
)
def test_an_older_signature_of_a_function_is_dropped(database: str, conn: Connection, name: str) -> None:
    before = catalog.read(conn)
    function = sql.Identifier(name)
    conn.execute(sql.SQL("create function {}(text) returns text language sql as 'select $1'").format(function))
    conn.execute(
        sql.SQL("comment on function {}(text) is 'pgonce: the signature of an older release'").format(function)
    )
    schema.migrate(database)
    assert catalog.read(conn) == before


def test_functions_of_other_names_and_schemas_stay_as_they_are(database: str, conn: Connection, role: str) -> None:
    conn.execute("create function my_pgonce() returns text language sql as $$ select 'theirs' $$")
    conn.execute("comment on function my_pgonce is 'uses pgonce: not one of its functions'")
    conn.execute("create schema theirs")
    conn.execute("create function theirs.start_job_run(text) returns text language sql as $$ select 'theirs' $$")
    conn.execute("comment on function theirs.start_job_run is 'pgonce: of another installation'")
    conn.execute(f"grant execute on function my_pgonce() to {role}".encode())
    before = catalog.read(conn), catalog.read(conn, "theirs")
    schema.migrate(database)
    assert (catalog.read(conn), catalog.read(conn, "theirs")) == before


def test_a_database_of_a_newer_release_is_refused_and_left_alone(database: str, conn: Connection) -> None:
    conn.execute("insert into pgonce_migrations (version, name) values (9999, 'from_the_future')")
    conn.execute("comment on function get_checkpoint(text) is 'pgonce: as the newer release has it'")
    before = catalog.read(conn)
    with pytest.raises(SchemaError, match="newer"):
        schema.migrate(database)
    assert catalog.read(conn) == before


def test_a_migrate_that_fails_at_its_last_step_leaves_nothing(empty_database: str, empty: Connection) -> None:
    # the migrations and nearly all functions are made by then
    empty.execute(
        "create function refuse() returns event_trigger language plpgsql as $$ begin"
        " if exists (select from pg_event_trigger_ddl_commands() where object_identity like '%pgonce_schema_warnings%')"
        " then raise 'not here'; end if; end $$"
    )
    empty.execute(
        "create event trigger refuse on ddl_command_end when tag in ('CREATE FUNCTION') execute function refuse()"
    )
    before = catalog.read(empty)
    with pytest.raises(psycopg.Error, match="not here"):
        schema.migrate(empty_database)
    assert catalog.read(empty) == before
    with pytest.raises(psycopg.Error, match="not here"):  # in autocommit, as psql without --single-transaction
        empty.execute(schema.script().encode())
    assert catalog.read(empty) == before
    empty.execute("drop event trigger refuse")
    empty.execute("drop function refuse")
    assert schema.migrate(empty_database) == NAMES


def test_psql_without_a_transaction_runs_the_script_as_one(server: str, empty_database: str, empty: Connection) -> None:
    empty.execute("create view cron_job_runs as select 1 as id")
    before = catalog.read(empty)
    psql = [str(embedded.bin_dir() / "psql"), "-X", "-q", empty_database]  # neither -1 nor ON_ERROR_STOP
    done = subprocess.run(psql, input=schema.script(), text=True, capture_output=True, check=False)
    assert "view cron_job_runs in schema public is not pgonce's" in done.stderr
    assert catalog.read(empty) == before
    empty.execute("drop view cron_job_runs")
    done = subprocess.run(psql, input=schema.script(), text=True, capture_output=True, check=False)
    assert schema.applied(empty) == {version for version, _, _ in schema.migrations()}, done.stderr


@pytest.mark.parametrize(
    "client",
    [
        "",
        "client_encoding=utf8",
    ],
)
@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_is_not_utf8_is_refused(server: str, encoding: str, client: str) -> None:
    name = f"test_{uuid4().hex[:12]}"
    create = "create database {} encoding {} template template0 locale 'C'"
    with ExitStack() as cleanup:
        admin = cleanup.enter_context(psycopg.connect(server, autocommit=True))
        drop = sql.SQL("drop database {} with (force)").format(sql.Identifier(name))
        admin.execute(sql.SQL(create).format(sql.Identifier(name), sql.Literal(encoding)))
        cleanup.callback(admin.execute, drop)
        url = psycopg.conninfo.make_conninfo(server, dbname=name, **dict([client.split("=")] if client else []))
        with pytest.raises(SchemaError, match="UTF8"):
            schema.migrate(url)


def test_a_role_that_may_create_in_the_schema_alone_can_migrate_into_it(
    server: str, empty_database: str, empty: Connection
) -> None:
    # "create schema if not exists" needs the right to create schemas even if the schema exists
    name = f"app_{uuid4().hex[:12]}"
    role = sql.Identifier(name)
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("create role {} login").format(role))
        try:
            empty.execute(sql.SQL("create schema own authorization {}").format(role))
            url = psycopg.conninfo.make_conninfo(empty_database, user=name)
            assert schema.migrate(url, "own") == NAMES
            assert schema.migrate(url, "own") == []
        finally:
            empty.execute(sql.SQL("drop owned by {} cascade").format(role))
            admin.execute(sql.SQL("drop role {}").format(role))
