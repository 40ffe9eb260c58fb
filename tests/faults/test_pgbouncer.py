"""The basic behaviour through PgBouncer in transaction mode, where all clients share two server sessions."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgonce import doctor
from pgonce.core import database as databases
from pgonce.errors import EventBusy, LeaseLost
from tests.conftest import wait_until
from tests.contract.callers import Async, Caller, Sync, spawn
from tests.contract.jobs.test_guard import beats, started, take_over
from tests.contract.seeds.test_checkpoints import numbers
from tests.faults.child import Start

Db = psycopg.Connection[Any]

CONFIGURATION = """
[databases]
* = {server}
[pgbouncer]
pool_mode = transaction
default_pool_size = 2
max_client_conn = 100
listen_port = 6432
unix_socket_dir = {folder}
auth_type = trust
auth_file = {folder}/users
"""


@pytest.fixture
def pooled(database: str, start: Start) -> Iterator[str]:
    """The URL of ``database`` through PgBouncer; it listens on a socket in a folder of its own."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH')}:/usr/sbin:/usr/local/sbin")
    if not program:
        pytest.skip("PgBouncer is not installed: apt install pgbouncer")
    at = {key: str(value) for key, value in conninfo_to_dict(database).items()}
    name, user = at.pop("dbname"), at.get("user", "postgres")
    folder = Path(tempfile.mkdtemp(prefix="pgb-"))
    server = " ".join(f"{key}={value}" for key, value in at.items())
    (folder / "ini").write_text(CONFIGURATION.format(server=server, folder=folder))
    (folder / "users").write_text(f'"{user}" ""\n')
    command = [program, str(folder / "ini")]
    if os.geteuid() == 0:  # it does not run as root; whoever owns the server's socket may use it
        owner = Path(at["host"]).stat().st_uid if at.get("host", "").startswith("/") else 65534
        for path in (folder, *folder.iterdir()):
            os.chown(path, owner, owner)
        command = ["setpriv", f"--reuid={owner}", f"--regid={owner}", "--clear-groups", *command]
    bouncer = start(*command, cwd=folder)
    bouncer.until("process up")
    yield f"postgresql://{user}@/{name}?host={quote(str(folder))}&port=6432"
    bouncer.kill()
    shutil.rmtree(folder)


@pytest.fixture(params=[Sync, Async])
def caller(request: pytest.FixtureRequest, pooled: str) -> Iterator[Caller]:
    # no prepared statements, because the next transaction may use another server session (docs/poolers.md)
    opened = request.param(pooled, size=6, prepare_threshold=None)
    yield opened
    opened.close()


def test_a_pool_sees_the_pooler_and_prepares_nothing(pooled: str) -> None:
    with databases.open_pool(pooled, 2) as pool, pool.connection() as conn:
        assert conn.prepare_threshold is None

    async def main() -> None:
        async with await databases.open_async_pool(pooled, 2) as pool, pool.connection() as conn:
            assert conn.prepare_threshold is None

    asyncio.run(main())


def sessions(db: Db) -> list[Any]:
    query = (
        "select application_name, state from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    return db.execute(query).fetchall()


def test_an_event_is_handled_once(caller: Caller, db: Db) -> None:
    def body(event_id: str) -> bytes:
        return json.dumps({"id": event_id, "type": "effect"}).encode()

    def effect(event: Any, tx: Any) -> None:
        tx.execute("insert into effects (name) values (%s)", [event.id])

    def boom(event: Any, tx: Any) -> None:
        effect(event, tx)
        raise RuntimeError("boom")

    def busy(event: Any, tx: Any) -> None:
        effect(event, tx)
        with pytest.raises(EventBusy):
            caller.deliver(body("evt_0"), effect)

    for _ in range(8):  # psycopg prepares what it has sent five times, unless it is told not to
        with pytest.raises(RuntimeError):
            caller.deliver(body("evt_0"), boom)
    assert caller.deliver(body("evt_0"), busy) == "succeeded"
    assert [caller.deliver(body(f"evt_{n % 5}"), effect) for n in range(10)] == ["done"] + ["succeeded"] * 4 + [
        "done"
    ] * 5
    assert sorted(db.execute("select name, count(*) from effects group by 1").fetchall()) == [
        (f"evt_{n}", 1) for n in range(5)
    ]
    # settings for one transaction must end with it, because the next client gets the session
    assert all(not name.startswith("pgonce ") for name, _ in sessions(db))


def test_a_job_beats_and_writes_behind_its_fence(caller: Caller, db: Db) -> None:
    with started(caller, "work", window="1 second") as run:
        with run.transaction() as tx:
            tx.execute("insert into effects (name) values ('work')")
            beating = spawn(beats, db, "work", 4)  # on the other session, while this one is at work
            wait_until(lambda: [tx.execute("select 1")] and beating.done(), "4 heartbeats")
            beating.result()
        with caller.run("work") as second:
            assert second is None
    assert len(sessions(db)) <= 2
    with pytest.raises(LeaseLost), started(caller, "work") as run:  # noqa: PT012 -- told in order
        take_over(db, "work")
        with run.transaction() as tx:
            tx.execute("insert into effects (name) values ('zombie')")
    assert db.execute("select name from effects").fetchall() == [("work",)]


def test_an_import_goes_straight_and_through_its_fallback(caller: Caller, db: Db) -> None:
    source = numbers(*range(50), *range(40, 60), 60, 60, 61)
    assert caller.seed("numbers", source, into="numbers", key=("id",), batch_size=10) == "complete"
    assert db.execute("select array_agg(id order by id) from numbers").fetchall() == [([*range(62)],)]
    query = "select status, rows_inserted, rows_skipped from seed_checkpoints"
    assert db.execute(query).fetchall() == [("complete", 62, 11)]


def test_a_stopped_client_s_transaction_is_ended_through_the_pooler_too(caller: Caller, db: Db) -> None:
    idle = "select 1 from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'"
    ended = pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout)
    with ended, started(caller, "work", window="1 second") as run, run.transaction() as tx:
        tx.execute("insert into effects (name) values ('work')")
        wait_until(lambda: db.execute(idle).fetchone(), "it is idle")
        wait_until(lambda: not db.execute(idle).fetchone(), "it is ended by the server")
        tx.execute("insert into effects (name) values ('late')")
    assert db.execute("select count(*) from effects").fetchall() == [(0,)]


def test_doctor_says_that_a_pooler_is_there(pooled: str) -> None:
    found = {each.area: each for each in doctor.examine(pooled)}
    assert (found["pooler"].state, "a pooler" in found["pooler"].finding) == ("ok", True)
    assert found["connections"].state == "ok"
