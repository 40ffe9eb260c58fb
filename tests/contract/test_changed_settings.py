"""Settings that change while a connection is in use: an own statement that fails because of them is executed again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, Connection

from pgonce.core import execute, execute_async
from pgonce.core.call import Call, value
from pgonce.core.fast_call import execute_value
from pgonce.core.fast_call_async import execute_value as execute_value_async
from tests.conftest import wait_until

SLOW = "create function slow(p_seconds float8) returns text language sql as 'select pg_sleep(p_seconds)::text'"
STRICT = """
create function wants_read_committed(p_x text) returns text language plpgsql as $$ begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise sqlstate '40001' using message = 'could not serialize access';
  end if;
  return p_x; end $$
"""
WANTED: Call[str] = Call("wants_read_committed", {"p_x": "x"}, value)


@pytest.fixture
def strict(conn: Connection[Any]) -> Connection[Any]:
    conn.execute(STRICT)
    assert execute.execute(conn, WANTED, "public") == "x"
    conn.execute("set default_transaction_isolation to 'repeatable read'")
    return conn


@pytest.mark.parametrize("function", [execute.execute, execute_value])
def test_an_isolation_level_that_is_set_later_does_not_reach_own_statements(
    strict: Connection[Any], function: Callable[..., str]
) -> None:
    assert [function(strict, WANTED, "public") for _ in range(2)] == ["x", "x"]


def test_nor_in_asynchronous_code(database: str, conn: Connection[Any]) -> None:
    conn.execute(STRICT)

    async def main() -> list[str]:
        async with await AsyncConnection.connect(database, autocommit=True) as other:
            said = [await execute_async.execute(other, WANTED, "public")]
            await other.execute("set default_transaction_isolation to serializable")
            said.append(await execute_value_async(other, WANTED, "public"))
            await other.execute("reset default_transaction_isolation")
            return [*said, await execute_async.execute(other, WANTED, "public")]

    assert asyncio.run(main()) == ["x"] * 3


def test_a_time_limit_that_seemed_long_enough_ends_no_own_statement(conn: Connection[Any]) -> None:
    conn.execute(SLOW)
    assert execute.is_usual(conn)
    conn.execute("set statement_timeout to '100ms'")  # as 15 s would be, for a statement of 20 s
    assert execute.execute(conn, Call("slow", {"p_seconds": 0.3}, value), "public") == ""
    assert not execute.is_usual(conn)


@pytest.mark.parametrize("autocommit", [True, False])
def test_the_limit_of_a_transaction_ends_no_own_one(conn: Connection[Any], *, autocommit: bool) -> None:
    if conn.info.server_version < 170000:
        pytest.skip("PostgreSQL has transaction_timeout from 17 on")
    conn.execute(SLOW)
    conn.execute("set transaction_timeout to '100ms'")
    conn.autocommit = autocommit
    assert execute.execute(conn, Call("slow", {"p_seconds": 0.3}, value), "public") == ""


def test_a_cancelled_statement_is_not_repeated(conn: Connection[Any], session: Callable[..., Connection[Any]]) -> None:
    conn.execute(SLOW)
    other = session()
    pid, failed = conn.info.backend_pid, []

    def wait() -> None:
        try:
            execute.execute(conn, Call("slow", {"p_seconds": 60.0}, value), "public")
        except Exception as error:  # noqa: BLE001 -- compared below
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    running = "select query like '%%slow%%' and state = 'active' from pg_stat_activity where pid = %s"
    wait_until(lambda: other.execute(running.encode(), [pid]).fetchone() == (True,), "the statement is running")
    other.execute("select pg_cancel_backend(%s)", [pid])
    thread.join(20)
    assert not thread.is_alive()
    assert "canceling statement due to user request" in str(failed[0])
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
