"""The console while the database is away, read-only, slow, of another version, or not the console's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from starlette.requests import Request

import pgonce
from pgonce.console.reads import Read, reading
from tests.conftest import _new_database
from tests.edge.console.conftest import served

BROWSER = {"sec-fetch-site": "same-origin"}


@pytest.fixture
def own_url(server: str, template: str) -> Iterator[str]:
    """A database that a test may spoil."""
    with _new_database(server, template) as url:
        yield url


def test_while_the_database_is_away_twenty_tabs_wait_as_long_as_one(
    own_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def counted(request: Request) -> AbstractAsyncContextManager[Read]:
        nonlocal asked
        asked += 1
        return reading(request)

    async def open_tabs() -> list[httpx.Response]:
        console = pgonce.Console(url=own_url, users="")
        transport = httpx.ASGITransport(console, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            assert (await client.get("/nothing")).status_code == 404
            pool = await console.pool()
            monkeypatch.setattr("pgonce.console.shell.reading", counted)
            monkeypatch.setattr("pgonce.console.shell.HOLDS", 0.0)
            # all connections are taken, as when each of them waits for a server that does not answer
            taken = [await pool.getconn() for _ in range(pool.max_size)]
            pool.timeout = 0.5
            answers = await asyncio.gather(*(client.get("/nothing") for _ in range(20)))
            for conn in taken:
                await pool.putconn(conn)
            answers.append(await client.get("/nothing"))
        await console.stop()
        return answers

    *away, back = asyncio.run(open_tabs())
    assert {answer.status_code for answer in away} <= {404, 503}
    assert back.status_code == 404
    assert 'id="nav"' in back.text
    assert asked == 2


def test_on_a_read_only_server_everybody_may_look_and_nobody_may_act(own_url: str) -> None:
    read_only = f"{own_url}{'&' if '?' in own_url else '?'}target_session_attrs=any"
    with psycopg.connect(own_url, autocommit=True) as conn:
        conn.execute("insert into seed_checkpoints (seed_name, status) values ('people', 'failed')")
        conn.execute(f"alter database {conn.info.dbname} set default_transaction_read_only = on".encode())
    console = pgonce.Console(url=read_only, user=lambda _: ("ada", "operator"))
    with served(console, console.stop) as client:
        page = client.get("/import?name=people")
        assert (page.status_code, "ada, reader" in page.text) == (200, True)
        assert 'action="/import/pause"' not in page.text
        csrf = page.text.split('name="csrf" value="')[1].split('"')[0]
        refused = client.post("/import/pause", data={"csrf": csrf, "name": "people"}, headers=BROWSER)
        assert refused.status_code == 503


@pytest.mark.parametrize(
    "spoil",
    [
        "drop function pgonce_console_facts()",
        "drop table pgonce_checks",
        "alter table pgonce_checks rename column detail to details",
        "drop schema public cascade",
    ],
)
def test_a_schema_of_another_version_is_said_with_what_to_do(own_url: str, spoil: str) -> None:
    console = pgonce.Console(url=own_url, users="")
    with psycopg.connect(own_url, autocommit=True) as conn:
        conn.execute(spoil.encode())
    with served(console, console.stop) as client:
        page = client.get("/")
    assert (page.status_code, "pgonce migrate" in page.text, "Traceback" in page.text) == (500, True, False)


def test_rows_that_a_policy_hides_are_not_called_well(own_url: str) -> None:
    """Row-level security hides rows without an error: a console that sees nothing must not be green."""
    with psycopg.connect(own_url, autocommit=True) as conn:
        conn.execute(
            "insert into webhook_events (stripe_event_id, event_type, status, queued, next_attempt_at)"
            " values ('evt_dead', 'x', 'failed', true, null)"
        )
        conn.execute("do $$ begin create role stranger login; exception when duplicate_object then null; end $$")
        for table in ("webhook_events", "cron_job_runs", "seed_checkpoints"):
            conn.execute(f"alter table {table} enable row level security".encode())
        conn.execute(
            "insert into pgonce_processes (id, does, host, pid, version)"
            " select gen_random_uuid(), does, 'w', 1, '1' from unnest(array['events', 'jobs']) does"
        )
        conn.execute("grant usage on schema public to stranger")
        conn.execute("grant select, insert, update on all tables in schema public to stranger")
        conn.execute("grant execute on all functions in schema public to stranger")
    strange = make_conninfo(own_url, user="stranger")
    console = pgonce.Console(url=strange, user=lambda _: ("ada", "reader"))
    with served(console, console.stop) as client:
        found = client.get("/now.json").json()
    assert {each["state"] for each in found["sentences"]} == {"unknown"}
    assert "Row-level security hides rows" in found["sentences"][1]["evidence"]
