"""What `pgonce_diagnose_seed` says about an import in each state."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

Connection = psycopg.Connection[Any]

# code: the columns of the checkpoint; its runner (alive, dead, none)
SEEDS: dict[str, tuple[dict[str, Any], str]] = {
    "at_work": ({}, "alive"),
    "stalled": ({"batch_ago": "10 minutes"}, "alive"),
    "pausing": ({"paused": True}, "alive"),
    "paused": ({"paused": True}, "none"),
    "dead": ({}, "dead"),
    "left": ({}, "none"),
    "source_changed": (
        {"status": "failed", "error": "pgonce.errors.SourceChanged: the source of x has changed since row 5"},
        "none",
    ),
    "table_changed": ({"status": "failed", "error": "pgonce.errors.TableChanged: x: table y is empty"}, "none"),
    "bad_row": ({"status": "failed", "error": "pgonce.errors.RowRejected: a row does not fit into x"}, "none"),
    "unfinished": ({"status": "failed", "error": "the file ends with half a line"}, "unfinished"),
    "raised": ({"status": "failed", "error": "ValueError: no"}, "none"),
    "differs": ({"status": "complete", "verified": '{"ok": false, "keys": 9, "missing": 2, "different": 1}'}, "none"),
    "has_rejects": ({"status": "complete", "rejected": 3}, "none"),
}
PRINTED_ONLY = {"unlogged", "no_key", "unstable"}


def make(conn: Connection, columns: dict[str, Any], runner: str, name: str | None = None) -> str:
    name = name or f"seed {uuid4().hex}"
    given = {"status": "in_progress", "error": None, "verified": None, "rejected": 0, "paused": False, **columns}
    ago = given.pop("batch_ago", "1 s")
    conn.execute(
        "insert into seed_checkpoints (seed_name, status, error_message, verified, rows_rejected, rows_seen, "
        "paused_at) values (%(name)s, %(status)s, %(error)s, %(verified)s, %(rejected)s, 10, "
        "case when %(paused)s then now() end)",
        {"name": name, **given},
    )
    conn.execute(
        "insert into pgonce_seed_batches (seed_name, slot, batch, rows, committed_at) "
        "select %s, n, n, 5, clock_timestamp() - %s::interval - (9 - n) * interval '1 s' from generate_series(1, 9) n",
        [name, ago],
    )
    if runner == "unfinished":
        conn.execute(
            "insert into cron_job_runs (job_name, key, status, scope) "
            """values ('seed_runner', %s, 'failed', '{"outcome": "unfinished"}')""",
            [name],
        )
    elif runner != "none":
        conn.execute(
            "insert into cron_job_runs (job_name, key, started_at, heartbeat_at, run_window, process) "
            "values ('seed_runner', %s, now() - interval '1 hour', now() - %s::interval, '2 minutes', 'w:1')",
            [name, "1 s" if runner == "alive" else "3 minutes"],
        )
    return name


def diagnose(conn: Connection, name: str) -> list[tuple[str, str, str, str | None]]:
    return conn.execute("select cause, evidence, action, command from pgonce_diagnose_seed(%s)", [name]).fetchall()


def test_large_numbers_are_written_for_people(shared: Connection) -> None:
    with shared.transaction(force_rollback=True):
        columns = {"status": "complete", "rejected": 1_204_300}
        [(_, said, *_)] = diagnose(shared, make(shared, columns, "none"))
    assert said == "1,204,300 of 10 rows were rejected."


@pytest.mark.parametrize("code", SEEDS)
def test_an_import_has_its_cause_and_action(shared: Connection, code: str) -> None:
    wanted = shared.execute("select cause, action from pgonce_seed_causes() where kind = %s", [code]).fetchone()
    ((cause, evidence, action, command),) = diagnose(shared, make(shared, *SEEDS[code]))
    assert (cause, action) == wanted
    assert evidence
    assert (command is None) == (code == "at_work")


def test_every_cause_of_the_list_is_told_apart_by_these_tests(shared: Connection) -> None:
    codes = {row[0] for row in shared.execute("select kind from pgonce_seed_causes()")}
    assert codes == SEEDS.keys() | PRINTED_ONLY


def test_a_complete_import_without_rejects_has_no_diagnosis(shared: Connection) -> None:
    assert diagnose(shared, make(shared, {"status": "complete", "verified": '{"ok": true}'}, "none")) == []


def test_an_import_is_not_told_by_the_partition_of_another_that_has_its_name(shared: Connection) -> None:
    name = make(shared, *SEEDS["raised"], f"people/{uuid4().hex}")
    shared.execute(
        "insert into cron_job_runs (job_name, key, status, scope) values ('seed_runner', %s, 'failed', %s)",
        [name, '{"seed_name": "people", "outcome": "unfinished"}'],
    )
    wanted = shared.execute("select cause from pgonce_seed_causes() where kind = 'raised'").fetchone()
    assert diagnose(shared, name)[0][:1] == wanted


def test_an_unknown_import_is_an_error(shared: Connection) -> None:
    with pytest.raises(psycopg.Error, match="has never run here") as refused:
        diagnose(shared, "nobody")
    assert refused.value.sqlstate == "PT404"


def test_an_import_that_has_just_started_does_not_stand_still(shared: Connection) -> None:
    name = make(shared, {"batch_ago": "3 days"}, "alive")
    shared.execute("update cron_job_runs set started_at = clock_timestamp() where key = %s", [name])
    assert diagnose(shared, name)[0][0] == "It is running."


def test_an_import_of_a_file_is_run_by_the_command_that_started_it(shared: Connection) -> None:
    name = make(shared, {}, "none", f"people:{uuid4().hex}.csv")
    assert diagnose(shared, name)[0][3] is None
