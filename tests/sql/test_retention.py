"""Old rows are deleted in batches, without waiting: no live or queued event, no running run, no job's last run."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql.race import IMPATIENT, Open, value

Connection = psycopg.Connection[Any]


@pytest.fixture
def database(swept_database: str) -> str:
    """One database for the module, emptied after each test."""
    return swept_database


def age(conn: Connection, table: str, column: str, days: int = 400) -> None:
    conn.execute(f"update {table} set {column} = clock_timestamp() - {days} * interval '1 day'".encode())


@pytest.fixture
def inbox(conn: Connection) -> Connection:
    """One old event of every state; its id names the state."""
    for event in ("held", "expired", "failed", "succeeded", "ignored"):
        conn.execute("select claim_webhook(%s, 'x', '{}')", [event])
    states = ["waiting", "heldq", "expiredq", "failedq", "dead", "succeededq", "ignoredq"]
    conn.execute("select pgonce_queue_webhooks(%s, %s, %s)", [states, ["x"] * 7, ["{}"] * 7])
    conn.execute(
        "update webhook_events set lease = gen_random_uuid(), lease_expires_at = clock_timestamp() + interval '1 hour'"
        " where queued and stripe_event_id <> 'waiting'"
    )
    for verb, pattern in (
        ("complete_webhook(id, lease)", "succeeded%"),
        ("ignore_webhook(id, lease, 'why')", "ignored%"),
    ):
        conn.execute(f"select {verb} from webhook_events where stripe_event_id like '{pattern}'".encode())
    conn.execute("select fail_webhook(id, lease, 'why') from webhook_events where stripe_event_id ~ '^(failed|dead)'")
    conn.execute("update webhook_events set next_attempt_at = null where stripe_event_id = 'dead'")
    conn.execute("update webhook_events set lease_expires_at = now() where stripe_event_id like 'expired%'")
    age(conn, "webhook_events", "received_at")
    return conn


def events(conn: Connection) -> set[str]:
    return {row[0] for row in conn.execute("select stripe_event_id from webhook_events").fetchall()}


def test_an_event_that_is_held_or_still_queued_is_never_deleted(inbox: Connection) -> None:
    assert value(inbox, "select purge_webhook_events()") == 7
    assert events(inbox) == {"waiting", "held", "heldq", "expiredq", "failedq"}


def test_events_younger_than_the_limit_stay(inbox: Connection) -> None:
    age(inbox, "webhook_events", "received_at", days=89)
    assert value(inbox, "select purge_webhook_events()") == 0
    assert value(inbox, "select purge_webhook_events('88 days')") == 7


def test_a_batch_of_events_is_the_oldest_and_not_larger_than_asked(conn: Connection) -> None:
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, received_at)"
        " select n::text, 'x', 'succeeded', now() - n * interval '1 day' from generate_series(100, 109) n"
    )
    assert [value(conn, "select purge_webhook_events(p_limit => 4)") for _ in range(4)] == [4, 4, 2, 0]


def test_the_oldest_events_go_first(conn: Connection) -> None:
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, received_at)"
        " select n::text, 'x', 'succeeded', now() - n * interval '1 day' from generate_series(100, 109) n"
    )
    value(conn, "select purge_webhook_events(p_limit => 3)")
    assert events(conn) == {str(number) for number in range(100, 107)}


@pytest.mark.parametrize("column", ["id uuid", "stripe_event_id text"])
@pytest.mark.parametrize("action", ["", "on delete restrict", "on delete set null", "on delete cascade"])
def test_an_event_that_the_users_table_refers_to_keeps_no_other_from_being_deleted(
    conn: Connection, column: str, action: str
) -> None:
    name, kind = column.split()
    conn.execute(
        f"create table orders (event {kind} constraint to_event references webhook_events ({name}) {action})".encode()
    )
    try:
        conn.execute(
            "insert into webhook_events (stripe_event_id, event_type, status)"
            " select 'evt_' || n, 'x', 'succeeded' from generate_series(1, 20) n"
        )
        age(conn, "webhook_events", "received_at")
        conn.execute(f"insert into orders select {name} from webhook_events where stripe_event_id = 'evt_7'".encode())
        conn.execute("update webhook_events set received_at = '2020-01-01' where stripe_event_id = 'evt_7'")
        stays = not action.endswith(("null", "cascade"))
        # also where a whole batch is kept
        assert value(conn, "select purge_webhook_events(p_limit => 1)") == 1
        assert value(conn, "select purge_webhook_events()") == 19 - stays
        if stays:
            with pytest.raises(
                psycopg.errors.ForeignKeyViolation, match=r"rows of table orders keep 1 old rows .* to_event"
            ):
                conn.execute("select purge_webhook_events()")
            conn.execute("delete from orders")
            assert value(conn, "select purge_webhook_events()") == 1
    finally:
        conn.execute("drop table orders")


def test_an_event_that_somebody_has_locked_is_left_without_waiting(inbox: Connection, session: Open) -> None:
    holder = session(autocommit=False)
    holder.execute("select from webhook_events where stripe_event_id in ('succeeded', 'expired') for update")
    purge = "select purge_webhook_events()"
    assert value(session(options=IMPATIENT), purge) == 5
    assert events(inbox) >= {"succeeded", "expired"}
    holder.rollback()
    assert value(inbox, purge) == 2


def test_deleting_events_stops_nobody_who_receives_one(inbox: Connection, session: Open) -> None:
    purger, client = session(autocommit=False), session(options=IMPATIENT)
    assert value(purger, "select purge_webhook_events()") == 7
    assert value(client, "select id from insert_webhook_if_new('new', 'x', '{}')")
    assert value(client, "select id from insert_webhook_if_new('succeeded', 'x', '{}')") is None


@pytest.fixture
def history(conn: Connection) -> Connection:
    """Old runs of five jobs, with skips between and after them; two are running, and one of these is not the last."""
    conn.execute(
        "insert into cron_job_runs (job_name, key, status, started_at, error_message)"
        " select job, days, status, now() - days * interval '1 day', job || days from (values"
        " ('many', 'succeeded', 403), ('many', 'failed', 402), ('many', 'skipped', 401), ('many', 'succeeded', 400),"
        " ('one', 'failed', 401), ('one', 'skipped', 400),"
        " ('skips', 'skipped', 401), ('skips', 'skipped', 400),"
        " ('runs', 'running', 400), ('runs', 'succeeded', 399),"
        " ('ran', 'succeeded', 400), ('ran', 'running', 399)) v (job, status, days)"
    )
    return conn


def runs(conn: Connection) -> set[str]:
    return {row[0] for row in conn.execute("select error_message from cron_job_runs").fetchall()}


def test_a_running_run_and_a_jobs_last_run_are_never_deleted(history: Connection) -> None:
    assert value(history, "select purge_job_runs()") == 7
    assert runs(history) == {"many400", "one401", "runs400", "runs399", "ran399"}
    assert value(history, "select purge_job_runs()") == 0


def test_runs_younger_than_the_limit_stay(history: Connection) -> None:
    age(history, "cron_job_runs", "started_at", days=179)
    before = runs(history)
    assert value(history, "select purge_job_runs()") == 0
    assert runs(history) == before


def test_a_run_that_the_users_table_refers_to_keeps_no_other_from_being_deleted(history: Connection) -> None:
    running = value(history, "select count(*) from cron_job_runs")
    history.execute("create table imports (run uuid references cron_job_runs)")
    try:
        age(history, "cron_job_runs", "started_at")
        history.execute("begin")
        deleted = value(history, "select purge_job_runs('1 day')")
        assert 1 < deleted < running
        history.execute("rollback")
        history.execute(
            "insert into imports select id from cron_job_runs where status = 'succeeded' order by started_at limit 1"
        )
        assert value(history, "select purge_job_runs('1 day', p_limit => 1)") == 1
        assert value(history, "select purge_job_runs('1 day')") == deleted - 2
    finally:
        history.execute("drop table imports")


def test_the_oldest_runs_go_first_and_no_more_than_asked(history: Connection) -> None:
    assert [value(history, "select purge_job_runs(p_limit => 1)") for _ in range(2)] == [1, 1]
    assert "many403" not in runs(history)
    assert "many402" not in runs(history)
    assert value(history, "select purge_job_runs(p_limit => 100)") == 5


def test_a_run_that_somebody_has_locked_is_left_without_waiting(history: Connection, session: Open) -> None:
    holder = session(autocommit=False)
    holder.execute("select from cron_job_runs where error_message = 'many403' for update")
    assert value(session(options=IMPATIENT), "select purge_job_runs()") == 6
    assert "many403" in runs(history)


def test_two_purges_at_once_share_the_work_and_keep_the_last_run(history: Connection, session: Open) -> None:
    first, second = session(autocommit=False), session(options=IMPATIENT)
    assert value(first, "select purge_job_runs(p_limit => 2)") == 2
    assert value(second, "select purge_job_runs()") == 5
    first.commit()
    assert "many400" in runs(history)


def test_entries_of_the_audit_are_deleted_after_a_year(conn: Connection, session: Open) -> None:
    conn.execute("delete from pgonce_audit")
    conn.execute(
        "insert into pgonce_audit (at, actor, source, action, noun, object)"
        " select now() - n * interval '1 day' + interval '1 hour', 'eva', 'cli', 'stop', 'run', n::text"
        " from generate_series(364, 368) n"
    )
    purge = "select pgonce_purge_audit(p_limit => 2)"
    holder = session(autocommit=False)
    holder.execute("select from pgonce_audit where object = '368' for update")
    assert [value(session(options=IMPATIENT), purge) for _ in range(2)] == [2, 0]
    holder.rollback()
    assert value(conn, purge) == 1
    assert {row[0] for row in conn.execute("select object from pgonce_audit").fetchall()} == {"364", "365"}
    assert value(conn, "select pgonce_purge_audit('363 days')") == 2


@pytest.mark.parametrize(
    "statement", ["delete from webhook_events where stripe_event_id = 'evt_1'", "truncate webhook_events"]
)
def test_the_history_of_an_event_goes_with_it_whoever_deletes_it(conn: Connection, role: str, statement: str) -> None:
    for event in ("evt_1", "evt_2"):
        conn.execute("select fail_webhook(id, lease, 'card 4242') from claim_webhook(%s, 'x', '{}')", [event])
    conn.execute(statement.encode())
    left = "select count(*) from pgonce_webhook_attempts a left join webhook_events e on e.id = a.event_id"
    assert value(conn, f"{left} where e.id is null") == 0
    assert value(conn, left) == value(conn, "select count(*) from webhook_events")
    conn.execute(f"grant select, delete on webhook_events to {role}; set role {role}".encode())
    conn.execute("delete from webhook_events where event_type = 'x'")
    conn.execute("reset role")
    assert value(conn, "select count(*) from webhook_events") == 0
