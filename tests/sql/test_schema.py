"""The three tables are exactly the specification's, in any schema, and the printed script is what migrate does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgonce.core import migrate as schema
from pgonce.errors import InvalidArgument
from tests.conftest import _new_database
from tests.sql import catalog
from tests.sql.race import value

Connection = psycopg.Connection[Any]

SPECIFICATION = Path(__file__).with_name("specification.sql").read_text("utf-8")
TABLES = ("cron_job_runs", "seed_checkpoints", "webhook_events")
ODD_NAMES = ["team_a", "Mixed Case", 'a "quoted" name', "it's", "select", "per%cent", "$sql$", "ü" * 31]


@pytest.fixture(scope="module")
def specified(shared: Connection) -> catalog.Objects:
    """The specification's own DDL, executed in a schema next to pgonce's."""
    shared.execute("create schema specification")
    shared.execute("set search_path to specification")
    shared.execute(SPECIFICATION.encode())
    shared.execute("reset search_path")
    return catalog.read(shared, "specification")


@pytest.mark.parametrize("kind", ["columns", "constraints", "indexes"])
def test_everything_that_the_specification_defines_is_there_identically(
    shared: Connection, specified: catalog.Objects, kind: str
) -> None:
    assert {row[0] for row in specified[kind]} == set(TABLES)
    assert specified[kind] - catalog.read(shared)[kind] == set()


def test_a_client_of_the_specification_needs_no_column_of_ours(shared: Connection, specified: catalog.Objects) -> None:
    ours = catalog.read(shared)["columns"] - specified["columns"]
    for table, column, _, _, not_null, generated, _, default in ours:
        if table in TABLES:
            assert not not_null or default or generated, f"{table}.{column} must have a default"


def test_our_constraints_and_unique_indexes_take_every_row_of_a_client_of_the_specification(conn: Connection) -> None:
    conn.execute("insert into webhook_events (stripe_event_id, event_type) values ('evt_1', 'x'), ('evt_2', 'x')")
    conn.execute(
        "insert into cron_job_runs (job_name, status) values ('a', 'skipped'), ('a', 'skipped'), ('a', 'running')"
    )
    conn.execute("insert into seed_checkpoints (seed_name, last_checkpoint) values ('s', '{}')")


def test_the_script_in_one_transaction_makes_what_migrate_makes(empty_database: str, conn: Connection) -> None:
    with psycopg.connect(empty_database) as one_transaction:
        one_transaction.execute(schema.script().encode())
    with psycopg.connect(empty_database, autocommit=True) as other:
        assert catalog.read(other) == catalog.read(conn)


def test_the_script_changes_nothing_when_it_runs_again(conn: Connection) -> None:
    before = catalog.read(conn)
    conn.execute("select start_job_run('a')")
    with conn.transaction():
        conn.execute(schema.script().encode())
    assert catalog.read(conn) == before
    assert conn.execute("select count(*) from cron_job_runs").fetchone() == (1,)


def test_the_script_gives_a_session_its_search_path_back(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as conn:
        for path in ("", "pg_catalog, public"):  # pg_dump and Supabase's migrations run with an empty one
            conn.execute("select set_config('search_path', %s, false)", [path])
            conn.execute(schema.script("elsewhere").encode())
            assert conn.execute("select current_setting('search_path')").fetchone() == (path,)


@pytest.fixture(scope="module")
def elsewhere(server: str) -> Iterator[str]:
    """A database that has pgonce in schemas other than public."""
    with _new_database(server, None) as url:
        yield url


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_will_do_for_the_schema(elsewhere: str, shared: Connection, name: str) -> None:
    schema.migrate(elsewhere, name)
    assert schema.migrate(elsewhere, name) == []
    with psycopg.connect(elsewhere, autocommit=True) as conn:
        assert catalog.read(conn) == catalog.read(conn, "no such schema"), "public stays empty"
        there, here = catalog.read(conn, name), catalog.read(shared)
        assert {kind: {row[:2] for row in there[kind]} for kind in there} == {
            kind: {row[:2] for row in here[kind]} for kind in here
        }
        # the caller's search_path does not matter: each function sets its own
        conn.execute("set search_path to pg_catalog")
        for function in ("start_job_run", "complete_seed"):
            conn.execute(sql.SQL("select {}('x')").format(sql.Identifier(name, function)))
        event = sql.SQL("insert into {} (stripe_event_id, event_type) values ('evt', 'x')")
        conn.execute(event.format(sql.Identifier(name, "webhook_events")))
        schema.migrate(elsewhere, name)
        assert schema.applied(conn, name) == {version for version, _, _ in schema.migrations()}


def test_two_schemas_of_one_database_do_not_see_each_other(elsewhere: str) -> None:
    for name in ("one", "two"):
        schema.migrate(elsewhere, name)
    with psycopg.connect(elsewhere, autocommit=True) as conn:
        for name in ("one", "two"):
            assert value(conn, f"select {name}.start_job_run('j')") is not None
            assert value(conn, f"select {name}.start_job_run('j')") is None


@pytest.mark.parametrize("name", ["", "nul\0", "$user", "x" * 64, "ü" * 32])
def test_a_name_that_cannot_be_a_schema_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        schema.script(name)
