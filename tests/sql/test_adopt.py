"""A large table made by hand is adopted in steps that block no writer, and that may be interrupted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pgonce.core import adopt, schema_sql
from pgonce.core import migrate as schema
from pgonce.core.schema_check import check
from tests.conftest import wait_until
from tests.sql import catalog
from tests.sql.race import background, value
from tests.sql.test_schema import SPECIFICATION

Connection = psycopg.Connection[Any]

EVENTS = """
insert into webhook_events (stripe_event_id, event_type, status, payload)
select 'evt_' || n, 'x', 'succeeded', jsonb_build_object('livemode', n % 2 = 0, 'api_version', 'v', 'data',
  jsonb_build_object('object', jsonb_build_object('id', 'in_' || n), 'filler', repeat('x', 1000)))
from generate_series(1, {events}) n;
"""
RUNS = """
insert into cron_job_runs (job_name, status, started_at)
select 'j' || n % 50, case when n % 1000 = 0 then 'running' else 'succeeded' end, now() - n * interval '1 minute'
from generate_series(1, {runs}) n;
"""

# The locks that each command which creates something holds on the two tables at its end.
WATCH = """
create table watched (tag text, made text, mode text);
alter table watched add time_limit text default current_setting('statement_timeout');
alter table watched add lock_limit text default current_setting('lock_timeout');
create function watch() returns event_trigger language plpgsql as $$ begin
  insert into watched (tag, made, mode)
  select tg_tag, c.object_identity, l.mode from pg_locks l, pg_event_trigger_ddl_commands() c
  where pid = pg_backend_pid() and locktype = 'relation'
    and relation in ('webhook_events'::regclass, 'cron_job_runs'::regclass);
  insert into watched (tag, made) select tg_tag, object_identity from pg_event_trigger_ddl_commands();
end $$;
create event trigger watch on ddl_command_end
  when tag in ('CREATE INDEX', 'ALTER TABLE', 'CREATE TRIGGER') execute function watch();
"""
SHARE_OR_MORE = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")


@pytest.fixture
def empty(empty_database: str) -> Any:
    """A session on a database without pgonce."""
    with psycopg.connect(empty_database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def large(empty: Connection, monkeypatch: pytest.MonkeyPatch) -> Connection:
    """A session on a database with large tables made from the specification by hand: of 1 MB, and not of 8."""
    monkeypatch.setattr(adopt, "LARGE", adopt.LARGE // 16)
    empty.execute((SPECIFICATION + EVENTS.format(events=2500) + RUNS.format(runs=12_000)).encode())
    assert set(adopt.find_large(empty, "public")) == {"webhook_events", "cron_job_runs"}
    return empty


FILES = "select pg_relation_filenode('webhook_events'), pg_relation_filenode('cron_job_runs')"


def test_a_large_table_is_adopted_as_a_small_one_is(empty_database: str, large: Connection, conn: Connection) -> None:
    said: list[str] = []
    assert schema.migrate(empty_database, announce=said.append) == [name for _, name, _ in schema.migrations()]
    assert [line.split()[1] for line in said] == ["webhook_events", "cron_job_runs"] or len(said) == 2
    assert catalog.read(large) == catalog.read(conn)
    assert check(empty_database) == []
    wrong = """select count(*) from webhook_events
      where object_id is distinct from replace(stripe_event_id, 'evt', 'in')
        or livemode is null"""
    assert value(large, wrong) == 0
    assert value(large, "select count(*) from cron_job_runs where status = 'running'") == 1
    assert schema.migrate(empty_database, announce=said.append) == []
    assert len(said) == 2


def test_no_index_of_a_large_table_is_built_under_a_lock_that_blocks_writers(
    empty_database: str, large: Connection
) -> None:
    large.execute(WATCH.encode())
    for limit in ("statement_timeout", "lock_timeout"):
        large.execute(f'alter database "{large.info.dbname}" set {limit} = "1min"'.encode())
    before = large.execute(FILES).fetchone()
    schema.migrate(empty_database)
    assert large.execute(FILES).fetchone() == before, "the table was not rewritten"
    found = large.execute("select tag, made, mode from watched").fetchall()
    assert "AccessExclusiveLock" in {mode for tag, _, mode in found if tag == "ALTER TABLE"}  # the watch works
    # CREATE INDEX CONCURRENTLY uses several transactions, so its locks cannot be seen at the end of a command
    blocking = {made.rpartition(".")[2] for tag, made, mode in found if tag == "CREATE INDEX" and mode in SHARE_OR_MORE}
    assert blocking, "small tables are not worth the trouble"
    indexes = catalog.read(large)["indexes"]
    names = {index for table, index, *_ in indexes if table in {"webhook_events", "cron_job_runs"}}
    assert len(names) > 10
    assert blocking & names == set()
    limits = large.execute("select distinct time_limit from watched").fetchall()
    assert limits == [("0",)], "the build of a large index is not ended by a time limit"
    waits = large.execute("select made, lock_limit from watched where tag = 'CREATE INDEX'").fetchall()
    assert {limit for made, limit in waits if made.rpartition(".")[2] in names} == {"0"}, "nor is its wait for writers"


def test_the_columns_that_are_added_read_no_row_of_the_table(empty_database: str, large: Connection) -> None:
    # a check or NOT NULL that had to be verified would read all rows under an exclusive lock: the server counts scans
    scans = (
        "select sum(seq_tup_read) from pg_stat_xact_user_tables where relname in ('webhook_events', 'cron_job_runs')"
    )
    with large.transaction(force_rollback=True):
        for table in schema_sql.SPECIFIED:
            for statement in schema_sql.statements(table):
                if statement.startswith("alter"):
                    large.execute(statement.encode())
        assert large.execute(FILES).fetchone()
        assert value(large, scans) == 0
        unproven = "select count(*) from pg_constraint where contype = 'c' and not convalidated"
        assert value(large, unproven) == 1


@pytest.mark.parametrize("step", ["CREATE TRIGGER", "CREATE INDEX"])
def test_an_adoption_that_is_interrupted_leaves_a_table_that_works_and_goes_on_at_the_next_migrate(
    empty_database: str, large: Connection, conn: Connection, step: str
) -> None:
    large.execute(
        "create function interrupt() returns event_trigger language plpgsql as $$ begin raise 'interrupted'; end $$"
    )
    large.execute(
        f"create event trigger interrupt on ddl_command_start when tag in ('{step}')"
        " execute function interrupt()".encode()
    )
    with pytest.raises(psycopg.Error, match="interrupted"):
        schema.migrate(empty_database)
    assert schema.applied(large) == set()
    large.execute("insert into webhook_events (stripe_event_id, event_type) values ('evt_between', 'x')")
    large.execute("insert into cron_job_runs (job_name) values ('between')")
    large.execute("update webhook_events set status = 'succeeded', processed_at = now()")
    large.execute("drop event trigger interrupt")
    large.execute("drop function interrupt")
    assert schema.migrate(empty_database) == [name for _, name, _ in schema.migrations()]
    assert catalog.read(large) == catalog.read(conn)
    assert value(large, "select count(*) from webhook_events where object_id is not null") == 2500


def test_three_migrates_at_once_adopt_a_large_table(empty_database: str, large: Connection, conn: Connection) -> None:
    # an index that is built concurrently waits for every other session that wants the same
    with ThreadPoolExecutor(3) as threads:
        done = list(threads.map(lambda _: schema.migrate(empty_database), range(3)))
    assert sorted(done) == [[], [], [name for _, name, _ in schema.migrations()]]
    assert catalog.read(large) == catalog.read(conn)
    assert value(large, "select count(object_id) from webhook_events") == 2500


def test_a_check_says_that_an_adoption_has_not_ended(database: str, conn: Connection) -> None:
    # the state after a crash between the transaction and the last batch
    conn.execute("comment on table webhook_events is 'pgonce: being adopted; theirs'")
    conn.execute('select insert_webhook_if_new(\'evt_1\', \'x\', \'{"data": {"object": {"id": "in_1"}}}\')')
    conn.execute("update webhook_events set object_id = null")
    assert check(database) == ["table webhook_events is not completely adopted: run `pgonce migrate` again"]
    schema.migrate(database)
    assert check(database) == []
    assert value(conn, "select object_id from webhook_events") == "in_1"
    assert value(conn, "select obj_description('webhook_events'::regclass, 'pg_class')") == "pgonce: theirs"


def test_what_fills_in_waits_for_a_locked_row_and_holds_no_other_row_meanwhile(conn: Connection, session: Any) -> None:
    conn.execute("comment on table webhook_events is 'pgonce: being adopted'")
    for event in ("evt_1", "evt_2"):
        payload = '{"data": {"object": {"id": "in_1"}}}'
        conn.execute("select insert_webhook_if_new(%s, 'x', %s)", [event, payload])
    conn.execute("update webhook_events set object_id = null")
    handler = session(autocommit=False)
    handler.execute("select from webhook_events where stripe_event_id = 'evt_2' for update")
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%pgonce.fill%'"
    with background(lambda: adopt.finish(session(), "public", ["webhook_events"]), handler.rollback) as filling:
        wait_until(lambda: value(conn, waiting) == 1, "it wants the row")
        conn.execute("set lock_timeout = '20s'")
        conn.execute("update webhook_events set attempts = 2 where stripe_event_id = 'evt_1'")
        assert not filling.done()
        handler.rollback()
    filling.result()
    assert value(conn, "select count(object_id) from webhook_events") == 2


def test_no_transaction_fills_in_more_failures_than_a_batch_has(
    empty_database: str, empty: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adopt, "LARGE", 0)
    monkeypatch.setattr(adopt, "_BATCH", 1)
    empty.execute((SPECIFICATION + EVENTS.format(events=3)).encode())
    empty.execute("update webhook_events set status = 'failed', error_message = 'no', payload = '{}'")
    schema.migrate(empty_database)
    assert value(empty, "select count(distinct xmin::text) filter (where failure = 'no') from webhook_events") == 3
    assert check(empty_database) == []


def test_an_index_that_was_left_half_built_is_built_anew(empty_database: str, large: Connection) -> None:
    # CREATE INDEX CONCURRENTLY that fails leaves an invalid index under its name
    large.execute("drop index idx_cron_runs_started")
    with pytest.raises(psycopg.errors.UniqueViolation):
        large.execute("create unique index concurrently idx_cron_runs_started on cron_job_runs (job_name)")
    large.execute("drop index idx_cron_runs_started")
    large.execute("create index idx_cron_runs_started on cron_job_runs (started_at desc)")
    large.execute("comment on table cron_job_runs is 'pgonce: being adopted'")
    large.execute("alter table cron_job_runs add key text not null default ''")
    with pytest.raises(psycopg.errors.UniqueViolation):
        large.execute(
            "create unique index concurrently pgonce_cron_job_runs_one_running on cron_job_runs (job_name, key)"
            " where status = 'running'"
        )
    assert value(large, "select count(*) from pg_index where not indisvalid") == 1
    schema.migrate(empty_database)
    assert value(large, "select count(*) from pg_index where not indisvalid") == 0
    assert check(empty_database) == []


def test_a_migrate_that_waits_for_a_lock_lets_other_writers_pass(empty_database: str, empty: Connection) -> None:
    # An open transaction has written to the table. A request for a lock on the table waits for it, and every writer
    # that comes after the request waits as well, unless the request is given up.
    empty.execute(SPECIFICATION.encode())
    insert = "insert into webhook_events (stripe_event_id, event_type) values (%s, 'x')"
    waiting = "select count(*) from pg_locks where not granted and relation = 'webhook_events'::regclass"
    with psycopg.connect(empty_database) as writer:
        writer.execute(insert, ["evt_open"])
        with background(lambda: schema.migrate(empty_database), writer.close) as migrating:
            wait_until(lambda: value(empty, waiting) == 1, "migrate requests its lock")
            empty.execute("set lock_timeout = '20s'")
            empty.execute(insert, ["evt_passes"])  # the open transaction has not ended
            assert not migrating.done()
            writer.commit()
    assert migrating.result() == [name for _, name, _ in schema.migrations()]
    assert value(empty, "select count(*) from webhook_events") == 2


def test_the_printed_script_warns_of_a_large_table(empty_database: str, empty: Connection) -> None:
    empty.execute((SPECIFICATION + EVENTS.format(events=8000) + RUNS.format(runs=120_000)).encode())
    assert set(adopt.find_large(empty, "public")) == {"webhook_events", "cron_job_runs"}
    said: list[str] = []
    empty.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
    empty.execute(schema.script().encode())
    assert sum("is large, and its writers wait" in line for line in said) == 2
    assert check(empty_database) == []


GUARD = """
alter table webhook_events add changed_at timestamptz not null default '2025-01-01';
alter table seed_checkpoints add changed_at timestamptz not null default '2025-01-01';
create function touch() returns trigger language plpgsql as $$ begin new.changed_at := now(); return new; end $$;
create function refuse() returns trigger language plpgsql as $$ begin raise 'an event is never changed'; end $$;
create trigger touch before update on webhook_events for each row execute function touch();
create trigger touch before update on seed_checkpoints for each row execute function touch();
create trigger refuse before update of payload on webhook_events for each row execute function refuse();
alter table webhook_events enable always trigger refuse;
create trigger unused before update on webhook_events for each row execute function refuse();
alter table webhook_events disable trigger unused;
"""
ENABLED = """
select array_agg(concat(tgrelid::regclass, tgname, tgenabled) order by tgrelid, tgname) from pg_trigger
where tgname in ('touch', 'refuse', 'unused')
"""


@pytest.mark.parametrize("size", ["small", "large"])
def test_no_trigger_of_the_users_takes_the_filling_in_for_a_change(
    empty_database: str, empty: Connection, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    # one that keeps the time of the last change, one that refuses changes: another may send a request for each event
    if size == "large":
        monkeypatch.setattr(adopt, "LARGE", 0)
    empty.execute((SPECIFICATION + EVENTS.format(events=20)).encode())
    empty.execute("update webhook_events set status = 'failed', error_message = 'x' where stripe_event_id = 'evt_1'")
    empty.execute("insert into seed_checkpoints (seed_name, rows_inserted, rows_skipped) values ('s', 3, 4)")
    empty.execute(GUARD.encode())
    before = value(empty, ENABLED)
    schema.migrate(empty_database)
    assert value(empty, ENABLED) == before
    changed = "select count(*) from {} where changed_at > '2025-01-01'"
    assert [value(empty, changed.format(table)) for table in ("webhook_events", "seed_checkpoints")] == [0, 0]
    assert value(empty, "select count(object_id) from webhook_events") == 20
    assert value(empty, "select count(failure) from webhook_events") == 1
    assert value(empty, "select array[rows_seen, total_inserted, total_skipped] from seed_checkpoints") == [7, 3, 4]
    assert check(empty_database) == []


def test_a_deferred_trigger_of_the_users_does_not_stop_the_closing_of_crashed_runs(
    empty_database: str, empty: Connection
) -> None:
    empty.execute(SPECIFICATION.encode())
    empty.execute("create table audit (status text); insert into cron_job_runs (job_name) values ('a'), ('a')")
    empty.execute(
        "create function audit() returns trigger language plpgsql as"
        " $$ begin insert into audit values (new.status); return null; end $$;"
        " create constraint trigger audit after update on cron_job_runs deferrable initially deferred"
        " for each row execute function audit()"
    )
    schema.migrate(empty_database)
    assert empty.execute("select status from audit").fetchall() == [("failed",)]


def test_a_large_table_is_adopted_in_a_schema_of_any_name(
    empty_database: str, empty: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adopt, "LARGE", 0)
    empty.execute('create schema "5 %s, \'"; set search_path to "5 %s, \'"')
    empty.execute((SPECIFICATION + EVENTS.format(events=5)).encode())
    schema.migrate(empty_database, "5 %s, '")
    assert value(empty, "select count(object_id) from webhook_events") == 5
    assert check(empty_database, "5 %s, '") == []
