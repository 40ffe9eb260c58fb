"""``verify`` finds each of thirty kinds of damage to a table, and reports none in an undamaged one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgonce.core import database as pools
from pgonce.errors import InvalidArgument, TableChanged
from pgonce.seeds.readers import read
from pgonce.seeds.seed import Seed
from pgonce.seeds.seeds import Seeds

Conn = psycopg.Connection[Any]

TABLE = """
create type mood as enum ('sad', 'glad');
create type pair as (a int, b text);
create table facts (
  id int primary key, name text, code varchar(10), fixed char(4), whole bigint, exact numeric, real float8, yes boolean,
  day date, at timestamptz, local timestamp, clock time, span interval, raw bytea, doc jsonb, told json, tags text[],
  ids int[], grid int[][], uid uuid, ip inet, mood mood, pair pair, span4 int4range
)
"""
ROWS = 40


def row(n: int) -> dict[str, Any]:
    return {
        "id": n, "name": f"nämé {n}\t\\", "code": f"c{n}", "fixed": "ab", "whole": 10**15 + n,
        "exact": Decimal(f"{n}.10"),
        "real": n / 7, "yes": n % 2 == 0, "day": dt.date(2026, 1, 1) + dt.timedelta(n),
        "at": dt.datetime(2026, 1, 1, n % 24, tzinfo=dt.UTC), "local": dt.datetime(2026, 1, 1, n % 24),  # noqa: DTZ001

        "clock": dt.time(n % 24, 1), "span": dt.timedelta(days=-n, seconds=5), "raw": bytes([n, 0, 255]),
        "doc": {"n": n, "deep": [1, None, {"é": Decimal("1.50")}]}, "told": {"b": n, "a": Decimal("1.0")},
        "tags": ["a", None, f'"{n}'],
        "ids": [n, None, -n], "grid": [[n, 1], [2, 3]], "uid": UUID(int=n), "ip": f"10.0.0.{n}", "mood": "glad",
        "pair": (n, 'x"y'), "span4": f"[{n},{n + 5})",
    }  # fmt: skip


def source(cursor: int | None) -> Iterator[tuple[Any, int]]:
    for n in range(0 if cursor is None else cursor + 1, ROWS):
        yield (row(n) if n != 5 else dict.fromkeys(row(5)) | {"id": 5, "name": ""}), n


SEED = Seed("facts", source, into="facts", key=("id",))


@pytest.fixture(scope="module")
def module(server: str, template: str) -> Iterator[tuple[Seeds, Conn]]:
    from tests.conftest import _new_database

    with _new_database(server, template) as url, psycopg.connect(url, autocommit=True) as conn:
        conn.execute(TABLE)
        with pools.open_pool(url, 4) as pool:
            seeds = Seeds(pool)
            assert seeds.run(SEED).outcome == "complete"
            yield seeds, conn


def verify(module: tuple[Seeds, Conn], damage: str) -> dict[str, Any]:
    seeds, conn = module
    conn.execute("create table kept as table facts")
    try:
        conn.execute(damage.encode())
        return seeds.verify(SEED)
    finally:
        conn.execute("truncate facts; insert into facts table kept; drop table kept")


@pytest.mark.parametrize("touch", ["", "vacuum full facts", "update facts set name = name"])
def test_an_untouched_table_is_never_accused(module: tuple[Seeds, Conn], touch: str) -> None:
    if touch:
        module[1].execute(touch.encode())
    found = module[0].verify(SEED)
    assert (found["ok"], found["rows"], found["equal"], found["extra"]) == (True, ROWS, ROWS, 0)


DAMAGES = [
    "delete from facts where id = 0", f"delete from facts where id = {ROWS - 1}", "delete from facts", "truncate facts",
    "update facts set id = id + 1000 where id = 3", "update facts set name = 'other' where id = 3",
    "update facts set name = name || ' ' where id = 3", "update facts set name = upper(name) where id = 3",
    "update facts set name = null where id = 5", "update facts set code = '' where id = 5",
    "update facts a set name = b.name from facts b where (a.id, b.id) in ((1, 2), (2, 1))",
    "update facts set whole = whole + 1 where id = 7", "update facts set exact = exact + 0.01 where id = 7",
    "update facts set exact = round(exact, 1) where id = 7", "update facts set real = real + 1e-14 where id = 7",
    "update facts set yes = not yes where id = 7", "update facts set day = day + 1 where id = 7",
    "update facts set at = at + interval '1 hour' where id = 7",
    "update facts set at = (at at time zone 'UTC') at time zone 'Asia/Tokyo'",
    "update facts set local = local + interval '1 microsecond' where id = 7",
    "update facts set clock = clock + interval '1 second' where id = 7", "update facts set span = -span where id = 7",
    "update facts set span = span + interval '1 microsecond' where id = 7",
    r"update facts set raw = raw || '\\x00' where id = 7",
    "update facts set raw = convert_to(raw::text, 'UTF8') where id = 7",
    "update facts set doc = to_jsonb(doc::text) where id = 7",
    """update facts set doc = jsonb_set(doc, '{deep,2,é}', '1.5') where id = 7""",
    """update facts set told = '{"b": 7, "a": 2}' where id = 7""",
    """update facts set told = '{"b": 7, "a": 1}' where id = 7""",
    "update facts set tags = array['a', 'NULL', '\"7'] where id = 7",
    "update facts set ids = ids[1:2] where id = 7", "update facts set grid = array[[7, 2], [1, 3]] where id = 7",
    "update facts set uid = gen_random_uuid() where id = 7", "update facts set ip = '10.0.1.7' where id = 7",
    "update facts set mood = 'sad' where id = 7", "update facts set pair = row(7, 'xy') where id = 7",
    "update facts set span4 = '[7,13)' where id = 7",
    "update facts set fixed = 'abc' where id = 7",
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_found(module: tuple[Seeds, Conn], damage: str) -> None:
    found = verify(module, damage)
    assert not found["ok"], found
    assert found["missing"] + found["different"] > 0
    assert found["examples"]
    assert module[0].verify(SEED)["ok"]


def test_there_are_thirty_damages() -> None:
    assert len(set(DAMAGES)) >= 30


def test_rows_that_the_source_does_not_have_are_counted_and_accuse_nobody(module: tuple[Seeds, Conn]) -> None:
    found = verify(module, "insert into facts (id, name) select n, 'of another file' from generate_series(100, 106) n")
    assert (found["ok"], found["extra"], found["equal"]) == (True, 7, ROWS)


def test_a_double_under_another_key_is_counted(module: tuple[Seeds, Conn]) -> None:
    found = verify(module, "insert into facts (id, name) select id + 500, name from facts where id = 3")
    assert (found["ok"], found["extra"]) == (True, 1)


@pytest.mark.parametrize("setting", ["intervalstyle = sql_standard", "datestyle = 'SQL, DMY'", "bytea_output = escape",
                                     "timezone = 'America/New_York'", "extra_float_digits = 0",
                                     "standard_conforming_strings = off", "xmloption = document"])  # fmt: skip
def test_what_is_set_for_the_database_changes_no_value(database: str, conn: Conn, setting: str) -> None:
    conn.execute(TABLE)
    name = conn.info.dbname
    conn.execute(f'alter database "{name}" set {setting}'.encode())
    with pools.open_pool(database, 4) as pool:
        seeds = Seeds(pool)
        seeds.run(SEED)
        assert seeds.verify(SEED)["ok"]
    moments = "'2026-01-01T00:00Z'::timestamptz + make_interval(hours => id % 24)"
    wrong = f"id <> 5 and (span <> make_interval(days => -id, secs => 5) or at <> {moments})"
    assert conn.execute(f"select id from facts where {wrong}".encode()).fetchall() == []


# Rejects -------------------------------------------------------------------------------------------------------------


def test_exactly_the_rejected_rows_are_left_out(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (id int primary key, note text)")

    def doubles(_: Any) -> Iterator[tuple[Any, int]]:
        for n in range(20):
            yield {"id": n % 15, "note": f"row {n}"}, n

    what = Seed("s", doubles, into="things", key=("id",), on_conflict="fail", max_rejects=5, batch_size=7)
    assert seeds.run(what).outcome == "complete"
    found = seeds.verify(what)
    assert (found["ok"], found["rows"], found["rejected"], found["keys"]) == (True, 20, 5, 15)
    conn.execute("delete from things where id between 5 and 9")
    found = seeds.verify(what)
    assert (found["ok"], found["missing"], found["examples"]) == (False, 5, [[5], [6], [7], [8], [9]])


def test_another_row_with_the_number_of_a_reject_is_not_left_out(seeds: Seeds, conn: Conn, tmp_path: Path) -> None:
    conn.execute("create table things (id int primary key, note text)")
    lines = ["1,a\n", "2,b\n", 'x,"c, d"\n', "4,\n", "5,e\n"]
    path = tmp_path / "f.csv"
    path.write_text("id,note\n" + "".join(lines))
    what = Seed("s", read(path), into="things", key=("id",), max_rejects=1)
    seeds.run(what)
    found = seeds.verify(what)
    assert (found["ok"], found["rejected"], found["equal"]) == (True, 1, 4)
    del lines[2]
    path.write_text("id,note\n" + "".join([*lines, "6,fghijk\n", "7,g\n"]))
    what = replace(what, function=read(path))
    seeds.run(what, accept_change=True)
    conn.execute("delete from things where id = 4")  # its number is the reject's by now
    found = seeds.verify(what)
    assert not found["ok"]
    assert [4] in found["examples"]


def test_the_rejects_of_each_partition_are_its_own(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (id int primary key, note text check (note <> 'bad'))")

    def part(cursor: Any, partition: str) -> Iterator[tuple[Any, int]]:
        first = {"a": 0, "b": 100}[partition]
        for n in range(10):
            yield {"id": first + n, "note": "bad" if n == first / 100 + 3 else "x"}, n

    what = Seed("s", part, into="things", key=("id",), max_rejects=2, partitions=["a", "b"])
    for name in ("a", "b"):
        assert seeds.run_partition(what, name).outcome == "complete"
        assert seeds.run_partition(what, name).new_rows == 0, "a second run of a partition commits nothing"
    found = seeds.verify(what)
    assert (found["ok"], found["rows"], found["rejected"], found["equal"]) == (True, 20, 2, 18)
    conn.execute("delete from things where id = 105")
    assert not seeds.verify(what)["ok"]
    conn.execute("insert into things values (105, 'x'), (3, 'x')")
    found = seeds.verify(what)
    assert (found["ok"], found["extra"]) == (True, 1)


def test_a_reject_that_is_a_row_of_the_table_now_is_compared_again(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (id int primary key, note text, constraint good check (note <> 'bad'))")

    def rows(_: Any) -> Iterator[tuple[Any, int]]:
        for n in range(4):
            yield {"id": n, "note": "bad" if n == 2 else "x"}, n

    what = Seed("s", rows, into="things", key=("id",), max_rejects=1)
    seeds.run(what)
    conn.execute("alter table things drop constraint good")
    assert seeds.retry_rejects(what) == (1, 0)
    assert seeds.verify(what)["equal"] == 4
    conn.execute("update things set note = 'x' where id = 2")
    assert not seeds.verify(what)["ok"]


def test_a_source_with_a_row_that_cannot_be_read_now_is_not_verified(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (id int primary key, note text)")
    notes: list[Any] = ["1", "2"]

    def rows(_: Any) -> Iterator[tuple[Any, int]]:
        for n, note in enumerate(notes):
            yield {"id": note, "note": "x"}, n

    what = Seed("s", rows, into="things", key=("id",))
    seeds.run(what)
    assert seeds.verify(what)["ok"]
    notes[1] = "secret"
    found = seeds.verify(what)
    assert not found["ok"]
    assert "secret" not in str(found)


def test_the_proof_of_an_import_is_of_its_own_table(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (id int primary key); create table others (like things including all)")
    what = Seed("s", lambda _: iter([({"id": 1}, 1)]), "things", ("id",))
    seeds.run(what)
    conn.execute("insert into others values (1); truncate things")
    with pytest.raises(TableChanged, match=r"s was imported into table .*things.*, and not into .*others"):
        seeds.verify(what, into="others")
    found = seeds.checkpoint("s")
    assert found
    assert found.verified is None
    assert not seeds.verify(what)["ok"]


@pytest.mark.parametrize("file", ["a.csv", "a.jsonl"])
def test_a_seed_cannot_give_the_columns_of_a_file_in_another_order(
    seeds: Seeds, conn: Conn, tmp_path: Path, file: str
) -> None:
    conn.execute("create table things (id text primary key, note text)")
    (tmp_path / file).write_text("id,note\n1,a\n" if file == "a.csv" else '{"id": "1", "note": "a"}\n')
    what = Seed("s", read(tmp_path / file), "things", ("id",), columns=("note", "id"))
    for call in (seeds.run, seeds.verify, seeds.rehearse):
        with pytest.raises(InvalidArgument, match="has the columns id, note, and the seed names note, id: leave"):
            call(what)
    assert seeds.run(what, columns=("id", "note")).outcome == "complete"


def test_a_table_of_as_many_columns_as_there_can_be_is_compared(seeds: Seeds, conn: Conn) -> None:
    names = [f"v{n}" for n in range(1599)]
    conn.execute(f"create table wide (id int primary key, {' text, '.join(names)} text)".encode())

    def rows(_: Any) -> Iterator[tuple[Any, int]]:
        for n in range(3):
            yield {"id": n, **dict.fromkeys(names, f"x{n}")}, n

    what = Seed("s", rows, into="wide", key=("id",))
    seeds.run(what)
    assert seeds.verify(what)["ok"]
    conn.execute("update wide set v999 = 'y' where id = 2")
    assert seeds.verify(what)["different"] == 1


class Broken:
    """A value that no function can look at."""

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("text", Broken()), ("text", object()), ("int", "x"), ("regclass", "nothing"), ("text", Decimal), ("jsonb", {1})],
    ids=lambda each: type(each).__name__,
)
def test_a_row_that_the_column_cannot_hold_now_is_said_and_not_raised(
    conn: Conn, seeds: Seeds, kind: str, value: Any
) -> None:
    conn.execute(f"create table one (id int primary key, v {kind})".encode())
    values = [None]
    seed = Seed("s", lambda _: iter([({"id": 1, "v": values[-1]}, 1)]), into="one", key=("id",))
    assert seeds.run(seed).outcome == "complete"
    assert seeds.verify(seed)["ok"]
    values.append(value)
    proof = seeds.verify(seed)
    assert not proof["ok"]
    assert proof["error"].endswith("at or after row 1")
