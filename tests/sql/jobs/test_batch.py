"""Starting or ending many runs in one call does the same as one call for each, and waits for no lock."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.sql.race import IMPATIENT, Open, value

Connection = psycopg.Connection[Any]
Outcome = tuple[Any, Any]

START = "start_job_run(%s, %s::jsonb, %s::interval, %s, %s::timestamptz, p_run_id => %s)"
STARTS = (
    "pgonce_start_job_runs(%s::text[], %s::jsonb[], %s::interval[], %s::text[], %s::timestamptz[],"
    " p_run_ids => %s::uuid[])"
)
COMPLETE = "complete_job_run(%s, %s, %s)"
COMPLETES = "pgonce_complete_job_runs(%s::uuid[], %s::integer[], %s::integer[])"


def populate(conn: Connection, choose: random.Random) -> list[Any]:
    """Make runs of four jobs in several states; returns the ids, in the same order for the same seed."""
    ids = []
    for job in ("a", "b"):
        for key in ("", "k"):
            state = choose.choice(["none", "running", "stale", "succeeded", "failed"])
            if state != "none":
                tick = choose.choice([None, "2026-01-01 00:00+00"])
                age = "2 hours" if state == "stale" else "0"
                ids.append(
                    value(
                        conn,
                        "insert into cron_job_runs (id, job_name, key, status, scheduled_for, run_window, heartbeat_at)"
                        " values (%s, %s, %s, %s, %s, '1 hour', clock_timestamp() - %s::interval) returning id",
                        UUID(int=choose.getrandbits(128)), job, key, "running" if state == "stale" else state, tick,
                        age,
                    )
                )  # fmt: skip
    return ids


def look(conn: Connection, names: dict[Any, int]) -> list[str]:
    """All rows, with ids as numbers, and times only as whether they are set."""
    found = conn.execute(
        "select id, job_name, key, status, scope::text, run_window::text, scheduled_for::text, attempt, retries,"
        " rows_processed, rows_skipped, started_at = heartbeat_at, completed_at is null, duration_ms is null,"
        " backoff::text, split_part(error_message, ' ', 1), blocked_by from cron_job_runs"
    ).fetchall()
    return sorted(
        repr((names.get(id_, "new"), *row, names.get(blocked, blocked and "new"))) for id_, *row, blocked in found
    )


def undone(conn: Connection, work: Callable[[], Outcome]) -> Outcome:
    """What ``work`` returns, or its error; everything is rolled back."""
    try:
        with conn.transaction(force_rollback=True):
            return work()
    except psycopg.Error as error:
        return error.sqlstate, str(error).splitlines()[0]


@pytest.mark.parametrize("seed", range(150))
def test_many_starts_are_as_many_single_ones(shared: Connection, seed: int) -> None:
    def run(together: bool) -> Outcome:
        choose = random.Random(seed)
        names = {id_: number for number, id_ in enumerate(populate(shared, choose))}
        rare = seed % 10 == 0
        known = list(names) if seed % 5 == 0 else []
        batch = [
            (
                choose.choice(["a", "a", "b", "b", "c", *([None, ""] if rare else [])]),
                choose.choice([None, "{}", '{"n": 1}']),
                choose.choice(["1 hour", "100 years", *(["0", "-1 s", "101 years", None] if rare else [])]),
                choose.choice(["", "", "k", *([None] if rare else [])]),
                choose.choice([None, None, "2026-01-01 00:00+00", "2026-01-02 00:00+00"]),
                choose.choice([None, None, UUID(int=choose.getrandbits(128)), *known]),
            )
            for _ in range(choose.randint(1, 6))
        ]
        if together:
            ids = value(shared, f"select {STARTS}", *map(list, zip(*batch, strict=True)))
        else:
            ids = [value(shared, f"select {START}", *each) for each in batch]
        names |= {id_: 100 + number for number, id_ in enumerate(ids) if id_}
        return [id_ is not None for id_ in ids], look(shared, names)

    assert undone(shared, lambda: run(True)) == undone(shared, lambda: run(False))


@pytest.mark.parametrize("seed", range(60))
def test_many_ends_are_as_many_single_ones(shared: Connection, seed: int) -> None:
    def run(together: bool) -> Outcome:
        choose = random.Random(seed)
        ids = populate(shared, choose)
        counts = [None, 0, 3, *([-1] if seed % 10 == 0 else [])]
        batch = [(id_, choose.choice(counts), choose.choice(counts)) for id_ in choose.sample(ids, len(ids))]
        if together:
            answers = value(shared, f"select {COMPLETES}", *map(list, zip(*batch, strict=True))) if batch else []
        else:
            answers = [value(shared, f"select {COMPLETE}", *each) for each in batch]
        return answers, look(shared, {id_: number for number, id_ in enumerate(ids)})

    assert undone(shared, lambda: run(True)) == undone(shared, lambda: run(False))


def test_none_at_all_and_one_twice(conn: Connection) -> None:
    assert value(conn, "select pgonce_start_job_runs('{}', '{}', '{}', '{}', '{}')") == []
    assert value(conn, "select pgonce_complete_job_runs('{}', '{}', '{}')") == []
    run = value(conn, "select start_job_run('j')")
    assert value(conn, "select pgonce_complete_job_runs(array[%s, %s], '{1,1}', '{0,0}')", run, run) == [True, True]


def test_many_starts_wait_for_no_holders_open_transaction(session: Open, conn: Connection) -> None:
    holder = session(autocommit=False)
    run = value(conn, "select start_job_run('held')")
    assert value(holder, "select beat_job_run(%s)", run) is True  # and not yet committed
    starts = "select pgonce_start_job_runs('{free,held}', '{null,null}', '{1h,1h}', array['', ''], '{null,null}')"
    free, held = value(session(options=IMPATIENT), starts)
    assert free is not None
    assert held is None
    assert value(conn, "select blocked_by from cron_job_runs where status = 'skipped'") == run


def test_a_run_starts_when_it_is_inserted_and_not_with_its_transaction(conn: Connection) -> None:
    with conn.transaction():
        conn.execute("select pg_sleep(0.01)")
        conn.execute("select pgonce_start_job_runs('{a}', '{null}', '{1h}', array[''], '{null}')")
        assert value(conn, "select started_at >= now() + interval '10 ms' from cron_job_runs") is True


@pytest.mark.parametrize("window", ["0", "-1 hour"])
def test_a_plain_insert_has_a_window_too(conn: Connection, window: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        conn.execute("insert into cron_job_runs (job_name, run_window) values ('j', %s)", [window])
