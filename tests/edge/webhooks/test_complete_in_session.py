"""Handlers with their own transaction commit effect and mark together: in SQLAlchemy, Django, asyncpg and psycopg."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import Connection

from pgonce.core import database as databases
from pgonce.core.execute import call
from pgonce.webhooks import calls as webhooks
from pgonce.webhooks import stripe
from tests.conftest import wait_until
from tests.forked import Forked

PRELUDE = """
import asyncio, sys, threading, time
import pgonce
from pgonce.webhooks.worker import Worker
url, pause = sys.argv[1], sys.argv[2] == "pause"
app = pgonce.App()
def here():
    if pause:
        print("between effect and commit", flush=True)
        sys.stdin.read()
"""
HANDLERS = {
    "sqlalchemy": """
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
@app.webhook("pay", transaction="own")
def pay(event):
    with Session(engine) as session, session.begin():
        session.execute(text("insert into effects values (:id)"), {"id": event.id})
        event.complete(session)
        here()
""",
    "a derived sqlalchemy session": """
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker
class TenantSession(Session):
    pass
engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
@app.webhook("pay", transaction="own")
def pay(event):
    with TenantSession(engine) as session, session.begin():
        session.execute(text("insert into effects values (:id)"), {"id": event.id})
        event.complete(session)
        here()
""",
    "sqlalchemy async": """
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
engine = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://"))
@app.webhook("pay", transaction="own")
async def pay(event):
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(text("insert into effects values (:id)"), {"id": event.id})
        await event.complete(session)
        here()
""",
    "django": """
from urllib.parse import parse_qs, urlsplit
import django
from django.conf import settings
parts = urlsplit(url)
host = parts.hostname or parse_qs(parts.query)["host"][0]
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": parts.path[1:],
                                          "USER": parts.username or "", "HOST": host}})
django.setup()
from django.db import connection, transaction
@app.webhook("pay", transaction="own")
def pay(event):
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("insert into effects values (%s)", [event.id])
        event.complete(connection)
        here()
""",
    "asyncpg": """
import asyncpg
@app.webhook("pay", transaction="own")
async def pay(event):
    conn = await asyncpg.connect(url)
    async with conn.transaction():
        await conn.execute("insert into effects values ($1)", event.id)
        await event.complete(conn)
        here()
    await conn.close()
""",
    "psycopg": """
import psycopg
@app.webhook("pay", transaction="own")
def pay(event):
    with psycopg.connect(url) as conn:
        conn.execute("insert into effects values (%s)", [event.id])
        event.complete(conn)
        here()
""",
}
HANDLERS["psycopg async"] = """
import psycopg
class TenantConnection(psycopg.AsyncConnection):
    pass
@app.webhook("pay", transaction="own")
async def pay(event):
    async with await TenantConnection.connect(url) as conn:
        await conn.execute("insert into effects values (%s)", [event.id])
        await event.complete(conn)
        here()
"""
HANDLERS["psycopg under the application's own adapters"] = """
import psycopg
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader
for name in ("bool", "int4", "int8", "uuid"):
    psycopg.adapters.register_loader(name, TextLoader)
@app.webhook("pay", transaction="own")
def pay(event):
    with psycopg.connect(url, row_factory=dict_row) as conn:
        conn.execute("insert into effects values (%s)", [event.id])
        event.complete(conn)
        here()
"""
OUTSIDE = {
    "psycopg": """
import psycopg
@app.webhook("pay", transaction="own")
def pay(event):
    with psycopg.connect(url, autocommit=True) as conn:
        event.complete(conn)
        raise ZeroDivisionError
""",
    "psycopg async": """
import psycopg
@app.webhook("pay", transaction="own")
async def pay(event):
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        await event.complete(conn)
        raise ZeroDivisionError
""",
    "sqlalchemy": """
from sqlalchemy import create_engine
engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
@app.webhook("pay", transaction="own")
def pay(event):
    with engine.begin() as conn:
        event.complete(conn)
        raise ZeroDivisionError
""",
    "sqlalchemy async": """
from sqlalchemy.ext.asyncio import create_async_engine
engine = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
@app.webhook("pay", transaction="own")
async def pay(event):
    async with engine.connect() as conn:
        await event.complete(conn)
        raise ZeroDivisionError
""",
    "django": """
import psycopg
from django.conf import settings
from django.db import connection
at = psycopg.conninfo.conninfo_to_dict(url)
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": at["dbname"],
    "USER": at["user"], "HOST": at["host"], "PORT": at["port"]}})
@app.webhook("pay", transaction="own")
def pay(event):
    event.complete(connection)
    raise ZeroDivisionError
""",
    "asyncpg": """
import asyncpg
@app.webhook("pay", transaction="own")
async def pay(event):
    conn = await asyncpg.connect(url)
    await event.complete(conn)
    raise ZeroDivisionError
""",
    "asyncpg pool": """
import asyncpg
@app.webhook("pay", transaction="own")
async def pay(event):
    async with asyncpg.create_pool(url) as pool, pool.acquire() as conn, conn.transaction():
        await conn.execute("insert into effects values ($1)", event.id)
        await event.complete(pool)
        raise ZeroDivisionError
""",
}
WORK = """
with Worker(app, url, poll=0.05, concurrency=1):
    print("working", flush=True)
    sys.stdin.read() if not pause else threading.Event().wait(60)
"""
NEEDS = {name: name.split()[0] for name in ("sqlalchemy", "sqlalchemy async", "django", "asyncpg")}
NEEDS["a derived sqlalchemy session"] = "sqlalchemy"


@pytest.fixture(params=HANDLERS)
def program(request: pytest.FixtureRequest) -> str:
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param], reason=f"{NEEDS[request.param]} is not installed: make test does")
    return PRELUDE + HANDLERS[request.param] + WORK


@pytest.fixture
def queued(database: str, conn: Connection[Any]) -> None:
    conn.execute("create table effects (event text)")
    body = stripe.read(json.dumps({"id": "evt_1", "type": "pay", "object": "event"}).encode())
    with databases.open_pool(database, 1) as pool:
        call(pool, webhooks.queue_webhooks([body]), "public")


@pytest.fixture
def worker(program: str, database: str) -> Iterator[Any]:
    """Starts a worker process; ends it by pid after the test."""
    running: list[subprocess.Popen[str]] = []

    def start(mode: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, database, mode]
        running.append(Forked(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_kill_between_effect_and_commit_leaves_exactly_one_effect(
    worker: Any, queued: None, conn: Connection[Any]
) -> None:
    first = worker("pause")
    # its main thread prints the one, and a thread of the worker the other
    assert {first.stdout.readline(), first.stdout.readline()} == {"working\n", "between effect and commit\n"}
    os.kill(first.pid, signal.SIGKILL)
    first.wait(20)
    assert conn.execute("select count(*) from effects").fetchone() == (0,)
    conn.execute("update webhook_events set lease_expires_at = now()")  # instead of waiting for it
    second = worker("work")
    wait_until(
        lambda: conn.execute("select status = 'succeeded' from webhook_events").fetchone() == (True,),
        "the second worker",
    )
    second.communicate("", timeout=20)
    assert second.returncode == 0
    assert conn.execute("select event from effects").fetchall() == [("evt_1",)]


@pytest.mark.parametrize("library", OUTSIDE)
def test_completing_outside_of_a_transaction_is_an_error_and_marks_nothing(
    database: str, queued: None, conn: Connection[Any], library: str
) -> None:
    pytest.importorskip(library.split(maxsplit=1)[0], reason=f"{library} is not installed: make test does")
    program = PRELUDE + OUTSIDE[library] + WORK
    worker = Forked([sys.executable, "-c", program, database, "work"], stdin=subprocess.PIPE)
    try:
        wait_until(lambda: conn.execute("select from webhook_events where status <> 'processing'").rowcount, "the end")
    finally:
        worker.communicate("", timeout=20)
    [(status, reason)] = conn.execute("select status, error_message from webhook_events").fetchall()
    assert status == "failed"
    assert "event.complete was called outside of a transaction" in reason
    assert conn.execute("select count(*) from effects").fetchone() == (0,)


def test_a_handler_that_forgets_to_complete_has_failed(database: str, queued: None, conn: Connection[Any]) -> None:
    import pgonce
    from pgonce.webhooks.worker import Worker

    app = pgonce.App()
    app.webhook("pay", transaction="own")(lambda _: None)
    with Worker(app, database, poll=0.05):
        wait_until(
            lambda: conn.execute("select status = 'failed' from webhook_events").fetchone() == (True,), "the failure"
        )
    row = conn.execute("select error_message from webhook_events").fetchone()
    assert row is not None
    assert "called event.complete" in row[0]


def test_a_lost_lease_is_said_inside_the_handlers_transaction(
    database: str, queued: None, conn: Connection[Any]
) -> None:
    import psycopg

    import pgonce
    from pgonce.webhooks.worker import Worker

    app = pgonce.App()
    lost: list[str] = []

    @app.webhook("pay", transaction="own")
    def pay(event: pgonce.Event) -> None:
        with psycopg.connect(database) as own:
            own.execute("insert into effects values (%s)", [event.id])
            if not lost:
                conn.execute("update webhook_events set lease = gen_random_uuid(), lease_expires_at = now()")
            try:
                event.complete(own)
            except pgonce.LeaseLost as error:
                lost.append(str(error))
                raise

    with Worker(app, database, poll=0.05, concurrency=1):
        wait_until(
            lambda: conn.execute("select status = 'succeeded' from webhook_events").fetchone() == (True,),
            "the takeover",
        )
    assert len(lost) == 1
    assert conn.execute("select event from effects").fetchall() == [("evt_1",)]
