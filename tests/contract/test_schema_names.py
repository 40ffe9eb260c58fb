"""Everything works in a schema whose name has characters that SQL, psycopg or SQLAlchemy read as something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy

import pgonce
from pgonce.core import database as databases
from pgonce.core.execute import call
from pgonce.webhooks import stripe
from pgonce.webhooks.calls import queue_webhooks
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until

Completing = Callable[[str, pgonce.Event], None]


def with_psycopg(url: str, event: pgonce.Event) -> None:
    with psycopg.connect(url) as conn:
        event.complete(conn)


def with_cursor(url: str, event: pgonce.Event) -> None:
    """As Django's connection is used."""

    class Session:
        def __init__(self, conn: psycopg.Connection[Any]) -> None:
            self.cursor = conn.cursor

    with psycopg.connect(url) as conn:
        event.complete(Session(conn))


def with_sqlalchemy(url: str, event: pgonce.Event) -> None:
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1))
    with engine.begin() as conn:
        event.complete(conn)
    engine.dispose()


def chapters(_cursor: Any) -> Iterator[Any]:
    yield {"id": 1}, 1


@pytest.mark.parametrize("schema", ["50%", "%s", "a :b", 'it"s', "Größe {0}", "select", "a.b\\c"])
def test_webhooks_jobs_and_imports_work_in_a_schema_of_any_name(empty_database: str, schema: str) -> None:
    url = empty_database
    pgonce.migrate(url, schema)
    app = pgonce.App()
    app.webhook("usual")(lambda event, tx: tx.execute("select %s", [event.id]))
    ways: dict[str, Completing] = {"psycopg": with_psycopg, "cursor": with_cursor, "sqlalchemy": with_sqlalchemy}
    for kind, complete in ways.items():

        @app.webhook(kind, transaction="own")
        def own(event: pgonce.Event, complete: Completing = complete) -> None:
            complete(url, event)

    with databases.open_pool(url, 4) as pool, psycopg.connect(url, autocommit=True) as conn:
        with pgonce.Jobs(pool, schema=schema).run("j") as run:
            assert run is not None
            with run.transaction() as tx:
                tx.execute("create table chapters (id int primary key)")
        seed = pgonce.Seed("s", chapters, into="chapters", key=("id",))
        assert pgonce.Seeds(pool, schema=schema).run(seed).new_rows == 1
        bodies = [stripe.read(f'{{"id": "evt_{kind}", "type": "{kind}"}}'.encode()) for kind in ("usual", *ways)]
        call(pool, queue_webhooks(bodies), schema)
        conn.execute("select set_config('search_path', quote_ident(%s), false)", [schema])
        with Worker(app, url, schema=schema, poll=0.05):
            open_events = "select exists (select from webhook_events where next_attempt_at is not null)"
            wait_until(lambda: conn.execute(open_events).fetchone() == (False,), "the events to be handled")
        found = conn.execute("select distinct status, error_message from webhook_events").fetchall()
        assert found == [("succeeded", None)]
        assert conn.execute("select distinct status from cron_job_runs").fetchall() == [("succeeded",)]
