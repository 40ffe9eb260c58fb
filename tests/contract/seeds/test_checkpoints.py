"""Imports, against every caller: every row is inserted once and counted once, however often the import was resumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from pgonce import AsyncSeeds, Seeds
from pgonce.core.database import open_async_pool
from pgonce.errors import DatabaseUnavailable, InvalidArgument, LeaseLost, PgonceError, RowRejected, SchemaError
from tests.conftest import wait_until
from tests.contract.callers import Caller, PlainSql, Sync, spawn
from tests.contract.conftest import BINDINGS, CALLERS
from tests.contract.jobs.test_guard import take_over
from tests.faults.proxy import Proxy

Db = psycopg.Connection[Any]
Open = Callable[[str, str], Caller]
Source = Callable[[Any], Iterator[tuple[Any, Any]]]


@pytest.fixture
def table(db: Db) -> str:
    """A table for one test, with the key ``id``."""
    name = f"rows_{uuid4().hex[:12]}"
    db.execute(f"create table {name} (id int primary key, note text check (note <> 'bad'))".encode())
    return name


def numbers(*ids: int, note: str = "x") -> Source:
    """A source of rows with these keys. Its cursor is the position of a row, not its key; a resume starts after it."""

    def source(cursor: Any) -> Iterator[tuple[Any, Any]]:
        for place in range(cursor["place"] + 1 if cursor else 0, len(ids)):
            yield {"id": ids[place], "note": note}, {"place": place}

    return source


def found(db: Db, table: str) -> list[Any]:
    return [row[0] for row in db.execute(f"select id from {table} order by id".encode()).fetchall()]


def checkpoint(db: Db, name: str) -> Any:
    with db.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("select * from get_checkpoint(%s)", [name]).fetchone()


def counts(db: Db, name: str) -> tuple[str, int, int]:
    at = checkpoint(db, name)
    return at["status"], at["rows_inserted"], at["rows_skipped"]


def last_run(db: Db, name: str) -> Any:
    newest = "select * from cron_job_runs where job_name = 'seed_runner' and key = %s order by started_at desc"
    with db.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(newest, [name]).fetchone()


# Once ---------------------------------------------------------------------------------------------------------------


def test_an_import_writes_every_row_and_ends_as_complete(caller: Caller, db: Db, table: str, name: str) -> None:
    assert caller.seed(name, numbers(1, 2, 3, 4, 5), into=table, key=("id",)) == "complete"
    assert found(db, table) == [1, 2, 3, 4, 5]
    assert counts(db, name) == ("complete", 5, 0)
    assert checkpoint(db, name)["last_checkpoint"] == {"place": 4}
    assert checkpoint(db, name)["completed_at"] is not None
    run = last_run(db, name)
    assert (run["status"], run["key"]) == ("succeeded", name)


def test_duplicates_in_the_source_and_rows_that_are_there_are_skipped(
    caller: Caller, db: Db, table: str, name: str
) -> None:
    db.execute(f"insert into {table} values (2, 'was here first')".encode())
    assert caller.seed(name, numbers(1, 1, 2, 3, 3, 3, 1), into=table, key=("id",), batch_size=3) == "complete"
    assert found(db, table) == [1, 2, 3]
    assert counts(db, name) == ("complete", 2, 5)
    assert db.execute(f"select note from {table} where id = 2".encode()).fetchall() == [("was here first",)]


def test_of_two_rows_with_one_key_the_first_stays_in_one_batch_as_in_two(
    caller: Caller, db: Db, table: str, name: str
) -> None:
    def source(_: Any) -> Iterator[tuple[Any, Any]]:
        yield {"id": 1, "note": "first"}, 1
        yield {"id": 1, "note": "second"}, 2

    for size in (1, 2):
        caller.seed(f"{name}{size}", source, into=table, key=("id",), batch_size=size)
        assert db.execute(f"select note from {table}".encode()).fetchall() == [("first",)]


@pytest.mark.parametrize("kind", CALLERS)
def test_rows_and_checkpoint_become_visible_at_the_same_moment(
    network: Proxy, open_caller: Open, db: Db, table: str, name: str, kind: str
) -> None:
    looks: list[tuple[int, Any]] = []

    def look() -> None:  # behind every commit, before the import knows of it
        both = f"select (select count(*) from {table}), (select last_checkpoint from get_checkpoint(%s))"
        looks.extend(db.execute(both.encode(), [name]).fetchall())

    network.watch(b"COMMIT", look)
    assert open_caller(kind, network.url).seed(name, numbers(*range(9)), into=table, key=("id",)) == "complete"
    moments = {(rows, at["place"] + 1 if at else 0) for rows, at in looks}
    assert {(n, n) for n in (2, 4, 6, 8, 9)} <= moments
    assert all(there == counted for there, counted in moments)


def test_an_empty_source_is_complete(caller: Caller, db: Db, table: str, name: str) -> None:
    assert caller.seed(name, numbers(), into=table, key=("id",)) == "complete"
    assert counts(db, name) == ("complete", 0, 0)


def test_a_complete_import_finds_nothing_left_to_do(caller: Caller, db: Db, table: str, name: str) -> None:
    for _ in range(2):
        assert caller.seed(name, numbers(1, 2, 3), into=table, key=("id",)) == "complete"
    assert counts(db, name) == ("complete", 3, 0)


def test_two_runners_of_one_import_do_not_overlap(caller: Caller, db: Db, table: str, name: str) -> None:
    outcomes = []

    def source(cursor: Any) -> Iterator[tuple[Any, Any]]:
        outcomes.append(caller.seed(name, numbers(1), into=table, key=("id",)))
        yield from numbers(1, 2, 3)(cursor)

    assert caller.seed(name, source, into=table, key=("id",)) == "complete"
    assert outcomes == ["overlap"]
    assert counts(db, name) == ("complete", 3, 0)


# Resuming -----------------------------------------------------------------------------------------------------------


class Boom(Exception):
    """What a source raises."""


def failing(source: Source, at: int, error: BaseException | None = None) -> Source:
    """``source`` until it has yielded ``at`` rows."""

    def cut(cursor: Any) -> Iterator[tuple[Any, Any]]:
        for number, item in enumerate(source(cursor)):
            if number == at:
                raise error or Boom("boom")
            yield item

    return cut


def test_an_import_whose_source_raises_is_failed_and_resumes_exactly(
    caller: Caller, db: Db, table: str, name: str
) -> None:
    source = numbers(1, 2, 2, 3, 4, 5, 6, 6)
    with pytest.raises(Boom):
        caller.seed(name, failing(source, 5), into=table, key=("id",))
    status, inserted, skipped = counts(db, name)
    assert status == "failed"
    assert inserted == len(found(db, table))
    assert inserted + skipped == checkpoint(db, name)["last_checkpoint"]["place"] + 1
    assert "Boom: boom" in checkpoint(db, name)["error_message"]
    assert "Traceback" in checkpoint(db, name)["error_message"]
    assert last_run(db, name)["status"] == "failed"
    assert caller.seed(name, source, into=table, key=("id",)) == "complete"
    assert found(db, table) == [1, 2, 3, 4, 5, 6]
    assert counts(db, name) == ("complete", 6, 2)
    assert checkpoint(db, name)["error_message"] is None


def test_an_import_that_fails_before_its_first_batch_begins_at_the_start(
    caller: Caller, db: Db, table: str, name: str
) -> None:
    cursors = []

    def source(cursor: Any) -> Iterator[tuple[Any, Any]]:
        cursors.append(cursor)
        yield from failing(numbers(1, 2, 3), 1 if len(cursors) == 1 else 9)(cursor)

    with pytest.raises(Boom):
        caller.seed(name, source, into=table, key=("id",))
    assert (found(db, table), counts(db, name)) == ([], ("failed", 0, 0))
    caller.seed(name, source, into=table, key=("id",))
    assert cursors == [None, None]
    assert counts(db, name) == ("complete", 3, 0)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.lists(st.integers(1, 12), max_size=5), st.integers(1, 4))
def test_however_it_is_cut_the_rows_and_the_counters_are_exact(
    module_database: str, db: Db, chapters: list[int], cuts: list[int], size: int
) -> None:
    # a chapter's verses share its cursor; every second chapter is there twice
    rows = [(c, v) for c, count in enumerate(chapters) for v in range(count)]
    double = [row for row in rows if row[0] % 2]
    whole = sorted([*rows, *double])
    name, into = uuid4().hex, f"verses_{uuid4().hex[:12]}"
    db.execute(f"create table {into} (chapter int, verse int, primary key (chapter, verse))".encode())

    def source(cursor: Any) -> Iterator[tuple[Any, Any]]:
        for chapter, verse in whole:
            if cursor is None or chapter > cursor["chapter"]:
                yield (chapter, verse), {"chapter": chapter}

    with Sync(module_database, size=2).pool as pool:
        seeds = Seeds(pool)
        options: Any = {"into": into, "key": ("chapter", "verse"), "columns": ("chapter", "verse"), "batch_size": size}
        for cut in cuts:
            try:
                seeds.run(name, failing(source, cut), **options)
            except Boom:
                there = db.execute(f"select chapter, count(*) from {into} group by 1 order by 1".encode()).fetchall()
                assert there == list(enumerate(chapters))[: len(there)]  # no chapter is there in part
        assert seeds.run(name, source, **options).outcome == "complete"
    assert db.execute(f"select chapter, verse from {into} order by 1, 2".encode()).fetchall() == rows
    assert counts(db, name) == ("complete", len(rows), len(double))
    db.execute(f"drop table {into}".encode())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_in_a_source_ends_the_run_and_the_next_one_resumes(
    open_caller: Open, module_database: str, db: Db, table: str, name: str, error: type[BaseException]
) -> None:
    caller = open_caller("sync", module_database)
    with pytest.raises(error):
        caller.seed(name, failing(numbers(1, 2, 3, 4, 5), 4, error()), into=table, key=("id",))
    assert last_run(db, name)["status"] == "failed"
    assert caller.seed(name, numbers(1, 2, 3, 4, 5), into=table, key=("id",)) == "complete"
    assert counts(db, name) == ("complete", 5, 0)


@pytest.mark.parametrize("kind", BINDINGS)
def test_asked_to_stop_it_ends_after_a_batch_and_resumes(
    open_caller: Open, module_database: str, db: Db, table: str, name: str, kind: str
) -> None:
    caller = open_caller(kind, module_database)
    progress: list[tuple[int, int]] = []

    def note(at: Any) -> None:
        progress.append((at.rows, at.checkpoint.rows_inserted))

    options: Any = {"into": table, "key": ("id",), "on_progress": note}
    assert caller.seed(name, numbers(*range(7)), **options, stop=lambda: bool(progress)) == "stopped"
    assert (found(db, table), counts(db, name)) == ([0, 1], ("in_progress", 2, 0))
    assert last_run(db, name)["status"] == "succeeded"
    assert caller.seed(name, numbers(*range(7)), **options) == "complete"
    assert (found(db, table), counts(db, name)) == ([*range(7)], ("complete", 7, 0))
    assert progress == [(2, 2), (2, 4), (4, 6), (5, 7)]


@pytest.mark.parametrize("kind", BINDINGS)
def test_a_restart_begins_at_the_start_and_skips_what_is_there(
    open_caller: Open, module_database: str, db: Db, table: str, name: str, kind: str
) -> None:
    caller = open_caller(kind, module_database)
    caller.seed(name, numbers(1, 2, 3), into=table, key=("id",))
    db.execute(f"delete from {table} where id = 2".encode())
    assert caller.seed(name, numbers(1, 2, 3), into=table, key=("id",), restart=True) == "complete"
    assert found(db, table) == [1, 2, 3]
    assert counts(db, name) == ("complete", 1, 2)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_source_may_use_its_row_and_its_cursor_again(
    open_caller: Open, module_database: str, db: Db, table: str, name: str, kind: str
) -> None:
    caller = open_caller(kind, module_database)

    def again(cursor: Any) -> Iterator[tuple[Any, Any]]:
        row: dict[str, Any] = {}
        place: dict[str, Any] = {"deep": [None]}
        for number in range(cursor["deep"][0] + 1 if cursor else 0, 50):
            row["id"] = place["at"] = place["deep"][0] = number
            yield row, place

    def dying(cursor: Any) -> Iterator[tuple[Any, Any]]:
        for row, place in again(cursor):
            if row["id"] == 31:
                raise RuntimeError("the source ends")
            yield row, place

    with pytest.raises(RuntimeError, match="the source ends"):
        caller.seed(name, dying, into=table, key=("id",))
    assert counts(db, name) == ("failed", 30, 0), "batches of two, and the open one is lost"
    assert caller.seed(name, again, into=table, key=("id",)) == "complete"
    assert found(db, table) == [*range(50)]
    assert counts(db, name) == ("complete", 50, 0)


# Losing the run, losing the connection -------------------------------------------------------------------------------


def test_an_import_that_was_taken_over_writes_nothing_more(caller: Caller, db: Db, table: str, name: str) -> None:
    source, successors = numbers(*range(9)), []

    def overtaken(cursor: Any) -> Iterator[tuple[Any, Any]]:
        for row, at in source(cursor):
            if row["id"] == 5:
                successors.append(take_over(db, "seed_runner", name))
            yield row, at

    with pytest.raises(LeaseLost):
        caller.seed(name, overtaken, into=table, key=("id",))
    assert counts(db, name) == ("in_progress", len(found(db, table)), 0)
    assert len(found(db, table)) < 6
    assert db.execute("select complete_job_run(%s)", successors).fetchall() == [(True,)]
    assert caller.seed(name, source, into=table, key=("id",)) == "complete"
    assert (found(db, table), counts(db, name)) == ([*range(9)], ("complete", 9, 0))


def test_a_checkpoint_that_somebody_else_moved_rolls_the_batch_back(
    caller: Caller, db: Db, table: str, name: str
) -> None:
    source = numbers(*range(6))

    def disturbed(cursor: Any) -> Iterator[tuple[Any, Any]]:
        for row, at in source(cursor):
            if row["id"] == 3:
                db.execute("select update_checkpoint(%s, '{\"place\": 1}')", [name])
            yield row, at

    with pytest.raises(LeaseLost, match=r"moved by (somebody else|another client)"):
        caller.seed(name, disturbed, into=table, key=("id",))
    assert (found(db, table), counts(db, name)[1:]) == ([0, 1], (2, 0))
    assert caller.seed(name, source, into=table, key=("id",)) == "complete"
    assert (found(db, table), counts(db, name)) == ([*range(6)], ("complete", 6, 0))


def holding(network: Proxy, source: Source, row_id: int, held: list[Any], *, answer: bool) -> Source:
    """``source``; from the row ``row_id`` on, the next COMMIT (or its answer) is held."""

    def watched(cursor: Any) -> Iterator[tuple[Any, Any]]:
        for row, at in source(cursor):
            if row["id"] == row_id and not held:
                held.append(network.hold(b"COMMIT", answer=answer))
            yield row, at

    return watched


@pytest.mark.parametrize("kind", BINDINGS)
@pytest.mark.parametrize("answer", [False, True], ids=["COMMIT lost", "answer lost"])
def test_a_connection_that_dies_during_commit_neither_loses_nor_doubles_a_row(
    network: Proxy, open_caller: Open, db: Db, table: str, name: str, kind: str, answer: bool
) -> None:
    caller, held = open_caller(kind, network.url), list[Any]()
    source = holding(network, numbers(*range(9), 0, 3), 4, held, answer=answer)
    importing = spawn(lambda: caller.seed(name, source, into=table, key=("id",)))
    wait_until(lambda: held, "the source has got there")[0].wait()
    network.cut()
    assert importing.result(30) == "complete"
    assert (found(db, table), counts(db, name)) == ([*range(9)], ("complete", 9, 2))
    assert checkpoint(db, name)["batch"] == 6


@pytest.mark.parametrize("options", [{"key": ("id",), "on_conflict": "fail"}, {"key": ()}], ids=["fail", "no key"])
def test_rows_that_a_lost_answer_was_about_are_not_called_duplicates(
    network: Proxy, open_caller: Open, db: Db, table: str, name: str, options: dict[str, Any]
) -> None:
    caller, held = open_caller("sync", network.url), list[Any]()
    source = holding(network, numbers(*range(9), 3), 4, held, answer=True)
    importing = spawn(lambda: caller.seed(name, source, into=table, **options))
    wait_until(lambda: held, "the source has got there")[0].wait()
    network.cut()
    with pytest.raises(RowRejected, match="row 10, "):
        importing.result(30)
    assert found(db, table) == [*range(8)], "up to the batch with the one row that is there twice"


@pytest.mark.parametrize(
    ("kind", "options"), [*((kind, {}) for kind in BINDINGS), ("sync", {"on_conflict": "fail"})], ids=str
)
def test_a_delayed_commit_and_its_repetition_do_not_both_land(
    network: Proxy, open_caller: Open, db: Db, table: str, name: str, kind: str, options: dict[str, Any]
) -> None:
    caller, held = open_caller(kind, network.url), list[Any]()
    source = holding(network, numbers(*range(9)), 4, held, answer=False)
    importing = spawn(lambda: caller.seed(name, source, into=table, key=("id",), **options))
    commit = wait_until(lambda: held, "the source has got there")[0]
    commit.wait()
    network.cut_clients()  # the COMMIT is still under way to the server
    waiting = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    wait_until(lambda: db.execute(waiting).fetchone(), "the repetition waits for the first")
    commit.release()
    assert importing.result(30) == "complete"
    assert (found(db, table), counts(db, name)) == ([*range(9)], ("complete", 9, 0))
    assert checkpoint(db, name)["batch"] == 5


def test_a_restart_of_the_database_that_kills_a_whole_pool_does_not_end_an_import(
    module_database: str, db: Db, table: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgonce.seeds.importer.RETRIES", (0.05, 0.1, None))  # fewer attempts than dead connections
    kwargs = {"autocommit": True, "application_name": name}
    with ConnectionPool(module_database, kwargs=kwargs, min_size=8, max_size=8, open=True) as pool:
        pool.wait()

        def killing(cursor: Any) -> Iterator[tuple[Any, Any]]:
            for row, at in numbers(*range(9))(cursor):
                if row["id"] == 4:
                    all_of_them = (
                        "select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name = %s"
                    )
                    assert len(db.execute(all_of_them, [name]).fetchall()) == 8
                yield row, at

        assert Seeds(pool).run(name, killing, into=table, key=("id",), batch_size=2).outcome == "complete"
    assert (found(db, table), counts(db, name)) == ([*range(9)], ("complete", 9, 0))


def test_a_database_that_stays_away_ends_the_import_which_can_be_resumed(
    network: Proxy, open_caller: Open, module_database: str, db: Db, table: str, name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # not for a minute each: nobody is coming back
    monkeypatch.setattr("pgonce.seeds.importer.RETRIES", (0.05, None))
    monkeypatch.setattr("pgonce.jobs.run.PAUSES", (0.05,))
    caller = Sync(network.url)
    caller.pool.timeout = 0.5

    def cut(cursor: Any) -> Iterator[tuple[Any, Any]]:
        for row, at in numbers(*range(9))(cursor):
            if row["id"] == 4:
                network.down()
            yield row, at

    with pytest.raises((DatabaseUnavailable, psycopg.OperationalError)):
        caller.seed(name, cut, into=table, key=("id",))
    caller.close()
    take_over(db, "seed_runner", name)
    db.execute("update cron_job_runs set status = 'failed' where key = %s and status = 'running'", [name])
    assert open_caller("sync", module_database).seed(name, numbers(*range(9)), into=table, key=("id",)) == "complete"
    assert (found(db, table), counts(db, name)) == ([*range(9)], ("complete", 9, 0))


# Rows ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("double", [False, True], ids=["straight", "with duplicates"])
@pytest.mark.parametrize("kind", BINDINGS)
@pytest.mark.parametrize("form", ["mapping", "tuple", "list"])
def test_rows_may_be_mappings_or_sequences_and_hold_json(
    open_caller: Open, module_database: str, db: Db, name: str, kind: str, form: str, double: bool
) -> None:
    into = f"rich_{uuid4().hex[:12]}"
    db.execute(
        (
            f"create table {into} (id int generated always as identity primary key, data jsonb not null, tags text[],"
            ' raw bytea, at timestamptz default now(), "Odd name" text,'
            " length int generated always as (octet_length(raw)) stored)"
        ).encode()
    )
    columns = ("id", "data", "tags", "raw", "Odd name")
    rows = [(n, {"a": [n, "\\N\t"]}, ["x", 'y"'], b"\0\\", "tab\tline\n\\.") for n in range(1, 6)]
    rows += rows[:2] if double else []
    make: dict[str, Callable[..., Any]] = {
        "mapping": lambda row: dict(reversed(list(zip(columns, row, strict=True)))),
        "tuple": tuple,
        "list": list,
    }

    def source(cursor: Any) -> Iterator[tuple[Any, Any]]:
        yield from ((make[form](row), place) for place, row in enumerate(rows) if cursor is None or place > cursor)

    caller = open_caller(kind, module_database)
    caller.seed(name, source, into=f"public.{into}", key=("id",), columns=columns, batch_size=9)
    stored = db.execute(f'select id, data, tags, raw, "Odd name", length from {into} order by id'.encode()).fetchall()
    assert stored == [(*row, 2) for row in rows[:5]]
    assert counts(db, name) == ("complete", 5, len(rows) - 5)


@pytest.mark.parametrize("cursor", [7, "H10", ["x", 1], {"a": {"b": None}}, False, 0, ""], ids=repr)
def test_any_json_but_null_is_a_cursor(caller: Caller, db: Db, table: str, name: str, cursor: Any) -> None:
    cursors = []

    def source(at: Any) -> Iterator[tuple[Any, Any]]:
        cursors.append(at)
        if at is None or isinstance(caller, PlainSql):
            yield {"id": 1, "note": "x"}, cursor

    for _ in range(2):
        caller.seed(name, source, into=table, key=("id",))
    if not isinstance(caller, PlainSql):  # which takes all that is falsy for the start
        assert cursors == [None, cursor]
        assert checkpoint(db, name)["last_checkpoint"] == cursor


def test_a_source_may_be_an_async_generator(module_database: str, db: Db, table: str, name: str) -> None:
    async def source(cursor: Any) -> AsyncIterator[tuple[Any, Any]]:
        for row, at in numbers(*range(5))(cursor):
            await asyncio.sleep(0)
            yield row, at

    async def main() -> str:
        async with await open_async_pool(module_database, 2) as pool:
            stopped = await AsyncSeeds(pool).run(name, source, into=table, key=("id",), batch_size=2, stop=lambda: True)
            assert stopped.outcome == "stopped"
            done = await AsyncSeeds(pool).run(name, source, into=table, key=("id",), batch_size=2)
            at = await AsyncSeeds(pool).checkpoint(name)
            assert at == done.checkpoint
            return done.outcome

    assert asyncio.run(main()) == "complete"
    assert (found(db, table), counts(db, name)) == ([*range(5)], ("complete", 5, 0))


def test_a_cancelled_async_import_can_be_resumed_at_once(module_database: str, db: Db, table: str, name: str) -> None:
    async def main() -> None:
        waiting = asyncio.Event()

        async def source(cursor: Any) -> AsyncIterator[tuple[Any, Any]]:
            for row, at in numbers(*range(5))(cursor):
                if row["id"] == 4 and not waiting.is_set():
                    waiting.set()
                    await asyncio.Event().wait()
                yield row, at

        async with await open_async_pool(module_database, 2) as pool:
            options: Any = {"into": table, "key": ("id",), "batch_size": 2}
            task = asyncio.create_task(AsyncSeeds(pool).run(name, source, **options))
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await AsyncSeeds(pool).run(name, source, **options)).outcome == "complete"

    asyncio.run(main())
    assert (found(db, table), counts(db, name)) == ([*range(5)], ("complete", 5, 0))


# Refused ------------------------------------------------------------------------------------------------------------


def never(_: Any) -> Iterator[tuple[Any, Any]]:
    """A source that must not be asked."""
    return iter(pytest.fail("the source was asked") for _ in range(1))


KEYS = {
    "no index": "create table {t} (id int not null)",
    "not unique": "create table {t} (id int not null); create index on {t} (id)",
    "nullable": "create table {t} (id int unique)",
    "partial": "create table {t} (id int not null); create unique index on {t} (id) where id > 0",
    "deferrable": "create table {t} (id int not null unique deferrable)",
    "expression": "create table {t} (id int not null); create unique index on {t} ((id + 1))",
    "half of the key": "create table {t} (id int not null, part int not null, primary key (id, part))",
    "more than the key": "create table {t} (other int primary key, id int not null)",
    "included only": "create table {t} (a int not null, id int not null); create unique index on {t} (a) include (id)",
    "a view": "create view {t} as select 1 as id",
}


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("wrong", KEYS)
def test_a_key_that_could_double_rows_is_refused_before_the_first_row(
    open_caller: Open, module_database: str, db: Db, name: str, kind: str, wrong: str
) -> None:
    into = f"wrong_{uuid4().hex[:12]}"
    for statement in KEYS[wrong].format(t=into).split(";"):
        db.execute(statement.encode())
    with pytest.raises(
        SchemaError, match=f"{into}.*{'import into its table' if wrong == 'a view' else 'unique index'}"
    ):
        open_caller(kind, module_database).seed(name, never, into=into, key=("id",))
    assert (checkpoint(db, name), last_run(db, name)) == (None, None)


@pytest.mark.parametrize("key", [("nothing",), ("ID",)], ids=str)
def test_a_key_of_other_columns_is_refused(
    open_caller: Open, module_database: str, db: Db, table: str, name: str, key: tuple[str, ...]
) -> None:
    with pytest.raises(SchemaError):
        open_caller("sync", module_database).seed(name, never, into=table, key=key)
    assert checkpoint(db, name) is None


def test_a_key_of_several_columns_may_be_named_in_any_order(
    open_caller: Open, module_database: str, db: Db, name: str
) -> None:
    into = f"pairs_{uuid4().hex[:12]}"
    db.execute(f"create table {into} (a int, b int, c int, primary key (a, b) include (c))".encode())
    rows = [({"c": 0, "b": n % 2, "a": n // 2}, n) for n in [0, 1, 2, 3, 1]]
    caller = open_caller("sync", module_database)
    assert caller.seed(name, lambda _: iter(rows), into=into, key=("b", "a"), batch_size=9) == "complete"
    assert counts(db, name) == ("complete", 4, 1)


@pytest.mark.parametrize("into", ["nowhere", "nowhere.at_all", "robert'); drop table students", 'quo"te'])
def test_a_table_that_is_not_there_is_refused(
    open_caller: Open, module_database: str, db: Db, name: str, into: str
) -> None:
    with pytest.raises(SchemaError, match="there is no table"):
        open_caller("sync", module_database).seed(name, never, into=into, key=("id",))
    assert checkpoint(db, name) is None


def violated(db: Db, table: str, name: str, caller: Caller, rows: Iterable[Any], says: str, **options: Any) -> None:
    """Import ``rows``. The third batch is refused: nothing of it is written, and everything before it is."""
    numbered = list(enumerate(rows))
    with pytest.raises((psycopg.Error, PgonceError), match=says) as caught:
        caller.seed(name, lambda _: iter([(row, place) for place, row in numbered]), into=table, key=("id",), **options)
    assert found(db, table) == [0, 1, 2, 3]
    assert counts(db, name) == ("failed", 4, 0)
    assert checkpoint(db, name)["last_checkpoint"] == 3
    assert str(caught.value).splitlines()[0] in checkpoint(db, name)["error_message"]


def test_a_row_that_violates_another_constraint_fails_the_import_with_nothing_half_written(
    caller: Caller, db: Db, table: str, name: str
) -> None:
    rows = [{"id": n, "note": "bad" if n == 5 else "x"} for n in range(8)]
    violated(db, table, name, caller, rows, "note_check")


def test_a_row_that_violates_another_unique_index_is_no_duplicate(
    caller: Caller, db: Db, table: str, name: str
) -> None:
    db.execute(f"create unique index {table}_by_note on {table} (note)".encode())
    rows = [{"id": n, "note": str(n % 5)} for n in range(8)]
    violated(db, table, name, caller, rows, f"{table}_by_note")


@pytest.mark.parametrize("kind", BINDINGS)
@pytest.mark.parametrize("double", [False, True], ids=["straight", "behind a duplicate"])
def test_a_value_of_the_wrong_type_fails_the_import_with_its_column(
    open_caller: Open, module_database: str, db: Db, table: str, name: str, kind: str, double: bool
) -> None:
    rows = [{"id": n, "note": "x"} for n in range(4)] + [
        {"id": 0 if double else 4, "note": "x"},
        {"id": "five", "note": "x"},
    ]
    violated(db, table, name, open_caller(kind, module_database), rows, "integer.*id")


@pytest.mark.parametrize("kind", BINDINGS)
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([({"id": 1, "note": "x"}, None)], "no cursor"),
        ([({"id": 1, "note": "x"}, {"at": object()})], "not JSON"),
        ([({"id": 1, "note": "x"}, float("nan"))], "not JSON"),
        ([({"id": 1, "note": "x"}, 1), ({"id": 2}, 2)], "equal rows"),
        ([((1, "x"), 1)], "columns="),
        ([({"id": 1, "note": "x"}, 1), ({1, "x"}, 2)], "not set"),
        ([({"id": 1, "note": "x"}, 1), (b"ab", 2)], "not bytes"),
        ([({"id": 1, "note": "x"}, 1), (7, 2)], "not int"),
        ([{"id": 1}], "no cursor"),
        ([{"id": 1, "note": "x"}], "no cursor"),
        ([(1, "x", 7)], "no cursor"),
        ([7], "no cursor"),
    ],
    ids=[
        "no cursor", "not JSON", "NaN", "other columns", "no columns", "a set", "bytes", "a number", "one", "two",
        "three", "none",
    ],
)  # fmt: skip
def test_rows_and_cursors_that_make_no_sense_are_an_invalid_argument(
    open_caller: Open, module_database: str, db: Db, table: str, name: str, kind: str, rows: list[Any], says: str
) -> None:
    with pytest.raises(InvalidArgument, match=says):
        open_caller(kind, module_database).seed(name, lambda _: iter(rows), into=table, key=("id",), batch_size=9)
    assert (found(db, table), counts(db, name)) == ([], ("failed", 0, 0))


@pytest.mark.parametrize("kind", CALLERS)
def test_an_import_without_a_name_is_refused(open_caller: Open, module_database: str, table: str, kind: str) -> None:
    with pytest.raises((InvalidArgument, psycopg.Error), match="must not be empty"):
        open_caller(kind, module_database).seed("", numbers(1), into=table, key=("id",))
