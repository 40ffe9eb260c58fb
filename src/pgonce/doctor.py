"""Checks whether an installation is healthy. There is a finding for each area, with what to do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg
from psycopg import errors

from pgonce.core import database, environment, schema_check
from pgonce.core.call import Call
from pgonce.core.execute import execute, fetch, no_transaction_timeout
from pgonce.errors import READ_ONLY, PgonceError, database_error, first_line, schema_option
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
        found = [*_database(url), *_settings()]
    except (PgonceError, psycopg.Error) as error:
        return [Finding("database", "failure", first_line(error)), *_settings()]
    try:
        found += _schema(url, schema)
        return found + _rows(url, schema)
    except (PgonceError, psycopg.Error) as error:
        caused = database_error(error)
        lacks_rights = caused is not None and caused.sqlstate == "42501"
        action = (
            "make this role a member of service_role that inherits its rights"
            if lacks_rights
            else f"pgonce migrate{schema_option(schema)}"
        )
        return [*found, Finding("schema", "failure", first_line(error), action)]


def _database(url: str) -> list[Finding]:
    where = database.check(url)  # raises with the server's reason
    with database.connect(url) as conn:
        sent = datetime.now(UTC)
        [(clock_time,)] = fetch(conn, "select pg_catalog.clock_timestamp()")
        took = datetime.now(UTC) - sent
        version = conn.info.server_version
        ahead = ((sent + took / 2) - clock_time).total_seconds()
    clock = f"clock {abs(ahead):.2f} s {'ahead' if ahead > 0 else 'behind'}"
    reached = took.total_seconds() * 1000
    shown = f"PostgreSQL {version // 10000}.{version % 10000}, {where}, reached in {reached:.0f} ms, {clock}"
    if version < 140000:
        return [Finding("database", "failure", shown, "upgrade it: pgonce needs PostgreSQL 14 or newer")]
    return [Finding("database", "ok", shown), _pooler(url)]


def _pooler(url: str) -> Finding:
    with database.connect(url) as conn:
        if not database.is_pooled(conn):
            return Finding("pooler", "ok", "none: the connection is direct")
    try:
        with database.connect(url) as conn, conn.transaction():
            conn.execute("select 1")
            conn.execute("select 1")
    except psycopg.Error as error:
        action = "set pool_mode = transaction, or connect directly"
        return Finding("pooler", "failure", f"transactions are refused: {first_line(error)}", action)
    return Finding("pooler", "ok", "a pooler; session and transaction mode both work")


def _settings() -> list[Finding]:
    doubts = environment.doubts(os.environ)
    return [*_secrets(), *(Finding("settings", "warning", doubt) for doubt in doubts)]


def _secrets() -> list[Finding]:
    given = os.environ.get("PGONCE_WEBHOOK_SECRET")
    if given is None:  # only a process that receives needs it, and nothing is said of what was not looked at
        return []
    try:
        count = len(signing_secrets(given.split(",")))
    except PgonceError as error:
        return [Finding("secrets", "failure", str(error), "set PGONCE_WEBHOOK_SECRET to the endpoint's whsec_...")]
    return [Finding("secrets", "ok", f"PGONCE_WEBHOOK_SECRET holds {count}")]


def _schema(url: str, schema: str) -> list[Finding]:
    try:
        lines = schema_check.check(url, schema)
    except PgonceError as error:
        return [Finding("schema", "warning", first_line(error))]
    except errors.ReadOnlySqlTransaction:
        return [Finding("schema", "warning", f"not compared, because {READ_ONLY}", "examine the primary")]
    found = []
    option = schema_option(schema)
    for line in lines[:SHOWN]:
        what, _, close = line.partition("; to close this: ")
        state: State = "warning" if "may create objects" in what else "failure"
        command = "pgonce sql" if "`pgonce sql" in what else "pgonce migrate"
        found.append(Finding("schema", state, what, close or command + option))
    if len(lines) > SHOWN:
        found.append(Finding("schema", "failure", f"{len(lines) - SHOWN} more", f"pgonce migrate --check{option}"))
    return found or [Finding("schema", "ok", f"{schema} is current, unaltered, and closed to other roles")]


def _rows(url: str, schema: str) -> list[Finding]:
    def read(rows: Any) -> list[Finding]:
        return [Finding(*row) for row in rows]

    with database.connect(url) as conn, conn.transaction():
        conn.execute(f"set local statement_timeout = '30s'{no_transaction_timeout(conn)}".encode())
        args = {"p_client_clock": datetime.now(UTC), "p_pooled": database.is_pooled(conn)}
        return execute(conn, Call("pgonce_examine", args, read), schema)
