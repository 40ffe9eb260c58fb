"""The files of the console: each has all rows, or the download fails."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

import pgonce
from pgonce.console.respond import CSV_PAGE
from pgonce.errors import PgonceError
from tests.edge.console.conftest import served

Connection = psycopg.Connection[Any]
LINES = 2 * CSV_PAGE + 1


@pytest.fixture(autouse=True)
def _lines(conn: Connection) -> None:
    """More actions and rejected rows than are read at once; many actions are of one moment."""
    conn.execute("truncate pgonce_audit, pgonce_seed_rejects")
    conn.execute(
        "insert into pgonce_audit (at, actor, source, action, noun, object)"
        " select now() - n / 3000 * interval '1 hour', 'ops', 'console', 'pause', 'job', 'job ' || n"
        " from generate_series(1, %s) n",
        [LINES],
    )
    conn.execute(
        "insert into pgonce_seed_rejects (seed_name, row_number, row, error)"
        " select 'people', n, jsonb_build_object('id', n)"
        " || case when n = %s then '{\"late\": \"=1\"}'::jsonb else '{}' end, 'x'"
        " from generate_series(1, %s) n",
        [LINES, LINES],
    )


def console_of(url: str) -> pgonce.Console:
    return pgonce.Console(url=url, user=lambda _: ("ada", "operator"))


def test_a_file_has_every_row_and_the_columns_of_the_last_one(url: str) -> None:
    console = console_of(url)
    with served(console, console.stop) as client:
        audit = list(csv.DictReader(io.StringIO(client.get("/audit.csv?who=ops").text)))
        rejects = list(csv.DictReader(io.StringIO(client.get("/import/rejects.csv?name=people").text)))
        none = client.get("/audit.csv?who=nobody").text.splitlines()
    assert {line["object"] for line in audit} == {f"job {n}" for n in range(1, LINES + 1)}
    assert len(audit) == LINES
    assert [line["row_number"] for line in rejects] == [str(n) for n in range(1, LINES + 1)]
    assert [rejects[0]["late"], rejects[-1]["late"]] == ["", "'=1"]
    assert none == ["at,actor,source,address,action,noun,object,before,after,reason,refused"]


async def download(url: str, sent: list[bool], after_the_first: Callable[[asyncio.Event], object]) -> None:
    """``sent`` gets of each part of the file whether more is to come. The client has left when the event is set."""
    console = console_of(url)
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sent.append(message.get("more_body", False))
            if len(sent) == 1:
                after_the_first(gone)

    scope = {
        "type": "http", "method": "GET", "path": "/audit.csv", "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1), "scheme": "http", "root_path": "", "asgi": {"spec_version": "2.3"},
        "server": ("localhost", 80),
    }  # fmt: skip
    try:
        await console(scope, receive, send)
    finally:
        await console.stop()


def test_a_file_that_cannot_be_read_to_its_end_is_broken_off(url: str, conn: Connection) -> None:
    name = "function pgonce_console_audit(text, text, text, timestamptz, bigint, integer)"
    sent: list[bool] = []
    try:
        with pytest.raises((PgonceError, RuntimeError)):
            asyncio.run(download(url, sent, lambda _: conn.execute(f"alter {name} rename to away".encode())))
    finally:
        conn.execute(f"alter {name.replace('pgonce_console_audit', 'away')} rename to pgonce_console_audit".encode())
    assert sent == [True]  # the part that would say that this is all was not sent


def test_a_download_ends_with_the_client_that_leaves(url: str) -> None:
    sent: list[bool] = []
    asyncio.run(download(url, sent, asyncio.Event.set))
    assert len(sent) <= 2
