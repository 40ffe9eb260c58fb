"""Times that SQL accepts and Python cannot hold: no list, page or figure fails because of one row."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgonce import App, Console
from tests.edge.command import pgonce
from tests.edge.console.conftest import served
from tests.edge.console.test_hostile import ROWS, crawl

Connection = psycopg.Connection[Any]
COMMANDS = (
    "webhook ls", "webhook ls --json", "webhook refused", "job ls", "job ls --json", "job stats", "job stats --json",
    "job schedule", "seed ls", "seed ls --json", "ps", "ps --json", "metrics", "doctor --json",
)  # fmt: skip
SHOWN = (
    ("webhook show", "select stripe_event_id from webhook_events"), ("job show", "select id::text from cron_job_runs"),
    ("seed show", "select seed_name from seed_checkpoints"),
)  # fmt: skip


def fill(conn: Connection, time: str) -> list[str]:
    """Rows of every kind, and this time wherever the three tables accept it. Returns the columns that have it."""
    with conn.transaction():
        conn.execute("create function pg_temp.evil() returns text immutable language sql as $$ select 'odd' $$")
        conn.execute(ROWS.read_bytes())
    columns = conn.execute(
        "select table_name, column_name from information_schema.columns where data_type = 'timestamp with time zone'"
        " and is_generated = 'NEVER' and table_name in ('webhook_events', 'cron_job_runs', 'seed_checkpoints')"
    ).fetchall()
    changed = []
    for table, column in columns:
        update = sql.SQL("update {} set {} = {}").format(
            sql.Identifier(table), sql.Identifier(column), sql.Literal(time)
        )
        try:
            conn.execute(update)
        except psycopg.errors.IntegrityError:
            continue
        changed.append(f"{table}.{column}")
    return changed


@pytest.mark.parametrize(
    "time", ["infinity", "9999-12-31 23:59:59", "20000-01-01", "-infinity", "0001-01-01", "4000-01-01 BC"]
)
def test_no_command_or_page_fails_because_of_an_odd_time(database: str, conn: Connection, time: str) -> None:
    assert {"webhook_events.received_at", "cron_job_runs.started_at", "seed_checkpoints.started_at"} <= {
        *fill(conn, time)
    }
    commands = [*COMMANDS]
    for command, query in SHOWN:
        commands += [f"{command} {row[0]}" for row in conn.execute(query.encode()).fetchmany(3)]
    failed: list[tuple[object, ...]] = []
    for command in commands:
        code, _, err = pgonce(database, *command.split())
        if code not in {0, 1} or "unexpected" in err or "Traceback" in err:
            failed.append((command, code, err[-300:]))
    console = Console(App(), url=database, user=lambda _: ("me", "operator"))
    with served(console, console.stop) as client:
        for address, page in crawl(client).items():
            if page.status_code != 200 and not address.startswith(("/find", "/run?id=odd")):  # there are no such
                text = re.sub(r"<[^>]+>|\s+", " ", page.text.partition("<main")[2])
                failed.append((address, page.status_code, text[:500]))
    assert not failed, "\n".join(map(str, failed))
