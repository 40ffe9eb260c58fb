"""Installing and upgrading the tables and functions: ``migrate`` runs the script, ``script`` prints it.

Migrations make tables and indexes; they are append-only and each runs once, in a transaction of its own, recorded in
``pgonce_migrations``. The functions are rebuilt from ``sql/api`` every time. The SQL files name no schema: the script
sets the search_path, and every function pins it (``set search_path from current``).
"""

from __future__ import annotations

import re
from importlib.resources import files

import psycopg
from psycopg import sql

from pgonce.errors import InvalidArgument, SchemaError

API = (
    "install_stale",
    "core_processes",
    "errors_reason",
    "webhooks_payload",
    "webhooks_insert",
    "webhooks_inbox",
    "webhooks_claim",
    "webhooks_batch",
    "webhooks_receive",
    "jobs_guard",
    "jobs_batch",
    "jobs_schedule",
    "jobs_run_job",
    "jobs_stats",
    "seeds_checkpoint",
    "seeds_operate",
    "seeds_partition",
    "retention_purge",
    "webhooks_list",
    "alerts_find",
    "alerts_collect",
    "alerts_deliver",
    "install_grants",
)

# One migrate at a time: the second waits here, finds the work done, and succeeds. Released by COMMIT, so it works
# behind a transaction pooler.
_LOCK = "select pg_advisory_xact_lock(hashtextextended('pgonce migrate', 0));\n"
_PROLOGUE = (
    _LOCK
    + """\
create schema if not exists {schema};
select set_config('pgonce.search_path', current_setting('search_path'), false);
select set_config('search_path', {search_path}, false);
create table if not exists pgonce_migrations (
  version    integer primary key,
  name       text not null,
  applied_at timestamptz not null default clock_timestamp()
);
"""
)
_MIGRATION = """\
do $migrate$ begin
  if not exists (select from pgonce_migrations where version = {version}) then
    execute {body};
    insert into pgonce_migrations (version, name) values ({version}, {name});
  end if;
end $migrate$;
"""
_EPILOGUE = "select set_config('search_path', current_setting('pgonce.search_path'), false);\n"
_HEADER = """\
-- The tables and functions of pgonce, for the schema {schema}. Repeatable.
-- Run it in one transaction, as migration tools do; with psql: psql --single-transaction --file this.sql
"""


def migrations() -> list[tuple[int, str, str]]:
    """The migrations of this release: (version, name, SQL), in order."""
    found = []
    for entry in files("pgonce").joinpath("sql/migrations").iterdir():
        if match := re.fullmatch(r"(\d{4})_(\w+)\.sql", entry.name):
            found.append((int(match[1]), match[2], entry.read_text("utf-8")))
    return sorted(found)


def _steps(schema: str) -> list[str]:
    """The script in transactions: one for each migration, then one for all functions."""
    if not schema or "\0" in schema:
        raise InvalidArgument("the schema name must not be empty")

    def frame(body: str) -> str:
        prologue = sql.SQL(_PROLOGUE).format(
            schema=sql.Identifier(schema), search_path=sql.Literal(f"{sql.Identifier(schema).as_string()}, pg_temp")
        )
        return prologue.as_string() + body + _EPILOGUE

    def migration(version: int, name: str, body: str) -> str:
        quoted = f"$sql${body}$sql$"
        return (
            sql.SQL(_MIGRATION)
            .format(version=sql.Literal(version), name=sql.Literal(name), body=sql.SQL(quoted))
            .as_string()
        )

    api = files("pgonce").joinpath("sql/api")
    functions = "\n".join(api.joinpath(f"{name}.sql").read_text("utf-8") for name in API)
    return [frame(migration(*m)) for m in migrations()] + [frame(functions)]


def script(schema: str = "public") -> str:
    """Everything that ``migrate`` does as one SQL script, to paste into Supabase's or Alembic's migrations."""
    name = " ".join(schema.split())  # a line break would end the comment
    return "\n".join([_HEADER.format(schema=name), *_steps(schema)])


def migrate(url: str, schema: str = "public") -> list[str]:
    """Bring the schema up to date; safe to repeat and to run twice at once.

    Args:
        url: libpq connection URL or string of a role that may create objects in ``schema``.
        schema: where the tables and functions go; made if it does not exist.

    Returns:
        The names of the migrations that were applied now; empty when only the functions were rebuilt.

    Raises:
        SchemaError: the database was migrated by a newer pgonce, or cannot hold the schema.
        psycopg.Error: what the database refused otherwise (no connection, no privileges).
    """
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as conn:
        if conn.info.parameter_status("server_encoding") != "UTF8":
            raise SchemaError("the database's encoding is not UTF8: Stripe's events need a database with UTF8")
        before = applied(conn, schema)
        known = [version for version, _, _ in migrations()]
        if before and max(before) > max(known):
            raise SchemaError(
                f"schema {schema} was migrated by a newer pgonce (version {max(before)}, this one knows {max(known)}): "
                "upgrade pgonce on this machine"
            )
        done: set[int] = set()
        for step in _steps(schema):
            with conn.transaction():
                conn.execute("set local client_min_messages = warning")
                conn.execute(_LOCK.encode())  # also in the step; here, so that what another migrate did is not ours
                before = applied(conn, schema)
                conn.execute(step.encode())
                done |= applied(conn, schema) - before
        return [name for version, name, _ in migrations() if version in done]


def applied(conn: psycopg.Connection[tuple[object, ...]], schema: str = "public") -> set[int]:
    """The versions of the migrations that ``schema`` has; empty when pgonce is not installed there."""
    table = sql.Identifier(schema, "pgonce_migrations")
    # not to_regclass: right after waiting for a lock its cache may not know yet what another session has made
    exists = "select 1 from pg_tables where schemaname = %s and tablename = 'pgonce_migrations'"
    if not conn.execute(exists, [schema]).fetchone():
        return set()
    rows = conn.execute(sql.SQL("select version from {}").format(table)).fetchall()
    return {int(str(row[0])) for row in rows}
