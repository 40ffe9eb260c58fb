"""What find_alerts and collect_alerts find: no end of a run is lost, and no more rows are read than these runs need."""

from __future__ import annotations

from typing import Any

import psycopg

from tests.sql.race import value

Connection = psycopg.Connection[Any]


def look(conn: Connection) -> None:
    conn.execute("select collect_alerts('{channel}')")


def told(conn: Connection) -> list[tuple[str, str]]:
    return conn.execute("select kind, subject from alerts order by created_at, kind, subject").fetchall()


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
