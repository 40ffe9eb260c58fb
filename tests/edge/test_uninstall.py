"""``pgonce migrate --check`` and ``pgonce uninstall``."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgonce.core import migrate as schema
from pgonce.core.schema_check import check
from pgonce.errors import SchemaError
from tests.conftest import wait_until
from tests.edge.command import pgonce
from tests.sql import catalog
from tests.sql.race import background, value
from tests.sql.test_schema import SPECIFICATION

Connection = psycopg.Connection[Any]


def test_a_check_exits_1_when_the_schema_is_behind_altered_or_open(empty_database: str) -> None:
    code, out, _ = pgonce(empty_database, "migrate", "--check")
    assert (code, out) == (1, "pgonce is not installed in schema public: run `pgonce migrate`\n")
    assert pgonce(empty_database, "migrate")[0] == 0
    code, out, _ = pgonce(empty_database, "migrate", "--check")
    assert code == 0
    assert out.endswith("schema public: current, unaltered, closed to other roles\n")
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute("grant create on schema public to public")
    code, out, said = pgonce(empty_database, "migrate", "--check")
    assert code == 1
    assert out.endswith("revoke create on schema public from PUBLIC\n")
    assert said.startswith("pgonce: ")
    code, _, said = pgonce(empty_database, "migrate")
    assert code == 0
    assert said == f"warning: {out}"


def test_uninstall_keeps_the_three_tables_with_their_rows_and_a_migrate_takes_them_back(
    database: str, conn: Connection
) -> None:
    conn.execute(
        "select insert_webhook_if_new('evt_1', 'x', '{}'), start_job_run('j'), update_checkpoint('s', '{}', 7)"
    )
    rows = conn.execute("select * from webhook_events").fetchall()
    code, out, said = pgonce(database, "uninstall", "--yes")
    assert code == 0, said
    assert "drop routine public.start_job_run(" in out
    found = catalog.read(conn)
    assert {row[0] for row in found["relations"]} == {"webhook_events", "cron_job_runs", "seed_checkpoints"}
    assert found["routines"] == found["triggers"] == set()
    assert [row[1] for row in found["indexes"] if row[1].startswith("pgonce")] == []
    assert value(conn, "select count(*) from pg_policy") == 0
    # a client of the specification goes on
    conn.execute("insert into webhook_events (stripe_event_id, event_type) values ('evt_2', 'x')")
    conn.execute("insert into cron_job_runs (job_name) values ('j')")
    schema.migrate(database)
    assert check(database) == []
    assert conn.execute("select * from webhook_events where stripe_event_id = 'evt_1'").fetchall() == rows
    assert value(conn, "select rows_inserted from get_checkpoint('s')") == 7


def test_uninstall_with_data_leaves_nothing_of_ours_and_all_of_theirs(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute(
            "create table alerts (id integer); create function my_own() returns int language sql as 'select 1'"
        )
        before = catalog.read(conn)
        conn.execute(SPECIFICATION.encode())
        schema.migrate(empty_database)
        assert pgonce(empty_database, "uninstall", "--with-data", "--yes")[0] == 0
        assert catalog.read(conn) == before
    code, out, _ = pgonce(empty_database, "uninstall", "--with-data", "--yes")
    assert code == 0
    assert "nothing of pgonce to drop" in out


def test_without_a_terminal_uninstall_drops_nothing_unless_told_yes(database: str, conn: Connection) -> None:
    before = catalog.read(conn)
    code, out, said = pgonce(database, "uninstall")
    assert code == 1
    assert "drop table public.pgonce_alerts;" in out
    assert "--yes" in said
    assert catalog.read(conn) == before


@pytest.mark.parametrize(
    "theirs", ["create view mine as select * from pgonce_job_stats", "create table mine (a pgonce_alerts)"]
)
def test_uninstall_drops_nothing_when_something_of_the_users_depends_on_it(
    database: str, conn: Connection, theirs: str
) -> None:
    conn.execute(theirs.encode())
    before = catalog.read(conn)
    code, _, said = pgonce(database, "uninstall", "--yes")
    assert code == 1
    assert "mine depends on" in said
    assert said.count("\n") == 1
    assert catalog.read(conn) == before


def test_the_printed_statements_do_the_same_in_psql(database: str, conn: Connection) -> None:
    _, out, _ = pgonce(database, "uninstall", "--with-data")
    conn.execute(out.encode())
    assert catalog.read(conn)["relations"] == set()
    assert catalog.read(conn)["routines"] == set()


def test_uninstall_by_a_role_that_does_not_own_it_says_who_may(database: str, conn: Connection, role: str) -> None:
    before = catalog.read(conn)
    code, _, said = pgonce(database.replace("//postgres@", f"//{role}@"), "uninstall", "--yes")
    assert code == 1
    assert "must be owner of" in said
    assert f"run it as the role that owns schema public and what pgonce has in it, or give role {role} these" in said
    assert said.count("\n") == 1
    assert catalog.read(conn) == before


def test_a_key_that_the_user_has_added_to_a_table_that_is_kept_stays(database: str, conn: Connection) -> None:
    conn.execute("alter table webhook_events add constraint pgonce_own unique (received_at, id)")
    assert pgonce(database, "uninstall", "--yes")[0] == 0
    assert value(conn, "select count(*) from pg_constraint where conname = 'pgonce_own'") == 1


def test_a_table_that_was_altered_after_an_uninstall_stops_migrate(database: str, conn: Connection) -> None:
    assert pgonce(database, "uninstall", "--yes")[0] == 0
    conn.execute("alter table cron_job_runs alter status drop default")
    with pytest.raises(SchemaError, match="alter column status set default 'running'::text"):
        schema.migrate(database)
    conn.execute("alter table cron_job_runs alter status set default 'running'")
    schema.migrate(database)
    assert check(database) == []


def test_an_uninstall_that_waits_for_a_lock_lets_other_writers_pass(database: str, conn: Connection) -> None:
    insert = "insert into webhook_events (stripe_event_id, event_type) values (%s, 'x')"
    waiting = "select count(*) from pg_locks where not granted and relation = 'webhook_events'::regclass"
    with psycopg.connect(database) as writer:
        writer.execute(insert, ["evt_open"])
        with background(lambda: pgonce(database, "uninstall", "--yes"), writer.close) as uninstalling:
            wait_until(lambda: value(conn, waiting) == 1, "uninstall requests its lock")
            conn.execute("set lock_timeout = '20s'")
            conn.execute(insert, ["evt_passes"])  # the open transaction has not ended
            assert not uninstalling.done()
            writer.commit()
    assert uninstalling.result()[0] == 0
    assert value(conn, "select count(*) from webhook_events") == 2
