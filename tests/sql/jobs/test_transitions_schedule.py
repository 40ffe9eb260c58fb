"""Every cell of the tables at the heads of jobs_schedule.sql and jobs_operate.sql, run against the database."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.sql import transitions
from tests.sql.transitions import Cell, attempt, rows

Connection = psycopg.Connection[Any]
CELLS = transitions.read("jobs_schedule") + transitions.read("jobs_operate")
STATES = {"absent", "running", "stopping", "stale", "succeeded", "failed", "due", "skipped"}
VERBS = {
    "pgonce_report_job_run", "pgonce_stop_job_run", "pgonce_interrupt_job_run", "pgonce_retry_job_run",
    "pgonce_end_job_run",
}  # fmt: skip


def test_every_state_stands_exactly_once_under_every_verb() -> None:
    listed = [(cell.state, cell.verb) for cell in CELLS]
    assert len(listed) == len(set(listed))
    assert set(listed) == {(state, verb) for state in STATES for verb in VERBS}


def put(conn: Connection, state: str, job: str) -> Any:
    def one(query: str, *arguments: Any) -> Any:
        row = conn.execute(query.encode(), arguments).fetchone()
        return row[0] if row else None

    if state == "absent":
        return uuid4()
    run = one("select start_job_run(%s, p_retries => %s, p_backoff => '1 day')", job, int(state == "due"))
    if state == "skipped":
        assert one("select start_job_run(%s)", job) is None
        skipped = one("select id from cron_job_runs where blocked_by = %s", run)
        one("select complete_job_run(%s)", run)
        return skipped
    if state == "stale":
        conn.execute("update cron_job_runs set heartbeat_at = now() - interval '1 hour' where id = %s", [run])
    elif state == "stopping":
        one("select pgonce_stop_job_run(%s)", run)
    elif state == "succeeded":
        one("select complete_job_run(%s)", run)
    elif state in {"failed", "due"}:
        one("select fail_job_run(%s, 'why')", run)
    return run


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_verb_moves_a_run_as_the_table_says(conn: Connection, cell: Cell) -> None:
    run = put(conn, cell.state, "job")
    before = rows(conn, "select * from cron_job_runs order by started_at")
    call = {
        "pgonce_report_job_run": "select pgonce_report_job_run(%s, 3, 4, 5, 6)",
        "pgonce_interrupt_job_run": "select pgonce_interrupt_job_run(%s, 'worker stopped')",
        "pgonce_end_job_run": "select pgonce_end_job_run(%s, 'hangs')",
    }.get(cell.verb, f"select {cell.verb}(%s)")
    answer = attempt(lambda: rows(conn, call, run)[0][cell.verb])
    after = rows(conn, "select * from cron_job_runs order by started_at")
    if cell.to in {"lost", "none", "false", "PT404"}:
        assert answer == {"none": None, "false": False}.get(cell.to, cell.to)
        assert after == before
        return
    [row] = [each for each in after if each["id"] == (answer if cell.verb == "pgonce_retry_job_run" else run)]
    if cell.verb == "pgonce_report_job_run":
        assert answer == cell.to
        figures = ("rows_processed", "rows_skipped", "progress_done", "progress_total")
        assert [row[name] for name in figures] == [3, 4, 5, 6]
    elif cell.verb == "pgonce_stop_job_run":
        assert answer is True
        assert (row["stop_requested_at"] is not None) == (cell.to == "stopping")
        assert rows(conn, "select * from pgonce_job_retries") == []
    elif cell.verb in {"pgonce_interrupt_job_run", "pgonce_end_job_run"}:
        assert answer is True
        reason = "worker stopped" if cell.verb == "pgonce_interrupt_job_run" else "ended by hand: hangs"
        assert (row["status"], row["error_message"]) == ("failed", reason)
        due = rows(conn, "select run_id from pgonce_job_retries where due_at <= clock_timestamp() and not counted")
        assert due == ([{"run_id": run}] if cell.to == "due" else [])
    else:
        assert (row["status"], row["attempt"], row["retry_of"]) == ("running", 2, run)
        assert rows(conn, "select * from pgonce_job_retries") == []


def test_a_retry_waits_for_another_run_and_gives_way_to_a_newer_tick(conn: Connection) -> None:
    run = put(conn, "due", "job")
    other = rows(conn, "select start_job_run('job') as id")[0]["id"]
    assert rows(conn, "select pgonce_retry_job_run(%s) as id", run) == [{"id": None}]
    assert len(rows(conn, "select * from pgonce_job_retries")) == 1, "it is still to be done"
    rows(conn, "select complete_job_run(%s)", other)
    tick = rows(conn, "select start_job_run('job', p_scheduled_for => now()) as id")[0]["id"]
    rows(conn, "select complete_job_run(%s)", tick)
    assert rows(conn, "select pgonce_retry_job_run(%s) as id", run) == [{"id": None}]
    assert rows(conn, "select * from pgonce_job_retries") == [], "the tick has done the work"


def test_a_tick_of_a_job_that_catches_up_all_is_retried_after_newer_ticks(conn: Connection) -> None:
    conn.execute(
        "insert into pgonce_job_schedules (job_name, cron, timezone, next_tick, catch_up)"
        " values ('job', '* * * * *', 'UTC', now(), 'all')"
    )
    run = put(conn, "due", "job")
    tick = rows(conn, "select start_job_run('job', p_scheduled_for => now()) as id")[0]["id"]
    rows(conn, "select complete_job_run(%s)", tick)
    assert rows(conn, "select pgonce_retry_job_run(%s) is null as dropped", run) == [{"dropped": False}]


@pytest.mark.parametrize(
    "end",
    [
        "complete_job_run(RUN)",
        "fail_job_run(RUN, 'why')",
        "pgonce_complete_job_runs(array[RUN], '{1}', '{0}')",
        "pgonce_end_job_run(RUN, 'why')",
        "pgonce_interrupt_job_run(RUN, 'worker stopped')",
        "pgonce_abandon_job_runs()",
    ],
)
def test_no_run_has_taken_less_than_nothing_after_the_clock_was_set_back(conn: Connection, end: str) -> None:
    [started] = rows(conn, "select start_job_run('job') as id")
    conn.execute("update cron_job_runs set started_at = now() + interval '1 hour', heartbeat_at = '2026-01-01'")
    assert rows(conn, "select duration_ms from pgonce_list_job_runs()") == [{"duration_ms": 0}]
    rows(conn, f"select {end}".replace("RUN", f"'{started['id']}'::uuid"))
    assert rows(conn, "select duration_ms from cron_job_runs where status <> 'running'") == [{"duration_ms": 0}]


@pytest.mark.parametrize("began", ["infinity", "-infinity"])
def test_a_run_with_an_infinite_start_can_be_ended(conn: Connection, began: str) -> None:
    for end in ("complete_job_run(id)", "fail_job_run(id, 'x')", "pgonce_end_job_run(id, 'x')"):
        rows(conn, "select start_job_run('job')")
        conn.execute("update cron_job_runs set started_at = %s", [began])
        assert rows(conn, f"select {end} as said from cron_job_runs where status = 'running'") == [{"said": True}]


def test_a_retry_and_a_requested_run_that_are_sent_again_are_the_same_run(conn: Connection) -> None:
    run, retry = put(conn, "due", "job"), uuid4()
    for _ in range(2):
        assert rows(conn, "select pgonce_retry_job_run(%s, p_retry_id => %s) as id", run, retry) == [{"id": retry}]
    rows(conn, "select complete_job_run(%s)", retry)
    for slots in (None, 2):
        [request], wanted = rows(conn, "select pgonce_request_job_run('job') as id"), uuid4()
        for _ in range(2):
            start = "select pgonce_start_requested_job_run(%s, p_slots => %s, p_run_id => %s) as id"
            assert rows(conn, start, request["id"], slots, wanted) == [{"id": wanted}]
        rows(conn, "select complete_job_run(%s)", wanted)


def test_a_start_in_a_slot_that_is_sent_again_is_the_same_run(conn: Connection) -> None:
    wanted = uuid4()
    for _ in range(2):
        start = "select pgonce_start_job_run_in_slot(2, 'job', p_scheduled_for => '2026-01-01', p_run_id => %s) as id"
        assert rows(conn, start, wanted) == [{"id": wanted}]
    assert rows(conn, "select id, key from cron_job_runs") == [{"id": wanted, "key": "#1"}]


def test_the_longest_backoff_can_be_doubled_for_ever(conn: Connection) -> None:
    [run] = rows(conn, "select start_job_run('job', p_retries => 1000, p_backoff => '1 day') as id")
    conn.execute("update cron_job_runs set attempt = 999")
    assert rows(conn, "select fail_job_run(%s, 'why') as ok", run["id"]) == [{"ok": True}]
    days = (
        "select round(extract(epoch from due_at - clock_timestamp()) / 86400)::integer as days from pgonce_job_retries"
    )
    assert rows(conn, days) == [{"days": 1}]


def test_after_the_clock_was_set_back_a_dead_run_is_closed_when_its_window_is_over(conn: Connection) -> None:
    """It blocked its job for a window after the clock had caught up."""

    def move(hours: int) -> None:
        for table in ("cron_job_runs", "pgonce_job_heartbeats"):
            conn.execute(f"update {table} set heartbeat_at = heartbeat_at + %s * interval '1 h'".encode(), [hours])

    starts = {
        "swept": "select pgonce_abandon_job_runs()",
        "started": "select start_job_run('started')",
        "in a batch": "select pgonce_start_job_runs('{in a batch}', '{null}', '{1h}', array[''], '{null}')",
    }
    for job in (*starts, "apart"):
        [run] = rows(conn, "select start_job_run(%s, p_window => '1 hour') as id", job)
        if job == "apart":
            rows(conn, "select pgonce_keep_heartbeats_apart(%s)", run["id"])
    running = "select job_name from cron_job_runs where status = 'running' order by started_at"
    for query in starts.values():
        move(24)
        conn.execute(query.encode())
        assert [row["job_name"] for row in rows(conn, running)] == [*starts, "apart"], "no window is over"
        ahead = "select job_name from cron_job_runs where status = 'running' and heartbeat_at > clock_timestamp()"
        assert rows(conn, ahead) == [{"job_name": "apart"}]
    conn.execute("update cron_job_runs set heartbeat_at = heartbeat_at + interval '1 day'")
    rows(conn, "select pgonce_correct_heartbeats()")
    move(-2)
    assert rows(conn, "select pgonce_abandon_job_runs() as closed") == [{"closed": 4}]


def test_after_the_clock_was_set_back_a_retry_is_due_when_its_backoff_is_over(conn: Connection) -> None:
    put(conn, "due", "job")  # with a backoff of a day
    conn.execute("update cron_job_runs set completed_at = completed_at + interval '30 days'")
    conn.execute("update pgonce_job_retries set due_at = due_at + interval '30 days'")
    for _ in range(2):
        rows(conn, "select pgonce_abandon_job_runs()")
        late = "select due_at between clock_timestamp() and clock_timestamp() + interval '24.1 hours' as ok"
        assert rows(conn, f"{late} from pgonce_job_retries") == [{"ok": True}]


def test_what_is_said_for_people_is_the_same_under_any_settings(conn: Connection) -> None:
    """These texts stay in rows and alerts: "has been running since 01.12.2026 08:26:58 +1345" was one of them."""
    conn.execute("set datestyle to 'German'; set intervalstyle to 'sql_standard'; set timezone to 'Pacific/Chatham'")
    rows(conn, "select start_job_run('job', p_window => '26 hours')")
    rows(conn, "select start_job_run('job')")
    rows(conn, "select pgonce_start_job_runs('{job}', '{null}', '{1h}', array[''], '{null}')")
    conn.execute("update cron_job_runs set heartbeat_at = heartbeat_at - interval '30 hours' where status = 'running'")
    rows(conn, "select pgonce_abandon_job_runs()")
    rows(conn, "select pgonce_expect_job('job', '1 day'), pgonce_expect_job('never', '36 hours')")
    conn.execute("update cron_job_runs set started_at = started_at - interval '10 days'")
    conn.execute("update pgonce_job_expectations set since = since - interval '10 days'")
    said = rows(conn, "select error_message as said from cron_job_runs union all select reason from pgonce_job_missed")
    time = r"20\d\d-\d\d-\d\d \d\d:\d\d"
    for pattern in (
        f"overlap: run .* has been running since {time} UTC",
        f"abandoned: last sign of life {time}:\\d\\d UTC, window 26 hours",
        f"it should run every 1 day; its last run failed at {time} UTC, on an unnamed process",
        "it should run every 36 hours; it has never run",
    ):
        assert any(re.fullmatch(pattern, row["said"]) for row in said), (pattern, said)
    assert len({row["said"] for row in said if row["said"].startswith("overlap")}) == 1


def test_an_interrupted_run_starts_anew_without_a_retry_of_its_own_for_the_tick_that_it_had(conn: Connection) -> None:
    [first] = rows(
        conn, "select start_job_run('job', '{\"batch\": 3}', p_scheduled_for => '2026-01-01 06:00+00') as id"
    )
    tick = rows(conn, "select scheduled_for from cron_job_runs")[0]["scheduled_for"]
    run = first["id"]
    for _ in range(3):
        assert rows(conn, "select pgonce_interrupt_job_run(%s, 'worker stopped') as ok", run) == [{"ok": True}]
        assert rows(conn, "select pgonce_interrupt_job_run(%s, 'worker stopped') as ok", run) == [{"ok": True}]
        [due] = rows(conn, "select id, scheduled_for from pgonce_due_job_retries('{job}')")
        assert due == {"id": run, "scheduled_for": tick}
        run = rows(conn, "select pgonce_retry_job_run(%s, 'web-1:7') as id", run)[0]["id"]
    [row] = rows(conn, "select attempt, scope, for_tick, scheduled_for, process from cron_job_runs where id = %s", run)
    assert row == {
        "attempt": 1, "scope": {"batch": 3}, "for_tick": tick, "scheduled_for": None, "process": "web-1:7",
    }  # fmt: skip
    assert rows(conn, "select * from pgonce_job_retries") == []


def test_a_run_that_an_operator_has_ended_is_not_retried_and_its_transaction_is_ended(
    conn: Connection, session: Any
) -> None:
    [started] = rows(conn, "select start_job_run('job', p_retries => 3) as id")
    holder = session(autocommit=False)
    holder.execute(f"set local application_name = 'pgonce {started['id']}'")
    holder.execute("select 1")
    assert rows(conn, "select pgonce_end_job_run(%s, 'hangs') as ok", started["id"]) == [{"ok": True}]
    assert rows(conn, "select * from pgonce_job_retries") == []
    with pytest.raises(psycopg.OperationalError):
        holder.execute("select 1")


def test_a_paused_job_starts_again_when_its_pause_is_over_or_is_ended(conn: Connection) -> None:
    def starts() -> bool:
        [run] = rows(conn, "select start_job_run('job') as id")
        if run["id"] is not None:
            rows(conn, "select complete_job_run(%s)", run["id"])
        return run["id"] is not None

    rows(conn, "select pgonce_pause_job('job', 'the partner is down', clock_timestamp() + interval '1 hour')")
    assert not starts()
    [row] = rows(conn, "select error_message from cron_job_runs")
    assert row["error_message"].startswith("paused until ")
    assert row["error_message"].endswith(": the partner is down")
    conn.execute("update pgonce_job_pauses set paused_until = clock_timestamp()")
    assert starts()
    assert rows(conn, "select * from pgonce_job_pauses") == [], "a pause that is over is deleted"
    rows(conn, "select pgonce_pause_job('job', 'again', 'infinity')")
    assert rows(conn, "select paused_until from pgonce_list_jobs()") == [{"paused_until": None}]
    assert not starts()
    assert rows(conn, "select pgonce_resume_job('job') as ended") == [{"ended": True}]
    assert starts()


def test_a_paused_job_is_neither_retried_nor_missed(conn: Connection) -> None:
    run = put(conn, "due", "job")
    conn.execute("update pgonce_job_retries set due_at = clock_timestamp()")
    rows(conn, "select pgonce_pause_job('job', 'why')")
    assert rows(conn, "select pgonce_retry_job_run(%s) as id", run) == [{"id": None}]
    assert len(rows(conn, "select * from pgonce_job_retries where due_at > clock_timestamp()")) == 1, "pushed back"
    rows(conn, "select start_job_run('job', p_scheduled_for => now())")
    assert rows(conn, "select * from pgonce_job_missed") == []


def test_a_request_is_answered_in_the_transaction_that_starts_its_run_and_says_who_is_in_the_way(
    conn: Connection, session: Any
) -> None:
    def ask() -> Any:
        return rows(conn, "select pgonce_request_job_run('job', '{\"a\": 1}') as id")[0]["id"]

    def open_requests() -> list[Any]:
        return [row["id"] for row in rows(conn, "select id from pgonce_open_job_requests('{job}')")]

    def answer(request: Any) -> Any:
        return rows(conn, "select * from pgonce_get_job_request(%s)", request)[0]

    start = "select pgonce_start_requested_job_run(%s, p_process => 'web-1:7') as id"
    request = ask()
    other = session(autocommit=False)
    [dying] = rows(other, start, request)
    assert dying["id"] is not None
    assert rows(conn, start, request) == [{"id": None}], "another worker is at it"
    other.rollback()
    assert open_requests() == [request], "a worker that dies leaves it open"
    [started] = rows(conn, start, request)
    assert answer(request) == {"answered": True, "run_id": started["id"], "answer": "started by web-1:7"}
    assert open_requests() == []
    second = ask()
    assert rows(conn, start, second) == [{"id": None}]
    said = answer(second)
    assert (said["answered"], said["run_id"]) == (True, None)
    assert said["answer"].startswith(f"overlap: run {started['id']} has been running since ")
    assert said["answer"].endswith(" by web-1:7")


def test_a_request_that_a_worker_had_no_thread_for_within_an_hour_is_not_carried_out(conn: Connection) -> None:
    [request] = rows(conn, "select pgonce_request_job_run('job') as id")
    conn.execute("update pgonce_job_requests set requested_at = requested_at - interval '61 minutes'")
    assert rows(conn, "select pgonce_start_requested_job_run(%s) as id", request["id"]) == [{"id": None}]
    assert rows(conn, "select answered from pgonce_get_job_request(%s)", request["id"]) == [{"answered": False}]


def test_a_request_that_is_refused_names_the_run_of_its_own_key(conn: Connection) -> None:
    [run] = rows(conn, "select start_job_run('job', p_key => 'a') as id")
    conn.execute(  # by another session, at the same moment
        "insert into cron_job_runs (job_name, key, status, started_at, error_message)"
        " values ('job', 'b', 'skipped', now() + interval '1 minute', 'of another key')"
    )
    [request] = rows(conn, "select pgonce_request_job_run('job', p_key => 'a') as id")
    assert rows(conn, "select pgonce_start_requested_job_run(%s) as id", request["id"]) == [{"id": None}]
    [answer] = rows(conn, "select answer from pgonce_get_job_request(%s)", request["id"])
    assert answer["answer"].startswith(f"overlap: run {run['id']} has been running since ")


def test_at_most_so_many_runs_of_a_job_with_slots_are_at_work_and_a_tick_fires_in_one_slot(conn: Connection) -> None:
    def start(tick: str | None = None) -> Any:
        query = "select pgonce_start_job_run_in_slot(2, 'job', p_key => 'k', p_scheduled_for => %s) as id"
        return rows(conn, query, tick)[0]["id"]

    first, second = start("2026-01-01 06:00+00"), start()
    assert first is not None
    assert second is not None
    assert start() is None
    assert rows(conn, "select key, status from cron_job_runs order by started_at, key") == [
        {"key": "k#1", "status": "running"}, {"key": "k#2", "status": "running"}, {"key": "k#1", "status": "skipped"},
    ]  # fmt: skip
    rows(conn, "select complete_job_run(%s)", second)
    assert start("2026-01-01 06:00+00") is None, "it has fired, in the other slot"
    assert len(rows(conn, "select * from cron_job_runs")) == 3, "nothing is written"
    conn.execute("update cron_job_runs set heartbeat_at = now() - interval '1 day' where id = %s", [first])
    assert start() is not None
    assert start() is not None, "the slot of a dead run is taken over"
    assert rows(conn, "select status from cron_job_runs where id = %s", first) == [{"status": "failed"}]


def test_runs_of_a_release_with_other_slots_or_none_count_too(conn: Connection) -> None:
    def start(slots: int | None, tick: str | None = None) -> Any:
        if slots is None:
            return rows(conn, "select start_job_run('job', p_key => 'k', p_scheduled_for => %s) as id", tick)[0]["id"]
        query = "select pgonce_start_job_run_in_slot(%s, 'job', p_key => 'k', p_scheduled_for => %s) as id"
        return rows(conn, query, slots, tick)[0]["id"]

    def at_work() -> list[str]:
        found = rows(conn, "select key from cron_job_runs where status = 'running' order by key")
        return [row["key"] for row in found]

    conn.execute(
        "insert into pgonce_job_schedules (job_name, key, cron, timezone, next_tick, slots)"
        " values ('job', 'k', '* * * * *', 'UTC', now(), 3)"
    )
    plain = start(None, "2026-01-01 06:00+00")
    assert start(1, "2026-01-01 06:00+00") is None, "it has fired"
    assert start(1, "2026-01-01 06:01+00") is None, "the one run of the release without slots is at work"
    assert start(2, "2026-01-01 06:02+00") is not None, "of two"
    assert start(2, "2026-01-01 06:03+00") is None
    assert at_work() == ["k", "k#1"]
    rows(conn, "select complete_job_run(%s)", plain)
    assert start(None, "2026-01-01 06:02+00") is None, "it has fired"
    assert start(None, "2026-01-01 06:04+00") is None, "a slot is taken"
    [skipped] = rows(conn, "select blocked_by from cron_job_runs where scheduled_for = '2026-01-01 06:04+00'")
    [slot] = rows(conn, "select id from cron_job_runs where status = 'running'")
    assert skipped["blocked_by"] == slot["id"]
    many = "select pgonce_start_job_runs('{job}', '{null}', '{1 min}', '{k}', '{2026-01-01 06:05+00}') as ids"
    assert rows(conn, many) == [{"ids": [None]}], "many at once go by the same rule"
    conn.execute("update cron_job_runs set heartbeat_at = now() - interval '1 day' where id = %s", [slot["id"]])
    assert start(None, "2026-01-01 06:06+00") is not None, "its process is dead"


def test_runs_and_ticks_in_any_slot_count_for_a_job_without_a_schedule(conn: Connection) -> None:
    def start(slots: int, tick: str | None = None) -> Any:
        query = "select pgonce_start_job_run_in_slot(%s, 'job', p_key => 'k', p_scheduled_for => %s) as id"
        return rows(conn, query, slots, tick)[0]["id"]

    first, second, third = (start(3, f"2026-01-01 06:0{minute}+00") for minute in range(3))
    rows(conn, "select start_job_run('job', p_key => 'k#x'), start_job_run('job', p_key => 'kk#1')")
    rows(conn, "select complete_job_run(id) from unnest(%s::uuid[]) id", [first, second])
    assert start(1) is None, "the run in the third slot of the other release is at work"
    assert start(2) is not None
    rows(conn, "select complete_job_run(%s)", third)
    assert start(2, "2026-01-01 06:02+00") is None, "it has fired in the third slot"
    assert start(2, "2026-01-01 06:03+00") is not None


def test_a_retry_in_a_release_without_slots_waits_for_the_runs_in_all_slots(conn: Connection) -> None:
    def retry() -> Any:
        return rows(conn, "select pgonce_retry_job_run(%s) as id", failed)[0]["id"]

    conn.execute(
        "insert into pgonce_job_schedules (job_name, key, cron, timezone, next_tick, slots)"
        " values ('job', 'k', '* * * * *', 'UTC', now(), 2), ('job', 'issue#3', '* * * * *', 'UTC', now(), 2)"
    )
    start = "select pgonce_start_job_run_in_slot(2, 'job', p_key => 'k', p_retries => 1, p_backoff => '1 us') as id"
    first, failed = (rows(conn, start)[0]["id"] for _ in range(2))
    rows(conn, "select fail_job_run(%s, 'why')", failed)
    assert retry() is None, "the run in the other slot is at work"
    rows(conn, "select complete_job_run(%s)", first)
    [row] = rows(conn, "select key from cron_job_runs where id = %s", retry())
    assert row == {"key": "k"}, "a start without slots finds it"

    own = "select start_job_run('job', p_key => 'issue#3', p_retries => 1, p_backoff => '1 us') as id"
    failed = rows(conn, own)[0]["id"]
    rows(conn, "select fail_job_run(%s, 'why')", failed)
    rows(conn, "select start_job_run('job', p_key => 'issue')")
    [row] = rows(conn, "select pgonce_retry_job_run(%s, p_slots => 2) as id", failed)
    assert rows(conn, "select key from cron_job_runs where id = %s", row["id"]) == [{"key": "issue#3#1"}]


def test_a_retry_takes_any_free_slot_and_no_more_runs_are_at_work(conn: Connection) -> None:
    def start(slots: int, tick: str | None = None) -> Any:
        query = (
            "select pgonce_start_job_run_in_slot(%s, 'job', p_key => 'k', p_scheduled_for => %s, p_retries => 1,"
            " p_backoff => '1 us') as id"
        )
        return rows(conn, query, slots, tick)[0]["id"]

    def retry(run: Any, slots: int) -> Any:
        return rows(conn, "select pgonce_retry_job_run(%s, p_slots => %s) as id", run, slots)[0]["id"]

    first, second, third = start(3), start(3), start(3)
    rows(conn, "select fail_job_run(%s, 'why')", third)
    rows(conn, "select complete_job_run(%s)", second)
    assert retry(third, 1) is None, "the next release has one slot, and it is taken"
    rows(conn, "select complete_job_run(%s)", first)
    anew = retry(third, 1)
    assert rows(conn, "select key, attempt from cron_job_runs where id = %s", anew) == [{"key": "k#1", "attempt": 2}]
    rows(conn, "select complete_job_run(%s)", anew)

    old, other = start(2, "2026-01-01 06:00+00"), start(2)
    rows(conn, "select fail_job_run(%s, 'why')", old)
    assert start(2) is not None
    rows(conn, "select complete_job_run(%s)", other)
    assert start(2, "2026-01-01 06:01+00") is not None
    assert retry(old, 2) is None, "a newer tick does the same work, in the other slot"
    assert rows(conn, "select run_id from pgonce_job_retries where run_id = %s", old) == []


def test_the_slot_of_a_dead_run_is_free_beside_a_run_that_has_its_heartbeats_apart(conn: Connection) -> None:
    def start() -> Any:
        return rows(conn, "select pgonce_start_job_run_in_slot(2, 'job', p_key => 'k') as id")[0]["id"]

    live, dead = start(), start()
    rows(conn, "select pgonce_keep_heartbeats_apart(%s)", live)
    conn.execute("update cron_job_runs set heartbeat_at = now() - interval '1 day'")
    anew = start()
    assert anew is not None
    states = rows(conn, "select id, key, status from cron_job_runs order by started_at")
    assert states == [
        {"id": live, "key": "k#1", "status": "running"}, {"id": dead, "key": "k#2", "status": "failed"},
        {"id": anew, "key": "k#2", "status": "running"},
    ]  # fmt: skip
    assert start() is None
    conn.execute(
        "insert into pgonce_job_schedules (job_name, key, cron, timezone, next_tick, slots)"
        " values ('job', 'k', '* * * * *', 'UTC', now(), 2)"
    )
    rows(conn, "select complete_job_run(%s)", anew)
    plain = "select start_job_run('job', p_key => 'k', p_scheduled_for => '2026-01-01 06:00+00') as id"
    assert rows(conn, plain) == [{"id": None}], "a start of a release without slots sees it, too"


def test_a_run_that_a_trigger_keeps_open_does_not_keep_the_others_open_and_is_said(conn: Connection) -> None:
    conn.execute(
        "create function refuse() returns trigger language plpgsql as $$ begin raise 'not this one'; end $$;"
        " create trigger refuse before update on cron_job_runs for each row when (new.job_name in ('a', 'c'))"
        " execute function refuse();"
        " insert into cron_job_runs (job_name, heartbeat_at)"
        " select n, now() - interval '1 day' from unnest('{a,b,c}'::text[]) n"
    )
    assert rows(conn, "select pgonce_abandon_job_runs() as closed") == [{"closed": 1}]
    assert rows(conn, "select job_name from cron_job_runs where status = 'failed'") == [{"job_name": "b"}]
    with pytest.raises(psycopg.errors.RaiseException, match="not this one"):
        rows(conn, "select pgonce_abandon_job_runs()")


def test_an_interrupted_run_is_alerted_only_if_nobody_starts_it_anew_and_has_the_retries_that_it_had(
    conn: Connection,
) -> None:
    def alerts() -> list[Any]:
        return rows(conn, "select kind from pgonce_find_alerts(now() - interval '1 day', '{}')")

    for retries in (0, 2):
        [started] = rows(conn, "select start_job_run(%s, p_retries => %s) as id", f"job_{retries}", retries)
        rows(conn, "select pgonce_interrupt_job_run(%s, 'worker stopped')", started["id"])
    assert alerts() == []
    conn.execute("update pgonce_job_retries set due_at = now() - interval '16 minutes'")
    assert [alert["kind"] for alert in alerts()] == ["run_failed", "run_failed"]
    rows(conn, "select pgonce_retry_job_run(run_id) from pgonce_job_retries")
    assert alerts() == []
    rows(conn, "select fail_job_run(id, 'why') from cron_job_runs where status = 'running'")
    assert rows(conn, "select job_name from pgonce_job_retries") == [{"job_name": "job_2"}], "its first real failure"
    assert [alert["kind"] for alert in alerts()] == ["run_failed"]

    for reason in ("worker stopped", "the answer to its start was lost: nothing was run"):
        [started] = rows(conn, "select start_job_run('each_minute', p_scheduled_for => now() - interval '1 s') as id")
        rows(conn, "select pgonce_interrupt_job_run(%s, %s)", started["id"], reason)
        rows(conn, "select start_job_run('each_minute', p_scheduled_for => clock_timestamp())")
        assert rows(conn, "select pgonce_retry_job_run(%s) as id", started["id"]) == [{"id": None}]
        assert len(alerts()) == 1, "its next tick does the work"
        [said] = rows(conn, "select kind from pgonce_diagnose_run(%s)", started["id"])
        assert said["kind"] == "interrupted"
        conn.execute("delete from cron_job_runs where job_name = 'each_minute'")
