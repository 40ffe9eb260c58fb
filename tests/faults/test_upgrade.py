"""Upgrading while workers, receivers and jobs of the earlier release are running."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

import pgonce
from pgonce.core import database as databases
from pgonce.core import migrate as schema
from pgonce.core.execute import call
from pgonce.webhooks import calls, stripe
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until

# Gives the last argument of each function a default, which "create or replace" cannot take away: the next migrate has
# to drop the function. Calls of this release stay valid.
MAKE_OLDER = r"""do $$ declare r record; begin
for r in
  select pg_get_functiondef(oid) as definition, pg_get_function_arguments(oid) as arguments from pg_proc
  where pronamespace = 'public'::regnamespace and obj_description(oid, 'pg_proc') like 'pgonce: %' and prokind = 'f'
    and pronargs > 0 and pg_get_function_arguments(oid) !~ 'DEFAULT' loop
  execute replace(r.definition, '(' || r.arguments || ')',
                  '(' || regexp_replace(r.arguments, '(, OUT .*)?$', ' DEFAULT null\1') || ')');
end loop; end $$"""


def test_an_upgrade_that_drops_functions_disturbs_no_worker_receiver_or_job(
    database: str, conn: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    conn.execute("create table effects (what text)")
    conn.execute("create table recent (what text)")
    app = pgonce.App()

    @app.webhook("*")
    def handle(event: pgonce.Event, tx: psycopg.Connection[Any]) -> None:
        tx.execute("insert into effects values (%s)", [event.id])
        tx.execute("insert into recent values (%s)", [event.id])

    ended = threading.Event()
    oids = "select array_agg(oid) from pg_proc where proname in ('pgonce_complete_webhooks', 'complete_job_run')"

    def receive() -> int:
        number = 0
        with databases.open_pool(database, 1) as pool:
            while not ended.is_set():
                number += 1
                body = stripe.read(json.dumps({"id": f"evt_{number}", "type": "a", "object": "event"}).encode())
                call(pool, calls.queue_webhooks([body], [None]), "public")
        return number

    def run_jobs() -> int:
        number = 0
        with databases.open_pool(database, 1) as pool:
            while not ended.is_set():
                with pgonce.Jobs(pool).run("job") as run:
                    number += run is not None
        return number

    def count(query: str) -> int:
        row = conn.execute(query.encode()).fetchone()
        assert row
        return int(row[0])

    with ThreadPoolExecutor(2) as pool, Worker(app, database, poll=0.05):
        received, ran = pool.submit(receive), pool.submit(run_jobs)
        try:
            for _ in range(2):
                conn.execute("delete from recent")
                wait_until(lambda: count("select count(*) from recent") > 20, "the worker is at work")
                conn.execute(MAKE_OLDER.encode())
                older = conn.execute(oids).fetchone()
                schema.migrate(database)
                assert conn.execute(oids).fetchone() != older
        finally:
            ended.set()
        events, runs = received.result(), ran.result()
        wait_until(
            lambda: count("select count(*) from webhook_events where status = 'succeeded'") == events, "all is handled"
        )
    assert count("select count(*) from effects") == events
    assert count("select count(distinct what) from effects") == events
    assert count("select count(*) from cron_job_runs where status = 'succeeded'") == runs
    assert [record.getMessage() for record in caplog.records] == []


def test_an_upgrade_that_waits_for_a_table_lets_the_writers_through(
    database: str, conn: psycopg.Connection[Any], session: Any
) -> None:
    conn.execute("drop trigger pgonce_before_write on webhook_events")
    impatient = session(options="-c lock_timeout=5s")
    waiting = """select count(*) from pg_locks l join pg_class c on c.oid = l.relation
        where c.relname = 'webhook_events' and not l.granted"""
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(database) as long:
            long.execute("select insert_webhook_if_new('evt_long', 'x', '{}')")
            migrated = pool.submit(schema.migrate, database)
            for number in range(3):  # each time migrate gives up, and asks again
                wait_until(lambda: conn.execute(waiting).fetchone() != (0,), "migrate requests the table")
                impatient.execute("select insert_webhook_if_new(%s, 'x', '{}')", [f"evt_{number}"])
            assert not migrated.done()
        assert migrated.result() == []
    triggers = "select count(*) from pg_trigger where tgname = 'pgonce_before_write'"
    assert conn.execute(triggers).fetchone() == (1,)
