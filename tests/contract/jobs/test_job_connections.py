"""What a job leaves behind does not reach the next one, unless the pool is the user's."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest
from psycopg import AsyncConnection, Connection
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader
from psycopg_pool import ConnectionPool

import pgonce
from pgonce.core import database as databases
from pgonce.jobs.executor import Executor
from tests.contract.webhooks.test_one_transaction_each import LEFT, STATE


def leave(left: str, tx: Connection[Any]) -> Any:
    """What the job finds on its connection. It leaves there what a job may leave."""
    found = tx.execute(STATE).fetchone()
    tx.row_factory = dict_row
    tx.adapters.register_loader("text", TextLoader)
    for statement in left.split("; "):
        tx.execute(statement.encode())
    return found


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_nothing_that_a_job_leaves_on_its_connection_reaches_the_next(
    database: str, conn: Connection[Any], left: str
) -> None:
    conn.execute("create schema tenant")
    found: list[Any] = []
    with databases.open_pool(database, 1) as pool:
        for number in range(4):
            with pgonce.Jobs(pool).run(f"job_{number}") as run:
                assert run is not None
                with suppress(ZeroDivisionError), run.transaction() as tx:
                    found.append(leave(left, tx))
                    if number == 1:
                        raise ZeroDivisionError
                with run.connection() as reading:
                    found.append(leave(left, reading))
    assert len(found) == 8
    assert len({(*row[:9], row[9] or "") for row in found}) == 1


def test_an_asynchronous_pool_of_pgonce_is_put_back_too(database: str) -> None:
    found: list[Any] = []
    state = "select current_user::text, current_setting('search_path')"

    async def look(tx: AsyncConnection[Any]) -> None:
        found.append(await (await tx.execute(state)).fetchone())
        await tx.execute("set search_path = tenant")
        tx.row_factory = dict_row

    async def work() -> None:
        async with await databases.open_async_pool(database, 1) as pool:
            for number in range(3):
                async with pgonce.AsyncJobs(pool).run(f"job_{number}") as run:
                    assert run is not None
                    async with run.transaction() as tx:
                        await look(tx)
                    async with run.connection() as reading:
                        await look(reading)

    asyncio.run(work())
    assert len(found) == 6
    assert len(set(found)) == 1


def test_a_users_pool_keeps_what_it_was_configured_with(database: str, conn: Connection[Any]) -> None:
    conn.execute("create schema tenant")

    def configure(conn: Connection[Any]) -> None:
        conn.execute("set search_path = tenant, public")
        conn.commit()

    with (
        ConnectionPool[Connection[Any]](database, min_size=1, max_size=1, configure=configure, name="pgonce") as pool,
        pgonce.Jobs(pool).run("job") as run,
    ):
        assert run is not None
        for _ in range(2):
            with run.transaction() as tx:
                assert tx.execute("show search_path").fetchone() == ("tenant, public",)


def test_a_context_variable_that_a_job_sets_does_not_reach_the_next_one_of_its_thread(database: str) -> None:
    tenant = ContextVar("tenant", default="nobody")
    found: list[str] = []
    app = pgonce.App()

    @app.job("report")
    def report(run: pgonce.Run) -> None:
        found.append(tenant.get())
        tenant.set("shop 7")

    with databases.open_pool(database, 2) as pool:
        executor = Executor(pool, database, "public", closing=pool)
        for _ in range(2):
            execution = executor.start(app.get_job("report"))
            assert execution is not None
            executor.finish(execution)
    assert found == ["nobody", "nobody"]
