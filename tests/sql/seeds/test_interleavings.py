"""The interleavings of seed_checkpoints, forced with real sessions: a commit in flight, a zombie, two first batches."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import errors

from tests.sql.race import Connection, Open, together, value, waiting


@pytest.fixture
def database(swept_database: str) -> str:
    """One database for the module, emptied after each test."""
    return swept_database


def start(conn: Connection) -> Any:
    return value(conn, "select start_job_run('seed_runner', p_key => 's')")


def advance(conn: Connection, run: Any, batch: int, rows: int = 10) -> int | None:
    """The number of batches after this one; None if this one was committed already."""
    checkpoint = f'{{"batch": {batch}}}'
    return value(conn, "select batch from pgonce_advance_seed('s', %s, %s, %s, %s)", run, batch, checkpoint, rows)


def inserted(conn: Connection) -> int:
    return int(value(conn, "select rows_inserted from get_checkpoint('s')"))


@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize("commits", [True, False])
def test_a_batch_whose_commit_is_in_flight_cannot_land_twice(
    conn: Connection, session: Open, batch: int, commits: bool
) -> None:
    run = start(conn)
    for number in range(batch):
        advance(conn, run, number)
    # The first answer was lost with its connection; the server is still committing when the runner tries again.
    first, again = session(autocommit=False), session()
    assert advance(first, run, batch) == batch + 1
    with waiting(conn, again, lambda: advance(again, run, batch)) as answer:
        first.commit() if commits else first.rollback()
    assert answer.result() == (None if commits else batch + 1)
    assert inserted(conn) == 10 * (batch + 1)
    assert value(conn, "select last_checkpoint ->> 'batch' from get_checkpoint('s')") == str(batch)


@pytest.mark.parametrize("batch", [0, 1])
def test_of_twenty_repetitions_of_one_batch_exactly_one_lands(conn: Connection, session: Open, batch: int) -> None:
    run = start(conn)
    for number in range(batch):
        advance(conn, run, number)
    answers = together([session() for _ in range(20)], lambda other: advance(other, run, batch))
    assert [answer for answer in answers if answer] == [batch + 1]
    assert inserted(conn) == 10 * (batch + 1)


def test_a_batch_from_the_past_or_the_future_does_not_land(conn: Connection) -> None:
    run = start(conn)
    assert [advance(conn, run, number) for number in range(3)] == [1, 2, 3]
    assert [advance(conn, run, number) for number in (0, 2, 4)] == [None] * 3
    assert inserted(conn) == 30


@pytest.mark.parametrize("batch", [0, 1])
def test_rows_and_checkpoint_of_a_runner_that_was_taken_over_are_rolled_back(
    conn: Connection, session: Open, batch: int
) -> None:
    conn.execute("create table effects (by text)")
    zombie = session(autocommit=False)
    old = start(conn)
    for number in range(batch):
        advance(conn, old, number)
    zombie.execute("insert into effects values ('zombie')")
    conn.execute("update cron_job_runs set heartbeat_at = clock_timestamp() - interval '1 hour'")
    new = start(conn)
    with pytest.raises(errors.Error) as lost:
        advance(zombie, old, batch)
    assert lost.value.sqlstate == "PT409"
    zombie.rollback()
    assert value(conn, "select count(*) from effects") == 0
    assert advance(conn, new, batch) == batch + 1
    assert inserted(conn) == 10 * (batch + 1)


def test_a_batch_that_came_first_keeps_the_takeover_away(conn: Connection, session: Open) -> None:
    holder = session(autocommit=False)
    run = start(conn)
    conn.execute("update cron_job_runs set heartbeat_at = clock_timestamp() - interval '1 hour'")
    assert advance(holder, run, 0) == 1
    assert start(conn) is None, "the fence has locked the run: locked means live"
    holder.commit()
    assert inserted(conn) == 10


@pytest.mark.parametrize("commits", [True, False])
def test_a_batch_waits_for_a_takeover_in_progress_and_obeys_it(conn: Connection, session: Open, commits: bool) -> None:
    zombie, successor = session(), session(autocommit=False)
    old = start(conn)
    conn.execute("update cron_job_runs set heartbeat_at = clock_timestamp() - interval '1 hour'")
    assert start(successor)
    with waiting(conn, zombie, lambda: advance(zombie, old, 0)) as batch:
        successor.commit() if commits else successor.rollback()
    if commits:
        assert getattr(batch.exception(), "sqlstate", None) == "PT409"
        assert value(conn, "select count(*) from seed_checkpoints") == 0
    else:
        assert batch.result() == 1


def test_counters_of_updates_at_once_add_up(conn: Connection, session: Open) -> None:
    def update(other: Connection) -> None:
        for _ in range(5):
            value(other, "select batch from update_checkpoint('s', '{\"n\": 1}', 3, 2)")

    together([session() for _ in range(8)], update)
    counters = conn.execute("select rows_inserted, rows_skipped, batch from seed_checkpoints").fetchall()
    assert counters == [(8 * 5 * 3, 8 * 5 * 2, 8 * 5)]


def partitions(conn: Connection) -> None:
    conn.execute("select pgonce_begin_partitions('s', '{a,b}')")


def complete(conn: Connection, part: str) -> None:
    conn.execute("select pgonce_complete_partition('s', %s)", [part])


def status(conn: Connection) -> str:
    return str(value(conn, "select status from get_checkpoint('s')"))


def test_a_second_start_of_a_partition_does_not_undo_the_end_of_the_last_one(conn: Connection, session: Open) -> None:
    partitions(conn)
    complete(conn, "a")
    other, last, again = session(autocommit=False), session(), session()
    other.execute("select from seed_checkpoints for update")  # another partition's batch
    with (
        waiting(conn, last, lambda: complete(last, "b")) as ended,
        waiting(conn, again, lambda: partitions(again)) as begun,
    ):
        other.commit()
    assert (ended.exception(), begun.exception()) == (None, None)
    assert status(conn) == "complete"


@pytest.mark.parametrize("level", ["read committed", "repeatable read"])
def test_of_two_partitions_that_end_at_once_one_completes_the_seed(conn: Connection, session: Open, level: str) -> None:
    partitions(conn)
    one, two = session(autocommit=False), session(autocommit=False)
    for other in (one, two):
        other.execute(f"set transaction isolation level {level}".encode())
        other.execute("select 1")  # its snapshot is from before the other's end
    complete(one, "a")
    with waiting(conn, two, lambda: complete(two, "b")) as ended:
        one.commit()
    if level == "repeatable read":
        assert isinstance(ended.exception(), errors.SerializationFailure)
        two.rollback()
        complete(two, "b")  # a runner repeats it
    two.commit()
    assert status(conn) == "complete"


def test_a_reject_of_a_partition_is_resolved_beside_its_runner(conn: Connection, session: Open) -> None:
    partitions(conn)
    conn.execute("""select pgonce_reject_seed_rows('s', '[{"row_number": 1, "error": "no"}]', 'a')""")
    runner, retry = session(autocommit=False), session()
    run = value(conn, "select start_job_run('seed_runner', p_key => 's/a')")
    runner.execute("select from pgonce_seed_partitions where partition = 'a' for update")  # as the batch begins
    with waiting(conn, retry, lambda: value(retry, "select pgonce_resolve_reject(id) from pgonce_seed_rejects")) as is_:
        runner.execute("select pgonce_advance_partition('s', 'a', %s, 0, '1', 5)", [run])
        runner.commit()
    assert is_.result() is True
    assert inserted(conn) == 5
