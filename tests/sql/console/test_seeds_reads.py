"""What the console reads of imports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

Connection = psycopg.Connection[Any]


@pytest.fixture
def conn(shared: Connection) -> Iterator[Connection]:
    """A transaction that is rolled back."""
    with shared.transaction(force_rollback=True):
        yield shared


def test_imports_of_one_moment_are_all_on_one_page_or_the_next(conn: Connection) -> None:
    for n in range(5):
        conn.execute("insert into seed_checkpoints (seed_name, last_updated_at) values (%s, '2026-01-01')", [f"s{n}"])
    page_of = "select last_updated_at, seed_name from pgonce_console_seeds(%s, %s, p_limit => 2)"
    seen: list[str] = []
    position: tuple[Any, Any] = (None, None)
    while page := conn.execute(page_of, position).fetchall():
        seen += [row[1] for row in page]
        position = page[-1]
    assert sorted(seen) == ["s0", "s1", "s2", "s3", "s4"]


def test_an_import_has_its_live_run_and_its_batches_in_order(conn: Connection) -> None:
    conn.execute("insert into seed_checkpoints (seed_name) values ('s')")
    conn.execute("select pgonce_note_batch('s', '', n, n * 10) from generate_series(1, 70) n")
    conn.execute("insert into cron_job_runs (job_name, key, process) values ('seed_runner', 's', 'worker-3:90')")
    row = conn.execute("select process, batch_rows, batch_times from pgonce_console_seeds(p_name => 's')").fetchone()
    assert row
    assert row[0] == "worker-3:90"
    assert row[1] == [n * 10 for n in range(11, 71)]
    assert row[2] == sorted(row[2])
    conn.execute("update cron_job_runs set heartbeat_at = now() - interval '1 hour'")
    assert conn.execute("select process from pgonce_console_seeds(p_name => 's')").fetchone() == (None,)
    conn.execute("update seed_checkpoints set status = 'failed'")
    stuck = "select seed_name from pgonce_console_stuck_imports()"
    for name, is_stuck in (("s/other", True), ("s", False)):  # a seed whose name has a slash is no part of another one
        start = "select start_job_run('seed_runner', jsonb_build_object('seed_name', %s::text), p_key => 's/other')"
        conn.execute("delete from cron_job_runs")
        conn.execute(start, [name])
        assert (conn.execute(stuck).fetchall() == [("s",)]) is is_stuck
        found = conn.execute("select run_id is null from pgonce_console_seeds(p_name => 's')").fetchone()
        assert found == (is_stuck,)


def test_the_starts_of_an_import_are_those_of_its_partitions_too(conn: Connection) -> None:
    keys = (("s", "s"), ("s/part", "s"), ("s/other", "s/other"), ("s2", "s2"), ("other", "other"))
    for key, name in keys:
        conn.execute(
            "insert into cron_job_runs (job_name, key, status, scope) values ('seed_runner', %s, 'failed', %s)",
            [key, Jsonb({"seed_name": name, "from_row": 40, "outcome": "paused"})],
        )
    found = conn.execute("select key, from_row, outcome from pgonce_console_seed_runs('s') order by key").fetchall()
    assert found == [("s", 40, "paused"), ("s/part", 40, "paused")]


def reject(conn: Connection, error: str, sqlstate: str | None = "22P02", **columns: Any) -> int:
    row = {"seed_name": "s", "row_number": 1, "error": error, "sqlstate": sqlstate, **columns}
    done = conn.execute(
        f"insert into pgonce_seed_rejects ({', '.join(row)}) values ({', '.join(['%s'] * len(row))}) returning id",
        list(row.values()),
    ).fetchone()
    assert done
    return int(done[0])


def test_rejects_are_grouped_by_reason_without_their_values(conn: Connection) -> None:
    first = reject(conn, 'invalid input syntax for type integer: "12,90"')
    reject(conn, 'invalid input syntax for type integer: "n/a"')
    reject(
        conn,
        'null value in column "sku" of relation "t" violates not-null constraint Failing row contains (9)',
        "23502",
    )
    reject(conn, 'violates foreign key constraint "t_fk" Key (sku)=(secret) is not present in table "p".', "23503")
    reject(conn, "x", None, reason="no number", column_name="price")
    found = conn.execute("select reason, column_name, rows, first_id from pgonce_console_seed_rejects('s')").fetchall()
    assert found[0] == ("invalid input syntax for type integer", None, 2, first)
    assert {row[1] for row in found[1:]} == {"sku", "price"}
    assert not [row for row in found if "secret" in row[0] or "Failing" in row[0] or "12,90" in row[0]]


def test_the_rows_of_a_reason_are_paged_by_their_id(conn: Connection) -> None:
    first = reject(conn, "x", reason="a", row=Jsonb({"sku": "1"}))
    reject(conn, "x", reason="b")
    second = reject(conn, "y", reason="a", row=Jsonb({"sku": "2"}))
    rows = 'select id, "row" from pgonce_console_seed_reject_rows(%s, %s, %s, 10)'
    assert conn.execute(rows, ["s", first, 0]).fetchall() == [(first, {"sku": "1"}), (second, {"sku": "2"})]
    assert conn.execute(rows, ["s", first, first]).fetchall() == [(second, {"sku": "2"})]
    assert conn.execute(rows, ["other", first, 0]).fetchall() == []
