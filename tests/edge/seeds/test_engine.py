"""Imports with rejects, policies, updates, verification, changed sources, pauses and partitions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg_pool import ConnectionPool

from pgonce.core import process
from pgonce.errors import (
    DatabaseUnavailable,
    InvalidArgument,
    LeaseLost,
    NotFound,
    PgonceError,
    RowRejected,
    SourceChanged,
    TableChanged,
)
from pgonce.seeds import importer
from pgonce.seeds.calls import Checkpoint
from pgonce.seeds.seed import Seed
from pgonce.seeds.seeds import Progress, Seeds
from pgonce.seeds.table_loader import TableLoader

Conn = psycopg.Connection[Any]
TABLE = "create table {} (id int primary key, note text check (note <> 'bad'), twin text unique)"


@pytest.fixture
def table(conn: Conn) -> str:
    conn.execute(sql.SQL(TABLE).format(sql.Identifier("things")))
    return "things"


class Rows:
    """A source of these rows. Its cursor is the position of a row; a resume starts after it."""

    def __init__(self, *rows: tuple[Any, Any, Any]) -> None:
        self.rows = list(rows)
        self.asked: list[Any] = []

    def __call__(self, cursor: int | None) -> Iterator[tuple[Any, int]]:
        self.asked.append(cursor)
        for place in range(0 if cursor is None else cursor + 1, len(self.rows)):
            yield self.rows[place], place


def numbers(count: int, **special: Any) -> Rows:
    """``count`` rows; special: n7="bad" makes the note of row 7 bad."""
    return Rows(*((n, special.get(f"n{n}", "x"), f"t{n}") for n in range(count)))


OPTIONS: dict[str, Any] = {"into": "things", "key": ("id",), "columns": ("id", "note", "twin")}


def run(seeds: Seeds, source: Any, name: str = "s", **options: Any) -> Checkpoint:
    result = seeds.run(name, source, **{**OPTIONS, "batch_size": 5, **options})
    assert result.outcome == "complete"
    assert result.checkpoint is not None
    return result.checkpoint


def counts(at: Checkpoint | None) -> tuple[int, int, int, int]:
    assert at is not None
    found = (at.rows_inserted, at.rows_updated, at.rows_skipped, at.rows_rejected)
    assert sum(found) == at.rows_seen
    return found


def ids(conn: Conn) -> list[int]:
    return [row[0] for row in conn.execute("select id from things order by id")]


# Rejects -------------------------------------------------------------------------------------------------------------


def test_bad_rows_are_put_aside_with_number_cursor_row_and_reason(seeds: Seeds, table: str, conn: Conn) -> None:
    source = numbers(23, n3="bad", n11="bad")
    source.rows[17] = ("seventeen", "x", "t17")
    assert counts(run(seeds, source, max_rejects=3)) == (20, 0, 0, 3)
    assert ids(conn) == [n for n in range(23) if n not in {3, 11, 17}]
    found = seeds.rejects("s")
    assert [(each.row_number, each.cursor) for each in found] == [(4, 3), (12, 11), (18, 17)]
    assert found[0].row == {"id": "3", "note": "bad", "twin": "t3"}
    assert "note_check" in found[0].error
    assert (found[2].sqlstate, found[2].row["id"]) == ("22P02", "seventeen")


def test_the_first_bad_row_ends_the_import_with_its_number_and_cursor_but_not_its_values(
    seeds: Seeds, table: str, conn: Conn
) -> None:
    source = numbers(9)
    source.rows[7] = ("geheim", "x", "t7")
    with pytest.raises(RowRejected, match=r"row 8, cursor 7.*integer.*column id") as caught:
        run(seeds, source)
    assert ids(conn) == [0, 1, 2, 3, 4]
    at = seeds.checkpoint("s")
    assert at is not None
    assert at.status == "failed"
    assert "geheim" not in str(caught.value) + str(at.error_message)
    assert conn.execute("select count(*) from cron_job_runs where error_message like '%geheim%'").fetchone() == (0,)


def test_the_limit_counts_over_all_resumes(seeds: Seeds, table: str, conn: Conn) -> None:
    source = numbers(30, n2="bad", n12="bad", n22="bad")
    with pytest.raises(RowRejected):
        run(seeds, source, max_rejects=2)
    with pytest.raises(RowRejected):
        run(seeds, source, max_rejects=2)
    assert counts(seeds.checkpoint("s")) == (18, 0, 0, 2)
    assert counts(run(seeds, source, max_rejects=3)) == (27, 0, 0, 3)


def test_a_row_that_violates_another_unique_constraint_is_a_reject_and_no_duplicate(
    seeds: Seeds, table: str, conn: Conn
) -> None:
    source = numbers(12)
    source.rows[8] = (8, "x", "t1")
    source.rows[9] = (1, "x", "t1")
    assert counts(run(seeds, source, max_rejects=1)) == (10, 0, 1, 1)
    assert [each.cursor for each in seeds.rejects("s")] == [8]


@pytest.mark.parametrize("deferred", ["", "deferrable initially deferred"])
def test_a_missing_parent_is_a_reject_and_fits_when_it_is_there(
    seeds: Seeds, table: str, conn: Conn, deferred: str
) -> None:
    conn.execute("create table parents (name text primary key)")
    conn.execute("insert into parents values ('x')")
    conn.execute(f"alter table things add foreign key (note) references parents {deferred}".encode())
    assert counts(run(seeds, numbers(20, n4="orphan", n15="orphan"), max_rejects=5)) == (18, 0, 0, 2)
    assert seeds.retry_rejects("s", into=table, key=("id",)) == (0, 2)
    conn.execute("insert into parents values ('orphan')")
    assert seeds.retry_rejects("s", into=table, key=("id",)) == (2, 0)
    assert counts(seeds.checkpoint("s")) == (20, 0, 0, 0)
    assert (ids(conn), seeds.rejects("s")) == ([*range(20)], [])


def test_rows_that_no_text_can_hold_are_rejects_too(seeds: Seeds, table: str, conn: Conn) -> None:
    source = numbers(8, n2="nul\0", n5="\ud800")
    assert counts(run(seeds, source, max_rejects=9)) == (6, 0, 0, 2)
    assert [each.cursor for each in sorted(seeds.rejects("s"), key=lambda each: each.row_number)] == [2, 5]
    assert all(each.row is None and each.line for each in seeds.rejects("s"))


def test_each_bad_row_of_a_hundred_costs_three_copies(
    seeds: Seeds, table: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, calls = TableLoader.write, 0

    def write(self: TableLoader, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return written(self, *arguments)

    monkeypatch.setattr(TableLoader, "write", write)
    source = numbers(1000, **{f"n{n}": "bad" for n in range(50, 1000, 100)})
    assert counts(run(seeds, source, batch_size=1000, max_rejects=10)) == (990, 0, 0, 10)
    assert calls <= 32


def test_a_bad_value_that_reads_like_the_place_of_another_row_makes_no_other_row_bad(
    seeds: Seeds, table: str, conn: Conn
) -> None:
    source = numbers(8)
    source.rows[1] = ("x, line 4", "x", "t1")
    source.rows[2] = ("x, line 5, column secret: y", "x", "t2")
    source.rows[5] = (5, "bad", "x, line 4, column secret: y")
    assert counts(run(seeds, source, batch_size=8, max_rejects=4)) == (5, 0, 0, 3)
    assert ids(conn) == [0, 3, 4, 6, 7]
    assert [(each.row_number, each.column_name) for each in seeds.rejects("s")] == [(2, "id"), (3, "id"), (6, None)]
    source.rows.append((8, "bad", "x, column secret"))
    with pytest.raises(RowRejected) as refused:
        run(seeds, source, max_rejects=3)
    assert "secret" not in str(refused.value)


def test_when_half_of_the_rows_are_bad_the_other_half_is_written(seeds: Seeds, table: str, conn: Conn) -> None:
    source = numbers(60, **{f"n{n}": "bad" for n in range(0, 60, 2)})
    assert counts(run(seeds, source, max_rejects=30, batch_size=40)) == (30, 0, 0, 30)
    assert ids(conn) == [*range(1, 60, 2)]


# Conflicts, policies, columns ----------------------------------------------------------------------------------------


def test_update_overwrites_what_is_there_and_counts_it(seeds: Seeds, table: str, conn: Conn) -> None:
    run(seeds, numbers(6))
    changed = Rows(*((n, f"new {n}", f"t{n}") for n in range(4, 9)), (8, "newest", "t8"))
    assert counts(run(seeds, changed, "t", on_conflict="update", batch_size=9)) == (3, 3, 0, 0)
    notes = conn.execute("select note from things where id >= 3 order by id").fetchall()
    assert [note for (note,) in notes] == ["x", "new 4", "new 5", "new 6", "new 7", "newest"]


def test_fail_makes_a_duplicate_a_bad_row(seeds: Seeds, table: str, conn: Conn) -> None:
    run(seeds, numbers(3))
    with pytest.raises(RowRejected, match="row 1, cursor 0"):
        run(seeds, numbers(5), "t", on_conflict="fail")
    assert counts(run(seeds, numbers(5), "t", on_conflict="fail", max_rejects=3)) == (2, 0, 0, 3)


@pytest.mark.parametrize("on_conflict", ["skip", "update"])
def test_a_table_with_policies_takes_rows_from_a_role_that_is_subject_to_them(
    database: str, conn: Conn, table: str, role: str, on_conflict: Any
) -> None:
    conn.execute(f"grant service_role to {role}".encode())
    conn.execute("alter table things enable row level security")
    conn.execute(f"create policy all_of_it on things to {role} using (true) with check (id <> 20)".encode())
    conn.execute(f"grant select, insert, update on things to {role}".encode())
    kwargs = {"autocommit": True, "options": f"-c role={role}"}
    with ConnectionPool(database, kwargs=kwargs, min_size=1, max_size=3, open=True) as pool:
        seeds = Seeds(pool)
        assert counts(run(seeds, numbers(12, n3="bad"), max_rejects=1)) == (11, 0, 0, 1)
        again = counts(run(seeds, numbers(13, n3="bad"), "t", on_conflict=on_conflict, max_rejects=1))
        policy = Rows((20, "x", "t20"), (21, "x", "t21"))
        assert counts(run(seeds, policy, "u", on_conflict=on_conflict, max_rejects=1)) == (1, 0, 0, 1)
        assert "row-level security policy" in str(seeds.rejects("u")[0].reason)
    assert again == (1, 0, 11, 1), "equal rows are not updated"


def test_generated_and_identity_columns_are_served(seeds: Seeds, conn: Conn) -> None:
    conn.execute(
        "create table things (id int generated always as identity primary key, note text,"
        " twin text, length int generated always as (length(note)) stored)"
    )
    run(seeds, numbers(7))
    run(seeds, numbers(9), "t")
    assert conn.execute("select count(*), sum(length) from things").fetchone() == (9, 9)


# Proof and rehearsal -------------------------------------------------------------------------------------------------


def test_a_proof_holds_for_what_was_imported_and_fails_for_what_was_changed_later(
    seeds: Seeds, table: str, conn: Conn
) -> None:
    source = numbers(20, n3="bad")
    source.rows[9] = (5, "a double", "t5b")
    run(seeds, source, max_rejects=1)
    proof = seeds.verify("s", source, **OPTIONS)
    assert (proof["ok"], proof["rows"], proof["keys"], proof["found"], proof["equal"]) == (True, 20, 18, 18, 18)
    assert seeds.checkpoint("s").verified == proof  # type: ignore[union-attr]
    conn.execute("update things set note = 'other' where id = 7")
    assert not seeds.verify("s", source, **OPTIONS)["ok"]
    conn.execute("update things set note = 'x' where id = 7")
    conn.execute("delete from things where id = 8")
    assert not seeds.verify("s", source, **OPTIONS)["ok"]


def test_a_proof_is_not_kept_with_a_checkpoint_that_has_moved_meanwhile(seeds: Seeds, table: str, conn: Conn) -> None:
    source = numbers(20)
    seeds.run("s", source, **OPTIONS, batch_size=10, stop=lambda: True)

    def read(_: object) -> Iterator[tuple[Any, int]]:
        yield from list(source(None))[:10]
        run(seeds, source)

    proof = seeds.verify("s", read, **OPTIONS)
    assert (proof["ok"], proof["equal"]) == (False, 10)
    assert "the import went on meanwhile" in proof["error"]
    assert seeds.checkpoint("s").verified is None  # type: ignore[union-attr]


def test_a_proof_ends_with_a_row_that_was_accepted_later(seeds: Seeds, table: str, conn: Conn) -> None:
    source = numbers(5, n3="bad")
    run(seeds, source, max_rejects=1)
    assert seeds.verify("s", source, **OPTIONS)["ok"]
    conn.execute("alter table things drop constraint things_note_check")
    assert seeds.retry_rejects("s", **OPTIONS) == (1, 0)
    assert seeds.checkpoint("s").verified is None  # type: ignore[union-attr]


def test_a_source_that_has_no_rows_any_more_proves_nothing(seeds: Seeds, table: str) -> None:
    rows = iter([((n, "x", f"t{n}"), n) for n in range(5)])  # they come only once
    run(seeds, lambda _: rows)
    proof = seeds.verify("s", lambda _: rows, **OPTIONS)
    assert (proof["ok"], proof["error"]) == (False, "the source has no row now, and the import has read 5")
    assert seeds.checkpoint("s").verified == proof  # type: ignore[union-attr]


def test_a_rehearsal_counts_as_the_run_would_and_writes_nothing(seeds: Seeds, table: str, conn: Conn) -> None:
    conn.execute("insert into things values (2, 'x', 't2')")
    source = numbers(30, n12="bad")
    source.rows[29] = (0, "a double of another batch", "t29")
    would = seeds.rehearse("s", source, **OPTIONS, max_rejects=1)
    assert (ids(conn), seeds.checkpoint("s"), seeds.rejects("s")) == ([2], None, [])
    did = counts(run(seeds, source, max_rejects=1))
    assert did == (would.inserted, would.updated, would.skipped, would.rejected) == (27, 0, 2, 1)
    with pytest.raises(RowRejected):
        seeds.rehearse("t", source, **OPTIONS)
    source.rows.append((31, "bad", "t31"))  # the limit counts over all resumes, and so do the numbers of the rows
    with pytest.raises(RowRejected, match="row 31,"):
        seeds.rehearse("s", source, **OPTIONS, max_rejects=1)
    assert [each.first_row for each in seeds.rehearse("s", source, **OPTIONS, max_rejects=2).reasons] == [31]
    assert seeds.rehearse("s", source, **OPTIONS, max_rejects=2, restart=True).rejected == 2


# Changed sources -----------------------------------------------------------------------------------------------------


class File(Rows):
    """A source with a fingerprint of its rows up to a cursor."""

    def fingerprint(self, cursor: int | None) -> dict[str, Any]:
        end = 0 if cursor is None else cursor + 1
        return {"rows": end, "prefix": repr(self.rows[:end])}

    def same(self, stored: dict[str, Any]) -> str:
        if repr(self.rows[: stored["rows"]]) != stored["prefix"]:
            return "changed"
        return "same" if len(self.rows) == stored["rows"] else "grown"


def test_a_cursor_that_update_checkpoint_has_moved_is_no_change_of_the_source(
    seeds: Seeds, table: str, conn: Conn
) -> None:
    options: dict[str, Any] = {**OPTIONS, "batch_size": 3, "fingerprint": lambda cursor: {"up to": cursor}}
    seeds.run("s", numbers(9), **options, stop=lambda: True)
    conn.execute("select update_checkpoint('s', '0')")
    assert counts(run(seeds, numbers(9), **options)) == (9, 0, 2, 0)


def test_a_changed_source_stops_with_a_choice_and_a_grown_one_goes_on(seeds: Seeds, table: str, conn: Conn) -> None:
    source = File(*numbers(10).rows)
    run(seeds, source)
    source.rows += [(n, "x", f"t{n}") for n in range(10, 13)]
    assert counts(run(seeds, source)) == (13, 0, 0, 0)
    source.rows[0] = (99, "x", "t99")
    with pytest.raises(SourceChanged, match=r"--restart.*--accept-change"):
        run(seeds, source)
    assert source.asked == [None, 9]
    source.rows.append((13, "x", "t13"))
    assert counts(run(seeds, source, accept_change=True)) == (14, 0, 0, 0)
    assert counts(run(seeds, source, restart=True)) == (1, 0, 13, 0)


def test_a_generator_may_bring_a_fingerprint_of_its_own(seeds: Seeds, table: str) -> None:
    editions = ["1611"]

    def edition(_: Any) -> dict[str, str]:
        return {"edition": editions[-1]}

    run(seeds, numbers(7), fingerprint=edition)
    run(seeds, numbers(8), fingerprint=edition)
    editions.append("1769")
    with pytest.raises(SourceChanged):
        run(seeds, numbers(9), fingerprint=edition)


@pytest.mark.parametrize("change", ["truncate things", "alter table things drop note, add note text", "source", "name"])
def test_a_change_that_was_accepted_is_not_refused_again_though_nothing_was_new(
    seeds: Seeds, table: str, conn: Conn, change: str
) -> None:
    conn.execute("create table others (like things including all)")
    source = File(*numbers(3).rows)
    run(seeds, source)
    into = "others" if change == "name" else "things"
    if change == "source":
        source.rows[0] = (9, "x", "t9")
    elif change != "name":
        conn.execute(change.encode())
    with pytest.raises(SourceChanged):
        run(seeds, source, into=into)
    for accept in (True, False):
        assert counts(run(seeds, source, into=into, accept_change=accept)) == (3, 0, 0, 0)
    assert not seeds.verify("s", source, **{**OPTIONS, "into": into})["ok"]
    source.rows.append((3, "x", "t3"))
    assert counts(run(seeds, source, into=into)) == (4, 0, 0, 0)


@pytest.mark.parametrize(("value", "why"), [
    (object(), "is not JSON: "), (float("nan"), "is not JSON: "), ("a\0b", "has the character NUL"),
])  # fmt: skip
def test_a_fingerprint_that_is_not_json_is_refused_in_one_line(seeds: Seeds, table: str, value: Any, why: str) -> None:
    with pytest.raises(InvalidArgument, match=f"the fingerprint {why}"):
        run(seeds, numbers(7), fingerprint=lambda _: {"mark": value})
    run(seeds, numbers(7), fingerprint=lambda _: {"mark": 1})
    with pytest.raises(InvalidArgument, match=f"the fingerprint {why}"):
        run(seeds, numbers(7), fingerprint=lambda _: {"mark": value})


# Pause, throttle, reset ----------------------------------------------------------------------------------------------


def test_a_pause_is_obeyed_behind_the_batch_and_holds_until_it_is_taken_back(
    seeds: Seeds, table: str, conn: Conn
) -> None:
    def pause(at: Progress) -> None:
        if at.rows == 10:
            seeds.pause("s")

    result = seeds.run("s", numbers(20), **OPTIONS, batch_size=5, on_progress=pause)
    assert (result.outcome, len(ids(conn))) in {("paused", 10), ("paused", 15)}
    before = ids(conn)
    source = numbers(20)
    assert seeds.run("s", source, **OPTIONS).outcome == "paused"
    assert (source.asked, ids(conn)) == ([], before)
    seeds.resume("s")
    assert counts(run(seeds, source)) == (20, 0, 0, 0)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), "5"])
def test_a_limit_that_is_no_number_above_zero_is_refused(seeds: Seeds, table: str, rate: Any) -> None:
    with pytest.raises(InvalidArgument, match="max_rows_per_second must be a number above 0, not"):
        run(seeds, numbers(4), max_rows_per_second=rate)


def test_a_name_that_no_text_can_hold_is_refused(seeds: Seeds, table: str) -> None:
    with pytest.raises(InvalidArgument, match="the seed name must not hold the character NUL"):
        run(seeds, numbers(4), "a\0b")


def test_a_limit_of_rows_per_second_bounds_the_batches(seeds: Seeds, table: str) -> None:
    sizes = list[int]()
    run(seeds, numbers(40), batch_size=30, max_rows_per_second=10_000, on_progress=lambda at: sizes.append(at.rows))
    assert sizes == [30, 40]
    sizes.clear()
    run(seeds, numbers(3), "t", batch_size=30, max_rows_per_second=1, on_progress=lambda at: sizes.append(at.rows))
    assert sizes == [1, 2, 3]
    stops = iter([False, True])
    one_unit = [((n, "x", f"u{n}"), 1) for n in range(100, 130)]
    result = seeds.run("u", lambda _: one_unit, **OPTIONS, max_rows_per_second=1, stop=lambda: next(stops))
    assert result.outcome == "stopped", "in the half minute that follows these rows"


def test_a_seed_with_the_key_of_another_ones_partition_is_refused_while_that_is_imported(
    seeds: Seeds, table: str
) -> None:
    seeds.begin_partitions("s", ["b"])
    refused = list[str]()

    def import_other(_: Progress) -> None:
        assert seeds.run("s", numbers(4), **OPTIONS, partition="b").outcome == "overlap", "its own runner is at work"
        with pytest.raises(InvalidArgument, match="seed s/b cannot be imported beside seed s: the key of both"):
            run(seeds, numbers(4), "s/b")
        refused.append("yes")

    run(seeds, numbers(4), partition="b", on_progress=import_other)
    assert refused
    run(seeds, numbers(4), "s/b")


def test_a_reset_forgets_everything_but_the_rows_and_is_refused_while_a_runner_is_at_work(
    seeds: Seeds, table: str, conn: Conn
) -> None:
    refused = list[str]()

    def reset(_: Progress) -> None:
        with pytest.raises(LeaseLost, match="at work"):
            seeds.reset("s")
        refused.append("yes")

    run(seeds, numbers(10, n3="bad"), max_rejects=1, on_progress=reset)
    assert refused
    alive = list[set[str]]()
    run(seeds, numbers(1), "s/other", on_progress=lambda _: alive.extend([seeds.alive("s"), seeds.alive("s/other")]))
    assert alive == [set(), {"s/other"}], "a seed whose name has a slash is no part of another one"
    assert seeds.reset("s") is True
    assert (seeds.checkpoint("s"), seeds.rejects("s"), len(ids(conn))) == (None, [], 9)
    assert seeds.reset("s") is False


def test_a_reset_is_not_kept_waiting_by_a_runner_that_was_killed_here_behind_its_last_batch(
    seeds: Seeds, table: str, conn: Conn
) -> None:
    identity = "import json; from pgonce.core import process; print(json.dumps(process.identity()))"
    gone = subprocess.run([sys.executable, "-c", identity], check=True, capture_output=True, text=True).stdout
    run(seeds, numbers(3))
    start = "select start_job_run('seed_runner', jsonb_build_object('process', %s::jsonb), p_key => %s)"
    conn.execute(start, [gone, "s"])
    conn.execute(start, [gone, "s/part"])
    elsewhere = conn.execute(start, ["{}", "s/other"]).fetchone()
    with pytest.raises(LeaseLost, match="at work"):
        seeds.reset("s")
    conn.execute("select complete_job_run(%s)", elsewhere)
    assert seeds.reset("s") is True


# A killed runner of this machine -------------------------------------------------------------------------------------


def test_a_runner_whose_process_was_killed_here_is_taken_over_at_once(
    seeds: Seeds, table: str, database: str, conn: Conn
) -> None:
    code = f"""
import os, signal
from pgonce import Seeds
from pgonce.core import database
def source(cursor):
    for n in range(100):
        if n == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        yield (n, "x", str(n)), n
with database.open_pool({database!r}, 2) as pool:
    options = dict(into="things", key=("id",), columns=("id", "note", "twin"), batch_size=5, window="1 hour")
    Seeds(pool).run("s", source, **options)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert seeds.alive("s") == set()
    done = run(seeds, Rows(*((n, "x", str(n)) for n in range(100))))
    assert counts(done) == (100, 0, 0, 0)
    beat = "to_char(heartbeat_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS \"UTC\"')"
    killed = f"select error_message, {beat}, started_at <= heartbeat_at from cron_job_runs"
    ((reason, beat, in_order),) = conn.execute(f"{killed} where status = 'failed'".encode()).fetchall()
    assert reason == f"abandoned: last sign of life {beat}, its process has ended"
    assert in_order


def test_a_process_that_runs_is_not_gone_and_one_of_another_machine_is_not_known_to_be() -> None:
    here = process.identity()
    assert not process.is_gone(here)
    assert process.is_gone({**here, "pid": 2**22 + 1})
    assert process.is_gone({**here, "started": here["started"] - 1})
    assert not process.is_gone({**here, "boot": "another", "pid": 2**22 + 1})
    assert not process.is_gone({})


# Partitions ----------------------------------------------------------------------------------------------------------


def part(first: int, last: int) -> Rows:
    return Rows(*((n, "x", f"t{n}") for n in range(first, last)))


def test_each_partition_has_its_checkpoint_and_the_seed_is_complete_when_all_are(
    seeds: Seeds, table: str, conn: Conn
) -> None:
    assert [at.partition for at in seeds.begin_partitions("s", ["a", "b"])] == ["a", "b"]
    run(seeds, part(0, 12), partition="a")
    half = seeds.run("s", part(12, 30), **OPTIONS, batch_size=5, partition="b", stop=lambda: True)
    assert half.outcome == "stopped"
    at = seeds.checkpoint("s")
    assert at is not None
    assert (at.status, counts(at)) == ("in_progress", (17, 0, 0, 0))
    assert [(each.partition, each.status, each.rows_seen) for each in seeds.partitions("s")] == [
        ("a", "complete", 12), ("b", "in_progress", 5),
    ]  # fmt: skip
    source = part(12, 30)
    run(seeds, source, partition="b")
    assert source.asked == [4]
    at = seeds.checkpoint("s")
    assert at is not None
    assert (at.status, counts(at), ids(conn)) == ("complete", (30, 0, 0, 0), [*range(30)])


def test_a_partition_that_is_run_twice_at_once_commits_once(seeds: Seeds, table: str, conn: Conn) -> None:
    seeds.begin_partitions("s", ["a", "b"])
    outcomes = list[str]()

    def again(_: Progress) -> None:
        outcomes.append(seeds.run("s", part(0, 9), **OPTIONS, partition="a").outcome)
        outcomes.append(seeds.run("s", part(9, 12), **OPTIONS, partition="b").outcome)

    run(seeds, part(0, 9), partition="a", batch_size=9, on_progress=again)
    assert outcomes == ["overlap", "complete"]
    assert counts(seeds.checkpoint("s")) == (12, 0, 0, 0)


def test_a_paused_seed_is_not_compared_with_its_source(seeds: Seeds, table: str) -> None:
    source = File(*numbers(9).rows)
    seeds.run("s", source, **OPTIONS, batch_size=3, stop=lambda: True)
    source.rows[0] = (99, "x", "t99")
    seeds.pause("s")
    assert seeds.run("s", source, **OPTIONS).outcome == "paused"
    assert seeds.checkpoint("s").status == "in_progress"  # type: ignore[union-attr]


def test_the_rejects_of_all_partitions_are_limited_together(seeds: Seeds, table: str) -> None:
    seeds.begin_partitions("s", ["a", "b"])
    a, b = numbers(5, n3="bad"), Rows(*((n, "x", f"t{n}") for n in range(5, 15)), (15, "bad", "t15"))

    def run_a(_: Progress) -> None:
        if seeds.partitions("s")[0].status != "complete":
            run(seeds, a, partition="a", max_rejects=1)

    with pytest.raises(RowRejected, match="all partitions of s together have more than 1 rows that do not fit"):
        run(seeds, b, partition="b", max_rejects=1, on_progress=run_a)
    assert [each.partition for each in seeds.rejects("s")] == ["a"]


def test_a_seed_with_partitions_is_imported_part_by_part(seeds: Seeds, table: str) -> None:
    parts = {"a": part(0, 9)}
    seed = Seed("s", lambda cursor, partition: parts[partition](cursor), **OPTIONS, partitions=list(parts))
    seeds.begin_partitions("s", ["a"])
    with pytest.raises(InvalidArgument, match="seed s has partitions: import each of"):
        seeds.run(seed)
    with pytest.raises(NotFound, match="the seed s has no partition 'b' here"):
        seeds.run(seed, partition="b")
    with pytest.raises(InvalidArgument, match="the seed s has partitions that are not complete"):
        seeds.run("s", part(0, 0), **OPTIONS)
    with pytest.raises(InvalidArgument, match="the seed s has run in partitions, and without them"):
        seeds.rehearse("s", part(0, 0), **OPTIONS)
    assert seeds.run(seed, partition="a").outcome == "complete"


def test_a_complete_partition_is_not_complete_in_an_empty_table(seeds: Seeds, table: str, conn: Conn) -> None:
    parts = {"a": part(0, 9), "b": part(20, 29)}
    seed = Seed("s", lambda cursor, partition: parts[partition](cursor), **OPTIONS, partitions=list(parts))
    assert [seeds.run_partition(seed, each).new_rows for each in (*parts, *parts)] == [9, 9, 0, 0]
    conn.execute("delete from things where id < 12")  # as an application may do it
    assert seeds.run_partition(seed, "a").outcome == "complete"
    conn.execute("truncate things")
    for each in parts:
        with pytest.raises(TableChanged, match='things" is empty, and 9 rows were inserted'):
            seeds.run_partition(seed, each)


def test_a_reject_that_another_client_resolves_is_not_written_twice(seeds: Seeds, table: str, conn: Conn) -> None:
    run(seeds, numbers(5, n3="bad"), key=(), max_rejects=1)
    conn.execute("alter table things drop constraint things_note_check")
    body = "begin delete from pgonce_seed_rejects; return new; end"
    conn.execute(f"create function resolve() returns trigger language plpgsql as '{body}'".encode())
    conn.execute("create trigger resolve before insert on things for each row execute function resolve()")
    assert seeds.retry_rejects("s", **{**OPTIONS, "key": ()}) == (1, 0)
    assert ids(conn) == [0, 1, 2, 4]


@pytest.mark.parametrize("action", ["verify", "rehearse", "retry_rejects"])
def test_the_loss_of_the_connection_is_an_error_of_its_own(
    seeds: Seeds, table: str, conn: Conn, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    run(seeds, numbers(5, n3="bad"), max_rejects=1)
    conn.execute("alter table things drop constraint things_note_check")
    body = "begin perform pg_terminate_backend(pg_backend_pid()); return new; end"
    conn.execute(f"create function dies() returns trigger language plpgsql as '{body}'".encode())
    conn.execute("create trigger dies before insert on things for each row execute function dies()")
    monkeypatch.setattr(importer, "RETRIES", (0.0, None))

    def source(_: Any) -> Iterator[tuple[Any, int]]:
        if action == "verify":
            conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where state = 'idle in transaction'")
        yield (9, "x", "t9"), 9

    with pytest.raises(DatabaseUnavailable, match=r"(was lost|written to things): terminating connection"):
        getattr(seeds, action)(Seed("s", source, **OPTIONS))
    assert (ids(conn), counts(seeds.checkpoint("s"))) == ([0, 1, 2, 4], (4, 0, 0, 1))


def test_a_pause_of_the_seed_holds_every_partition(seeds: Seeds, table: str, conn: Conn) -> None:
    seeds.begin_partitions("s", ["a", "b"])
    seeds.pause("s")
    source = part(0, 9)
    assert seeds.run("s", source, **OPTIONS, partition="a").outcome == "paused"
    assert (source.asked, ids(conn)) == ([], [])
    seeds.resume("s")
    run(seeds, source, partition="a")
    assert ids(conn) == [*range(9)]


def test_a_partition_that_was_not_begun_is_refused(seeds: Seeds, table: str) -> None:
    with pytest.raises(PgonceError):
        run(seeds, part(0, 3), partition="a")


def test_partitions_begin_anew_and_the_sums_of_all_time_go_on(seeds: Seeds, table: str, conn: Conn) -> None:
    parts = {"a": part(0, 9)}
    seed = Seed("s", lambda cursor, partition: parts[partition](cursor), **OPTIONS, partitions=list(parts))
    seeds.begin_partitions("s", ["a", "gone"])
    busy = list[bool]()
    run(seeds, part(0, 9), partition="a", on_progress=lambda _: busy.append(seeds.restart_partitions(seed)))
    assert set(busy) == {False}, "a runner is at work"
    assert counts(seeds.checkpoint("s")) == (9, 0, 0, 0)
    assert seeds.restart_partitions(seed)
    assert (seeds.partitions("s"), counts(seeds.checkpoint("s"))) == ([], (0, 0, 0, 0))
    with pytest.raises(InvalidArgument, match=r"call restart_partitions\(seed\) once"):
        seeds.run_partition(seed, "a", restart=True)
    assert seeds.run_partition(seed, "a").outcome == "complete"
    at = seeds.checkpoint("s")
    assert at is not None
    assert (counts(at), at.total_inserted, at.status) == ((0, 0, 9, 0), 9, "complete")
    with pytest.raises(InvalidArgument, match="has no key, so a restart would insert every row again"):
        seeds.restart_partitions(replace(seed, key=()))


def test_a_rehearsal_of_partitions_counts_what_is_left_of_all_and_a_key_of_two_once(
    seeds: Seeds, table: str, conn: Conn
) -> None:
    seeds.begin_partitions("s", ["a", "b", "c"])
    run(seeds, part(0, 5), partition="a")
    seeds.run("s", part(5, 15), **OPTIONS, batch_size=4, partition="b", stop=lambda: True)
    sources = {"a": part(0, 5), "b": part(5, 15), "c": part(13, 20)}
    sources["c"].rows.append((99, "bad", "t99"))
    found = seeds.rehearse("s", sources, **OPTIONS, max_rejects=1)
    assert (found.inserted, found.skipped, found.rejected) == (11, 2, 1)
    assert [source.asked for source in sources.values()] == [[], [3], [None]]
    assert ids(conn) == [*range(9)]
    with pytest.raises(RowRejected, match="row 8,"):  # of its partition
        seeds.rehearse("s", sources, **OPTIONS)
    assert seeds.rehearse("s", sources, **OPTIONS, max_rejects=1, restart=True).skipped == 9 + 2


def test_a_proof_of_partitions_is_that_of_all_their_rows(seeds: Seeds, table: str, conn: Conn) -> None:
    sources = {"a": part(0, 12), "b": part(12, 30)}
    seeds.begin_partitions("s", list(sources))
    run(seeds, sources["a"], partition="a")
    proof = seeds.verify("s", sources, **OPTIONS)
    assert (proof["ok"], proof["keys"], proof["found"]) == (False, 30, 12)
    run(seeds, sources["b"], partition="b")
    proof = seeds.verify("s", sources, **OPTIONS)
    assert (proof["ok"], proof["rows"], proof["equal"]) == (True, 30, 30)
    assert seeds.checkpoint("s").verified == proof  # type: ignore[union-attr]
    conn.execute("update things set note = 'other' where id = 20")
    assert not seeds.verify("s", sources, **OPTIONS)["ok"]
