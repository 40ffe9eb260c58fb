"""How runs of an import end, and what is kept of each: sources that end too early, resumes, totals, batch times."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce.core import database as pools
from pgonce.errors import SourceUnfinished
from pgonce.seeds.readers import read
from pgonce.seeds.seed import Seed
from pgonce.seeds.seeds import Seeds
from pgonce.seeds.seeds_async import AsyncSeeds
from tests.edge.command import on_a_terminal
from tests.edge.command import pgonce as command

Conn = psycopg.Connection[Any]
HALF = b"id,name\n1,Ann\n2,Bob\n3,C"


@pytest.fixture
def seeds(database: str, conn: Conn) -> Iterator[Seeds]:
    conn.execute("create table people (id int primary key, name text check (name <> 'bad'))")
    with pools.open_pool(database, 4) as pool:
        yield Seeds(pool)


def ids(conn: Conn) -> list[int]:
    return [row[0] for row in conn.execute("select id from people order by id")]


def status(conn: Conn, name: str = "s") -> tuple[Any, ...] | None:
    query = "select status, completed_at is not null, error_message from seed_checkpoints where seed_name = %s"
    return conn.execute(query, [name]).fetchone()


# Sources that end before their end -----------------------------------------------------------------------------------


def wrapped(path: Path) -> Any:
    """A user's generator that passes on the rows of a reader, and does not handle an incomplete last line itself."""

    def source(cursor: Any) -> Iterator[tuple[Any, Any]]:
        for row, at in read(path)(cursor):
            yield dict(zip(("id", "name"), row, strict=True)), at

    return source


@pytest.mark.parametrize("kind", ["by path", "in a generator"])
def test_half_a_last_line_is_never_complete_and_the_next_run_takes_it_when_it_is_whole(
    seeds: Seeds, conn: Conn, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(HALF)
    make = read if kind == "by path" else wrapped
    options: dict[str, Any] = {"into": "people", "key": ("id",)}
    assert seeds.rehearse("s", make(path), **options).unfinished
    found = seeds.run("s", make(path), **options)
    assert (found.outcome, found.new_rows) == ("unfinished", 2)
    assert "line 4" in (found.unfinished or "")
    assert status(conn) == ("failed", False, found.unfinished)
    assert conn.execute("select status, error_message from cron_job_runs").fetchall() == [("failed", found.unfinished)]
    path.write_bytes(HALF + b"id\n")
    assert seeds.run("s", make(path), **options).outcome == "complete"
    assert ids(conn) == [1, 2, 3]
    assert status(conn) == ("complete", True, None)
    with path.open("ab") as file:
        file.write(b"4,D")
    assert seeds.run("s", make(path), **options).outcome == "unfinished"
    assert (status(conn) or [""])[0] == "failed", "nothing new was written, and it is not complete any more"
    assert not seeds.verify("s", make(path), **options)["ok"]


def test_a_writer_that_dies_in_the_middle_of_a_pipe_leaves_no_half_row(
    seeds: Seeds, conn: Conn, tmp_path: Path
) -> None:
    path = tmp_path / "f.csv"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(HALF,))
    writer.start()
    found = seeds.run("s", read(path), into="people", key=("id",))
    writer.join()
    assert (found.outcome, ids(conn)) == ("unfinished", [1, 2])
    assert "its writer may have died" in (found.unfinished or "")
    assert "--complete" in (found.unfinished or "")


def test_an_asynchronous_source_and_a_partition_that_end_too_early_are_unfinished(
    database: str, seeds: Seeds, conn: Conn
) -> None:
    async def source(cursor: Any) -> AsyncIterator[tuple[Any, int]]:
        for n in range(cursor or 0, 3):
            yield {"id": n, "name": "x"}, n
        raise SourceUnfinished("the rest is missing")

    async def in_asyncio() -> None:
        async with await pools.open_async_pool(database, 3) as pool:
            found = await AsyncSeeds(pool).run("looped", source, into="people", key=("id",))
            assert (found.outcome, found.unfinished, found.new_rows) == ("unfinished", "the rest is missing", 3)

    asyncio.run(in_asyncio())

    def part(cursor: Any, partition: str) -> Iterator[tuple[Any, int]]:
        yield {"id": 10 + len(partition), "name": "x"}, 1
        if partition == "bb":
            raise SourceUnfinished("the rest is missing")

    what = Seed("parts", part, into="people", key=("id",), partitions=["a", "bb"])
    assert seeds.run_partition(what, "bb").outcome == "unfinished"
    assert seeds.run_partition(what, "a").outcome == "complete"
    assert [(part.status, part.error_message) for part in seeds.partitions("parts")] == [
        ("complete", None), ("failed", "the rest is missing"),
    ]  # fmt: skip
    assert (status(conn, "parts") or [""])[0] != "complete"
    assert ids(conn) == [0, 1, 2, 11, 12]


def test_the_command_says_what_is_missing_and_never_complete(
    database: str, seeds: Seeds, conn: Conn, tmp_path: Path
) -> None:
    (tmp_path / "f.csv").write_bytes(HALF)
    arguments = ["seed", "load", "f.csv", "--into", "people", "--key", "id"]
    for more, said in ((["--dry-run"], "dry run    nothing was written"), ([], "unfinished 2 seen = 2 inserted")):
        code, out, err = command(database, *arguments, *more, cwd=tmp_path)
        assert code == 1
        assert "complete  " not in out
        assert said in out + err
        assert "because    f.csv, line 4: the last line has no line end" in err
    code, out, _ = command(database, *arguments, "--complete", cwd=tmp_path)
    assert (code, ids(conn)) == (0, [1, 2, 3]), "the choice that was printed works"


# What is kept of each run --------------------------------------------------------------------------------------------


def rows(cursor: int | None) -> Iterator[tuple[Any, int]]:
    for n in range(0 if cursor is None else cursor + 1, 30):
        yield {"id": n, "name": "bad" if n == 25 else "x"}, n


def test_each_resume_is_kept_with_where_it_began_and_why_it_ended(seeds: Seeds, conn: Conn) -> None:
    what = Seed("s", rows, into="people", key=("id",), batch_size=5, total=30)
    seen = count(1)
    assert seeds.run(what, stop=lambda: next(seen) == 2).outcome == "stopped"
    seeds.pause("s")
    assert seeds.run(what).outcome == "paused"
    seeds.resume("s")
    with pytest.raises(Exception, match="row 26"):
        seeds.run(what)
    assert seeds.run(replace(what, max_rejects=1)).outcome == "complete"
    conn.execute("select start_job_run('seed_runner', p_key => 's/t', p_scope => '{\"seed_name\": \"s/t\"}')")
    found = seeds.resumes("s")
    assert [(each.outcome, each.from_row, each.to_row) for each in reversed(found)] == [
        ("stopped", 0, 10), ("paused", 10, 10), ("failed", 10, 25), ("complete", 25, 30),
    ]  # fmt: skip
    assert "RowRejected" in (found[1].reason or "")
    assert all(each.ended_at and each.process and each.partition is None for each in found)
    assert [each.outcome for each in seeds.resumes("s", 1)] == ["complete"]
    at = seeds.checkpoint("s")
    assert at
    assert at.rows_total == 30


def test_the_last_sixty_batches_have_their_times(seeds: Seeds) -> None:
    seeds.run("s", rows, into="people", key=("id",), batch_size=3, max_rejects=1)
    found = seeds.batch_times("s")
    assert [(each.batch, each.rows) for each in found] == [(n, 3) for n in range(10)]
    assert [each.took is None for each in found] == [True] + [False] * 9


class Announced:
    """A source that knows how many rows it has."""

    def __call__(self, cursor: Any) -> Iterator[tuple[Any, int]]:
        return rows(cursor)

    def __len__(self) -> int:
        return 30


def test_rows_total_and_progress_are_what_the_source_knows(
    database: str, seeds: Seeds, conn: Conn, tmp_path: Path
) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow missing: pip install 'pgonce[parquet]'")
    from pyarrow import parquet

    table = arrow.table({"id": range(40), "name": ["x"] * 40})
    parquet.write_table(table, tmp_path / "f.parquet", row_group_size=10)
    (tmp_path / "f.csv").write_text("id,name\n" + "".join(f"{n},x\n" for n in range(10_000)))
    sources: dict[str, tuple[Any, int | None, bool]] = {
        "parquet": (read(tmp_path / "f.parquet"), 40, True), "csv": (read(tmp_path / "f.csv"), None, True),
        "len": (Announced(), 30, False), "generator": (rows, None, False),
    }  # fmt: skip
    for name, (source, total, knows) in sources.items():
        seeds.run(name, source, into="people", key=("id",), max_rejects=1, batch_size=10, stop=lambda: True)
        at = seeds.checkpoint(name)
        assert at
        assert at.rows_total == total
        assert (at.progress is not None) == knows
        if name == "csv":
            data = (tmp_path / "f.csv").read_bytes()
            share = data.index(f"\n{at.rows_seen},".encode()) / len(data)
            assert at.progress == pytest.approx(share, abs=0.001)
        if name == "parquet":
            assert at.progress == at.rows_seen / 40

    def part(cursor: Any, partition: str) -> Iterator[tuple[Any, int]]:
        return rows(cursor) if partition == "a" else iter(())

    what = Seed("parts", part, into="people", key=("id",), max_rejects=1, partitions=["a"], total=77)
    seeds.run_partition(what, "a")
    at = seeds.checkpoint("parts")
    assert at
    assert at.rows_total == 77


# Rejects -------------------------------------------------------------------------------------------------------------


def test_rejects_are_grouped_by_reason_and_column_and_quote_no_value(seeds: Seeds, conn: Conn) -> None:
    conn.execute("alter table people add score int, add born date, add doc jsonb")
    conn.execute(
        "create function refuse() returns trigger language plpgsql as"
        " 'begin if new.score = 13 then raise exception ''13 is geheim''; end if; return new; end'"
    )
    conn.execute("create trigger refuse before insert on people for each row execute function refuse()")
    odd: list[dict[str, Any]] = [
        {"score": "geheim"}, {"score": "2147483648"}, {"score": "2147483649"}, {"born": "2026-02-30"}, {"name": "bad"},
        {"doc": "{geheim"}, {"doc": {1, "geheim"}}, {"score": 13}, {"id": None},
    ]  # fmt: skip

    def source(cursor: Any) -> Iterator[tuple[Any, int]]:
        for n, each in enumerate(odd):
            yield {"id": n, "name": "x", "score": None, "born": None, "doc": None} | each, n

    seeds.run("s", source, into="people", key=("id",), max_rejects=len(odd))
    found = {(each.column_name, each.reason): each for each in seeds.reject_groups("s")}
    assert sum(each.rows for each in found.values()) == len(odd)
    assert {column for column, _ in found} == {"score", "born", None, "doc", "id"}
    twice = found["score", "value … is out of range for type integer"]
    assert (twice.rows, twice.first_row, twice.sqlstate) == (2, 2, "22003")
    told = " ".join(reason for _, reason in found)
    assert not {word for word in ("geheim", "13 is", "2147483648", "2026-02-30") if word in told}, told


def test_the_command_lists_rejects_by_reason_and_prints_their_values_as_csv(
    database: str, seeds: Seeds, conn: Conn, tmp_path: Path
) -> None:
    (tmp_path / "f.csv").write_text('id,name\n1,bad\nx,"a, ""b"""\n2,bad\n3,""\ny,\n4,5" pipe\n')
    load = ["seed", "load", "f.csv", "--into", "people", "--key", "id", "--max-rejects", "9"]
    code, out, _ = command(database, *load, cwd=tmp_path)
    assert code == 0
    [told] = [line for line in out.splitlines() if line.startswith("next ")]
    code, out, _ = command(database, *told.split()[2:5], cwd=tmp_path)
    assert code == 0
    lines = out.splitlines()
    assert [" 1 " in lines[1], " 3 " in lines[2], " 2 " in lines[3], " 5 " in lines[4], " 6 " in lines[5]] == [True] * 5
    assert re.search(r"^invalid input syntax for type integer +id ", lines[3])
    assert "a, " not in out
    assert lines[-1] == "values: pgonce seed rejects people:f.csv --csv"
    code, out, _ = command(database, *lines[-1].split()[2:], cwd=tmp_path)
    assert code == 0
    (tmp_path / "r.csv").write_text(out)
    source = read(tmp_path / "r.csv")
    found = [dict(zip(source.columns, row, strict=True)) for row, _ in source(None)]
    assert [(each["row_number"], each["id"], each["name"], each["record"]) for each in found] == [
        ("1", "1", "bad", None), ("2", "x", 'a, "b"', None), ("3", "2", "bad", None), ("5", "y", None, None),
        ("6", None, None, '4,5" pipe'),
    ]  # fmt: skip
    assert command(database, "seed", "rejects", "typo", cwd=tmp_path)[0] == 1


@pytest.mark.parametrize("columns", [80, 120])
def test_the_bar_on_a_terminal_is_one_line_that_says_how_far_how_fast_and_how_long(
    database: str, seeds: Seeds, conn: Conn, tmp_path: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people.csv").write_text("id,name\n" + "".join(f"{n},name {n}\n" for n in range(20_000)))
    limited = ["--batch-size", "4000", "--max-rows-per-second", "10000"]
    lines = on_a_terminal(columns, database, "seed", "load", "people.csv", "--into", "people", "--key", "id", *limited)
    drawn = [re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", line) for line in "\n".join(lines).replace("\r", "\n").split("\n")]

    bars = [line for line in drawn if "rows/s" in line and "━" in line]
    assert bars
    assert max(map(len, bars)) <= columns
    assert all(line.startswith("people.csv → people") and " %" in line for line in bars)
    # 80 columns have no room for the total and the time left
    figures = r"[\d,]+ of about [\d,]+   [\d,]+ rows/s   [\d.]+ s left" if columns > 80 else r"[\d,]+   [\d,]+ rows/s"
    assert any(re.search(rf"\d+ %   {figures}", line) for line in bars)
    assert any(line.startswith("complete   20,000 seen = 20,000 inserted") for line in drawn)
