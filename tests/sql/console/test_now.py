"""What the first page is told: what is late, stuck or slow, and nothing that is well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

Connection = psycopg.Connection[Any]


@pytest.fixture
def conn(shared: Connection) -> Iterator[Connection]:
    """A transaction that is rolled back."""
    with shared.transaction(force_rollback=True):
        yield shared


def facts(conn: Connection, *names: str) -> list[Any]:
    """These columns of the facts."""
    [row] = conn.execute(f"select {', '.join(names)} from pgonce_console_facts()".encode()).fetchall()
    return list(row)


def stuck(conn: Connection) -> dict[str, str]:
    """The stuck imports, and why."""
    return dict(conn.execute("select seed_name, status from pgonce_console_stuck_imports()").fetchall())


def event(conn: Connection, name: str, **columns: str) -> None:
    """A queued event that nobody holds, with these columns as SQL."""
    row = {
        "stripe_event_id": f"'{name}'", "event_type": "'invoice.paid'", "queued": "true", "attempts": "0",
        "lease": "null", "lease_expires_at": "null", "next_attempt_at": "now()", **columns,
    }  # fmt: skip
    conn.execute(f"insert into webhook_events ({', '.join(row)}) values ({', '.join(row.values())})".encode())


def test_an_event_is_late_when_nobody_has_taken_it_for_a_minute(conn: Connection) -> None:
    event(conn, "evt_now")
    event(conn, "evt_later", next_attempt_at="now() + interval '1 hour'")
    assert facts(conn, "waiting", "late_events") == [1, 0]
    event(conn, "evt_late", next_attempt_at="now() - interval '2 minutes'")
    assert facts(conn, "waiting", "late_events", "waiting_again", "oldest_due_state") == [2, 1, 0, "waiting"]
    event(conn, "evt_failed", status="'failed'", next_attempt_at="now() - interval '3 minutes'")
    assert facts(conn, "waiting", "late_events", "waiting_again", "oldest_due_state") == [3, 2, 1, "failed"]


def test_an_event_that_a_handler_is_at_work_on_does_not_wait(conn: Connection) -> None:
    due = {"next_attempt_at": "now() - interval '1 hour'", "lease": "gen_random_uuid()"}
    event(conn, "evt_held", lease_expires_at="now() + interval '20 s'", **due)
    assert facts(conn, "waiting", "late_events", "oldest_due_at", "long_handlers") == [0, 0, None, 0]
    event(conn, "evt_lost", lease_expires_at="now() - interval '20 s'", **due)
    assert facts(conn, "waiting", "late_events", "long_handlers", "oldest_due_state") == [1, 1, 0, "processing"]


def test_metrics_and_doctor_do_not_call_late_what_is_being_handled(conn: Connection) -> None:
    def said() -> tuple[bool, set[str]]:
        oldest = "select value from pgonce_collect_metrics() where metric = 'pgonce_webhook_oldest_due_seconds'"
        [(seconds,)] = conn.execute(oldest.encode()).fetchall()
        found = conn.execute("select state from pgonce_examine() where area = 'webhooks'").fetchall()
        return seconds > 300, {state for (state,) in found}

    due = {"next_attempt_at": "now() - interval '1 hour'", "lease": "gen_random_uuid()"}
    event(conn, "evt_held", lease_expires_at="now() + interval '20 s'", **due)
    event(conn, "evt_renewed", lease_expires_at="now() - interval '20 s'", **due)
    conn.execute(
        "insert into pgonce_webhook_leases select id, lease, now() + interval '20 s' from webhook_events"
        " where stripe_event_id = 'evt_renewed'"
    )
    assert said() == (False, {"ok"})
    event(conn, "evt_lost", lease_expires_at="now() - interval '20 s'", **due)
    assert said() == (True, {"failure"})


def test_a_handler_that_renews_its_lease_for_five_minutes_is_named(conn: Connection) -> None:
    due = {"next_attempt_at": "now() - interval '1 hour'", "lease": "gen_random_uuid()"}
    for name, minutes in (("evt_short", 4), ("evt_long", 12), ("evt_less", 6)):
        event(conn, name, lease_expires_at=f"now() - interval '{minutes} minutes'", **due)
    conn.execute(
        "insert into pgonce_webhook_leases select id, lease, now() + interval '20 s' from webhook_events"
        " where stripe_event_id like 'evt%'"
    )
    assert facts(conn, "long_handlers", "long_handler", "late_events") == [2, "evt_long", 0]


def test_an_event_that_keeps_failing_counts_from_its_second_hour_on(conn: Connection) -> None:
    again = {"status": "'failed'", "next_attempt_at": "now() + interval '6 hours'"}
    event(conn, "evt_fresh", received_at="now() - interval '30 minutes'", **again)
    assert facts(conn, "retrying", "retrying_since") == [0, None]
    event(conn, "evt_old", received_at="now() - interval '2 days'", **again)
    [count, since, now] = facts(conn, "retrying", "retrying_since", "now")
    assert (count, (now - since).days) == (1, 2)


def test_retries_and_requested_runs_that_nobody_starts_are_late_unless_the_job_is_paused(conn: Connection) -> None:
    conn.execute(
        "insert into pgonce_job_retries (run_id, job_name, due_at) values"
        " (gen_random_uuid(), 'retried', now() - interval '1 hour'), (gen_random_uuid(), 'soon', now())"
    )
    assert facts(conn, "late_starts", "late_start_of") == [1, "retried"]
    conn.execute(
        "insert into pgonce_job_requests (job_name, requested_at, answered_at) values"
        " ('asked', now() - interval '2 hours', null), ('answered', now() - interval '2 hours', now())"
    )
    assert facts(conn, "late_starts", "late_start_of") == [2, "asked"]
    conn.execute("insert into pgonce_job_pauses (job_name, reason) values ('asked', 'x'), ('retried', 'x')")
    assert facts(conn, "late_starts", "late_start_of") == [0, None]


def test_a_job_has_failed_if_its_last_run_did_and_is_not_retried(conn: Connection) -> None:
    def run(job: str, status: str, minutes: int, key: str = "") -> None:
        conn.execute(
            "insert into cron_job_runs (job_name, status, started_at, key)"
            " values (%s, %s, now() - %s * interval '1 minute', %s)",
            [job, status, minutes, key],
        )

    run("mended", "failed", 9)
    run("mended", "succeeded", 5)
    run("seed_runner", "failed", 1)
    assert facts(conn, "failed_jobs", "failed_job") == [0, None]
    run("backup", "failed", 9)
    run("backup", "skipped", 2)
    run("by key", "failed", 30, "eu")
    run("by key", "succeeded", 3, "us")
    assert facts(conn, "failed_jobs", "failed_job") == [2, "backup"]
    conn.execute(
        "insert into pgonce_job_retries (run_id, job_name, due_at)"
        " select id, job_name, now() from cron_job_runs where job_name = 'backup' and status = 'failed'"
    )
    assert facts(conn, "failed_jobs", "failed_job") == [1, "by key"]


def test_the_lease_of_a_direct_client_that_died_counts(conn: Connection) -> None:
    event(
        conn, "evt_direct", queued="false", next_attempt_at="null", lease="gen_random_uuid()",
        lease_expires_at="now() - interval '2 minutes'",
    )  # fmt: skip
    assert facts(conn, "expired_leases", "leases_counted") == [1, True]
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, queued, lease, lease_expires_at, next_attempt_at)"
        " select 'evt_' || n, 'x', true, null, null, now() from generate_series(1, 20001) n"
    )
    assert facts(conn, "leases_counted") == [False]


def seed(conn: Connection, name: str, minutes: float, **columns: str) -> None:
    """An import whose last batch was so long ago."""
    row = {"seed_name": f"'{name}'", "last_updated_at": f"now() - {minutes} * interval '1 minute'", **columns}
    conn.execute(f"insert into seed_checkpoints ({', '.join(row)}) values ({', '.join(row.values())})".encode())
    conn.execute(
        "insert into pgonce_seed_batches (seed_name, slot, batch, rows, committed_at)"
        " select %s, n, n, 1000, now() - (%s + (5 - n) * 0.05) * interval '1 minute' from generate_series(1, 5) n",
        [name, minutes],
    )


def runner(conn: Connection, key: str, minutes: float, *, alive: bool = True) -> None:
    """A run of an import or of one of its partitions, which began so long ago."""
    conn.execute(
        "insert into cron_job_runs (job_name, key, started_at, heartbeat_at) values ('seed_runner', %s,"
        " now() - %s * interval '1 minute', now() - %s * interval '1 minute')",
        [key, minutes, 0 if alive else 300],
    )


def test_an_import_that_stands_still_is_stuck_although_its_process_is_alive(conn: Connection) -> None:
    seed(conn, "moving", 0.1)
    runner(conn, "moving", 60)
    seed(conn, "standing", 240)
    runner(conn, "standing", 300)
    seed(conn, "in parts", 240)
    runner(conn, "in parts/a", 300)
    seed(conn, "resumed", 240)
    runner(conn, "resumed", 0.1)
    seed(conn, "pausing", 240, paused_at="now()")
    runner(conn, "pausing", 300)
    seed(conn, "left", 20)
    seed(conn, "dead", 240)
    runner(conn, "dead", 300, alive=False)
    seed(conn, "failed", 1, status="'failed'")
    seed(conn, "failed, and tried again", 60, status="'failed'")
    runner(conn, "failed, and tried again", 0.1)
    seed(conn, "done", 999, status="'complete'")
    assert stuck(conn) == {
        "standing": "stalled", "in parts": "stalled", "left": "in_progress", "dead": "in_progress", "failed": "failed",
    }  # fmt: skip


def test_the_first_page_and_the_page_of_an_import_agree_on_what_stands_still(conn: Connection) -> None:
    for number, minutes in enumerate((0.1, 0.4, 0.6, 5, 240)):
        seed(conn, f"import {number}", minutes)
        runner(conn, f"import {number}", 600)
    diagnosed = {
        f"import {number}"
        for number in range(5)
        for (kind,) in conn.execute("select kind from pgonce_diagnose_seed(%s)", [f"import {number}"]).fetchall()
        if kind == "stalled"
    }
    assert stuck(conn).keys() == diagnosed
    assert diagnosed
