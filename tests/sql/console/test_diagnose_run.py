"""What `pgonce_diagnose_run` says about a run in each state that is not its success."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

Connection = psycopg.Connection[Any]
MakeRun = Callable[..., UUID]
TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/billing.py", line 88, in bill
    send()
ValueError: no price"""

# code: the columns of the run
RUNS: dict[str, dict[str, Any]] = {
    "at_work": {"status": "running"},
    "slow": {"status": "running", "ago": "1 hour"},
    "stopping": {"status": "running", "stop_requested_at": "now"},
    "silent": {"status": "running", "beat_ago": "9 minutes"},
    "dead": {"status": "running", "beat_ago": "16 minutes"},
    "waits_for_retry": {"status": "failed", "error_message": TRACEBACK, "retry": True},
    "interrupted": {"status": "failed", "error_message": "worker stopped", "retry": True},
    "abandoned": {"status": "failed", "error_message": "abandoned: last sign of life 2026-11-29, window 15 minutes"},
    "ended": {"status": "failed", "error_message": "ended by hand: it hangs"},
    "timed_out": {"status": "failed", "error_message": "timed out after 1:00:00"},
    "raised": {"status": "failed", "error_message": TRACEBACK},
    "blocked": {"status": "skipped", "error_message": "overlap: run … has been running", "blocked_by": True},
    "paused": {"status": "skipped", "error_message": "paused: the printer is broken"},
    "given_up": {"status": "skipped", "error_message": "no worker had it"},
}
SAID = [
    {"error_message": f"{said}\nexit code 1"}
    for said in ("timed out after 30 s", "abandoned: no lock", "ended by hand", "worker stopped")
]
"""What the command of `pgonce exec` may have said, in pgonce's words."""


@pytest.fixture
def make(shared: Connection) -> MakeRun:
    def make_run(
        status: str,
        ago: str = "1 minute",
        beat_ago: str = "0",
        error_message: str | None = None,
        stop_requested_at: str | None = None,
        retry: bool = False,
        blocked_by: bool = False,
        job: str | None = None,
    ) -> UUID:
        run, job = uuid4(), job or f"job {uuid4().hex}"
        for n in range(5):
            shared.execute(
                "insert into cron_job_runs (job_name, status, started_at, completed_at, duration_ms) "
                "values (%s, 'succeeded', now() - interval '1 day' - %s * interval '1 h', now(), %s)",
                [job, n, 60_000 + n],
            )
        shared.execute(
            "insert into cron_job_runs (id, job_name, status, started_at, heartbeat_at, error_message, process, "
            "stop_requested_at, blocked_by, scheduled_for, retries) values (%s, %s, %s, "
            "clock_timestamp() - %s::interval, clock_timestamp() - %s::interval, %s, 'worker-2:4127', %s, %s, "
            "now(), 1)",
            [run, job, status, ago, beat_ago, error_message, stop_requested_at, uuid4() if blocked_by else None],
        )
        if retry:
            shared.execute("insert into pgonce_job_retries values (%s, %s, now() + interval '1 minute')", [run, job])
        return run

    return make_run


def diagnose(conn: Connection, run: UUID) -> tuple[str, str, str, str | None]:
    rows = conn.execute("select cause, evidence, action, command from pgonce_diagnose_run(%s)", [run]).fetchall()
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize(("code", "more"), [*((code, {}) for code in RUNS), *(("raised", said) for said in SAID)])
def test_a_run_that_has_not_succeeded_has_its_cause_and_action(
    shared: Connection, make: MakeRun, code: str, more: dict[str, str]
) -> None:
    wanted = shared.execute("select cause, action from pgonce_job_causes() where kind = %s", [code]).fetchone()
    cause, evidence, action, command = diagnose(shared, make(**RUNS[code] | more))
    assert (cause, action) == wanted
    assert evidence
    assert (command is None) == (code == "at_work")


def test_every_cause_of_the_list_is_told_apart_by_these_tests(shared: Connection) -> None:
    codes = {row[0] for row in shared.execute("select kind from pgonce_job_causes()")}
    assert codes == RUNS.keys() | {"missed"}


def test_a_run_that_succeeded_has_no_diagnosis(shared: Connection, make: MakeRun) -> None:
    run = make("running")
    shared.execute("select complete_job_run(%s)", [run])
    assert shared.execute("select * from pgonce_diagnose_run(%s)", [run]).fetchall() == []


def test_an_unknown_run_is_an_error(shared: Connection) -> None:
    with pytest.raises(psycopg.Error, match="there is no job run") as refused:
        shared.execute("select * from pgonce_diagnose_run(%s)", [uuid4()])
    assert refused.value.sqlstate == "PT404"


def test_the_evidence_of_a_slow_run_has_its_figures_and_its_process(shared: Connection, make: MakeRun) -> None:
    run = make("running", ago="1 hour")
    job = shared.execute("select job_name from cron_job_runs where id = %s", [run]).fetchone()
    for _ in range(2):
        shared.execute("select start_job_run(%s)", job)
    _, evidence, _, command = diagnose(shared, run)
    assert "running for 1 h 0 min, usually at most 1 min." in evidence
    assert "2 starts were skipped because of it." in evidence
    assert "worker-2:4127" in evidence
    assert command == f"pgonce job stop {str(run)[:8]}"


def test_the_evidence_of_a_stop_says_whether_the_run_can_know_of_it(shared: Connection, make: MakeRun) -> None:
    run = make("running", beat_ago="5 s", stop_requested_at="now")
    assert "and has not sent a heartbeat since" in diagnose(shared, run)[1]
    shared.execute("select beat_job_run(%s)", [run])
    assert "and has sent a heartbeat since" in diagnose(shared, run)[1]


def test_a_heartbeat_that_is_kept_apart_counts(shared: Connection, make: MakeRun) -> None:
    run = make("running", beat_ago="14 minutes")
    shared.execute("insert into pgonce_job_heartbeats (run_id) values (%s)", [run])
    assert diagnose(shared, run)[0] == "It is running as usual."


def test_a_skipped_run_says_what_has_become_of_the_one_in_its_way(shared: Connection, make: MakeRun) -> None:
    blocker = make("running")
    job = shared.execute("select job_name from cron_job_runs where id = %s", [blocker]).fetchone()
    shared.execute("select start_job_run(%s)", job)
    row = shared.execute("select id from cron_job_runs where job_name = %s and status = 'skipped'", job).fetchone()
    assert row
    assert "has been running for 1 min on worker-2:4127" in diagnose(shared, row[0])[1]
    shared.execute("select complete_job_run(%s)", [blocker])
    _, evidence, _, command = diagnose(shared, row[0])
    assert "has ended since, as succeeded" in evidence
    assert command == f"pgonce job show {str(blocker)[:8]}"


def test_a_failure_shows_its_own_line_and_place_and_no_quoted_value(shared: Connection, make: MakeRun) -> None:
    assert "ValueError: no price, at shop/billing.py:88 in bill" in diagnose(shared, make(**RUNS["raised"]))[1]
    quoted = 'psycopg.errors.InvalidTextRepresentation: invalid input syntax for type integer: "4111 1111"'
    assert "4111" not in diagnose(shared, make("failed", error_message=quoted))[1]


@pytest.mark.parametrize(
    ("name", "words"),
    [("send; rm -rf 'x'", """'send; rm -rf '"'"'x'"'"''"""), ("--help", "-- '--help'")],
)
def test_a_name_is_one_argument_of_the_shell_command(shared: Connection, make: MakeRun, name: str, words: str) -> None:
    command = diagnose(shared, make("failed", error_message="x", job=name))[3]
    assert command == f"pgonce job request {words}"


def test_a_tick_that_nothing_started_is_diagnosed_by_its_job(shared: Connection) -> None:
    shared.execute(
        "insert into pgonce_job_expectations (job_name, every, since) "
        "values ('backup', '1 day', now() - interval '2 days')"
    )
    (row,) = shared.execute("select cause, evidence from pgonce_diagnose_job('backup')").fetchall()
    assert row[0] == "Nothing started it."
    assert "it has never run" in row[1]
