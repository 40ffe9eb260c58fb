"""Compressed files, pipes, other encodings, several files and another database.

Every row is imported once, in two runs, too.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce.core import database as pools
from pgonce.errors import InvalidArgument, RowRejected, SchemaError, SourceChanged
from pgonce.seeds.readers import read, read_files
from pgonce.seeds.readers.query import Query
from pgonce.seeds.seeds import Seeds
from tests.edge.command import counted
from tests.edge.command import pgonce as command

Conn = psycopg.Connection[Any]
ROWS = 12_000


@pytest.fixture
def seeds(database: str, conn: Conn) -> Iterator[Seeds]:
    conn.execute("create table people (id int primary key, name text)")
    with pools.open_pool(database, 3) as pool:
        yield Seeds(pool)


def load(seeds: Seeds, source: Any, *, batches: int | None = None, **options: Any) -> str:
    """Import, or stop after so many batches; the outcome."""
    done = count(1)
    options = {"into": "people", "key": ("id",), "batch_size": 1000, **options}
    return seeds.run("f", source, stop=lambda: next(done) == batches, **options).outcome


def content(suffix: str, first: int = 0, rows: int = ROWS) -> bytes:
    numbers = range(first, first + rows)
    if "jsonl" in suffix:
        return "".join(json.dumps({"id": n, "name": f"nämé {n}"}) + "\n" for n in numbers).encode()
    return ("id,name\n" + "".join(f'{n},"nämé\n{n}"\n' for n in numbers)).encode()


def zipped(data: bytes) -> bytes:
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("f.csv", data)
    return found.getvalue()


def zstandard(data: bytes) -> bytes:
    zstd = pytest.importorskip("backports.zstd", reason="zstd missing: pip install 'pgonce[zstd]'")
    return bytes(zstd.compress(data))


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard, ".zip": zipped,
}  # fmt: skip


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_packed_file_is_imported_once_in_two_runs(
    seeds: Seeds, conn: Conn, tmp_path: Path, suffix: str, packing: str
) -> None:
    path = tmp_path / f"f{suffix}{packing}"
    path.write_bytes(PACKERS[packing](content(suffix)))
    assert load(seeds, read(path), batches=3) == "stopped"
    assert load(seeds, read(path)) == "complete"
    assert conn.execute("select count(*), sum(id), min(name) from people").fetchone() == (
        ROWS, ROWS * (ROWS - 1) // 2, "nämé 0" if "json" in suffix else "nämé\n0",
    )  # fmt: skip
    assert conn.execute("select rows_inserted from seed_checkpoints").fetchone() == (ROWS,)
    path.write_bytes(PACKERS[packing](content(suffix))[:-30])
    with pytest.raises((SourceChanged, InvalidArgument)):
        load(seeds, read(path))


@pytest.mark.parametrize("encoding", ["latin1", "cp1252", "utf-16", "utf-16-le", "utf-8"])
def test_another_encoding_is_read_as_what_it_is(seeds: Seeds, conn: Conn, tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(content(".csv").decode().encode(encoding))
    given = None if encoding == "utf-16" else encoding  # its byte order mark says it
    assert load(seeds, read(path, encoding=given), batches=3) == "stopped"
    assert load(seeds, read(path, encoding=given)) == "complete"
    assert conn.execute("select count(*), max(name) filter (where id = 7) from people").fetchone() == (ROWS, "nämé\n7")
    with pytest.raises(InvalidArgument, match="there is no encoding 'klingon'"):
        read(path, encoding="klingon")
    if encoding != "utf-8":
        with pytest.raises((InvalidArgument, RowRejected, SchemaError, SourceChanged)):
            load(seeds, read(path, encoding="ascii"), restart=True)


def test_a_pipe_is_imported_and_the_same_bytes_again_bring_nothing_new(
    seeds: Seeds, conn: Conn, tmp_path: Path
) -> None:
    path = tmp_path / "f.csv"
    os.mkfifo(path)
    data = content(".csv", rows=2000).removesuffix(b"\n")
    for batches, outcome in ((None, "unfinished"), (None, "complete")):
        writer = threading.Thread(target=path.write_bytes, args=(data,))
        writer.start()
        assert load(seeds, read(path), batches=batches) == outcome
        writer.join()
    # the writer may have died in the last line: it is taken when a second run ends with it, too
    assert conn.execute("select count(*) from people").fetchone() == (2000,)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl"])
def test_a_change_that_is_accepted_resumes_after_the_last_batch_and_never_past_the_end(
    seeds: Seeds, conn: Conn, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"f{suffix}"

    def write(data: bytes) -> None:
        path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)

    write(content(suffix))
    assert load(seeds, read(path), batches=1) == "stopped"
    [(begun,)] = conn.execute("select count(*) from people").fetchall()
    write(content(suffix).replace(b'7"', b'x"'))
    with pytest.raises(SourceChanged, match="--accept-change"):
        load(seeds, read(path))
    assert load(seeds, read(path), accept_change=True) == "complete"
    assert conn.execute("select count(*) from people").fetchone() == (ROWS,)
    assert conn.execute("select rows_inserted from seed_checkpoints").fetchone() == (ROWS,)
    assert 0 < begun < ROWS
    write(content(suffix, rows=5))
    with pytest.raises(SourceChanged, match="is shorter than what was read of it"):
        load(seeds, read(path), accept_change=True)


def several(folder: Path, names: list[str]) -> Any:
    return read_files([folder / name for name in names], "daily/*")


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".parquet"])
def test_several_files_are_one_import_and_more_may_come_at_the_end(
    seeds: Seeds, conn: Conn, tmp_path: Path, suffix: str
) -> None:
    names = [f"{number}{suffix}" for number in range(4)]
    for number, name in enumerate(names):
        if suffix == ".parquet":
            arrow = pytest.importorskip("pyarrow", reason="pyarrow missing: pip install 'pgonce[parquet]'")
            from pyarrow import parquet

            ids = list(range(number * 3000, (number + 1) * 3000))
            parquet.write_table(arrow.table({"id": ids, "name": [f"n {n}" for n in ids]}), tmp_path / name)
        else:
            data = content(suffix, first=number * 3000, rows=3000)
            (tmp_path / name).write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    assert load(seeds, several(tmp_path, names[:3]), batches=4 if suffix == ".jsonl" else 2) == "stopped"
    assert conn.execute("select last_checkpoint->>'file' from seed_checkpoints").fetchone() == (names[1],)
    assert load(seeds, several(tmp_path, names[:3])) == "complete"
    assert load(seeds, several(tmp_path, names)) == "complete"
    assert conn.execute("select count(*), sum(id) from people").fetchone() == (ROWS, ROWS * (ROWS - 1) // 2)
    assert conn.execute("select rows_inserted from seed_checkpoints").fetchone() == (ROWS,)
    assert seeds.verify("f", several(tmp_path, names), into="people", key=("id",))["equal"] == ROWS
    with pytest.raises(SourceChanged, match="are no longer the first"):
        load(seeds, several(tmp_path, names[1:]))
    earlier = tmp_path / names[0]
    earlier.write_bytes(earlier.read_bytes()[:-9] + b"otherwise")
    with pytest.raises((SourceChanged, InvalidArgument)):
        load(seeds, several(tmp_path, names))


def test_a_file_that_grows_after_the_next_one_was_begun_is_not_passed_over(
    seeds: Seeds, conn: Conn, tmp_path: Path
) -> None:
    for number in range(2):
        (tmp_path / f"{number}.csv").write_bytes(content(".csv", first=number * 3000, rows=3000))
    assert load(seeds, several(tmp_path, ["0.csv", "1.csv"])) == "complete"
    with (tmp_path / "0.csv").open("ab") as file:
        file.write(b"99999,late\n")
    with pytest.raises(SourceChanged, match=r"0\.csv has grown after it was read to its end"):
        load(seeds, several(tmp_path, ["0.csv", "1.csv"]))
    (tmp_path / "2.csv").write_bytes(b"name,id\nAnn,1\n")
    with pytest.raises(InvalidArgument, match=r"2\.csv has the columns name, id, and 0\.csv has id, name"):
        load(seeds, several(tmp_path, ["0.csv", "1.csv", "2.csv"]), restart=True)


def test_a_half_line_of_an_earlier_file_holds_back_the_files_after_it(seeds: Seeds, conn: Conn, tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_bytes(b"id,name\n1,Ann\n2,B")
    (tmp_path / "1.csv").write_bytes(b"id,name\n3,Cid\n")
    found = seeds.run("f", several(tmp_path, ["0.csv", "1.csv"]), into="people", key=("id",))
    assert found.outcome == "unfinished"
    assert "0.csv, line 3" in (found.unfinished or "")
    (tmp_path / "0.csv").write_bytes(b"id,name\n1,Ann\n2,Bob\n")
    load(seeds, several(tmp_path, ["0.csv", "1.csv"]))
    assert conn.execute("select id, name from people order by id").fetchall() == [(1, "Ann"), (2, "Bob"), (3, "Cid")]


def test_a_query_brings_every_value_and_resumes_after_its_last_key(database: str, seeds: Seeds, conn: Conn) -> None:
    conn.execute(
        "create table old (a text, n int, at timestamptz, span interval, f float8, raw bytea, doc jsonb, many text[],"
        " primary key (a, n))"
    )
    conn.execute(
        "insert into old select 'k' || n % 3, n, timestamptz '2026-11-29 03:00+01' - n * interval '1 hour',"
        " make_interval(months => -n, secs => 1.5), n / 3.0, decode(lpad(to_hex(n), 8, '0'), 'hex'),"
        " jsonb_build_object('n', n, 't', E'a\\tb\\n\\\\'), array['x', null, ',\"'] from generate_series(1, 5000) n"
    )
    conn.execute("create table new (like old including all)")
    conn.execute("alter role current_user set intervalstyle = 'sql_standard'")
    try:
        options: dict[str, Any] = {"into": "new", "key": ("a", "n")}
        assert load(seeds, Query(database, "select * from old;", ("a", "n")), batches=2, **options) == "stopped"
        conn.execute("insert into old select 'k9', n from generate_series(1, 3) n")
        assert load(seeds, Query(database, "select * from old", ("a", "n")), **options) == "complete"
    finally:
        conn.execute("alter role current_user reset intervalstyle")
    assert conn.execute("select count(*) from (table old except table new) x").fetchone() == (0,)
    assert conn.execute("select count(*) from new").fetchone() == (5003,)
    with pytest.raises(InvalidArgument, match="has no column id: it has a, n"):
        list(Query(database, "select * from old", ("id",))(None))
    with pytest.raises(InvalidArgument, match='cannot be read: relation "nothing" does not exist'):
        list(Query(database, "select * from nothing", ("id",))(None))
    with pytest.raises(InvalidArgument, match="cannot be read") as refused:
        list(Query(database, "select n as id, ('4242 ' || n)::int as card from old", ("id",))(None))
    assert "4242" not in str(refused.value)


def test_a_time_limit_of_the_other_database_does_not_end_a_query(database: str, seeds: Seeds, conn: Conn) -> None:
    slow = "select g as id, 'x' as name from generate_series(1, 100) g, lateral (select g + 0, pg_sleep(0.001)) s"
    assert load(seeds, Query(f"{database}&options=-cstatement_timeout%3D50", slow, ("id",))) == "complete"


def test_a_column_of_a_query_is_not_read_as_another_value(database: str, seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table new (n int primary key, v text)")
    for value, kind in (
        ("20260102", "date"), ("20260102.0", "timestamptz"), ("array[20260102]", "date[]"), ("101", "varbit"),
        ("int4range(20260101, 20260102)", "daterange"), ("'x'::bytea", "text"), ("array['x'::bytea]", "text[]"),
        ("gen_random_uuid()", "bytea"), ("timetz '01:00+02'", "time"), ("'x'::bytea", "jsonb"),
        ("b'101'", "int"), ("array['101'::bit(3)]", "numeric[]"), ("array[]::text[]", "jsonb"),
        ("array[20260102]", "date"), ("'{}'::jsonb", "text[]"), ("'20260102'::jsonb", "date"),
    ):  # fmt: skip
        conn.execute(f"alter table new drop v, add v {kind}".encode())
        query = Query(database, f"select 1 as n, {value} as v", ("n",))
        for action in (seeds.run, seeds.verify, seeds.rehearse):
            with pytest.raises(InvalidArgument, match=r"^column v of .* is of type .*: convert it in the query$"):
                action("q", query, into="new", key=("n",))
    conn.execute("alter table new drop v, add v text, add w text[]")
    query = Query(database, "select 1 as n, true as v, array[true, null] as w", ("n",))
    assert load(seeds, query, into="new", key=("n",)) == "complete"
    assert conn.execute("select v, w from new").fetchall() == [("true", ["true", None])]


@pytest.mark.parametrize(
    "address", ["hush%zz@h/d", "hu sh@h/d", "h@hush@h/d", "p/hush@h/d", "p@h:1/d?hush@=1", "[YOUR-PASSWORD]hush@h/d"]
)
def test_no_part_of_a_password_is_in_the_message_about_its_url(address: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        list(Query(f"postgresql://u:{address}", "select 1 as id", ("id",))(None))
    assert "hush" not in str(refused.value)


def test_a_file_of_hive_is_read_by_its_delimiter(seeds: Seeds, conn: Conn, tmp_path: Path) -> None:
    conn.execute("create table words (id int primary key, word text)")
    (tmp_path / "a.csv").write_text('1\x01a"b\n2\x01\\N\n3\x01c,\t\\d\n')
    options: dict[str, Any] = {"delimiter": "\x01", "columns": ["id", "word"], "nulls": ["\\N"]}
    with pytest.raises(InvalidArgument, match="the delimiter must be one ASCII sign"):
        read(tmp_path / "a.csv", **options)
    source = read(tmp_path / "a.csv", quote=None, **options)
    assert seeds.run("s", source, into="words", key=["id"]).outcome == "complete"
    assert conn.execute("select word from words order by id").fetchall() == [('a"b',), (None,), ("c,\t\\d",)]
    assert seeds.verify("s", source, into="words", key=["id"])["ok"]


def test_what_copy_writes_is_loaded_as_copy_would_load_it(seeds: Seeds, conn: Conn, tmp_path: Path) -> None:
    names = ["a\tb", "a\nb", "\\", "\\N", None, "", "nämé", "x\r", "\b\f\v"]
    conn.execute("create table old (id int primary key, name text)")
    with conn.cursor() as cursor:
        cursor.executemany("insert into old values (%s, %s)", list(enumerate(names * 2000)))
        with cursor.copy("copy old to stdout") as copy, (tmp_path / "f.txt").open("wb") as file:
            for data in copy:
                file.write(data)
    source = [read(tmp_path / "f.txt", format="copy", columns=["id", "name"]) for _ in range(3)]
    assert load(seeds, source[0], batches=1) == "stopped"
    assert load(seeds, source[1]) == "complete"
    assert conn.execute("select * from people order by id").fetchall() == list(enumerate(names * 2000))
    assert seeds.verify("f", source[2], into="people", key=("id",))["ok"]


SIGNS = ["a", "é", ",", ";", "\t", '"', "\n", "\r\n", "\\", "\\N", "NULL", "0", " ", "\x01", "𝄞", "'"]


@pytest.mark.parametrize("seed", range(6))
def test_odd_csv_files_arrive_cell_by_cell(database: str, seeds: Seeds, conn: Conn, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    width = chance.choice([1, 3, 40, 1000])
    columns = [f"c{number}" for number in range(width)]
    shape: dict[str, Any] = {
        "delimiter": chance.choice(",;\t|"), "lineterminator": chance.choice(["\n", "\r\n"]),
        "quoting": chance.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    }  # fmt: skip
    # "\r" outside of quotes is written by the csv module before Python 3.13, and no reader takes it
    table = [
        [number, *("".join(chance.choices(SIGNS, k=chance.randrange(4))).replace("\r", "") for _ in columns)]
        for number in range(max(3, 3000 // width))
    ]
    encoding = chance.choice(["utf-8", "utf-8-sig", "utf-16"])
    with (tmp_path / "f.csv").open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, **shape)
        writer.writerows([["n", *columns], *table])
    conn.execute(f"create table wide (n int primary key, {', '.join(f'{each} text' for each in columns)})".encode())
    source = read(tmp_path / "f.csv", delimiter=shape["delimiter"], nulls=["no such text"])
    assert load(seeds, source, into="wide", key=("n",)) == "complete"
    found = [list(row) for row in conn.execute("select * from wide order by n").fetchall()]
    assert found == table
    if width < 800:  # a comparison has each column twice, and a row of PostgreSQL at most 1,664
        assert seeds.verify("f", source, into="wide", key=("n",))["ok"]


JSON_VALUES = [
    "0", "-0", "1e2", "1E+2", "1.10", "-1.5e-10", "123456789012345678901234567890.123456789", "1e400", "0.1", "true",
    "false", "null", '""', '"a"', r'"\u0041\n\"\\\/\b\f\r\t"', r'"\ud834\udd1e"', '"𝄞"', "[]", "{}", "[[[1.10]]]",
    '{"a":{"b":[1e2,{"c":null}]}}', '{"é":"é"}', '[1,"1",1.0]', " [ 1 , 2 ] ", "[" * 100 + "]" * 100,
]  # fmt: skip


def test_numbers_of_json_are_what_the_column_makes_of_them_and_verified(
    seeds: Seeds, conn: Conn, tmp_path: Path
) -> None:
    conn.execute("create table numbers (id int primary key, whole bigint, exact numeric, told text)")
    # pandas writes 1.0 for an integer beside a NULL
    values = ["1.0", "2e3", "-3.00", "null", "4"]
    odd = ["-0", "9" * 5000, "1.50", "1e5"]
    lines = [f'{{"id": {n}.0, "whole": {value}, "exact": null, "told": null}}' for n, value in enumerate(values)]
    lines += [f'{{"id": {10 + n}, "whole": null, "exact": {value}, "told": {value}}}' for n, value in enumerate(odd)]
    (tmp_path / "f.jsonl").write_text("\n".join([*lines, '{"id": 99, "whole": 2.5}\n']))
    source = read(tmp_path / "f.jsonl")
    assert load(seeds, source, into="numbers", key=("id",), max_rejects=1) == "complete"
    found = conn.execute("select whole from numbers where id < 10 order by id").fetchall()
    assert [row[0] for row in found] == [1, 2000, -3, None, 4]
    assert conn.execute("select told from numbers where id >= 10 order by id").fetchall() == [(each,) for each in odd]
    assert seeds.verify("f", source, into="numbers", key=("id",))["ok"]


def test_json_in_a_column_of_text_keeps_its_digits_and_letters(seeds: Seeds, conn: Conn, tmp_path: Path) -> None:
    values = ['["é", 1e2, -0, 1.10]', '{"ä": {"b": [0.1e-7, 1E400]}}', "1e2", "-0", '"é"', '["\\u00e9"]']
    conn.execute("create table docs (id int primary key, doc text)")
    lines = [f'{{"id": {number}, "doc": {value}}}\n' for number, value in enumerate(values)]
    (tmp_path / "f.jsonl").write_text("".join(lines), "utf-8")
    assert load(seeds, read(tmp_path / "f.jsonl"), into="docs", key=("id",)) == "complete"
    found = [row[0] for row in conn.execute("select doc from docs order by id")]
    assert found == [*values[:4], "é", '["é"]']
    assert seeds.verify("f", read(tmp_path / "f.jsonl"), into="docs", key=("id",))["ok"]


def test_every_form_of_json_arrives_as_jsonb_has_it(seeds: Seeds, conn: Conn, tmp_path: Path) -> None:
    conn.execute("create table docs (id int primary key, doc jsonb, wanted jsonb)")
    lines = [f'{{"id": {number}, "doc": {value}}}\n' for number, value in enumerate(JSON_VALUES)]
    (tmp_path / "f.jsonl").write_text("".join(lines), "utf-8")
    assert load(seeds, read(tmp_path / "f.jsonl"), into="docs", key=("id",)) == "complete"
    for number, value in enumerate(JSON_VALUES):
        wanted = None if value == "null" else value
        found = conn.execute(
            "select doc::text, %s::jsonb::text, doc is not distinct from %s::jsonb from docs where id = %s",
            [wanted, wanted, number],
        ).fetchone()
        assert found is not None
        assert found[2], (value, found)
        assert found[0] == found[1], "digit by digit"
    assert seeds.verify("f", read(tmp_path / "f.jsonl"), into="docs", key=("id",))["ok"]


@pytest.mark.parametrize(
    "value",
    ["1e99999999999999999999", r'"\u0000"', r'"\ud800"', '{"a":"\\u0000"}', "[" * 100_000 + "]" * 100_000, "NaN"],
    ids=["huge", "nul", "half a pair", "nul in a value", "deep", "NaN"],
)
def test_json_that_jsonb_cannot_hold_is_a_reject_and_the_others_are_imported(
    seeds: Seeds, conn: Conn, tmp_path: Path, value: str
) -> None:
    conn.execute("create table docs (id int primary key, doc jsonb)")
    (tmp_path / "f.jsonl").write_text(f'{{"id": 1, "doc": 1}}\n{{"id": 2, "doc": {value}}}\n{{"id": 3, "doc": 3}}\n')
    assert load(seeds, read(tmp_path / "f.jsonl"), into="docs", key=("id",), max_rejects=1) == "complete"
    assert conn.execute("select array_agg(id order by id) from docs").fetchone() == ([1, 3],)
    assert conn.execute("select row_number from pgonce_seed_rejects").fetchall() == [(2,)]
    assert seeds.verify("f", read(tmp_path / "f.jsonl"), into="docs", key=("id",))["ok"]


class TestCommand:
    """What only ``pgonce seed load`` does."""

    @pytest.fixture(autouse=True)
    def table(self, conn: Conn) -> None:
        conn.execute('create table people (id int primary key, name text, "Born" date)')

    def test_names_are_matched_without_case_and_renamed(self, database: str, conn: Conn, tmp_path: Path) -> None:
        (tmp_path / "f.csv").write_text('ID,"Name, full",born\n1,Ann,1970-01-01\n')
        arguments = ["seed", "load", "f.csv", "--into", "people", "--key", "id"]
        code, _, said = command(database, *arguments, cwd=tmp_path)
        assert code == 1
        assert """--map '"Name, full"=COLUMN' says which one it is""" in said
        code, out, _ = command(database, *arguments, "--map", '"Name, full"=name', cwd=tmp_path)
        assert code == 0
        assert counted(1) in out
        assert conn.execute("select id, name from people").fetchall() == [(1, "Ann")]

    def test_a_table_that_differs_in_case_is_proposed(self, database: str, tmp_path: Path) -> None:
        (tmp_path / "f.csv").write_text("id,name\n1,Ann\n")
        for given, proposed in [("People", "people"), ("Public.people", "public.people")]:
            code, _, said = command(database, "seed", "load", "f.csv", "--into", given, "--key", "id", cwd=tmp_path)
            assert (code, said) == (1, f"pgonce: there is no table {given}: did you mean --into {proposed}?\n")

    def test_a_bad_row_and_what_to_do_next_are_printed_without_its_values(
        self, database: str, conn: Conn, tmp_path: Path
    ) -> None:
        (tmp_path / "f.csv").write_text('id,name\n1,Ann\n2,5" pipe\n,secret\nx,secret\n')
        arguments = ["seed", "load", "f.csv", "--into", "people", "--key", "id", "--max-rejects", "3"]
        code, out, _ = command(database, *arguments, "--verify", cwd=tmp_path)
        assert code == 0
        assert "1 × f.csv: a quote in the middle of a value (where quotes are text: --quote none)" in out
        assert "1 × id: null" in out
        assert "1 × id: invalid input syntax for type integer" in out
        assert "secret" not in out
        assert "verified   1 keys in the source, 1 in the table, 1 equal" in out
        code, out, _ = command(database, "seed", "show", "people:f.csv")
        assert code == 0
        assert "line 3: a quote in the middle of a value" in out
        assert command(database, *arguments, "--quote", "none", cwd=tmp_path)[0] == 1, (
            "read in another way it is another source"
        )
        code, out, _ = command(database, *arguments, "--quote", "none", "--restart", cwd=tmp_path)
        assert code == 0
        assert conn.execute("select name from people where id = 2").fetchone() == ('5" pipe',)

    def test_standard_input_several_files_and_a_database_are_sources(
        self, database: str, conn: Conn, tmp_path: Path
    ) -> None:
        (tmp_path / "1.csv").write_text("id,name\n1,Ann\n")
        (tmp_path / "2.csv").write_text("id,name\n2,Bob\n")
        into = ["--into", "people", "--key", "id"]
        code, _, said = command(database, "seed", "load", "1.csv", "2.csv", *into, cwd=tmp_path)
        assert code == 1
        assert "give it a --name" in said
        assert command(database, "seed", "load", "1.csv", "2.csv", *into, "--name", "both", cwd=tmp_path)[0] == 0
        code, out, _ = command(database, "seed", "load", "*.csv", *into, cwd=tmp_path)
        assert (code, counted(skipped=2) in out) == (0, True)
        done = subprocess.run(
            [
                Path(sys.executable).with_name("pgonce"),
                *("seed", "load", "-", "--format", "csv", "--columns", "id,name"),
                *into,
            ],
            input=b"3,Cid\n", env={**os.environ, "DATABASE_URL": database}, capture_output=True,
            check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        query = "select id + 10 as id, name from people"
        code, out, _ = command(database, "seed", "load", database, "--query", query, *into)
        assert (code, counted(3) in out) == (0, True)
        assert conn.execute("select array_agg(id order by id) from people").fetchone() == ([1, 2, 3, 11, 12, 13],)
        code, _, said = command(database, "seed", "load", database, *into)
        assert (code, "needs its URL and a query" in said) == (1, True)

    def test_rows_without_a_key_are_appended_once(self, database: str, conn: Conn, tmp_path: Path) -> None:
        conn.execute("create table visits (page text, at int)")
        arguments = ["seed", "load", "f.csv", "--into", "visits"]
        (tmp_path / "f.csv").write_text("page,at\n/a,1\n/a,1\n")
        assert counted(2) in command(database, *arguments, cwd=tmp_path)[1]
        with (tmp_path / "f.csv").open("a") as file:
            file.write("/b,2\n")
        assert counted(3) in command(database, *arguments, cwd=tmp_path)[1]
        assert conn.execute("select count(*) from visits").fetchone() == (3,)
        code, _, said = command(database, "seed", "load", database, "--query", "select 1 a", "--into", "visits")
        assert (code, "a query needs a --key" in said) == (1, True)

    def test_a_sequence_that_stays_behind_is_said_and_set_where_one_asks(
        self, database: str, conn: Conn, tmp_path: Path
    ) -> None:
        conn.execute("create table items (id serial primary key, name text)")
        (tmp_path / "f.csv").write_text("id,name\n1,Ann\n500,Bob\n")
        arguments = ["seed", "load", "f.csv", "--into", "items", "--key", "id"]
        code, out, _ = command(database, *arguments, cwd=tmp_path)
        assert code == 0
        assert "items_id_seq is behind 500: the next insert without a value may fail: --set-sequences" in out
        code, out, _ = command(database, *arguments, "--set-sequences", "--restart", cwd=tmp_path)
        assert (code, "items_id_seq was set to 500" in out) == (0, True)
        assert conn.execute("insert into items (name) values ('Cid') returning id").fetchone() == (501,)
