"""How a program finds its database, and which error it gets if there is none."""

from __future__ import annotations

import asyncio
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from pgonce.core import database as databases
from pgonce.core.execute import connection
from pgonce.errors import DatabaseUnavailable, InvalidArgument, is_transient
from tests.conftest import wait_until, with_database
from tests.faults.proxy import proxy

NOWHERE = "postgresql://me:s3cret@127.0.0.1:1/none"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGONCE_DATABASE_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_what_is_given_comes_first_then_the_two_variables_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "third")
    assert databases.find() == "third"
    monkeypatch.setenv("PGONCE_DATABASE_URL", "second")
    assert databases.find() == "second"
    assert databases.find("first") == "first"


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "third")
    monkeypatch.setenv("PGONCE_DATABASE_URL", "")
    assert databases.find("") == "third"


def test_with_nothing_named_it_is_the_embedded_server_for_as_long_as_the_process_lives(tmp_path: Path) -> None:
    program = (
        "import gc, psycopg\n"
        "from pgonce import database\n"
        "url = database.find()\n"
        "gc.collect()\n"
        "for _ in range(2):\n"
        "    with psycopg.connect(url) as conn:\n"
        "        print(conn.execute('show data_directory').fetchone()[0], flush=True)\n"
    )
    data = tmp_path / "data"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment(), "PGONCE_DATA_DIR": str(data)},
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(data / "pg")] * 2
    wait_until(lambda: not (data / "pg" / "postmaster.pid").exists(), "it is stopped behind its last user", 60)


def environment() -> dict[str, str]:
    import os

    return {key: value for key, value in os.environ.items() if not key.endswith("DATABASE_URL")}


def test_a_pool_has_the_settings_that_the_protocol_wants(database: str) -> None:
    with databases.open_pool(database, 2) as pool, pool.connection() as conn:
        assert conn.autocommit
        assert conn.prepare_threshold == databases.PREPARE_AFTER  # a direct connection
        assert conn.execute("show application_name").fetchone() == ("pgonce",)

    async def main() -> None:
        async with await databases.open_async_pool(database, 2) as pool, pool.connection() as conn:
            assert conn.autocommit
            assert conn.prepare_threshold == databases.PREPARE_AFTER

    asyncio.run(main())


def test_limits_of_the_network_in_the_url_are_those_of_the_connection(database: str) -> None:
    limits = {"connect_timeout": "3", "keepalives_idle": "7", "tcp_user_timeout": "5000"}
    with proxy(database) as network:
        url = network.url + "".join(f"&{name}={limit}" for name, limit in limits.items())
        with databases.open_pool(url, 1) as pool, pool.connection() as conn:
            found = conn.info.get_parameters()
    assert {name: found[name] for name in limits} == limits
    assert found["keepalives_count"] == "3"


def test_a_pool_that_serves_one_at_a_time_stays_at_one_connection(database: str) -> None:
    with databases.open_pool(database, 3) as pool:
        for _ in range(5):
            with pool.connection() as conn:
                conn.execute("select pg_sleep(0.01)")
        assert pool.get_stats()["pool_size"] == 1

    async def main() -> None:
        async with await databases.open_async_pool(database, 3) as pool:
            for _ in range(5):
                async with pool.connection() as conn:
                    await conn.execute("select pg_sleep(0.01)")
            assert pool.get_stats()["pool_size"] == 1

    asyncio.run(main())


def test_a_database_that_cannot_be_reached_is_said_at_once_with_the_server_s_reason(server: str) -> None:
    for url, reason in ((NOWHERE, "refused"), (with_database(server, "nowhere"), '"nowhere" does not exist')):
        for attempt in (databases.check, databases.open_pool, lambda at: asyncio.run(databases.open_async_pool(at))):
            with pytest.raises(DatabaseUnavailable, match=reason) as caught:
                attempt(url)
            assert len(str(caught.value).splitlines()) == 1
            assert "check the database URL" in str(caught.value)
            assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["postgres//me:s3cret@host/db", "postgresql://me:s3cret@[host/db", "s3cret", "a=s3cret"]
)
def test_a_url_that_is_none_is_an_invalid_argument_that_does_not_quote_it(url: str) -> None:
    with pytest.raises(InvalidArgument, match="postgresql://user:password@host") as caught:
        databases.check(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://me:s3cret@host/db?pgbouncer=true&connection_limit=1", "no parameter pgbouncer: take it out"),
        ("postgresql://me:s3cret@host/db?schema=public", "no parameter schema: take it out"),
        ("postgresql+asyncpg://me:s3cret@host/db", "drop +asyncpg, write postgresql://"),
        ("postgres+psycopg://me:s3cret@host/db", "drop +psycopg, write postgres://"),
        ("postgresql://me:s3%cret@host/db", "a % that encodes nothing"),
        ("postgresql://me:x@s3cret@127.0.0.1:1/db", "%40"),
        ("postgresql://me:x@s3cret:y@127.0.0.1:1/db", "%40"),
        ("postgresql://me:x@s3cret/y@127.0.0.1:1/db", "%40"),
        ("postgresql://me:1/s3cret@127.0.0.1:1/db", "%40"),
        ("postgresql://me:x@y?s3cret=y@127.0.0.1:1/db", "%40"),
        ("postgresql://me:s3cret@::1:5432/db", "IPv6 address without brackets"),
        ("postgresql://me:s3cret@fe80::1/db", "IPv6 address without brackets"),
        ("postgresql://me:s3cret@127.0.0.1/db?connect_timeout=10s", "connect_timeout"),
    ],
)
def test_a_url_of_another_library_or_with_a_bare_password_says_what_is_wrong_with_it(url: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        databases.check(url)
    assert says in str(caught.value)
    for part in ("s3", "cret", "host/", "127.0.0.1", "db"):
        assert part not in str(caught.value)


def test_a_check_says_which_database_it_has_reached(server: str) -> None:
    assert databases.check(with_database(server, "template1")).startswith("template1 on ")


def test_a_pool_comes_back_when_the_database_does(database: str) -> None:
    with proxy(database) as network, databases.open_pool(network.url, 1) as pool:
        with pool.connection() as conn:
            conn.execute("select 1")
        network.down()
        with pytest.raises((psycopg.OperationalError, PoolTimeout)), pool.connection(timeout=0.2) as conn:
            conn.execute("select 1")
        network.up()

        def works() -> bool:
            try:
                with pool.connection(timeout=5) as conn:
                    return conn.execute("select 1").fetchone() == (1,)
            except psycopg.OperationalError:
                return False

        wait_until(works, "the pool has connected again", 60)


def test_a_pool_of_closed_connections_is_waited_for_once(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    with proxy(database) as network, databases.open_pool(network.url, 1) as pool:
        take = pool.getconn

        def getconn(timeout: float) -> psycopg.Connection[Any]:
            waits.append(timeout)
            return take(timeout)

        monkeypatch.setattr(pool, "getconn", getconn)
        network.cut()
        with connection(pool) as conn:
            assert conn.execute("select 1").fetchone() == (1,)
    assert len(waits) > 1
    assert waits == sorted(waits, reverse=True)
    assert waits[0] <= databases.TIMEOUT


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("idle_in_transaction_session_timeout", psycopg.errors.IdleInTransactionSessionTimeout),
        ("transaction_timeout", psycopg.errors.TransactionTimeout),
    ],
)
def test_what_the_server_ended_because_its_client_slept_is_tried_again(
    database: str, setting: str, error: type[psycopg.Error]
) -> None:
    with psycopg.connect(database) as conn:  # as an import that was suspended in the middle of a batch
        if conn.info.server_version < 170000 and setting == "transaction_timeout":
            pytest.skip("PostgreSQL has it from 17 on")
        # not sooner: libpq would read the reason together with the answer to this, and drop it
        conn.execute(f"set local {setting} = '500ms'".encode())
        assert select.select([conn.fileno()], [], [], 20)[0], "the server must have ended the connection"
        with pytest.raises(error) as caught:
            conn.execute("select 1")
    assert is_transient(caught.value)
