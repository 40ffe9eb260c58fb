"""What the messages of an import say to do is done here, word for word, and it helps."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from pgonce.cli import main

Conn = psycopg.Connection[Any]
INTO = ["--into", "people", "--key", "id"]
OLD, NEW = "id,name\n1,Ann\n2,Bob\n", "id,name\n1,Eve\n2,Bob\n3,Cid\n"


class Terminal:
    """``pgonce seed`` in a folder, on one database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder

    def __call__(self, *words: str, code: int | None = 0) -> str:
        done = CliRunner(env={"PGONCE_DATABASE_URL": self.url}).invoke(main, ["seed", *words])
        assert code in {None, done.exit_code}, done.output
        return done.output

    def write(self, name: str, text: str | bytes) -> None:
        (self.folder / name).write_bytes(text.encode() if isinstance(text, str) else text)


@pytest.fixture
def run(database: str, conn: Conn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.chdir(tmp_path)
    conn.execute("create table people (id int primary key, name text)")
    return Terminal(database, tmp_path)


def people(conn: Conn) -> list[tuple[Any, ...]]:
    return conn.execute("select id, name from people order by id").fetchall()


def advised(said: str, pattern: str) -> list[str]:
    """The words of the command line that a message names."""
    found = re.search(pattern, said)
    assert found, said
    return shlex.split(found[1])


EVERY = [(1, "Eve"), (2, "Bob"), (3, "Cid")]


@pytest.mark.parametrize(
    ("options", "advice", "result"),
    [
        ([], r"(--restart --on-conflict update)", EVERY),
        ([], r"\((--restart)", [(1, "Ann"), (2, "Bob"), (3, "Cid")]),
        ([], r"(--accept-change)", [(1, "Ann"), (2, "Bob"), (3, "Cid")]),
        (["--on-conflict", "update"], r"\((--restart)\)", EVERY),
    ],
)
def test_a_changed_file(run: Terminal, conn: Conn, options: list[str], advice: str, result: list[Any]) -> None:
    run.write("f.csv", OLD)
    load = ["load", "f.csv", *INTO, *options]
    run(*load)
    run.write("f.csv", NEW)
    said = run(*load, code=1)
    assert said.count("\n") == 1
    run(*load, *advised(said, advice))
    assert people(conn) == result


def test_a_changed_file_for_a_table_without_a_key(run: Terminal, conn: Conn) -> None:
    conn.execute("create table log (id int, name text)")
    run.write("f.csv", OLD)
    load = ["load", "f.csv", "--into", "log"]
    run(*load)
    run.write("f.csv", NEW)
    said = run(*load, code=1)
    assert "empty log first, then --restart" in said
    conn.execute("truncate log")
    run(*load, "--restart")
    assert conn.execute("select * from log order by id").fetchall() == EVERY


def test_a_table_without_a_key_that_is_not_verified(run: Terminal, conn: Conn) -> None:
    conn.execute("create table log (id int, name text)")
    run.write("f.csv", OLD)
    load = ["load", "f.csv", "--into", "log", "--verify"]
    run(*load)
    conn.execute("update log set name = 'Eve' where id = 1")
    said = run(*load, code=1)
    assert "1 equal, 1 missing, 0 different; other rows in the table: 1" in said
    words = advised(said, r"next +empty the table, then the same command (.*)")
    conn.execute("truncate log")
    assert "verified" in run(*load, *words)


def test_another_query(run: Terminal, conn: Conn) -> None:
    run("load", run.url, "--query", "select 2 as id", *INTO)
    other = ["load", run.url, "--query", "select 1 as id", *INTO]
    said = run(*other, code=1)
    run(*other, *advised(said, r"another (--name)"), "other")
    assert people(conn) == [(1, None), (2, None)]
    run(*other, *advised(said, r"\((--restart)\)"))


@pytest.mark.parametrize(
    ("advice", "left"), [(r"\((--restart)\)", 2), (r"\((--accept-change)\)", 0), (r"another (--name)", 2)]
)
def test_an_emptied_table(run: Terminal, conn: Conn, advice: str, left: int) -> None:
    run.write("f.csv", OLD)
    run("load", "f.csv", *INTO)
    conn.execute("truncate people")
    words = advised(run("load", "f.csv", *INTO, code=1), advice)
    run("load", "f.csv", *INTO, *words, *(["other"] if words == ["--name"] else []))
    assert len(people(conn)) == left


def test_an_unlogged_table(run: Terminal, conn: Conn) -> None:
    conn.execute("alter table people set unlogged")
    run.write("f.csv", OLD)
    said = run("load", "f.csv", *INTO, code=1)
    run("load", "f.csv", *INTO, *advised(said, r"pass (--allow-unlogged)"))
    found = re.search("'(alter table .*)'", said)
    assert found
    conn.execute(found[1].encode())
    run("load", "f.csv", *INTO)


@pytest.mark.parametrize(
    ("file", "data", "options", "advice"),
    [
        ("f.csv", "ID,full name\n1,Ann\n", [], r"(--map) '(?=full name)"),
        ("f.csv", "sep=;\nid;name\n1;Ann\n", [], r"pass (--delimiter .*)$"),
        ("f.csv", "id;name\n1;Ann\n", [], r"pass (--delimiter .*)$"),
        ("f.csv", "id\tname\n1\tAnn\n", [], r"pass (--delimiter .*)$"),
        ("f.csv", "id;name\n1;Ann\n", ["--key", ""], r"pass (--delimiter .*)$"),
        ("f.csv", "id,name\n1,Ann\n".encode("utf-16-le"), [], r"(--encoding utf-16-le)$"),
        ("f.jsonl", '{"id": 1, "name": "Ann"}\n'.encode("utf-16-le"), [], r"(--encoding utf-16-le)$"),
        ("f.csv", 'id,name\n1,5" pipe\n', [], r"(--quote none)"),
        ("f.csv", "id,name\n1,Ann", [], r"pass (--complete)"),
        ("f.csv", b"id,name\n1,K\xf6ln\n", ["--max-rejects", "1"], ""),
        ("f.jsonl", '{"id": 1}\n{"id": 2, "name": "Bob"}\n', [], r"again with: (--columns \S+)"),
        ("f.txt", "id,name\n1,Ann\n", [], r"(--format csv)"),
        ("f.csv", b"na\xefme,id\nx,1\n", [], r"such as (--encoding \S+)"),
    ],
)  # fmt: skip
def test_a_file_that_is_written_otherwise(
    run: Terminal, conn: Conn, file: str, data: str | bytes, options: list[str], advice: str
) -> None:
    run.write(file, data)
    load = ["load", file, *INTO, *options]
    said = run(*load, code=None if options else 1)
    if not advice:  # the reason is kept with the reject
        assert "encoding" in run("rejects", f"people:{file}")
        run(*load, "--encoding", "latin1", "--restart")
        assert people(conn) == [(1, "Köln")]
        return
    words = advised(said, advice)
    if words == ["--map"]:
        words.append("full name=name")
    if words == ["--encoding", "cp1252"]:
        said = run(*load, *words, code=1)
        words += ["--map", "naïme=name"]
    run(*load, *words, *(["--restart"] if people(conn) and words[0] == "--quote" else []))
    assert people(conn)[-1][1] is not None


def test_a_table_whose_name_is_written_otherwise(run: Terminal, conn: Conn) -> None:
    run.write("f.csv", OLD)
    said = run("load", "f.csv", "--into", "People", "--key", "id", code=1)
    run("load", "f.csv", "--key", "id", *advised(said, r"did you mean (--into \w+)"))
    assert len(people(conn)) == 2
    run.write("f.csv", OLD.replace(",", ";"))
    said = run("load", "f.csv", "--into", "nothing", code=1)
    assert advised(said, r"pass (--delimiter .*)$") == ["--delimiter", ";"], "and no table with a column id;name"


@pytest.mark.parametrize("written", ['"Our people"', '"public"."Our people"', 'public."Our people"', "our PEOPLE"])
def test_a_table_whose_name_is_written_as_in_sql(run: Terminal, conn: Conn, written: str) -> None:
    conn.execute('create table "Our people" (id int primary key, name text)')
    run.write("f.csv", OLD)
    said = run("load", "f.csv", "--into", written, "--key", "id", code=1)
    [words] = re.findall(r"(--into '.*')", said)
    run("load", "f.csv", "--key", "id", *shlex.split(words))
    assert conn.execute('select count(*) from "Our people"').fetchone() == (2,)
    assert "names no table" in run("load", "f.csv", "--into", "", "--key", "id", code=1)


def test_a_table_that_is_not_what_the_file_says(run: Terminal, conn: Conn) -> None:
    run.write("f.csv", OLD)
    run("load", "f.csv", *INTO)
    conn.execute("update people set name = 'else' where id = 1")
    said = run("load", "f.csv", *INTO, "--verify", code=1)
    assert "NOT verified" in said
    words = advised(said, r"next +the same command (--restart --on-conflict update)")
    assert "verified   2 keys" in run("load", "f.csv", *INTO, *words, "--verify")
    assert people(conn) == [(1, "Ann"), (2, "Bob")]


def test_rejects_pauses_and_sequences(run: Terminal, conn: Conn) -> None:
    conn.execute("create table coded (id serial primary key, name text)")
    run.write("f.csv", OLD + "x,Cid\n")
    load = ["load", "f.csv", "--into", "coded", "--key", "id", "--max-rejects", "1"]
    said = run(*load)
    assert "invalid input syntax for type integer  id" in run(*advised(said, r"next +pgonce seed (rejects \S+)"))
    run(*load, *advised(said, r"may fail: (--set-sequences)"))
    assert conn.execute("insert into coded (name) values ('next') returning id").fetchone() == (3,)
    said = run("pause", "coded:f.csv")
    assert run(*load, code=75).startswith("paused")
    run(*advised(said, r"continue with: pgonce seed (resume .*)"))
    run(*load)


def test_several_files_and_a_query(run: Terminal, conn: Conn, database: str) -> None:
    run.write("a1.csv", OLD)
    run.write("a2.csv", "id,name\n3,Cid\n")
    assert "give it a --name" in run("load", "a1.csv", "a2.csv", *INTO, code=1)
    load: Callable[..., str] = lambda **more: run("load", "a*.csv", *INTO, "--name", "all", **more)  # noqa: E731
    load()
    run.write("a0.csv", "id,name\n4,Dan\n")
    said = load(code=1)
    run("load", "a*.csv", *INTO, "--name", "all", *advised(said, r"(--restart)"))
    assert len(people(conn)) == 4
    conn.execute("create table copied (id int primary key, name text)")
    query = ["load", database, "--query", "select id, name from people", "--into", "copied"]
    assert "needs a --key" in run(*query, code=1)
    run(*query, "--key", "id")
    other = ["load", database, "--query", "select id + 9 as number, name from people", "--into", "copied"]
    run(*other, "--name", "mapped", "--map", "number=id", "--key", "id", "--verify")


def test_another_file_of_the_same_name(run: Terminal, conn: Conn) -> None:
    for number, folder in enumerate(("a", "b"), 1):
        (run.folder / folder).mkdir()
        run.write(f"{folder}/f.csv", f"id,name\n{number},Ann\n")
    run("load", "a/f.csv", *INTO)
    said = run("load", "b/f.csv", *INTO, code=1)
    run("load", "b/f.csv", *INTO, *advised(said, r"or use another (--name)"), "b")
    assert people(conn) == [(1, "Ann"), (2, "Ann")]


def test_a_column_in_the_name_of_a_folder(run: Terminal, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    conn.execute("alter table people add day date")
    for number, day in enumerate(("2026-11-28", "2026-11-29"), 1):
        (run.folder / f"day={day}").mkdir()
        run.write(f"day={day}/f.csv", f"id,name\n{number},Ann\n")
        for file in (f"day={day}/f.csv", "*/f.csv"):
            assert "column day of people is in the name of the folder day=" in run("load", file, *INTO, code=1)
        conn.execute(f"alter table people alter day set default '{day}'".encode())
        monkeypatch.chdir(run.folder / f"day={day}")
        run("load", "f.csv", *INTO, "--name", day)
        monkeypatch.chdir(run.folder)
    assert conn.execute("select id, day::text from people order by id").fetchall() == [
        (1, "2026-11-28"), (2, "2026-11-29"),
    ]  # fmt: skip
    run.write("day=2026-11-29/g.csv", "id,name,day\n3,Eve,2026-11-29\n")
    run("load", "day=2026-11-29/g.csv", *INTO)


def test_a_seed_of_an_app_is_run_again_by_the_command_that_is_printed(
    run: Terminal, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGONCE_APP", raising=False)
    conn.execute("create table things (id int primary key, note text, twin text)")
    app = ["--app", "tests.edge.seeds.seed_app:app"]
    said = run("run", "whole", *app)
    conn.execute("update things set note = 'else' where id = 7")
    said = run("run", "whole", *app, "--verify", code=1)
    words = advised(said, r"next +pgonce seed (.* --restart --on-conflict update)")
    run(*words)
    assert conn.execute("select note from things where id = 7").fetchone() == ("bad",)
