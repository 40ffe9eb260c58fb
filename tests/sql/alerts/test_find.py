"""What pgonce_find_alerts and pgonce_collect_alerts find: no end of a run is lost, and no other row is read."""

from __future__ import annotations

from typing import Any

import psycopg

from tests.sql.race import value

Connection = psycopg.Connection[Any]


def look(conn: Connection) -> None:
    conn.execute("select pgonce_collect_alerts('{channel}')")


def told(conn: Connection) -> list[tuple[str, str]]:
    return conn.execute("select kind, subject from pgonce_alerts order by created_at, kind, subject").fetchall()


def test_a_long_run_is_told_however_many_of_other_keys_ran_meanwhile(conn: Connection) -> None:
    conn.execute("select start_job_run('per_tenant', p_key => 'big')")
    conn.execute("update cron_job_runs set started_at = now() - interval '6 hours'")
    conn.execute(
        "insert into cron_job_runs (job_name, key, status, started_at, completed_at)"
        " select 'per_tenant', n::text, 'succeeded', at, at from generate_series(1, 40) n,"
        " lateral (select now() - interval '5 hours' + n * interval '1 minute' as at) t"
    )
    look(conn)
    conn.execute("select fail_job_run(id, 'out of memory') from cron_job_runs where key = 'big'")
    look(conn)
    look(conn)
    assert told(conn) == [("run_failed", "per_tenant/big")]


def fail_tick(conn: Connection, minute: int, backoff: str = "1 minute") -> Any:
    """The run of a tick that fails and has three retries."""
    tick = "date_trunc('hour', now()) + %s * interval '1 minute'"
    run = value(conn, f"select start_job_run('j', '{{}}', '1 h', '', {tick}, 3, %s)", minute, backoff)
    assert value(conn, "select fail_job_run(%s, 'broken')", run)
    return run


def retry(conn: Connection, run: Any) -> Any:
    conn.execute("update pgonce_job_retries set due_at = now() where run_id = %s", [run])
    return value(conn, "select pgonce_retry_job_run(%s)", run)


def test_a_job_whose_retries_give_way_to_newer_ticks_is_told_like_one_without_retries(conn: Connection) -> None:
    before = None
    for minute in range(5):
        run = fail_tick(conn, minute)
        look(conn)
        if before:
            assert retry(conn, before) is None
        again = retry(conn, run)
        look(conn)
        conn.execute("select fail_job_run(%s, 'broken')", [again])
        look(conn)
        before = again
    look(conn)
    failures = [("run_failed", "j"), ("run_failed", "j"), ("failed_in_a_row", "j")]
    assert told(conn) == failures, "four are over, the fifth waits for its retry"


def test_a_failure_is_none_while_its_retry_waits_or_runs_or_when_it_has_succeeded(conn: Connection) -> None:
    run = fail_tick(conn, 0)
    look(conn)
    again = retry(conn, run)
    look(conn)
    conn.execute("select complete_job_run(%s)", [again])
    look(conn)
    assert told(conn) == []
    conn.execute("update cron_job_runs set started_at = started_at - interval '200 days'")
    conn.execute("select complete_job_run(start_job_run('j'))")
    everything = "select kind from pgonce_find_alerts('-infinity', '{}')"
    assert value(conn, "select purge_job_runs(p_limit => 1)") == 1
    assert conn.execute(everything).fetchall() == [], "the failure goes before its retry does"


def test_a_failure_that_becomes_final_hours_after_it_is_told(conn: Connection) -> None:
    hours_ago = (
        "update cron_job_runs set started_at = started_at - interval '5 hours',"
        " completed_at = now() - interval '5 hours' where id = %s"
    )
    replaced = fail_tick(conn, 0, "5 hours")
    conn.execute(hours_ago, [replaced])
    look(conn)
    conn.execute("select complete_job_run(start_job_run('j', p_scheduled_for => now() - interval '4 hours'))")
    assert retry(conn, replaced) is None
    look(conn)
    assert told(conn) == [("run_failed", "j"), ("recovered", "j")]

    conn.execute("truncate pgonce_alerts, cron_job_runs")
    forgotten = fail_tick(conn, 0, "5 hours")
    conn.execute(hours_ago, [forgotten])
    look(conn)
    assert told(conn) == []
    conn.execute("update pgonce_job_retries set due_at = now() - interval '1 hour'")
    look(conn)
    assert told(conn) == [("run_failed", "j")]


def test_a_look_reads_no_more_than_the_runs_that_it_is_about(conn: Connection) -> None:
    """Not the whole table by its time, for a job of which there are few runs: statistics know nothing of those."""
    conn.execute(
        "insert into cron_job_runs (job_name, key, status, started_at)"
        " select 'job_' || n % 50, n, 'succeeded', now() - interval '1 day' - n * interval '1 second'"
        " from generate_series(1, 20000) n"
    )
    conn.execute("vacuum analyze cron_job_runs")
    conn.execute("select start_job_run('rare', p_key => n::text) from generate_series(1, 20) n")
    conn.execute("update cron_job_runs set started_at = now() - interval '2 minutes' where job_name = 'rare'")
    read = (
        "select sum(pg_stat_get_xact_tuples_returned(oid)) from pg_class"
        " where relkind in ('r', 'i') and relname ~ 'cron_(job_)?runs'"
    )
    for plan in ("force_custom_plan", "force_generic_plan"):
        conn.execute(f"set plan_cache_mode = {plan}".encode())
        with conn.transaction():
            before = value(conn, read)
            conn.execute("select from pgonce_find_alerts(now() - interval '1 hour', '{}')")
            assert value(conn, read) - before < 1000
