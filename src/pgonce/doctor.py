"""Checks whether an installation is healthy. There is a finding for each area, with what to do."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg

from pgonce.core import database, schema_check
from pgonce.core.call import Call
from pgonce.core.execute import execute
from pgonce.errors import PgonceError
from pgonce.webhooks.stripe import signing_secrets

State = Literal["ok", "warning", "failure"]
SHOWN = 10
"""Findings about the schema; `pgonce migrate --check` lists all of them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in one area."""

    area: str
    """Such as "database", "schema" or "webhooks"."""
    state: State
    finding: str
    action: str | None = None
    """What to do: a command, or a sentence. None where nothing is to be done."""


def examine(url: str, schema: str = "public") -> list[Finding]:
    """Examine the database, the schema, and the rows in it. Nothing is written.

    Args:
        url: the database.
        schema: where ``pgonce migrate`` put the tables.

    Returns:
        At least one finding. A database that cannot be reached, and a schema without pgonce, are findings, too; then
        the areas after them are missing.
    """
    try:
        found = [_database(url), *_secrets()]
    except (PgonceError, psycopg.Error) as error:
        return [Finding("database", "failure", _reason(error)), *_secrets()]
    try:
        found += _schema(url, schema)
        return found + _rows(url, schema)
    except (PgonceError, psycopg.Error) as error:
        return [*found, Finding("schema", "failure", _reason(error), "pgonce migrate")]


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _database(url: str) -> Finding:
    where = database.check(url)  # raises with the server's reason
    with psycopg.connect(url, autocommit=True, prepare_threshold=None, connect_timeout=10) as conn:
        started = time.monotonic()
        conn.execute("select 1")
        reached = (time.monotonic() - started) * 1000
        version = conn.info.server_version
    shown = f"PostgreSQL {version // 10000}.{version % 10000}, {where}, answers in {reached:.0f} ms"
    if version < 140000:
        return Finding("database", "failure", shown, "upgrade it: pgonce needs PostgreSQL 14 or newer")
    return Finding("database", "ok", shown)


def _secrets() -> list[Finding]:
    given = os.environ.get("PGONCE_WEBHOOK_SECRET")
    if given is None:
        return []  # this may not be the machine that receives
    try:
        count = len(signing_secrets(given.split(",")))
    except PgonceError as error:
        return [Finding("secrets", "failure", str(error), "set PGONCE_WEBHOOK_SECRET to the endpoint's whsec_...")]
    return [Finding("secrets", "ok", f"PGONCE_WEBHOOK_SECRET holds {count}")]


def _schema(url: str, schema: str) -> list[Finding]:
    try:
        lines = schema_check.check(url, schema)
    except PgonceError as error:
        return [Finding("schema", "warning", _reason(error))]
    found = []
    for line in lines[:SHOWN]:
        what, _, close = line.partition("; to close this: ")
        state: State = "warning" if "may create objects" in what else "failure"
        found.append(Finding("schema", state, what, close or "pgonce migrate"))
    if len(lines) > SHOWN:
        found.append(Finding("schema", "failure", f"{len(lines) - SHOWN} more", "pgonce migrate --check"))
    return found or [Finding("schema", "ok", f"{schema} is current, unaltered, and closed to other roles")]


def _rows(url: str, schema: str) -> list[Finding]:
    def read(rows: Any) -> list[Finding]:
        return [Finding(*row) for row in rows]

    with psycopg.connect(url, autocommit=True, prepare_threshold=None, connect_timeout=10) as conn:
        conn.execute("set statement_timeout = '30s'")
        call = Call("pgonce_examine", {"p_client_clock": datetime.now(UTC)}, read)
        return execute(conn, call, schema)
