"""Connections that were cut while they were idle in the pool are noticed before the first statement is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from tests.conftest import wait_until
from tests.contract.callers import Async, Caller, Sync

Db = psycopg.Connection[Any]


def terminate_all(db: Db) -> None:
    others = "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    ended = db.execute(f"select pg_terminate_backend(pid, 10000) {others}".encode()).fetchall()
    assert ended
    assert set(ended) == {(True,)}


CHECKED: dict[str, Callable[[str], Caller]] = {
    "sync": lambda url: Sync(url, size=3),
    "async": lambda url: Async(url, size=3),
}


@pytest.mark.parametrize("check", [False, True], ids=["no check", "check"])
@pytest.mark.parametrize("kind", CHECKED)
def test_the_first_start_after_an_idle_connection_was_cut_is_a_run(
    module_database: str, db: Db, name: str, kind: str, check: bool
) -> None:
    caller = CHECKED[kind](module_database)
    if check:
        caller.pool._check = (AsyncConnectionPool if kind == "async" else ConnectionPool).check_connection  # type: ignore[attr-defined]
    with caller.run(name):
        pass
    for _ in range(3):
        terminate_all(db)
        with caller.run(name) as run:
            assert run is not None
            terminate_all(db)
            with run.transaction() as tx:
                tx.execute("insert into effects (name) values (%s)", [name])
    caller.close()
    query = "select status, count(*) from cron_job_runs where job_name = %s group by 1"
    assert db.execute(query, [name]).fetchall() == [("succeeded", 4)]
    assert db.execute("select count(*) from effects where name = %s", [name]).fetchall() == [(3,)]


@pytest.mark.parametrize("kind", CHECKED)
def test_connections_that_a_proxy_has_cut_are_noticed_too(network: Any, db: Db, name: str, kind: str) -> None:
    caller = CHECKED[kind](network.url)
    with caller.run(name):
        network.cut()
    network.cut()
    wait_until(lambda: db.execute("select true").fetchone(), "the server is there")
    with caller.run(name) as run:
        assert run is not None
    caller.close()
    assert db.execute("select count(*) from cron_job_runs where job_name = %s", [name]).fetchall() == [(2,)]
