# ruff: noqa: PT012 -- a run is a block, and the expectations are inside it
"""A job during a failover: the primary is killed with -9, its standby is promoted, and the URL has both hosts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pgonce import App, Jobs, Run
from pgonce.core.database import open_pool
from pgonce.core.execute import call
from pgonce.errors import DatabaseUnavailable, LeaseLost
from pgonce.jobs import calls
from pgonce.jobs.guard import Guard
from tests.conftest import wait_until
from tests.faults.replicas import Replicas, replicas


def write(run: Run, number: int) -> None:
    with run.transaction() as tx:
        tx.execute("insert into effects values (%s) on conflict do nothing", [number])
    run.processed()


def write_when_it_is_back(run: Run, number: int) -> None:
    def written() -> bool:
        try:
            write(run, number)
        except DatabaseUnavailable:
            return False
        return True

    wait_until(written, "the new primary takes the transaction", 60)


def rows(pair: Replicas, query: str) -> list[Any]:
    with pair.connect("standby") as conn:
        return conn.execute(query.encode()).fetchall()


def prepare(pair: Replicas) -> None:
    with pair.connect("primary") as conn:
        conn.execute("create table effects (number integer primary key)")


@pytest.mark.parametrize("goes_on", [True, False], ids=["goes on after it", "was at its end"])
def test_a_job_whose_commits_an_asynchronous_standby_lacks_fails_and_its_retry_makes_them_good(goes_on: bool) -> None:
    with replicas(synchronous=False) as pair:
        prepare(pair)
        with open_pool(pair.url, 2) as pool:
            with (
                pytest.raises(LeaseLost, match="only 5 of its 8 transactions"),
                Jobs(pool).run("job", retries=1, backoff="1 ms", window="1 minute") as run,
            ):
                assert run
                for number in range(5):
                    write(run, number)
                pair.stall_standby()
                for number in range(5, 8):
                    write(run, number)  # confirmed, and about to be lost
                pair.fail_over()
                if goes_on:
                    write_when_it_is_back(run, 8)
            assert rows(pair, "select count(*) from effects") == [(5,)]
            found = rows(pair, "select status, rows_processed, transactions from cron_job_runs")
            assert found == [("failed", 4, 5)], "the counts are those of the last transaction that is there"
            [due] = call(pool, calls.due_job_retries(["job"]), "public")
            app = App()
            app.job("job")(print)
            with Guard(pool, "public").begin(app.get_job("job"), retry=due) as again:
                assert again
                for number in range(9):
                    write(again, number)
        assert rows(pair, "select count(*) from effects") == [(9,)]
        assert rows(pair, "select status, attempt from cron_job_runs order by attempt") == [
            ("failed", 1),
            ("succeeded", 2),
        ]


def test_a_job_with_a_synchronous_standby_loses_nothing_and_goes_on() -> None:
    with replicas(synchronous=True) as pair:
        prepare(pair)
        with open_pool(pair.url, 2) as pool, Jobs(pool).run("job", window="1 minute") as run:
            assert run
            for number in range(5):
                write(run, number)
            pair.fail_over()
            write_when_it_is_back(run, 5)
        assert rows(pair, "select count(*) from effects") == [(6,)]
        found = rows(pair, "select status, rows_processed, transactions from cron_job_runs")
        assert found == [("succeeded", 6, 6)]


def test_a_run_whose_start_the_standby_lacks_says_so_and_its_tick_may_fire_again() -> None:
    tick = datetime(2026, 1, 1, 6, tzinfo=UTC)
    with replicas(synchronous=False) as pair:
        prepare(pair)
        pair.stall_standby()
        with open_pool(pair.url, 2) as pool:
            jobs = Jobs(pool)
            lost = pytest.raises(LeaseLost, match="not in the database any more")
            with lost, jobs.run("job", window="1 minute", scheduled_for=tick) as run:
                assert run
                write(run, 1)
                pair.fail_over()
            with jobs.run("job", window="1 minute", scheduled_for=tick) as again:
                assert again, "the database knows of no run for this tick"
                write(again, 1)
        assert rows(pair, "select status from cron_job_runs") == [("succeeded",)]
