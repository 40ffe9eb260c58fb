"""Installing, upgrading and checking the tables and functions of a schema."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from pgonce.core import adopt, database
from pgonce.core.processes import host, person
from pgonce.core.schema_sql import migrations, script
from pgonce.errors import SchemaError

__all__ = ["applied", "migrate", "migrations", "script"]

_log = logging.getLogger(__name__)

_HIDDEN = """
select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %s and c.relkind = 'r' and obj_description(c.oid, 'pg_class') like 'pgonce: %%'
  and c.relforcerowsecurity and row_security_active(c.oid)
  and not exists (select from pg_roles where rolname = 'service_role' and pg_has_role(oid, 'usage'))
order by 1 limit 1
"""
_ALTERED = (
    psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedObject, psycopg.errors.DatatypeMismatch,
)  # fmt: skip
"""The errors of a definition that does not fit the tables: a migration runs once, so migrate does not mend these."""
_NOT_OURS = "PGO01"
"""The SQLSTATE that install_check.sql raises if an object with a name of pgonce's was not made by pgonce."""


def migrate(
    url: str,
    schema: str = "public",
    warn: Callable[[str], object] = _log.warning,
    announce: Callable[[str], object] = _log.info,
) -> list[str]:
    """Bring the schema up to date. It can be repeated, and run by several processes at the same time.

    Everything happens in one transaction, or not at all. The one exception is a large table that was made by hand: its
    columns and indexes are added before that transaction, in steps that do not block writers (see core/adopt.py).

    Args:
        url: libpq connection URL or string of a role that may create objects in ``schema``.
        schema: the schema for the tables and functions; created if it does not exist.
        warn: called with one line for each object or right that lets other roles change the installation.
        announce: called with one line before a step that takes long.

    Returns:
        The names of the migrations that were applied now; empty when only the functions were rebuilt.

    Raises:
        SchemaError: the database was migrated by a newer pgonce, cannot hold the schema, or has objects
            that pgonce did not make under names that it needs (then nothing was written); or a table was locked for
            five minutes.
        psycopg.Error: any other error of the database (no connection, no privileges).
    """
    warnings: list[str] = []
    done: set[int] = set()
    with database.connect(url) as conn, needs_rights(conn, schema):
        conn.add_notice_handler(lambda notice: _collect(notice, warnings))
        refuse(conn, schema)
        large = adopt.find_large(conn, schema)
        for table, size in large.items():
            announce(
                f"table {table} has {size}: its columns and indexes are made first, one by one, without blocking "
                "its writers; if this is interrupted, run it again"
            )
        if large:
            adopt.prepare(conn, schema, list(large), lambda check: run_script(conn, check))

        def install() -> None:
            nonlocal done
            conn.execute("set local client_min_messages = warning")
            warnings.clear()
            before = applied(conn, schema)
            run_script(conn, script(schema))
            done = applied(conn, schema) - before
            if done:
                _write_audit(conn, schema, before, before | done)

        try:
            adopt.with_short_locks(conn, schema, install)
        except _ALTERED as error:
            raise SchemaError(
                f"{error.diag.message_primary}: if a table of pgonce's was altered, --check says what it lacks"
            ) from error
        adopt.finish(conn, schema, list(large))
    for warning in warnings:
        warn(warning)
    return [name for version, name, _ in migrations() if version in done]


@contextmanager
def needs_rights(conn: psycopg.Connection[Any], schema: str) -> Iterator[None]:
    """Say in SchemaError who may do it, where the role may not."""
    try:
        yield
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidSchemaName) as error:  # without usage of it
        # The message is translated, and the error has no code of its own.
        if error.diag.source_function == "ExecWithCheckOptions":
            raise SchemaError(
                f"{error.diag.message_primary}, where it is forced on the owner, too: disable the event trigger that "
                "does so as long as this runs, or run it as a role with BYPASSRLS"
            ) from error
        raise SchemaError(
            f"{error.diag.message_primary}: run it as the role that owns schema {schema} and what pgonce has in it, or "
            f"give role {conn.info.user} these rights"
        ) from error


def _write_audit(conn: psycopg.Connection[Any], schema: str, before: set[int], after: set[int]) -> None:
    """Record who has migrated the schema, in the transaction that does it."""
    write = sql.SQL(
        "select {}('migrate', 'schema', %s, p_before => %s, p_after => %s, p_actor => %s, p_source => 'cli',"
        " p_address => %s)"
    ).format(sql.Identifier(schema.replace("%", "%%"), "pgonce_audit_write"))  # % begins a placeholder
    versions = [f"version {max(each)}" if each else "nothing" for each in (before, after)]
    conn.execute(write, [schema, *versions, person(), host()])


def _collect(notice: psycopg.errors.Diagnostic, warnings: list[str]) -> None:
    if notice.severity_nonlocalized == "WARNING" and notice.message_primary:
        warnings.append(notice.message_primary)


def refuse(conn: psycopg.Connection[Any], schema: str) -> None:
    """Raise SchemaError where this release cannot be installed.

    The database is not UTF8, was migrated by a newer release, or hides the rows of pgonce's tables from this role.
    """
    if conn.info.parameter_status("server_encoding") != "UTF8":
        raise SchemaError("the database's encoding is not UTF8: Stripe's events need a database with UTF8")
    hidden = conn.execute(_HIDDEN, [schema]).fetchone()
    if hidden:
        raise SchemaError(
            f"row-level security hides the rows of {hidden[0]} from role {conn.info.user}: run "
            f'"alter table {hidden[0]} no force row level security"'
        )
    before = applied(conn, schema)
    known = [version for version, _, _ in migrations()]
    if before and max(before) > max(known):
        raise SchemaError(
            f"schema {schema} was migrated by a newer pgonce (version {max(before)}, this one knows {max(known)}): "
            "upgrade pgonce on this machine"
        )


def run_script(conn: psycopg.Connection[Any], text: str) -> None:
    """Run a script of pgonce's SQL, which may refuse to install.

    Raises:
        SchemaError: an object that pgonce did not make has a name that pgonce needs.
    """
    try:
        conn.execute(text.encode())
    except psycopg.Error as error:
        if error.sqlstate == _NOT_OURS:
            raise SchemaError(str(error.diag.message_primary)) from None
        raise


def applied(conn: psycopg.Connection[Any], schema: str = "public") -> set[int]:
    """The versions of the migrations that ``schema`` has; empty when pgonce is not installed there."""
    table = sql.Identifier(schema, "pgonce_migrations")
    # Not to_regclass: right after waiting for a lock, its cache may lack a table that another session has created.
    # A table without the column was not made by pgonce; install_check.sql reports its name.
    exists = (
        "select 1 from pg_attribute a join pg_class c on c.oid = a.attrelid"
        " join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relname = 'pgonce_migrations' and c.relkind = 'r' and a.attname = 'version'"
        " and a.atttypid = 'integer'::regtype"
    )
    if not conn.execute(exists, [schema]).fetchone():
        return set()
    rows = conn.execute(sql.SQL("select version from {}").format(table)).fetchall()
    return {int(str(row[0])) for row in rows}
