"""Existing rows are found by one scan of the key's index or by one lookup each, and are counted alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from pgonce.core import database as pools
from pgonce.seeds.seeds import Seeds

Conn = psycopg.Connection[Any]
BATCH = 2000


def rows(ids: list[int]) -> Callable[[int | None], Iterator[tuple[Any, int]]]:
    def source(cursor: int | None) -> Iterator[tuple[Any, int]]:
        for place in range(0 if cursor is None else cursor + 1, len(ids)):
            yield (f"v{ids[place] // 1000:03}", ids[place], str(place)), place

    return source


def load(database: str, name: str, ids: list[int]) -> tuple[int, int]:
    """(inserted, skipped).

    The statistics of the import's sessions have been flushed then, with their scans of the index.
    """
    with pools.open_pool(database, 2) as pool:
        done = Seeds(pool).run(
            name, rows(ids), into="verses", key=("version", "id"), columns=("version", "id", "place"), batch_size=BATCH
        )
        with ExitStack() as sessions:
            for _ in range(pool.get_stats()["pool_size"]):  # else they tell it at leisure
                sessions.enter_context(pool.connection()).execute("select pg_stat_force_next_flush()")
    assert done.checkpoint is not None
    return done.checkpoint.rows_inserted, done.checkpoint.rows_skipped


def searches(conn: Conn) -> int:
    found = conn.execute("select idx_scan from pg_stat_user_indexes where relname = 'verses'").fetchone()
    assert found is not None
    return int(found[0])


def table(conn: Conn, key: str = "version, id") -> None:
    conn.execute("create table verses (version text not null, id int not null, place text)")
    conn.execute(f"create unique index on verses ({key})".encode())


def test_rows_that_are_there_are_found_by_one_pass_over_the_index(database: str, conn: Conn) -> None:
    table(conn)
    ids = list(range(4 * BATCH))
    assert load(database, "first", ids) == (len(ids), 0)
    before = searches(conn)
    assert load(database, "again", ids) == (0, len(ids))
    assert searches(conn) - before < 20


def test_keys_all_over_the_table_are_looked_up_one_by_one_from_the_second_batch_on(database: str, conn: Conn) -> None:
    table(conn)
    ids = list(range(10 * BATCH))
    load(database, "first", ids)
    before = searches(conn)
    mixed = random.Random(7).sample(ids, 3 * BATCH)
    assert load(database, "again", mixed) == (0, len(mixed))
    # all rows of two batches, and four fifths of the first: their keys are not in the part of the index that was read
    assert 2.7 * BATCH < searches(conn) - before < 2.9 * BATCH


@pytest.mark.parametrize(
    ("key", "by_range"),
    [
        ("id, version", True),
        ("version, id desc", False),
        ("version text_pattern_ops, id", False),
    ],
)
def test_only_an_index_in_the_order_of_its_columns_is_passed_over(
    database: str, conn: Conn, key: str, by_range: bool
) -> None:
    table(conn, key)
    ids = list(range(2 * BATCH))
    load(database, "first", ids)
    before = searches(conn)
    assert load(database, "again", ids) == (0, len(ids))
    assert (searches(conn) - before < 20) == by_range


def test_new_rows_among_those_that_are_there_are_written_and_of_doubles_the_first(database: str, conn: Conn) -> None:
    table(conn)
    old = list(range(0, 2 * BATCH, 2))
    load(database, "first", old)
    ids = [n for n in range(2 * BATCH) for _ in range(2)]
    random.Random(7).shuffle(ids)
    assert load(database, "again", ids) == (BATCH, 3 * BATCH)
    firsts = {n: str(ids.index(n)) for n in range(1, 2 * BATCH, 2)}
    assert dict(conn.execute("select id, place from verses where id % 2 = 1").fetchall()) == firsts
