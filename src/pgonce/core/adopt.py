"""Adopting a large table that was made by hand, without blocking its writers.

A migrate is one transaction, and building an index in a transaction blocks every writer until it ends: 1,000,000 events
of 1 kB and the five indexes take seconds. So a large table is prepared before that transaction, in steps that each
block other clients only briefly, and finished after it:

1. In a short transaction the table is checked, its columns are added (no statement reads or rewrites the rows), and its
   comment says that it is being adopted.
2. The indexes are built one by one with CREATE INDEX CONCURRENTLY, which waits for writers and blocks none.
3. The one transaction of migrate finds columns and indexes, and adds triggers and functions.
4. What the triggers read from a payload is filled in for the older rows, in batches.

Every step may be repeated. After a crash the table works as before, for clients of the specification too, and the next
migrate goes on where this one stopped.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from psycopg import errors, sql

from pgonce.core.database import is_pooled
from pgonce.core.execute import no_transaction_timeout
from pgonce.core.schema_sql import LOCK, SPECIFIED, api, settings_for, statements
from pgonce.errors import SchemaError

LARGE = 8 * 1024 * 1024
"""Bytes of a table's rows.

The indexes of a smaller table are built in about 50 ms. install_check.sql has the same number.
"""
ADOPTING = "pgonce: being adopted"
"""The start of the comment on a table whose adoption has not ended."""

_LOCK_TIMEOUT = "200ms"
"""How long a lock request waits. While it waits, all later requests for the table wait, too."""
_GIVE_UP_AFTER = 300.0
"""Seconds of repeated requests until migrate gives up."""
_BATCH = 1000
"""Rows that one batch of filling in changes and locks; it takes about 20 ms."""
_CONFLICTS = 50
"""How often an index is tried that migrates at the same time hinder each other from building."""

Connection = psycopg.Connection[Any]


def is_adopting(conn: Connection, schema: str, table: str) -> bool:
    """Whether the table's adoption has begun and not ended."""
    query = "select obj_description(to_regclass(%s), 'pg_class') like %s"
    row = conn.execute(query, [sql.Identifier(schema, table).as_string(), f"{ADOPTING}%"]).fetchone()
    return bool(row and row[0])


def find_large(conn: Connection, schema: str) -> dict[str, str]:
    """The large tables whose adoption has not begun or not ended, each with its size as text."""
    query = """
      select c.relname, pg_size_pretty(pg_table_size(c.oid))
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname = %s and c.relname = any (%s) and c.relkind = 'r'
        and case when obj_description(c.oid, 'pg_class') like 'pgonce: %%'
                 then obj_description(c.oid, 'pg_class') like %s else pg_relation_size(c.oid) > %s end
    """
    return dict(conn.execute(query, [schema, list(SPECIFIED), f"{ADOPTING}%", LARGE]).fetchall())


def set_limits(conn: Connection) -> None:
    """Set the time limits of a transaction that installs, compares or removes. Those of the role may be too short.

    A machine that is suspended in the middle must not keep the locks.
    """
    limits = "set local statement_timeout = 0; set local idle_in_transaction_session_timeout = '60s'"
    conn.execute(f"{limits}{no_transaction_timeout(conn)}".encode())


@contextmanager
def _transaction(conn: Connection, schema: str) -> Iterator[None]:
    with conn.transaction():
        conn.execute("set local client_min_messages = error")
        set_limits(conn)
        conn.execute(f"select {LOCK}".encode())  # before the limit below: another migrate may take its time
        conn.execute("select set_config('lock_timeout', %s, true)", [_LOCK_TIMEOUT])
        for name, value in settings_for(schema).items():
            conn.execute("select set_config(%s, %s, true)", [name, value])
        yield


def with_short_locks(conn: Connection, schema: str, action: Callable[[], object]) -> None:
    """Run ``action`` in a transaction. If it cannot get a lock within 0.2 s, roll back, wait and try again.

    A deadlock is found sooner than that where ``deadlock_timeout`` is shorter.

    Raises:
        SchemaError: it could not get the locks for five minutes.
    """
    deadline = time.monotonic() + _GIVE_UP_AFTER
    pause = 0.1
    while True:
        try:
            with _transaction(conn, schema):
                action()
                return
        except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
            if time.monotonic() > deadline:
                raise SchemaError(
                    f"a table of schema {schema} was locked by other sessions for {_GIVE_UP_AFTER:g} s: end the "
                    "transactions that pg_stat_activity shows as the oldest, and run it again"
                ) from error
        time.sleep(pause)
        pause = min(pause * 2, 5.0)


def prepare(conn: Connection, schema: str, tables: list[str], check: Callable[[str], None]) -> None:
    """Add the columns of large tables, close the rows that the unique indexes forbid, and build the indexes.

    ``check`` runs install_check.sql, and raises SchemaError where the tables cannot be adopted.
    """

    if not is_pooled(conn):  # an index is built outside of a transaction. A pooler would pass the setting on to others
        limits = "set statement_timeout = 0; set lock_timeout = 0"  # it waits for the transactions of all writers
        conn.execute(f"{limits}{no_transaction_timeout(conn, 'session')}".encode())

    def begin() -> None:
        check(api("install_check"))
        for table in tables:
            name = sql.Identifier(schema, table)
            theirs = _comment_on(conn, name)
            if not theirs.startswith("pgonce: "):  # another migrate may have begun, or ended, meanwhile
                mark = f"{ADOPTING}; {theirs}" if theirs else ADOPTING
                conn.execute(sql.SQL("comment on table {} is {}").format(name, sql.Literal(mark)))

    with_short_locks(conn, schema, begin)
    for table in tables:
        changes = [each for each in statements(table) if not each.startswith("create")]
        for change in changes:
            with_short_locks(conn, schema, partial(conn.execute, change.encode()))
        for statement in statements(table):
            if statement.startswith("create"):
                _build(conn, schema, statement, [each for each in changes if each.startswith("update")])


def _build(conn: Connection, schema: str, statement: str, updates: list[str]) -> None:
    """Create an index concurrently. An invalid one that an earlier attempt has left is dropped first.

    A row that a unique index forbids may be written while the index is built: ``updates`` close such rows.
    """
    match = re.fullmatch(r"create (unique )?index if not exists (\w+) on (\w+) (.*);", statement, re.DOTALL)
    if match is None:
        raise ValueError(f"cannot be built concurrently: {statement}")
    unique, name, table, definition = match.groups()
    # The names are qualified: in autocommit behind a pooler, a search_path cannot be set for the statement.
    create = sql.SQL("create {}index concurrently if not exists {} on {} ").format(
        sql.SQL("unique " if unique else ""), sql.Identifier(name), sql.Identifier(schema, table)
    )
    index = sql.Identifier(schema, name)
    valid = "select indisvalid from pg_index where indexrelid = to_regclass(%s)"
    # Two builds on one table wait for each other: the first one for the other's snapshot, the other one for its lock.
    building = "select from pg_stat_progress_create_index where relid = to_regclass(%s) and pid <> pg_backend_pid()"
    violations = conflicts = 0
    while (found := conn.execute(valid, [index.as_string()]).fetchone()) != (True,):
        if conn.execute(building, [sql.Identifier(schema, table).as_string()]).fetchone():  # by another migrate
            time.sleep(0.5)
            continue
        try:
            if found:
                conn.execute(sql.SQL("drop index concurrently if exists {}").format(index))
            conn.execute((create.as_string() + definition).encode())
        except (errors.DeadlockDetected, errors.InternalError_):
            # Another migrate began in the same moment, or dropped the same index: "tuple concurrently updated".
            conflicts += 1
            if conflicts == _CONFLICTS:
                raise
            time.sleep(random.uniform(0.1, 1))  # noqa: S311
        except errors.UniqueViolation:
            violations += 1
            if violations == 10:
                raise
            for update in updates:
                with_short_locks(conn, schema, partial(conn.execute, update.encode()))


def finish(conn: Connection, schema: str, tables: list[str]) -> None:
    """Fill in what the triggers read from the payloads, in batches, and end the adoption."""
    for table in tables:
        name = sql.Identifier(schema, table)
        if table == "webhook_events":
            _fill_in(conn, schema)
        with_short_locks(conn, schema, partial(_end, conn, name))


def _end(conn: Connection, name: sql.Identifier) -> None:
    comment = _comment_on(conn, name)
    if comment.startswith(ADOPTING):
        theirs = comment.removeprefix(ADOPTING).removeprefix("; ")
        mark = f"pgonce: {theirs or 'see docs/sql.md'}"
        conn.execute(sql.SQL("comment on table {} is {}").format(name, sql.Literal(mark)))


def _comment_on(conn: Connection, table: sql.Identifier) -> str:
    query = "select coalesce(obj_description(%s::regclass, 'pg_class'), '')"
    [[comment]] = conn.execute(query, [table.as_string()]).fetchall()
    return str(comment)


_OLDER = "select max(id::text) from (select id from webhook_events where id > %s order by id limit %s) s"
_FILL = """
update webhook_events set payload = payload, error_message = error_message where id > {} and id <= {}
  and (object_id is null and account is null and livemode is null and payload <> '{{}}'
       or status = 'failed' and failure is null)
"""
"""For the rows of a batch, what install_triggers.sql does at once for a smaller table."""


def _fill_in(conn: Connection, schema: str) -> None:
    last: UUID | str | None = UUID(int=0)

    def fill() -> None:
        nonlocal last
        [[reached]] = conn.execute(_OLDER, [last, _BATCH]).fetchall()
        update = sql.SQL(_FILL).format(sql.Literal(str(last)), sql.Literal(reached)).as_string()
        statements = json.dumps([{"on_table": "webhook_events", "statement": update}])
        conn.execute("select set_config('pgonce.fill', %s, true)", [statements])
        conn.execute(api("install_fill").encode())
        last = reached

    while last is not None:
        with_short_locks(conn, schema, fill)  # a handler may hold one of the rows, and the others wait meanwhile
