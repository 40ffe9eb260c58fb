"""pgonce's own statements depend on no setting of the database, role or application: each guarantee holds under all."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests import casts

STYLES = [
    ("serializable", "SQL, DMY", "iso_8601"),
    ("repeatable read", "German, DMY", "sql_standard"),
    ("serializable", "Postgres, MDY", "postgres_verbose"),
]
"""Of isolation, dates and intervals. How texts are written has nothing to do with how transactions are isolated."""
SETTINGS = {
    "default_transaction_deferrable": "on",
    "client_encoding": "LATIN1",
    "search_path": "shadow, pg_catalog",
    "statement_timeout": "5s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "10s",
    "timezone": "Asia/Kathmandu",
    "standard_conforming_strings": "off",
    "escape_string_warning": "on",
    "backslash_quote": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "plan_cache_mode": "force_custom_plan",
    "enable_indexscan": "off",
    "enable_hashjoin": "off",
    "quote_all_identifiers": "on",
    "xmloption": "document",
    "plpgsql.variable_conflict": "use_variable",
    "plpgsql.extra_errors": "all",
    "plpgsql.extra_warnings": "all",
    "jit_above_cost": "0",
    "from_collapse_limit": "1",
    "client_min_messages": "debug1",
}
SHADOW = """
create schema shadow;
create function shadow.set_config(text, text, boolean) returns text
  language plpgsql as 'begin raise exception ''shadowed''; end';
create function shadow.unnest(anyarray) returns setof anyelement
  language plpgsql as 'begin raise exception ''shadowed''; end';
create function shadow.complete_webhook(uuid, uuid) returns boolean language sql as 'select true';
create table shadow.webhook_events (id int);
create table shadow.cron_job_runs (id int);
create domain shadow.uuid as text;
create domain shadow.interval as text;
"""


@pytest.fixture(params=STYLES, ids=" and ".join)
def hostile(database: str, request: pytest.FixtureRequest) -> str:
    """A database whose settings all differ from the defaults."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("create table effects (event text)")
        for world in ("auto", "plain", "looped"):
            conn.execute(f"create table {world}_rows (id int primary key, note text)".encode())
        conn.execute(SHADOW)
        conn.execute(casts.IMPLICIT)
        isolation, datestyle, intervalstyle = request.param
        changed = {
            **SETTINGS,
            "default_transaction_isolation": isolation,
            "datestyle": datestyle,
            "intervalstyle": intervalstyle,
        }
        for name, value in changed.items():
            alter = sql.SQL("alter database {} set {} to {}")
            content = sql.SQL(value) if "," in value else sql.Literal(value)
            conn.execute(alter.format(sql.Identifier(conn.info.dbname), sql.SQL(name), content))
    return database


def rows(database: str, query: str) -> list[Any]:
    plain = "-c datestyle=ISO -c intervalstyle=postgres -c search_path=public -c client_encoding=UTF8"
    with psycopg.connect(database, autocommit=True, options=plain) as conn:
        return conn.execute(query.encode()).fetchall()


def test_each_guarantee_holds_whatever_the_settings_and_adapters_of_the_application_are(hostile: str) -> None:
    command = [sys.executable, "-m", "tests.contract.hostile_application", hostile]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert "error" not in said, said["error"] + done.stderr
    for world in ("auto", "plain", "looped"):
        assert said[f"{world} webhooks"] == ["succeeded", "done", "failed", "succeeded", "ignored"]
        assert said[f"{world} overlap"]
        assert said[f"{world} seed"] == "complete"
        looked = [said.get(f"{world} {what}") for what in ("verified", "rehearsed", "updated")]
        assert looked == [None if world == "looped" else True] * 3
        counted = f"select count(*), count(distinct id), count(*) filter (where note = 'ö') from {world}_rows"
        assert rows(hostile, counted) == [(10, 10, world != "looped")]
        once = [f"evt_{world}_fails", f"evt_{world}_once", f"{world}_job", f"{world}_job"]
        found = rows(hostile, "select event from effects where event like '%" + world + "_%' order by event")
        assert [row[0] for row in found] == sorted(once)
    assert said["auto lost"]
    assert said["plain lost"]
    assert said["looped at once"] == 1
    handled = rows(hostile, "select event from effects where event ~ '_[0-9]$' order by event")
    assert [row[0] for row in handled] == sorted(
        f"evt_{kind}_{n}" for kind in ("sync", "async", "batch", "own") for n in range(5)
    )
    marked = (
        "select from webhook_events where status = 'succeeded' and stripe_event_id not in (select event from effects)"
    )
    assert rows(hostile, marked) == []
    assert rows(
        hostile, "select distinct ignored_reason from webhook_events where stripe_event_id like '%_ignored'"
    ) == [("ü€ not ours",)]
    assert {name: code for name, code in said.items() if name.split()[0] in {"job", "webhook", "seed"} and code} == {}
