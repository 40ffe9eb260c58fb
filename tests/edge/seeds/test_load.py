"""``pgonce seed load`` imports real files into real tables; the command is killed, and resumes."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import wait_until
from tests.edge import command
from tests.edge.command import counted
from tests.forked import PGONCE, Forked

Conn = psycopg.Connection[Any]
ROWS = 120_000


class Command:
    """The command line on one database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.environment = {**os.environ, "PGONCE_DATABASE_URL": url}
        self.folder = folder

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        words = [PGONCE, "seed", "load", *arguments]
        return Forked(words, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __call__(self, *arguments: object) -> tuple[int, str]:
        code, out, err = command.run(["seed", "load", *map(str, arguments)], self.environment, self.folder)
        assert "Traceback" not in err
        return code, err + out


@pytest.fixture
def load(database: str, tmp_path: Path) -> Command:
    return Command(database, tmp_path)


@pytest.fixture
def people(conn: Conn) -> str:
    conn.execute("create table people (id int primary key, name text, born date)")
    return "people"


def write(path: Path, rows: int, first: int = 0) -> None:
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if not first:
            writer.writerow(["id", "name", "born"])
        for number in range(first, first + rows):
            name = f'line\none, "{number}"' if number % 10 == 0 else f"name {number}"
            writer.writerow([number, name, "1970-01-01"])


def checkpoint(conn: Conn, name: str) -> dict[str, Any]:
    row = conn.execute("select to_jsonb(s) from seed_checkpoints s where seed_name = %s", [name]).fetchone()
    return dict(row[0]) if row else {}


def seen(conn: Conn, name: str) -> int:
    return int(checkpoint(conn, name).get("rows_seen", 0))


def test_the_table_holds_what_copy_would_make_of_the_file(load: Command, conn: Conn, tmp_path: Path) -> None:
    body = '1,"a ""b""\nc",\n2,"",x\n3,ä;é,"1,5"\n'
    conn.execute("create table by_copy (id int primary key, a text, b text)")
    conn.execute("create table by_load (like by_copy including all)")
    with conn.cursor().copy("copy by_copy from stdin (format csv)") as copy:
        copy.write(body)
    (tmp_path / "f.csv").write_bytes(b"\xef\xbb\xbfid,a,b\r\n" + body.replace("\n2", "\r\n\r\n2").encode()[:-1])
    code, said = load("f.csv", "--into", "by_load", "--key", "id", "--complete")
    assert code == 0
    assert f"complete   {counted(3)}" in said
    assert conn.execute("table by_load").fetchall() == conn.execute("table by_copy").fetchall()


@pytest.mark.parametrize("suffix", [".tsv.gz", ".jsonl", ".ndjson.gz", ".parquet"])
def test_every_kind_of_file_is_loaded(load: Command, conn: Conn, people: str, tmp_path: Path, suffix: str) -> None:
    rows = [{"id": n, "name": None if n == 7 else f"nämé\t{n}", "born": "2000-02-29"} for n in range(1000)]
    path = tmp_path / f"f{suffix}"
    if suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow", reason="pyarrow missing: pip install 'pgonce[parquet]'")
        from pyarrow import parquet

        parquet.write_table(arrow.Table.from_pylist(rows), path, row_group_size=300)
    else:
        if "tsv" in suffix:
            lines = ["id\tname\tborn", *(f'{r["id"]}\t"{r["name"] or ""}"\t{r["born"]}' for r in rows)]
            lines[8] = "7\t\t2000-02-29"
        else:
            lines = [json.dumps(row) for row in rows]
        data = "\n".join(lines).encode()
        path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    complete = [] if suffix == ".parquet" else ["--complete"]
    code, said = load(path, "--into", people, "--key", "id", "--name", "mine", *complete)
    assert code == 0
    assert f"complete   {counted(1000)}" in said
    assert conn.execute("select id, name, born::text from people order by id").fetchall() == [
        tuple(row.values()) for row in rows
    ]


def kill_in_the_middle(process: subprocess.Popen[str], conn: Conn, name: str, after: int) -> int:
    wait_until(lambda: seen(conn, name) > after, "the import to get on", 60)
    process.kill()
    process.communicate()
    done = seen(conn, name)
    assert after < done < ROWS
    return done


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl"])
def test_a_load_that_is_killed_goes_on_and_does_no_row_twice(
    load: Command, conn: Conn, people: str, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"f{suffix}"
    if suffix == ".jsonl":
        lines = (json.dumps({"id": n, "name": f"name {n}", "born": "1970-01-01"}) for n in range(ROWS))
        path.write_text("\n".join(lines))
    else:
        write(tmp_path / "f.csv", ROWS)
        if suffix.endswith(".gz"):
            path.write_bytes(gzip.compress((tmp_path / "f.csv").read_bytes(), 1))
    name = f"people:f{suffix}"
    arguments = [path, "--into", people, "--key", "id", "--batch-size", "3000"]
    slowly = ["--max-rows-per-second", "30000"]
    first = kill_in_the_middle(load.start(*arguments, *slowly), conn, name, 0)
    kill_in_the_middle(load.start(*arguments, *slowly), conn, name, first)
    code, said = load(*arguments)
    # a skipped row would mean that a row was written twice
    assert code == 0
    assert f"complete   {counted(ROWS)}" in said
    assert conn.execute("select count(*), sum(id) from people").fetchone() == (ROWS, ROWS * (ROWS - 1) // 2)
    assert seen(conn, name) == ROWS


def test_sigterm_finishes_the_batch_and_says_how_to_go_on(
    load: Command, conn: Conn, people: str, tmp_path: Path
) -> None:
    write(tmp_path / "f.csv", ROWS)
    arguments = ["f.csv", "--into", people, "--key", "id", "--batch-size", "2000"]
    with load.start(*arguments, "--max-rows-per-second", "20000") as process:
        wait_until(lambda: seen(conn, "people:f.csv"), "the first batch")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped  " in err
    assert "next       the same command   goes on after the last batch" in err
    assert conn.execute("select count(*) from people").fetchone() == (seen(conn, "people:f.csv"),)
    assert load(*arguments)[0] == 0
    assert conn.execute("select count(*) from people").fetchone() == (ROWS,)


def test_of_two_loads_at_once_the_second_is_skipped(load: Command, conn: Conn, people: str, tmp_path: Path) -> None:
    write(tmp_path / "f.csv", ROWS)
    arguments = ["f.csv", "--into", people, "--key", "id", "--batch-size", "1000", "--max-rows-per-second", "5000"]
    with load.start(*arguments) as process:
        wait_until(lambda: seen(conn, "people:f.csv"), "the first batch")
        code, said = load(*arguments)
        process.kill()
    assert code == 75
    assert "another runner is at work on people:f.csv" in said


def test_what_was_appended_to_a_file_is_taken_in_and_nothing_else_is_read_again(
    load: Command, conn: Conn, people: str, tmp_path: Path
) -> None:
    arguments = ["f.csv", "--into", people, "--key", "id"]
    write(tmp_path / "f.csv", 1000)
    assert load(*arguments)[0] == 0
    assert f"complete   nothing new   {counted(1000)}" in load(*arguments)[1]
    write(tmp_path / "f.csv", 500, first=1000)
    assert f"complete   {counted(1500)}" in load(*arguments)[1]
    assert seen(conn, "people:f.csv") == 1500


def test_a_file_that_has_changed_stops_with_a_choice(load: Command, conn: Conn, people: str, tmp_path: Path) -> None:
    arguments = ["f.csv", "--into", people, "--key", "id"]
    (tmp_path / "f.csv").write_text("id,name,born\n1,Ann,1970-01-01\n2,Bob,1970-01-01\n")
    assert load(*arguments)[0] == 0
    (tmp_path / "f.csv").write_text("id,name,born\n1,Ann,1970-01-01\n3,Cid,1970-01-01\n4,Dan,1970-01-01\n")
    code, said = load(*arguments)
    assert code == 1
    assert said.count("\n") == 1
    assert "--restart" in said
    assert "--accept-change" in said
    assert load(*arguments, "--restart")[0] == 0
    assert conn.execute("select array_agg(id order by id) from people").fetchone() == ([1, 2, 3, 4],)


def person_file(path: Path, word: str) -> None:
    path.write_text("id,name,born\n" + "".join(f"{n},{word} {n},1970-01-01\n" for n in range(ROWS)))


@pytest.mark.parametrize("change", ["moved over", "rewritten", "truncated"])
def test_a_file_that_is_changed_while_it_is_loaded_stops_with_a_choice_that_works(
    load: Command, conn: Conn, people: str, tmp_path: Path, change: str
) -> None:
    path, other = tmp_path / "f.csv", tmp_path / "other.csv"
    person_file(path, "old")
    person_file(other, "new")
    arguments = ["f.csv", "--into", people, "--key", "id"]
    with load.start(*arguments, "--batch-size", "3000", "--max-rows-per-second", "20000") as process:
        wait_until(lambda: seen(conn, "people:f.csv"), "the first batch", 60)
        if change == "moved over":
            other.replace(path)
        elif change == "rewritten":
            path.write_bytes(other.read_bytes())
        else:
            os.truncate(path, path.stat().st_size // 3)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    [line] = [line for line in err.splitlines() if line.startswith("pgonce: ")]
    assert "--restart --on-conflict update" in line
    assert "--accept-change" in line
    done = conn.execute("select count(*), count(*) filter (where name like 'old %') from people").fetchone()
    assert done == (seen(conn, "people:f.csv"),) * 2, "only whole batches of the file that was opened"
    code, said = load(*arguments)
    assert (code, "--restart" in said) == (1, True), "it is not passed over by the next run either"
    person_file(path, "new")
    code, said = load(*arguments, "--restart", "--on-conflict", "update", "--verify")
    assert code == 0
    assert f"verified   {ROWS:,} keys in the source, {ROWS:,} in the table, {ROWS:,} equal" in said


def test_a_resume_behind_2_gb_reads_nothing_of_them(load: Command, conn: Conn, people: str, tmp_path: Path) -> None:
    size = 2_000_000_000
    with (tmp_path / "big.csv").open("wb") as sparse:  # a hole takes no room on the disk
        sparse.write(b"id,name,born\n")
        sparse.seek(size - 1)
        sparse.write(b"\n1,Ann,1970-01-01\n2,Bob,1970-01-01\n")
    (tmp_path / "small.csv").write_bytes(b"id,name,born\n3,Ann,1970-01-01\n4,Bob,1970-01-01\n")
    conn.execute("select update_checkpoint('people:big.csv', %s::jsonb)", [json.dumps({"offset": size, "row": 9})])

    def bytes_read(file: str) -> int:
        code = (
            "import sys\nfrom pgonce.cli import main\n"
            "try: main(sys.argv[1:])\n"
            "finally: print(open('/proc/self/io').read())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "seed", "load", file, "--into", people, "--key", "id"],
            cwd=tmp_path, env=load.environment, text=True, capture_output=True, check=True, timeout=60,
        )  # fmt: skip
        assert "= 2 inserted" in done.stdout
        return int(done.stdout.partition("rchar:")[2].split()[0])

    small = bytes_read("small.csv")
    assert bytes_read("big.csv") - small < 1_000_000


def test_a_missing_table_is_answered_with_a_statement_that_makes_it(load: Command, conn: Conn, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text('ID,"Full ""Name""",select\n1,Ann,x\n')
    arguments = ["f.csv", "--into", "public.new", "--key", "id,select"]
    code, said = load(*arguments)
    assert code == 1
    error, hint = said.splitlines()
    assert error == "pgonce: there is no table public.new: create it before the import, for instance with"
    conn.execute(hint)
    assert load(*arguments)[0] == 0
    assert conn.execute("select * from new").fetchall() == [("1", "Ann", "x")]
    assert load("f.csv", "--into", "other", "--key", "no")[1].endswith('"select" text);\n')


@pytest.mark.parametrize(
    ("data", "arguments", "code", "said"),
    [
        (b"id,name\n1,Ann\n", ["--key", "no"], 1, "f.csv has no column no: it has id, name"),
        (b"id,nmae\n1,Ann\n", [], 1, "table people has no column nmae, which f.csv has; the table has id, name, born"),
        (b"id,name\n1,Ann\n", ["--key", "name"], 1, "no plain unique index over (name)"),
        (b"", [], 1, "f.csv is empty"),
        (b"id;name\n1;Ann\n", [], 1, "f.csv has one column, id;name: pass --delimiter"),
        (b'id,name\n1,"Ann\n', ["--complete"], 1, "a quote is never closed"),
        (b'id,name\n1,"Ann\n', [], 1, "line 2: the last line has no line end"),
        (b'id,name\n1,5" pipe\n2,3" nail\n', [], 1, "f.csv, line 2: a quote in the middle of a value"),
        (b'id,name\n1,"Ann"x\n', [], 1, "f.csv, line 2: text after a closing quote"),
        (b"id,name\n1,Ann\n2,Bob,3\n", [], 1, "extra data after last expected column"),
        (b"id,name\n1,Ann\nx,Bob\n", [], 1, "invalid input syntax for type integer"),
        (b"id,name\n1,K\xf6ln\n", [], 1, "invalid byte sequence"),
        (b"id,name\n1,Ann\n", ["--delimiter", ";;"], 1, "delimiter must be one ASCII sign"),
        (b"id,name\n1,Ann\n", ["--key", "id,"], 2, "has an empty name"),
        (b"id,name\n1,Ann\n", ["--batch-size", "0"], 2, "--batch-size"),
    ],
)
def test_bad_input_is_one_clear_line(
    load: Command, people: str, tmp_path: Path, data: bytes, arguments: list[str], code: int, said: str
) -> None:
    (tmp_path / "f.csv").write_bytes(data)
    key = [] if "--key" in arguments else ["--key", "id"]
    ended, lines = load("f.csv", "--into", people, *key, *arguments)
    assert ended == code
    assert said in lines
    if code == 1 and "unfinished" not in lines:
        assert lines.startswith("pgonce: ")
        assert lines.count("\n") == 1


def test_a_file_that_is_not_there_or_of_no_known_kind_is_said(load: Command, people: str, tmp_path: Path) -> None:
    assert load("no.csv", "--into", people, "--key", "id")[0] == 2
    (tmp_path / "f.xlsx").write_bytes(b"PK")
    code, said = load("f.xlsx", "--into", people, "--key", "id")
    assert code == 1
    assert "no reader knows .xlsx: save the sheet as CSV (UTF-8)" in said
    assert load(f"{'x' * 300}.csv", "--into", people, "--key", "id")[0] == 2
    write(tmp_path / "1.csv", 5)
    (tmp_path / "2.csv").mkdir()
    for folder in ("*.csv", "2.csv", "."):
        code, said = load(folder, "--into", people, "--key", "id")
        assert (code, "is a folder: load its files by a pattern" in said) == (1, True)


def test_delimiter_and_columns_read_a_file_without_a_header(
    load: Command, conn: Conn, people: str, tmp_path: Path
) -> None:
    (tmp_path / "f.csv").write_text("Ann\t1\nBob\t2\n")
    for delimiter in ("tab", "\\t", "\t"):
        arguments = ["--key", "id", "--columns", "name,id", "--delimiter", delimiter, "--restart"]
        assert load("f.csv", "--into", people, *arguments)[0] == 0
    assert conn.execute("select id, name from people order by id").fetchall() == [(1, "Ann"), (2, "Bob")]


def test_bad_rows_are_put_aside_up_to_a_limit(load: Command, conn: Conn, people: str, tmp_path: Path) -> None:
    lines = [f"{n},name,1970-01-01" if n % 100 else f'{n},"na\nme",1970-99-99' for n in range(1, 1001)]
    (tmp_path / "f.csv").write_text("id,name,born\n" + "\n".join(lines) + "\n")
    arguments = ["f.csv", "--into", people, "--key", "id"]
    code, said = load(*arguments, "--max-rejects", "9")
    assert code == 1
    code, said = load(*arguments, "--max-rejects", "10")
    assert code == 0
    assert f"complete   {counted(990, rejected=10)}" in said
    assert "rejected   10 × born: date/time field value out of range" in said
    assert "next       pgonce seed rejects people:f.csv   then" in said


def test_a_dry_run_says_which_rows_it_shows_and_why_others_are_rejects(
    load: Command, people: str, tmp_path: Path
) -> None:
    (tmp_path / "f.csv").write_text("id,born\n1,2026-01-02\n2,2026-02-30\n3,2026-02-03\n4,x\n5,2026-02-31\n")
    code, said = load("f.csv", "--into", people, "--key", "id", "--dry-run", "--max-rejects", "9")
    assert code == 0
    assert re.search(r"^born +date +2026-01-02 +2026-02-03", said, re.MULTILINE)
    assert re.search(r"^column +type +row 1 +row 3", said, re.MULTILINE)
    assert f"it would be {counted(2, rejected=3)}" in said
    assert "rejected   2 × born: date/time field value out of range · 1 × born: invalid input syntax" in said


def test_a_dry_run_shows_the_types_of_the_source_beside_those_of_the_columns(
    load: Command, database: str, people: str, tmp_path: Path
) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow missing: pip install 'pgonce[parquet]'")
    from pyarrow import parquet

    table = arrow.table({"ID": [1], "name": ["Ann"], "born": [date(1970, 1, 1)]})
    parquet.write_table(table, tmp_path / "f.parquet")
    (tmp_path / "f.jsonl").write_text('{"ID": 1, "name": "Ann", "born": null}\n')
    sources = {
        ("f.parquet",): ("int64", "string", r"date32\[day\]"),
        ("*.parquet",): ("int64", "string", r"date32\[day\]"),
        ("f.jsonl", "--complete"): ("a number", "a string", "null"),
        (database, "--query", "select 1::int8 \"ID\", 'Ann' name, now() born"): ("bigint", "text", "timestamp.* zone"),
    }
    for source, kinds in sources.items():
        code, said = load(*source, "--into", people, "--key", "ID", "--dry-run")
        assert code == 0, said
        assert re.search(r"^column +in the source +type +row 1", said, re.MULTILINE)
        for name, kind, column in zip(("id", "name", "born"), kinds, ("integer", "text", "date"), strict=True):
            assert re.search(rf"^{name} +{kind} +{column} +", said, re.MULTILINE), said


def test_a_dry_run_writes_nothing_and_verify_compares_the_table_with_the_file(
    load: Command, conn: Conn, people: str, tmp_path: Path
) -> None:
    write(tmp_path / "f.csv", 500)
    arguments = ["f.csv", "--into", people, "--key", "id"]
    code, said = load(*arguments, "--dry-run")
    assert code == 0
    assert f"dry run    nothing was written; it would be {counted(500)}" in said
    assert re.search(r"^column +type +row 1 +row 2 +row 3", said, re.MULTILINE)
    assert re.search(r"^born +date +1970-01-01 +1970-01-01", said, re.MULTILINE)
    assert re.search(r"^name +text +line\\none, \"0\" +name 1", said, re.MULTILINE)
    assert conn.execute("select count(*) from people").fetchone() == (0,)
    code, said = load(*arguments, "--verify")
    assert code == 0
    assert "verified   500 keys in the source, 500 in the table, 500 equal" in said
    conn.execute("update people set name = 'else' where id = 77")
    code, said = load(*arguments, "--verify")
    assert code == 1
    assert "NOT verified" in said
    assert "499 equal" in said
