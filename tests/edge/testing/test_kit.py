"""What ``pgonce.testing`` does with a database: it drains, runs jobs at ticks, delivers to every kind of client."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import pgonce
from pgonce.errors import InvalidArgument
from pgonce.testing import Clock, clean, deliver, drain, event, run, signed

Connection = psycopg.Connection[Any]
START = "2026-03-07T00:00"


@pytest.fixture(autouse=True)
def found(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGONCE_DATABASE_URL", database)
    monkeypatch.setenv("PGONCE_WEBHOOK_SECRET", "whsec_test")


@pytest.fixture
def app(conn: Connection) -> pgonce.App:
    conn.execute("create table effects (what text)")
    app = pgonce.App()

    @app.webhook("invoice.paid")
    def paid(event: pgonce.Event, tx: Connection) -> None:
        tx.execute("insert into effects values (%s)", [event.object["customer"]])

    @app.webhook("invoice.voided")
    async def voided(event: pgonce.Event, tx: psycopg.AsyncConnection[Any]) -> None:
        await tx.execute("insert into effects values ('voided')")

    @app.webhook("payout.*", transaction="own")
    def payout(event: pgonce.Event) -> None:
        with psycopg.connect(os.environ["PGONCE_DATABASE_URL"]) as own:
            own.execute("insert into effects values ('own')")
            event.complete(own)

    @app.webhook("customer.*", ordered=True)
    def customer(event: pgonce.Event, tx: Connection) -> None:
        if event.object.get("phone") == "bad":
            raise KeyError("discounts")
        tx.execute("insert into effects values (%s)", [event.type])

    @app.job("letters", cron="0 6 * * *", timezone="America/New_York")
    def letters(run: pgonce.Run) -> None:
        with run.transaction() as tx:
            tx.execute("insert into effects values (%s)", [str(run.scheduled_for)])
        run.processed()

    @app.job("figures", every="12 hours")
    async def figures(run: pgonce.AsyncRun) -> None:
        async with run.transaction() as tx:
            await tx.execute("insert into effects values (%s)", [f"figures {run.scope.get('of', '')}"])

    @app.job("broken", key="b")
    def broken(run: pgonce.Run) -> None:
        raise ValueError("no")

    return app


def effects(conn: Connection) -> list[str]:
    return [row[0] for row in conn.execute("select what from effects").fetchall()]


def queued(app: pgonce.App) -> pgonce.Endpoint:
    return pgonce.Endpoint(app, secrets="whsec_test", queue=True)


def test_drain_handles_what_is_queued_of_every_kind_and_returns_how_many(app: pgonce.App, conn: Connection) -> None:
    endpoint = queued(app)
    for number in range(25):
        assert deliver(endpoint, event("invoice.paid", customer=f"cus_{number}")).status == 200
    for type_ in ("invoice.voided", "payout.paid", "charge.failed"):
        deliver(endpoint, event(type_))
    for type_ in ("customer.created", "customer.updated", "customer.deleted"):
        deliver(endpoint, event(type_, id="cus_1"))
    assert drain(app) == 30
    assert {each for each in effects(conn) if each.startswith("cus_")} == {f"cus_{number}" for number in range(25)}
    assert sorted(effects(conn))[-2:] == ["own", "voided"]
    of_one_object = [each for each in effects(conn) if each.startswith("customer.")]
    assert of_one_object == ["customer.created", "customer.updated", "customer.deleted"], "in their order"
    assert drain(app) == 0
    left = conn.execute("select event_type from webhook_events where status = 'processing'").fetchall()
    assert left == [("charge.failed",)], "an event of another app's stays"


def test_drain_raises_what_a_handler_raised_after_everything_else_is_done(app: pgonce.App, conn: Connection) -> None:
    endpoint = queued(app)
    deliver(endpoint, event("customer.created", phone="bad"))
    deliver(endpoint, event("invoice.paid", customer="cus_1"))
    with pytest.raises(KeyError, match="discounts"):
        drain(app)
    assert effects(conn) == ["cus_1"]
    deliver(endpoint, event("customer.created", phone="bad"))
    assert drain(app, raises=False) == 1


def test_a_job_runs_for_a_tick_once(app: pgonce.App, conn: Connection) -> None:
    done = run(app, "letters", at="2026-11-29T06:00")
    assert done is not None
    assert (done.scheduled_for, done.rows_processed) == (datetime(2026, 11, 29, 6, tzinfo=UTC), 1)
    assert run(app, "letters", at="2026-11-29T06:00") is None
    assert run(app, "figures", scope={"of": "may"}) is not None
    assert effects(conn) == ["2026-11-29 06:00:00+00:00", "figures may"]
    with pytest.raises(ValueError, match="no"):
        run(app, "broken", key="other")
    assert conn.execute("select key, status from cron_job_runs where job_name = 'broken'").fetchall() == [
        ("other", "failed")
    ]
    with pytest.raises(InvalidArgument, match="cannot read"):
        run(app, "letters", at="tomorrow")


def test_a_clock_runs_the_ticks_on_its_way_in_their_order_over_a_change_to_summer_time(
    app: pgonce.App, conn: Connection
) -> None:
    clock = Clock(app, START)
    names = [name for _, name in clock.ticks("2 days")]
    done = clock.advance("2 days")
    assert [each.name for each in done] == names == ["letters", "figures", "figures", "letters", "figures", "figures"]
    hours = [each.scheduled_for.astimezone(UTC).hour for each in done if each.name == "letters" and each.scheduled_for]
    assert hours == [11, 10], "6 o'clock in New York, before and after summer time began"
    assert str(clock.now) == "2026-03-09 00:00:00+00:00"
    assert clock.advance("1 minute") == []
    with pytest.raises(InvalidArgument, match="shorter steps"):
        clock.advance("20000 days")


def test_clean_empties_every_table_but_those_that_are_kept(app: pgonce.App, conn: Connection, database: str) -> None:
    conn.execute("create table countries (id int primary key); insert into countries values (1)")
    conn.execute("create table cities (of int references countries); insert into cities values (1)")
    conn.execute("create table spatial_ref_sys (id int); insert into spatial_ref_sys values (1)")
    conn.execute("alter extension plpgsql add table spatial_ref_sys")
    run(app, "letters")
    migrations = conn.execute("select count(*) from pgonce_migrations").fetchone()
    clean(database, keep=["countries"])
    assert conn.execute("select count(*) from pgonce_migrations").fetchone() == migrations != (0,)
    for table, rows in {"countries": 1, "cities": 0, "spatial_ref_sys": 1, "effects": 0, "cron_job_runs": 0}.items():
        assert conn.execute(f"select count(*) from {table}".encode()).fetchone() == (rows,), table


@pytest.mark.filterwarnings("ignore:Using .httpx. with")  # starlette's own choice of client
@pytest.mark.parametrize("kind", ["fastapi", "flask", "httpx"])
def test_an_event_is_delivered_to_the_test_client_of_a_framework(app: pgonce.App, conn: Connection, kind: str) -> None:
    endpoint = queued(app)
    paid = event("invoice.paid", customer="cus_9")
    if kind == "flask":
        from flask import Flask, request

        site = Flask("shop")

        @site.post("/webhooks/stripe")
        def receive() -> Any:
            answer = endpoint.handle(request.get_data(), request.headers)
            return answer.body, answer.status, answer.headers

        assert deliver(site.test_client(), paid).status_code == 200
    else:
        receiver = pgonce.receiver(app, secrets="whsec_test", worker=False)

        async def send() -> int:
            transport = httpx.ASGITransport(receiver)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                status: int = (await deliver(client, paid)).status_code
            await receiver.stop()
            return status

        if kind == "httpx":
            assert asyncio.run(send()) == 200
        else:
            from starlette.testclient import TestClient

            with TestClient(receiver) as client:
                assert deliver(client, signed(paid)).status_code == 200
    assert drain(app) == 1
    assert effects(conn) == ["cus_9"]


PROJECT = """
import psycopg, pytest, pgonce
from pgonce.testing import deliver, drain, event

app = pgonce.App()

@app.webhook("invoice.paid")
def paid(event, tx):
    tx.execute("insert into payments values (%s)", [event.id])

@pytest.fixture(scope="session")
def pgonce_setup():
    def setup(url):
        with psycopg.connect(url) as conn:
            conn.execute("create table payments (id text primary key)")
            conn.execute("create table plans (id text)")
            conn.execute("insert into plans values ('basic')")
    return setup

@pytest.mark.parametrize("times", range(9))
def test_each_begins_empty(pgonce_db, times):
    endpoint = pgonce.Endpoint(app, secrets="whsec_test", queue=True)
    deliver(endpoint, event("invoice.paid", event_id="evt_1"))
    assert drain(app) == 1
    with psycopg.connect(pgonce_db) as conn:
        assert conn.execute("select count(*), (select count(*) from plans) from payments").fetchone() == (1, 1)

def test_without_the_fixture():
    import os
    assert "PGONCE_DATABASE_URL" not in os.environ
"""


def as_socket(url: str) -> str:
    """The server as postgresql:///postgres?host=…, the form for a socket."""
    info = conninfo_to_dict(url)
    name = info.pop("dbname")
    return f"postgresql:///{name}?{urlencode({key: str(value) for key, value in info.items()})}"


def as_query(url: str) -> str:
    """The database's name in the query, where it overrules any other."""
    return f"postgresql://?{urlencode({key: str(value) for key, value in conninfo_to_dict(url).items()})}"


def as_pairs(url: str) -> str:
    return make_conninfo(url)


@pytest.mark.parametrize("form", [as_socket, as_query, as_pairs])
def test_the_plugin_gives_each_test_an_empty_database(
    form: Callable[[str], str], tmp_path: Path, database: str, conn: Connection
) -> None:
    # with the embedded server: docs/testing.md
    conn.execute("create table mine as select 1 as found")
    (tmp_path / "test_shop.py").write_text(PROJECT, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\npgonce_keep = plans\nfilterwarnings = error\n", "utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGONCE_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=kept | {"PGONCE_TEST_DATABASE_URL": form(database)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 passed" in done.stdout
    assert conn.execute("select found from mine").fetchall() == [(1,)]  # the database that was named is left alone
