"""What a job leaves open on a connection ends the run with a reason: it does not wait without end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg_pool import ConnectionPool

import pgonce
from pgonce.core import database as databases
from pgonce.errors import PgonceError
from pgonce.webhooks import stripe
from tests.contract.webhooks.test_left_open import (
    OPEN,
    copy_in,
    copy_out,
    kept,
    pipeline,
    stream,
    swallowed_loss,
    unread_results,
)

ATTACKS = [copy_in, copy_out, stream, pipeline, unread_results]
every_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda each: each.__name__)
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def _forget(conn: Connection[Any]) -> Iterator[None]:
    conn.execute("create table effects (event text)")
    yield
    with contextlib.suppress(psycopg.Error):
        kept.clear()


def last_run(conn: Connection[Any]) -> tuple[str, str]:
    row = conn.execute("select status, error_message from cron_job_runs order by started_at desc limit 1").fetchone()
    assert row is not None
    return row


@every_attack
@pytest.mark.parametrize("block", ["transaction", "connection"])
def test_a_job_that_leaves_something_open_fails(
    database: str, conn: Connection[Any], attack: Callable[[Connection[Any]], None], block: str
) -> None:
    with databases.open_pool(database, 1) as pool:
        jobs = pgonce.Jobs(pool)

        def job() -> None:
            with jobs.run("stats") as run, getattr(run, block)() as tx:
                attack(tx)

        with pytest.raises(PgonceError, match=OPEN):
            job()
        status, reason = last_run(conn)
        assert (status, OPEN in reason) == ("failed", True)
        with jobs.run("stats") as again:  # the pool has its connection back
            assert again is not None
            with again.transaction() as tx:
                tx.execute("insert into effects values ('again')")
    assert last_run(conn)[0] == "succeeded"


def test_an_asynchronous_job_that_leaves_a_stream_open_fails(
    database: str, conn: Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgonce.core.concurrency_async.LEAVE", 0.1)

    async def work(block: str) -> None:
        async with (
            await databases.open_async_pool(database, 1) as pool,
            pgonce.AsyncJobs(pool).run("stats") as run,
            getattr(run, block)() as tx,
        ):
            rows = tx.cursor().stream("select generate_series(1, 100000)")
            kept.extend([rows, await anext(rows)])

    for block in ("transaction", "connection"):
        with pytest.raises(PgonceError, match=OPEN):
            asyncio.run(work(block))
        assert last_run(conn)[0] == "failed"


def swallowed_error(tx: Connection[Any]) -> None:
    with contextlib.suppress(psycopg.Error):
        tx.execute("select 1/0")


@pytest.mark.parametrize(("attack", "said"), [(swallowed_loss, "was lost"), (swallowed_error, "was caught")])
def test_a_job_whose_writes_could_not_be_committed_has_not_succeeded(
    database: str, conn: Connection[Any], attack: Callable[[Connection[Any]], None], said: str
) -> None:
    with ConnectionPool(database, min_size=1, max_size=1, open=True) as pool:  # not in autocommit

        def job() -> None:
            with pgonce.Jobs(pool).run("stats") as run:
                assert run is not None
                with run.connection() as tx:
                    tx.execute("insert into effects values ('lost')")
                    attack(tx)

        with pytest.raises(PgonceError, match=said):
            job()
    assert last_run(conn)[0] == "failed"
    assert conn.execute("select count(*) from effects").fetchone() == (0,)


def close(tx: Connection[Any]) -> None:
    tx.close()


def enter(tx: Connection[Any]) -> None:
    with tx:  # in a pool with `close_returns` its end calls close()
        tx.execute("select 1")


@pytest.mark.parametrize("leave", [close, enter, *ATTACKS], ids=lambda each: each.__name__)
def test_closing_a_connection_of_a_pool_that_takes_closed_ones_back_gives_nothing_back_twice(
    database: str, conn: Connection[Any], leave: Callable[[Connection[Any]], None]
) -> None:
    body = json.dumps({"id": "evt_1", "type": "pay", "object": "event"}).encode()
    with ConnectionPool(database, min_size=1, max_size=1, close_returns=True, open=True) as pool:
        for block in ("transaction", "connection"):
            with contextlib.suppress(psycopg.Error, PgonceError), pgonce.Jobs(pool).run(block) as run:
                assert run is not None
                with getattr(run, block)() as tx:
                    leave(tx)
        webhooks = pgonce.Webhooks(pool, secrets=["whsec_test"])
        with pytest.raises((psycopg.Error, PgonceError)):
            webhooks.receive(body, stripe.sign(body, "whsec_test"), lambda _, tx: leave(tx))
        with pool.connection() as one:
            assert pool.get_stats()["pool_size"] == 1
            assert one.execute("select 1").fetchone() == (1,)
    assert conn.execute("select count(*) from cron_job_runs where status = 'running'").fetchone() == (0,)
    assert conn.execute("select status from webhook_events").fetchall() == [("failed",)]
