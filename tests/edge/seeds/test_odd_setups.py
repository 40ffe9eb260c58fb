"""Odd setups: what is said of an import stays true, no row is lost or doubled, and a dry run says what a run would."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce.errors import InvalidArgument, SchemaError, SourceChanged, TableChanged
from pgonce.seeds.readers import read, read_files
from pgonce.seeds.readers.descriptor import is_settled
from pgonce.seeds.readers.query import Query
from pgonce.seeds.seed import Seed
from pgonce.seeds.seeds import Seeds
from tests.conftest import wait_until, with_database
from tests.debian_server import debian_server

Conn = psycopg.Connection[Any]


def load(seeds: Seeds, source: Any, **options: Any) -> Any:
    return seeds.run("s", source, **{"into": "things", "key": ("id",), **options})


def ids(conn: Conn) -> list[int]:
    return [row[0] for row in conn.execute("select id from things order by 1").fetchall()]


@pytest.mark.parametrize("parts", [None, ["one"]])
def test_a_table_that_is_replaced_during_the_import_ends_it(seeds: Seeds, conn: Conn, parts: Any) -> None:
    conn.execute("create table things (id int primary key); create table fresh (id int primary key)")

    def source(cursor: Any, partition: Any = None) -> Any:
        for number in range(cursor or 0, 100):
            if number == 50:
                conn.execute("alter table things rename to old; alter table fresh rename to things")
            yield {"id": number}, number + 1

    seed = Seed("s", source, "things", ("id",), batch_size=5, partitions=parts)
    with pytest.raises(InvalidArgument, match="replaced by another one"):
        seeds.run_partition(seed, "one") if parts else seeds.run(seed)
    assert ids(conn) == []
    at = seeds.checkpoint("s", "one" if parts else None)
    assert at is not None
    assert (at.status, at.rows_seen) == ("failed", conn.execute("select count(*) from old").fetchall()[0][0])


def test_the_same_file_twice_is_read_twice_and_no_more(seeds: Seeds, conn: Conn, tmp_path: Path) -> None:
    conn.execute("create table things (id int)")
    file = tmp_path / "a.csv"
    file.write_text("id\n" + "1\n" * 30)
    for _ in range(2):
        assert load(seeds, read_files([file, file], "twice"), key=(), batch_size=10).outcome == "complete"
        assert len(ids(conn)) == 60


def test_files_of_one_name_in_folders_may_be_added_and_moved(seeds: Seeds, conn: Conn, tmp_path: Path) -> None:
    conn.execute("create table things (id int)")
    paths = []
    for day in (1, 2, 3):
        (tmp_path / f"day={day}").mkdir()
        paths.append(tmp_path / f"day={day}" / "part.csv")
        paths[-1].write_text(f"id\n{day}\n")
        assert load(seeds, read_files(paths, "days"), key=()).outcome == "complete"
        assert ids(conn) == list(range(1, day + 1))
    (tmp_path / "day=1").rename(tmp_path / "other")
    paths[0] = tmp_path / "other" / "part.csv"
    assert load(seeds, read_files(paths, "days"), key=()).outcome == "complete"
    paths[0].write_text("id\n7\n")
    with pytest.raises(SourceChanged):
        load(seeds, read_files(paths, "days"), key=())
    assert ids(conn) == [1, 2, 3]


def test_the_cursor_of_an_import_that_has_not_begun_is_refused(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (id int)")
    with pytest.raises(InvalidArgument, match="must not be"):
        load(seeds, lambda _: iter([({"id": 1}, {})]), key=())
    assert ids(conn) == []


def test_a_dry_run_refuses_what_a_run_refuses(seeds: Seeds, conn: Conn, tmp_path: Path) -> None:
    conn.execute("create table things (id int primary key); create table plain (id int)")
    file = tmp_path / "a.csv"
    file.write_text("id\n1\n2\n")
    options: dict[str, Any] = {"into": "things", "key": ("id",)}
    load(seeds, read(file))
    conn.execute("delete from things")
    with pytest.raises(TableChanged):
        seeds.rehearse("s", read(file), **options)
    file.write_text("id\n3\n4\n5\n6\n")
    conn.execute("insert into things values (1), (2)")
    with pytest.raises(SourceChanged):
        seeds.rehearse("s", read(file), **options)
    assert seeds.rehearse("s", read(file), accept_change=True, **options).inserted == 2
    assert seeds.rehearse("s", read(file), restart=True, **options).inserted == 4
    seeds.run("p", read(file), into="plain")
    with pytest.raises(InvalidArgument, match="has no key"):
        seeds.rehearse("p", read(file), into="plain", restart=True)


@pytest.mark.parametrize("is_first_whole", [True, False])
def test_rows_do_not_come_once_more_when_partitions_are_added_or_taken_away(
    seeds: Seeds, conn: Conn, is_first_whole: bool
) -> None:
    conn.execute("create table lines (n int, part text)")
    whole = Seed("s", lambda _, partition="a": [((n, partition), n) for n in range(3)], "lines", columns=("n", "part"))
    parted = replace(whole, partitions=["a"])
    ways: list[tuple[Seed, Any]] = [
        (whole, lambda: seeds.run(whole)), (parted, lambda: seeds.run_partition(parted, "a")),
    ]  # fmt: skip
    (_, first), (other, second) = ways if is_first_whole else reversed(ways)
    assert first().outcome == "complete"
    for refused in (second, lambda: seeds.rehearse(other)):
        with pytest.raises(InvalidArgument, match="once more: --restart begins at the start"):
            refused()
    assert conn.execute("select count(*) from lines").fetchone() == (3,)
    conn.execute("truncate lines")
    assert seeds.restart_partitions(whole)
    assert second().outcome == "complete"


@pytest.mark.usefixtures("things")
def test_a_seed_with_partitions_is_not_complete_without_them(seeds: Seeds) -> None:
    seed = Seed("s", lambda _, partition="two": iter([partition][:0]), "things", ("id",), partitions=["one", "two"])
    with pytest.raises(InvalidArgument, match=r"import each of seed.parts\(\) by run_partition"):
        seeds.run(seed)
    assert seeds.checkpoint("s") is None


@pytest.mark.parametrize("parts", [["1", 1], ["true", True], ['{"a": 1}', {"a": 1}]])
def test_two_partitions_of_one_name_are_refused(parts: Any) -> None:
    with pytest.raises(InvalidArgument, match="have one name"):
        Seed("s", iter, "things", partitions=parts).parts()


@pytest.mark.parametrize("part", [dt.date(2026, 1, 1), {1, 2}, b"x"])
def test_a_partition_that_is_not_json_is_refused(part: Any) -> None:
    with pytest.raises(InvalidArgument, match="not JSON"):
        Seed("s", iter, "things", partitions=[part]).parts()


@pytest.mark.parametrize(
    ("kind", "loaded", "following"),
    [
        ("int generated by default as identity", [1, 5], 6),
        ("int generated by default as identity (increment by -1)", [-1, -7], -8),
        ("int generated by default as identity (increment by 2)", [1, 8], 9),
        ("int generated by default as identity (increment by 10 start 3)", [40], 43),
        ("smallint generated by default as identity (maxvalue 10)", [88], None),
        ("int generated by default as identity (minvalue 5 start 5)", [2], 5),
    ],
)
def test_a_sequence_of_any_step_gives_a_number_that_is_free(
    seeds: Seeds, conn: Conn, kind: str, loaded: list[int], following: int | None
) -> None:
    conn.execute(f"create table things (id {kind} primary key)".encode())
    done = load(seeds, lambda _: iter([({"id": each}, each) for each in loaded]), set_sequences=True)
    assert done.outcome == "complete"
    [(number,)] = conn.execute("select last_value from things_id_seq").fetchall()
    assert set(done.sequences.values()) <= {number}  # what is said is what was set
    if following is None:
        with pytest.raises(psycopg.errors.SequenceGeneratorLimitExceeded):
            conn.execute("insert into things default values")
    else:
        assert conn.execute("insert into things default values returning id").fetchall() == [(following,)]


def test_a_sequence_that_is_part_of_a_text_is_left_alone(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (id int primary key, code text); create sequence codes owned by things.code")
    assert load(seeds, lambda _: iter([({"id": 1, "code": "A17"}, 1)]), set_sequences=True).outcome == "complete"


@pytest.mark.parametrize("repaired", ['2,"a""b"', "2,ab", '2,"ab"'])
@pytest.mark.parametrize("bad", ['2,a"b', '2,"a"b'])
def test_a_bad_record_that_was_repaired_since_is_missing(
    seeds: Seeds, conn: Conn, tmp_path: Path, bad: str, repaired: str
) -> None:
    conn.execute("create table things (id int primary key, name text)")
    file = tmp_path / "a.csv"
    file.write_text(f"id,name\n1,x\n{bad}\n3,y\n")
    options: dict[str, Any] = {"into": "things", "key": ("id",), "max_rejects": 9}
    assert load(seeds, read(file), max_rejects=9).checkpoint.rows_rejected == 1
    assert seeds.verify("s", read(file), **options)["ok"]
    file.write_text(f"id,name\n1,x\n{repaired}\n3,y\n")
    found = seeds.verify("s", read(file), **options)
    assert (found["ok"], found["missing"]) == (False, 1)


@pytest.mark.parametrize("blank", ["\u00a0", "\ufeff", "\x1c", "\u2003", "\x0b", " \t"])
def test_verify_counts_the_lines_as_the_reader_does(seeds: Seeds, conn: Conn, tmp_path: Path, blank: str) -> None:
    conn.execute("create table things (id int primary key check (id < 100))")
    file = tmp_path / "a.jsonl"
    file.write_bytes(f'{{"id": 1}}\n{blank}\n{{"id": 200}}\n{{"id": 3}}\n'.encode())
    load(seeds, read(file), max_rejects=9)
    assert seeds.verify("s", read(file), into="things", key=("id",), max_rejects=9)["ok"]


@pytest.mark.parametrize("data", [b"", b"\r\n", b"id,v\r1,a\r2,b\r", b"id,v,v\n", b"id,,\n", b'id,"v\n1,a\n'])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "copy"])
def test_a_file_that_is_refused_is_not_verified(
    seeds: Seeds, conn: Conn, tmp_path: Path, suffix: str, data: bytes
) -> None:
    conn.execute("create table things (id int primary key, v text)")
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(data)
    with pytest.raises((InvalidArgument, SchemaError)) as refused:
        seeds.run("s", read(file, complete=True), into="things", key=("id",))
    if refused.type is SchemaError:
        with pytest.raises(SchemaError):
            seeds.verify("s", read(file, complete=True), into="things", key=("id",))
    else:
        assert not seeds.verify("s", read(file, complete=True), into="things", key=("id",))["ok"]


@pytest.mark.parametrize("encoding", ["base64", "zlib", "rot13", "hex"])
def test_an_encoding_that_is_not_of_text_is_refused(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(InvalidArgument, match="no encoding"):
        read(tmp_path / "a.csv", encoding=encoding)


@pytest.mark.parametrize("first", ["ä", "a"])
def test_another_encoding_is_another_file_unless_all_text_so_far_is_the_same(
    seeds: Seeds, conn: Conn, tmp_path: Path, first: str
) -> None:
    conn.execute("create table things (id int primary key, note text)")
    file = tmp_path / "a.csv"
    rows = (f"{number},{first}\n" for number in range(20_000))  # more than a block
    file.write_bytes(f"id,note\n{''.join(rows)}20000,ä\n".encode("cp1252"))
    wait_until(lambda: is_settled(file.stat()), "a clock that has gone on, so that the next change of the file shows")
    load(seeds, read(file, encoding="cp1252"), batch_size=1, stop=lambda: True)
    if first == "ä":
        with pytest.raises(SourceChanged):
            load(seeds, read(file, encoding="cp437"))
    load(seeds, read(file, encoding="cp437" if first == "a" else "windows-1252"))
    assert conn.execute("select note from things where id = 20000").fetchone() == ("Σ" if first == "a" else "ä",)


def test_a_query_may_end_with_a_comment(seeds: Seeds, conn: Conn, database: str) -> None:
    conn.execute("create table things (id int primary key)")
    assert load(seeds, Query(database, "select 1 as id -- all of them", ("id",))).outcome == "complete"
    assert ids(conn) == [1]


def test_another_query_and_another_database_are_not_resumed_at_the_last_key(
    seeds: Seeds, conn: Conn, database: str
) -> None:
    conn.execute("create table things (id int primary key)")
    odd = "select n as id from generate_series(1, 9) n where n % 2 = 1"
    assert load(seeds, Query(database, odd, ["id"])).outcome == "complete"
    assert load(seeds, Query(database, f" {odd} ;\n", ["id"])).new_rows == 0
    even = Query(database, odd.replace("= 1", "= 0"), ["id"])
    with pytest.raises(SourceChanged, match="the query is not that of the checkpoint"):
        load(seeds, even)
    elsewhere = Query(with_database(database, "postgres"), odd, ["id"])
    with pytest.raises(SourceChanged, match="the database is not that of the checkpoint"):
        load(seeds, elsewhere)
    assert seeds.run("even", even, into="things", key=("id",)).outcome == "complete"
    assert ids(conn) == list(range(1, 10))
    assert load(seeds, even, restart=True).checkpoint.rows_skipped == 4
    assert load(seeds, elsewhere, accept_change=True).outcome == "complete"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "files", "query"])
def test_a_source_that_is_read_into_other_columns_is_another_one(
    seeds: Seeds, conn: Conn, tmp_path: Path, database: str, kind: str
) -> None:
    conn.execute("create table things (id int primary key, note text, other text)")
    file = tmp_path / f"a.{'csv' if kind == 'files' else kind}"
    if kind == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table({"id": [1], "a": ["x"]}), file)
    else:
        file.write_text('{"id": 1, "a": "x"}\n' if kind == "jsonl" else "id,a\n1,x\n")

    def source(column: str) -> Any:
        if kind == "query":
            made = Query(database, "select 1 as id, 'x' as a", ["id"])
            made.rename({"a": column})
            return made
        return read_files([file], "f", rename={"a": column}) if kind == "files" else read(file, rename={"a": column})

    assert load(seeds, source("note")).outcome == "complete"
    assert load(seeds, source("note")).new_rows == 0
    with pytest.raises(SourceChanged):
        load(seeds, source("other"))
    assert load(seeds, source("other"), restart=True, on_conflict="update").outcome == "complete"
    assert conn.execute("select * from things").fetchall() == [(1, "x", "x")]


def resumed_after_each(source: Query) -> list[str]:
    """The keys, with a new run after each row."""
    found, cursor = list[str](), None
    while rows := list(islice(source(cursor), 1)):
        [([key], cursor)] = rows
        found.append(str(key))
    return found


@pytest.mark.parametrize(
    ("kind", "texts"),
    [("numeric", ["1", "1.0", "1.00", "2"]), ("interval", ["1 day", "24:00:00", "2 days"]),
     ("float8", ["-0", "0", "NaN"]), ("timestamp(0)", ["infinity", "2026-01-01 00:00:00"]),
     ("jsonb", ["1", "1.0"]), ("numeric[]", ["{1}", "{1.0}"]), ("numrange", ["[1,2)", "[1.0,2)"]),
     ("char(3)", ["a", "b"]), ("bigint", ["9", "10"]), ("timestamptz", ["-infinity", "2026-01-01 00:00:00+00"])],
)  # fmt: skip
def test_a_query_resumes_between_keys_that_are_equal_and_written_differently(
    database: str, kind: str, texts: list[str]
) -> None:
    values = ", ".join(f"('{text}'::{kind})" for text in texts)
    found = resumed_after_each(Query(database, f"values {values}", ("column1",)))
    assert len(set(found)) == len(texts)


def test_a_query_resumes_between_keys_that_a_collation_calls_equal() -> None:
    """On Debian's PostgreSQL: the suite's has no ICU."""
    with debian_server() as url, psycopg.connect(url, autocommit=True) as conn:
        conn.execute("create collation folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
        conn.execute("create extension citext")
        conn.execute("create schema apart")
        spelled = ["aB", "AB", "Ab", "ab", "b", "C"]
        for made in ("id collate folding", "id::citext", "id::apart.citext"):
            if "apart" in made:  # not on the path, so that its operators are not found
                conn.execute("alter extension citext set schema apart")
            source = Query(url, f"select {made} as id from unnest(array{spelled}) id", ("id",))
            assert sorted(resumed_after_each(source)) == sorted(spelled)
