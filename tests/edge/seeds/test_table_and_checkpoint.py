"""An import resumes only if the table has the rows of the checkpoint's last batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

from pgonce.errors import InvalidArgument, RowRejected, SchemaError, TableChanged
from pgonce.seeds.calls import Checkpoint
from pgonce.seeds.seed import Seed
from pgonce.seeds.seeds import Progress, SeedResult, Seeds

Conn = psycopg.Connection[Any]


def numbers(stop: int, note: str = "x") -> Any:
    def source(cursor: int | None) -> Iterator[tuple[Any, int]]:
        for number in range(0 if cursor is None else cursor + 1, stop):
            yield {"id": number, "note": note}, number

    return source


def seed(stop: int = 20, **options: Any) -> Seed:
    return Seed("s", numbers(stop), **{"into": "things", "key": ("id",), "batch_size": 5, **options})


def run(seeds: Seeds, what: Seed, **options: Any) -> SeedResult:
    result = seeds.run(what, **options)
    assert result.outcome == "complete"
    return result


def ids(conn: Conn, table: str = "things") -> list[int]:
    return [row[0] for row in conn.execute(f"select id from {table} order by id".encode())]


ALWAYS = "int generated always as identity"
TABLE = "create table things (id int primary key, note text)"


@pytest.fixture(autouse=True)
def table(conn: Conn) -> None:
    conn.execute(TABLE)


RESTORE = """
create table copy as table things; drop table things; alter table copy rename to things;
alter table things add primary key (id)
"""


# Another table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lose",
    ["truncate things", "delete from things", f"drop table things; {TABLE}", "delete from things where id > 14",
     f"drop table things; {TABLE}; insert into things values (0, 'of another')"],
)  # fmt: skip
def test_a_table_that_lost_the_rows_of_the_last_batch_stops_the_resume_with_a_choice(
    seeds: Seeds, conn: Conn, lose: str
) -> None:
    run(seeds, seed(20))
    conn.execute(lose.encode())
    left = ids(conn)
    for stop in (20, 30):  # also when the source has nothing new
        with pytest.raises(TableChanged, match=r"--restart.*--accept-change"):
            seeds.run(seed(stop))
    with pytest.raises(TableChanged, match=r"--restart.*--accept-change"):
        seeds.retry_rejects(seed())
    assert ids(conn) == left
    run(seeds, seed(30), accept_change=True)
    assert seeds.retry_rejects(seed()) == (0, 0)
    assert ids(conn) == [*left, *range(20, 30)]
    conn.execute(lose.encode())
    run(seeds, seed(30), restart=True)
    assert set(ids(conn)) == set(range(30))


@pytest.mark.parametrize(
    "change",
    ["alter table things drop note, add note text",
     "alter table things add n text; alter table things rename note to o; alter table things rename n to note"],
)  # fmt: skip
def test_a_column_that_is_another_one_stops_the_resume_with_a_choice(seeds: Seeds, conn: Conn, change: str) -> None:
    with pytest.raises(TableChanged, match="run the same command again"):
        seeds.run(seed(20), on_progress=emptying(conn, change))
    for stop in (20, 30):
        with pytest.raises(TableChanged, match=r"column note of .*--restart.*--accept-change"):
            seeds.run(seed(stop))
    run(seeds, seed(30), restart=True, on_conflict="update")
    assert conn.execute("select count(*) from things where note = 'x'").fetchone() == (30,)


def test_a_name_that_is_used_for_another_table_stops_even_where_the_keys_are_there(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table others (like things including all)")
    conn.execute("insert into others select n, 'x' from generate_series(0, 19) n")
    run(seeds, seed(20))
    with pytest.raises(TableChanged, match=r'belongs to table "public"."things".*another --name'):
        seeds.run(seed(20, into="others"))


@pytest.mark.parametrize(
    "change",
    ["alter table things rename to others", "create schema s2; alter table things set schema s2",
     RESTORE, "delete from things where id < 19", "update things set note = 'y'"],
)  # fmt: skip
def test_a_renamed_a_restored_and_a_changed_table_are_the_same_table(seeds: Seeds, conn: Conn, change: str) -> None:
    run(seeds, seed(20))
    conn.execute(change.encode())
    into = {"s2": "s2.things", "others": "others"}.get(change.rsplit(maxsplit=1)[-1], "things")
    assert run(seeds, seed(25, into=into)).new_rows == 5
    assert ids(conn, into)[-6:] == [*range(19, 25)]


def test_a_trigger_that_changes_keys_and_a_batch_of_rejects_accuse_nobody(seeds: Seeds, conn: Conn) -> None:
    conn.execute("alter table things add check (id not between 15 and 19)")
    run(seeds, seed(20, max_rejects=5))
    assert run(seeds, seed(22, max_rejects=5)).new_rows == 2
    conn.execute("drop table things")
    conn.execute(TABLE)
    conn.execute(
        "create function move() returns trigger language plpgsql as 'begin new.id := new.id + 100; return new; end'"
    )
    conn.execute("create trigger move before insert on things for each row execute function move()")
    seeds.reset("s")
    run(seeds, seed(20))
    assert run(seeds, seed(25)).new_rows == 5
    conn.execute("truncate things")
    with pytest.raises(TableChanged, match="is empty"):
        seeds.run(seed(25))


def test_a_run_with_nothing_new_says_so(seeds: Seeds) -> None:
    assert run(seeds, seed(20)).new_rows == 20
    assert run(seeds, seed(20)).new_rows == 0


def test_an_unlogged_and_a_temporary_table_are_refused_with_the_reason(seeds: Seeds, conn: Conn) -> None:
    conn.execute("alter table things set unlogged")
    with pytest.raises(SchemaError, match=r"crash of the server empties it.*set logged"):
        seeds.run(seed())
    run(seeds, seed(allow_unlogged=True))
    conn.execute("create table parts (id int primary key, note text) partition by range (id)")
    conn.execute("create unlogged table part partition of parts for values from (0) to (1000)")
    with pytest.raises(SchemaError, match="unlogged"):
        seeds.run(seed(into="parts"))


# Kinds of tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_conflict", ["skip", "update"])
def test_a_partitioned_table_takes_new_old_and_changed_rows(seeds: Seeds, conn: Conn, on_conflict: Any) -> None:
    conn.execute("create table parts (id int primary key, note text) partition by range (id)")
    for first in (0, 10, 20):
        conn.execute(f"create table p{first} partition of parts for values from ({first}) to ({first + 10})".encode())
    conn.execute("insert into parts select n, case when n % 2 = 0 then 'old' else 'x' end from generate_series(0, 9) n")
    done = run(seeds, seed(25, into="parts", on_conflict=on_conflict)).checkpoint
    assert done
    updated = 5 if on_conflict == "update" else 0
    assert (done.rows_inserted, done.rows_updated, done.rows_skipped) == (15, updated, 10 - updated)
    notes = conn.execute("select count(*) from parts where note = 'old'").fetchone()
    assert notes == (5 - updated,)


def test_an_identity_column_that_is_not_the_key_is_inserted_and_never_updated(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table coded (id int generated always as identity, code text primary key, note text)")
    conn.execute("insert into coded overriding system value values (100, 'c1', 'old')")

    def source(_: Any) -> Iterator[tuple[Any, int]]:
        yield from (({"id": n, "code": f"c{n}", "note": "new"}, n) for n in range(3))

    what = Seed("s", source, into="coded", key=("code",), on_conflict="update")
    done = run(seeds, what).checkpoint
    assert done
    assert (done.rows_inserted, done.rows_updated) == (2, 1)
    assert conn.execute("select id, code, note from coded order by code").fetchall() == [
        (0, "c0", "new"), (100, "c1", "new"), (2, "c2", "new"),
    ]  # fmt: skip
    assert seeds.verify(what)["ok"]


def test_a_generated_column_among_the_rows_is_refused_before_the_first_row(seeds: Seeds, conn: Conn) -> None:
    conn.execute("alter table things drop note, add note text generated always as ('n' || id) stored")
    with pytest.raises(SchemaError, match="column note of table things is generated: leave it out"):
        seeds.run(seed())
    conn.execute("alter table things alter note set not null, add unique (note)")
    for columns in (("id",), ("id", "note")):
        with pytest.raises(SchemaError, match="note of table things is generated: name a key of columns that rows"):
            seeds.run("other", lambda _: [((1, "n1"), 1)], into="things", key=("note",), columns=columns)


def test_rows_of_inheriting_tables_are_not_taken_for_rows_of_the_table(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table heirs (primary key (id)) inherits (things)")
    conn.execute("insert into heirs values (1, 'x'), (2, 'x'), (40, 'x')")
    conn.execute("insert into things values (3, 'x')")
    for on_conflict in ("skip", "update"):
        conn.execute("delete from only things where id <> 3")
        done = run(seeds, seed(20, on_conflict=on_conflict), restart=True).checkpoint
        assert done
        assert (done.rows_inserted, done.rows_skipped) == (19, 1)
    assert seeds.verify(seed(20))["equal"] == 20
    conn.execute("delete from only things where id = 1")
    assert seeds.verify(seed(20))["missing"] == 1


def test_a_view_is_refused_as_one(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create view shown as table things")
    with pytest.raises(SchemaError, match="shown is a view: import into its table"):
        seeds.run(seed(into="shown"))


def test_equal_rows_are_not_rewritten_by_an_update(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table facts (id int primary key, a numeric, b json, c point, d text)")
    conn.execute("create table log (id int)")
    body = "begin insert into log values (new.id); return new; end"
    conn.execute(f"create function note() returns trigger language plpgsql as '{body}'".encode())
    conn.execute("create trigger note after update on facts for each row execute function note()")

    def rows(changed: dict[int, str]) -> Any:
        def source(_: Any) -> Iterator[tuple[Any, int]]:
            for n in range(50):
                yield {"id": n, "a": changed.get(n, "1.0"), "b": '{"k": 1}', "c": "(1,2)", "d": None}, n

        return source

    options: dict[str, Any] = {"into": "facts", "key": ("id",), "on_conflict": "update"}
    run(seeds, Seed("s", rows({}), **options))
    versions = "select id, xmin::text, xmax::text, ctid::text from facts order by id"  # xmax: the last lock, too
    before = conn.execute(versions).fetchall()
    done = run(seeds, Seed("s", rows({3: "1.00", 4: "2"}), **options), restart=True).checkpoint
    assert done
    assert (done.rows_updated, done.rows_skipped) == (2, 48)
    assert conn.execute("select id from log order by 1").fetchall() == [(3,), (4,)]
    after = conn.execute(versions).fetchall()
    assert sorted(row[0] for row in set(after) - set(before)) == [3, 4]


@pytest.mark.parametrize("name", ["last", "there", "written", "pgonce_one", "excluded", "t", "s", "source", "select"])
def test_no_name_of_a_table_or_column_meets_one_of_ours(seeds: Seeds, conn: Conn, name: str) -> None:
    columns = f'id int primary key, t int, s int, e int, "{name}_" int, c0 int, pgonce_number int, changed0 int'
    conn.execute(f'create table "{name}" ({columns})'.encode())

    def source(_: Any) -> Iterator[tuple[Any, int]]:
        for n in range(2000):
            yield {"pgonce_number": n, "c0": n, f"{name}_": n, "id": n, "t": n, "s": n, "e": n, "changed0": n}, n

    what = Seed("s", source, into=name, key=("id",))
    for each in (what, replace(what, on_conflict="update")):
        assert run(seeds, each, restart=True).new_rows == 2000
        assert seeds.verify(each)["ok"]
    conn.execute(f'delete from "{name}" where id < 500'.encode())
    conn.execute(f'update "{name}" set t = 0 where id >= 1500'.encode())
    found = seeds.verify(what)
    assert (found["ok"], found["missing"], found["different"]) == (False, 500, 500)


def test_a_table_without_a_key_takes_every_row_once_over_all_resumes(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table log (id int, note text)")
    what = seed(23, into="log", key=())
    assert seeds.run(what, stop=lambda: True).outcome == "stopped"
    run(seeds, what)
    assert ids(conn, "log") == [*range(23)]
    assert seeds.verify(what)["ok"]
    with pytest.raises(InvalidArgument, match="insert every row again"):
        seeds.run(what, restart=True)
    conn.execute("update log set note = 'y' where id = 7")
    assert (seeds.verify(what)["ok"], seeds.verify(what)["missing"]) == (False, 1)
    conn.execute("truncate log")
    with pytest.raises(TableChanged):
        seeds.run(what)
    run(seeds, what, restart=True)
    assert ids(conn, "log") == [*range(23)]
    with pytest.raises(InvalidArgument, match="needs a key"):
        seed(key=(), on_conflict="update")


@pytest.mark.parametrize("first", [-1, 0], ids=["from the start", "from the cursor, inclusive"])
def test_a_source_that_brings_the_row_of_the_checkpoint_again_doubles_none_without_a_key(
    seeds: Seeds, conn: Conn, first: int
) -> None:
    conn.execute("create table log (id int, note text)")

    def source(cursor: Any) -> Any:
        begin = 0 if cursor is None or first < 0 else cursor["n"]
        return (({"id": n, "note": "x"}, {"n": n}) for n in range(begin, 5))

    what = Seed("s", source, into="log")
    run(seeds, what)
    for action in (seeds.run, seeds.rehearse):
        with pytest.raises(
            InvalidArgument, match=r'yields the cursor {"n": 4} again, after which it was asked to resume'
        ):
            action(what)
    assert ids(conn, "log") == [*range(5)]
    conn.execute("alter table log add primary key (id)")
    assert seeds.run(Seed("s", source, into="log", key=("id",))).outcome == "complete"
    assert ids(conn, "log") == [*range(5)]


@pytest.mark.parametrize(
    "column", ["serial", "int generated by default as identity", ALWAYS, """int default nextval('"not Owned"')"""]
)
def test_sequences_behind_explicit_ids_are_said_and_set_on_demand(seeds: Seeds, conn: Conn, column: str) -> None:
    conn.execute('drop table things; create sequence "not Owned"')
    conn.execute(f"create table things (id {column} primary key, note text)".encode())
    said = run(seeds, seed(20)).sequences
    assert list(said.values()) == [19]
    done = run(seeds, seed(20, set_sequences=True))
    assert (done.sequences, done.were_set) == (said, True)
    conn.execute("insert into things (note) values ('the next')")
    assert ids(conn)[-1] == 20
    assert run(seeds, seed(20)).sequences == {}
    conn.execute("alter table things add constraint good check (id <> 30)")
    what = replace(seed(max_rejects=1, set_sequences=True), function=lambda _: [({"id": 30, "note": "x"}, 30)])
    run(seeds, what)
    conn.execute("alter table things drop constraint good")
    assert seeds.retry_rejects(what) == (1, 0)
    conn.execute("insert into things (note) values ('the next')")
    assert ids(conn)[-2:] == [30, 31]


# What the application has set ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP"])
def test_a_pool_of_another_encoding_writes_unicode_all_the_same(database: str, conn: Conn, encoding: str) -> None:
    options = {"autocommit": True, "client_encoding": encoding}
    with ConnectionPool(database, kwargs=options, min_size=1, max_size=3, open=True) as pool:

        def source(_: Any) -> Iterator[tuple[Any, Any]]:
            yield {"id": 1, "note": "Müller €"}, {"last": "Müller €"}
            yield {"id": "x€", "note": "bad"}, {"last": "€"}

        what = Seed("s", source, into="things", key=("id",), max_rejects=1)
        run(Seeds(pool), what)
        assert Seeds(pool).verify(what)["ok"]
    assert conn.execute("select note from things").fetchall() == [("Müller €",)]
    assert conn.execute("select last_checkpoint ->> 'last' from seed_checkpoints").fetchall() == [("€",)]
    assert conn.execute("select row ->> 'id' from pgonce_seed_rejects").fetchall() == [("x€",)]


# A failover ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("lost", ["batches", "everything"])
@pytest.mark.parametrize("after", [20, 40], ids=["in the middle", "after the last batch"])
def test_an_import_resumes_by_itself_when_the_database_went_back(
    seeds: Seeds, conn: Conn, caplog: pytest.LogCaptureFixture, lost: str, restart: bool, after: int
) -> None:
    """Go back to an earlier state, as a failover to an asynchronous standby does.

    Rows, checkpoint, and possibly the run.
    """
    run(seeds, seed(3)) if restart else None
    kept: list[Any] = []
    shots = 0

    def fail_over(at: Progress) -> None:
        nonlocal shots
        if at.rows == 10:
            kept[:] = conn.execute("select to_jsonb(s) from seed_checkpoints s").fetchall()
        if at.rows == after and not shots:
            shots = 1
            with conn.transaction():
                conn.execute("delete from seed_checkpoints")
                conn.execute("truncate pgonce_seed_batches")
                if lost == "everything":
                    conn.execute("delete from things")
                    conn.execute("delete from cron_job_runs where job_name = 'seed_runner'")
                else:
                    conn.execute("delete from things where id >= 10")
                    restore = (
                        "insert into seed_checkpoints select (jsonb_populate_record(null::seed_checkpoints, %s)).*"
                    )
                    conn.execute(restore, [Jsonb(kept[0][0])])

    with caplog.at_level(logging.WARNING, "pgonce.seeds"):
        done = run(seeds, seed(40), on_progress=fail_over, restart=restart)
    assert ids(conn) == [*range(40)]
    assert done.resumed == 1
    assert isinstance(done.checkpoint, Checkpoint)
    assert (done.checkpoint.rows_seen, done.checkpoint.status) == (40, "complete")
    assert f"resuming after row {10 if lost == 'batches' else 0}" in caplog.text


def test_only_the_last_commit_of_an_import_waits_for_the_disk(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table commits (status text, synced text)")
    conn.execute(
        "create function note() returns trigger language plpgsql as $$ begin"
        " insert into commits values (new.status, current_setting('synchronous_commit')); return null; end $$"
    )
    conn.execute(
        "create constraint trigger note after insert or update on seed_checkpoints"
        " deferrable initially deferred for each row execute function note()"
    )
    run(seeds, seed(20))
    found = conn.execute("select distinct status, synced from commits").fetchall()
    assert sorted(found) == [("complete", "on"), ("in_progress", "off")]


# Rejects -------------------------------------------------------------------------------------------------------------


def test_a_retried_reject_whose_key_is_there_by_now_is_skipped_and_counted(seeds: Seeds, conn: Conn) -> None:
    conn.execute("alter table things add constraint good check (note <> 'bad')")

    def source(_: Any) -> Iterator[tuple[Any, int]]:
        yield {"id": 1, "note": "bad"}, 1

    what = Seed("s", source, into="things", key=("id",), max_rejects=1, on_conflict="update")
    run(seeds, what)
    conn.execute("insert into things values (1, 'newer')")
    conn.execute("alter table things drop constraint good")
    conn.execute("create table others (like things including all)")
    with pytest.raises(TableChanged, match=r"s was imported into table .*things.*, and not into .*others"):
        seeds.retry_rejects("s", into="others", key=("id",))
    assert conn.execute("select count(*) from others").fetchone() == (0,)
    assert seeds.retry_rejects("s", into="things", key=("id",), on_conflict="update") == (1, 0)
    assert conn.execute("select note from things").fetchall() == [("newer",)]
    at = seeds.checkpoint("s")
    assert at
    assert (at.rows_inserted, at.rows_updated, at.rows_skipped, at.rows_rejected) == (0, 0, 1, 0)


def test_a_stopped_restart_goes_on_without_restart_where_it_stopped(seeds: Seeds, conn: Conn) -> None:
    run(seeds, seed(20))
    assert seeds.run(seed(20), restart=True, stop=lambda: True).new_rows == 5
    assert run(seeds, seed(20)).new_rows == 15
    at = seeds.checkpoint("s")
    assert at
    assert (at.rows_seen, at.rows_skipped, at.total_skipped, at.total_inserted) == (20, 20, 20, 20)


def test_a_value_without_a_form_is_a_reject_with_its_reason(seeds: Seeds, conn: Conn) -> None:
    conn.execute("alter table things add body jsonb")
    odd = [float("nan"), {(1, 2): 3}, {"a": {1}}, b"\xff", {"a": [b"x"]}, object()]

    def source(_: Any) -> Iterator[tuple[Any, int]]:
        for n, value in enumerate(odd):
            yield {"id": n, "note": "x", "body": value}, n

    what = Seed("s", source, into="things", key=("id",), max_rejects=len(odd))
    run(seeds, what)
    assert ids(conn) == []
    reasons = [reject.error for reject in seeds.rejects("s")]
    assert ["body (jsonb)" in reason or "TypeError" in reason for reason in reasons] == [True] * len(odd)
    assert seeds.verify(what)["ok"]
    seeds.reset("s")
    with pytest.raises(RowRejected, match=r"row 1, cursor 0: float has no form in column body \(jsonb\)"):
        seeds.run("s", source, into="things", key=("id",))


PARTITIONED = """
create table things (id int, note text) partition by range (id);
create table low partition of things for values from (0) to (50);
create table high partition of things for values from (50) to (100)
"""


def emptying(conn: Conn, statement: str) -> Any:
    """A callback that executes the statement after the second batch."""

    def on_progress(progress: Progress) -> None:
        if progress.rows == 10:
            conn.execute(statement.encode())

    return on_progress


@pytest.mark.parametrize(
    ("table", "key", "statement"),
    [
        (TABLE, ("id",), "truncate things"),
        (TABLE, ("id",), "delete from things"),
        (TABLE, ("id",), "delete from things where id > 4"),
        ("create table things (id int, note text)", (), "truncate things"),
        (PARTITIONED, (), "truncate low"),
    ],
)
def test_a_table_that_is_emptied_during_the_import_stops_it_with_the_choice(
    seeds: Seeds, conn: Conn, table: str, key: tuple[str, ...], statement: str
) -> None:
    conn.execute(f"drop table if exists things; {table}".encode())
    what = seed(20, key=key)
    with pytest.raises(TableChanged, match=r"not the rows of the last batch: was it emptied\?: run it from the start"):
        seeds.run(what, on_progress=emptying(conn, statement))
    at = "select status, rows_inserted from seed_checkpoints"
    assert conn.execute(at).fetchall() == [("failed", 10)]
    run(seeds, what, accept_change=True)
    assert conn.execute(at).fetchall() == [("complete", 20)]


@pytest.mark.parametrize("table", [TABLE, "create table things (id int, note text)"])
def test_a_table_of_which_other_rows_go_is_imported_to_the_end(seeds: Seeds, conn: Conn, table: str) -> None:
    conn.execute(f"drop table if exists things; {table}".encode())
    key = ("id",) if "primary" in table else ()
    run(seeds, seed(20, key=key), on_progress=emptying(conn, "delete from things where id in (1, 3, 9)"))
    assert ids(conn) == [number for number in range(20) if number not in (1, 3, 9)]


def test_a_table_with_a_key_may_be_written_anew_during_the_import(seeds: Seeds, conn: Conn) -> None:
    run(seeds, seed(20), on_progress=emptying(conn, "vacuum full things"))
    assert ids(conn) == list(range(20))


def test_rows_may_go_during_an_import_that_accepts_it(seeds: Seeds, conn: Conn) -> None:
    run(seeds, seed(20), on_progress=emptying(conn, "truncate things"), accept_change=True)
    assert ids(conn) == list(range(10, 20))
