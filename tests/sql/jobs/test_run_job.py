"""run_job: the audit row records how the command ended, and the next run may start."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.conftest import is_waiting_for_lock, wait_until
from tests.contract.callers import spawn

Connection = psycopg.Connection[Any]


@pytest.mark.parametrize(
    ("timeout", "command", "reason"),
    [
        ("0", "select 1/0", "division by zero"),
        ("0", "do $x$ begin assert 1 = 2, 'figures do not add up'; end $x$", "figures do not add up"),
        ("1s", "select pg_sleep(60)", "canceling statement due to statement timeout"),
    ],
)
def test_a_command_that_ends_with_an_error_of_any_kind_leaves_a_failed_row(
    conn: Connection, timeout: str, command: str, reason: str
) -> None:
    conn.execute("select set_config('statement_timeout', %s, false)", [timeout])
    with pytest.raises(psycopg.errors.RaiseException, match=reason):
        conn.execute("call run_job('nightly', %s)", [command])
    conn.execute("reset statement_timeout")
    assert conn.execute("select status, error_message from cron_job_runs").fetchall() == [("failed", reason)]
    assert conn.execute("select start_job_run('nightly') is not null").fetchone() == (True,)


def test_a_start_that_is_skipped_says_why(conn: Connection) -> None:
    said: list[str | None] = []
    conn.add_notice_handler(lambda notice: said.append(notice.message_primary))
    conn.execute("select start_job_run('nightly')")
    conn.execute("call run_job('nightly', 'select 1')")
    conn.execute("select fail_job_run(id, 'over') from cron_job_runs where status = 'running'")
    conn.execute("select pgonce_pause_job('nightly', 'maintenance')")
    conn.execute("call run_job('nightly', 'select 1')")
    assert [str(each).split(" run ")[0] for each in said] == [
        "nightly: skipped, overlap:",
        "nightly: skipped, paused: maintenance",
    ]


def test_a_command_that_takes_longer_than_its_window_is_at_work_to_whoever_asks(conn: Connection, session: Any) -> None:
    """`pgonce job show` said that it had died."""
    conn.execute("select pg_advisory_lock(7)")
    other = session()
    call = spawn(other.execute, "call run_job('nightly', 'select pg_advisory_lock(7)', '1 us')")
    wait_until(lambda: is_waiting_for_lock(conn, other), "the command")
    assert conn.execute("select pgonce_abandon_job_runs(), reason from pgonce_list_job_runs()").fetchall() == [
        (0, None)
    ]
    said = "select d.kind, d.evidence like '%locked%' from cron_job_runs r, pgonce_diagnose_run(r.id) d"
    assert conn.execute(said.encode()).fetchall() == [("at_work", True)]
    conn.execute("select pg_advisory_unlock(7)")
    call.result(60)
    assert conn.execute("select status from cron_job_runs").fetchall() == [("succeeded",)]


def test_a_command_that_hangs_is_ended_by_hand(conn: Connection, session: Any) -> None:
    """`pgonce job end` and `stop` waited for the end of the command."""
    conn.execute("select pg_advisory_lock(7)")
    other, operator = session(), session()
    call = spawn(other.execute, "call run_job('nightly', 'select pg_advisory_lock(7)')")
    wait_until(lambda: is_waiting_for_lock(conn, other), "the command")
    with pytest.raises(psycopg.Error) as refused:
        operator.execute("select pgonce_stop_job_run(id) from cron_job_runs")
    assert refused.value.sqlstate == "PT409"
    hint = f"role postgres may end it, by `pgonce job end` or by select pg_terminate_backend({other.info.backend_pid})"
    assert hint in str(refused.value)
    assert operator.execute("select pgonce_end_job_run(id, 'it hangs') from cron_job_runs").fetchall() == [(True,)]
    with pytest.raises(psycopg.OperationalError):
        call.result(60)
    assert conn.execute("select status, error_message from cron_job_runs").fetchall() == [
        ("failed", "ended by hand: it hangs")
    ]


def test_a_command_of_another_role_that_hangs_is_named(conn: Connection, session: Any) -> None:
    conn.execute("select pg_advisory_lock(7)")
    other, operator = session(), session()
    call = spawn(other.execute, "call run_job('nightly', 'select pg_advisory_lock(7)')")
    wait_until(lambda: is_waiting_for_lock(conn, other), "the command")
    operator.execute("set role service_role")
    with pytest.raises(psycopg.Error, match=f"role postgres may end it, .*{other.info.backend_pid}"):
        operator.execute("select pgonce_end_job_run(id, 'it hangs') from cron_job_runs")
    conn.execute("select pg_advisory_unlock(7)")
    call.result(60)
    assert conn.execute("select status from cron_job_runs").fetchall() == [("succeeded",)]
