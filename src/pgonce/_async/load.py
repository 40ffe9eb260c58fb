"""The rows of one batch into their table: each exactly once, however often the batch is repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from pgonce.errors import InvalidArgument, PgonceError, SchemaError
from pgonce.protocol.seeds import SeedRow

# A key that ON CONFLICT can use and that makes a row findable: unique, not partial, not on expressions, not
# deferrable, over exactly these columns, none of them nullable (two NULLs never conflict: rows would double).
_KEY_CHECK = """
select exists (
  select from pg_index i
  where i.indrelid = to_regclass(%(table)s) and i.indisunique and i.indimmediate and i.indisvalid
    and i.indpred is null and i.indexprs is null
    and (select array_agg(a.attname::text order by a.attname) from pg_attribute a
         where a.attrelid = i.indrelid and a.attnum = any (i.indkey[0:i.indnkeyatts - 1]) and a.attnotnull)
        = (select array_agg(k order by k) from unnest(%(key)s::text[]) k)
    and i.indnkeyatts = cardinality(%(key)s::text[])),
  to_regclass(%(table)s) is not null
"""


@dataclass(frozen=True, slots=True)
class Table:
    """Where the rows go. ``name`` as in SQL, with or without its schema; ``columns`` for rows that are sequences."""

    name: str
    key: Sequence[str]
    columns: Sequence[str] | None = None

    @property
    def identifier(self) -> sql.Identifier:
        """The name, quoted part by part."""
        return sql.Identifier(*self.name.split("."))


async def check(conn: AsyncConnection[Any], table: Table) -> None:
    """Refuse a table or key that could double rows, before the first row.

    Raises:
        SchemaError: there is no such table, or no unique index over exactly the key's columns, all NOT NULL.
    """
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_KEY_CHECK, {"table": table.identifier.as_string(conn), "key": list(table.key)})
        found = await cursor.fetchone()
    if not found or not found[1]:
        raise SchemaError(f"there is no table {table.name}: create it before the import")
    if not found[0]:
        raise SchemaError(
            f"table {table.name} has no plain unique index over ({', '.join(table.key)}) with every column NOT NULL: "
            "the key must tell which rows are there already"
        )


async def insert(conn: AsyncConnection[Any], table: Table, rows: Sequence[SeedRow]) -> int:
    """Insert ``rows`` in the open transaction, leaving out those whose key is there; return how many were inserted.

    COPY goes straight into the table first: in a first load nothing is there yet, and staging costs a third more.
    Only when a key is there already the batch is done again through a staging table.
    """
    columns = _columns(table, rows[0])
    values = [_values(row, columns) for row in rows]
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    try:
        async with conn.transaction():
            await _copy(conn, table.identifier, names, values)
        return len(values)
    except psycopg.errors.UniqueViolation:
        pass
    except psycopg.errors.DataError as error:
        raise PgonceError(f"a row does not fit into {table.name}: {_reason(error)}") from error
    staging = sql.Identifier("pgonce_batch")
    await conn.execute(
        sql.SQL("create temp table {} on commit drop as select {} from {} with no data").format(
            staging, names, table.identifier
        )
    )
    await _copy(conn, staging, names, values)
    inserted = await conn.execute(
        # by position: of two rows with one key the first wins, as it would in two batches
        sql.SQL(
            "insert into {} ({}) overriding system value select {} from {} order by ctid on conflict ({}) do nothing"
        ).format(table.identifier, names, names, staging, sql.SQL(", ").join(map(sql.Identifier, table.key)))
    )
    return inserted.rowcount


async def _copy(
    conn: AsyncConnection[Any], target: sql.Identifier, names: sql.Composed, values: Sequence[Sequence[Any]]
) -> None:
    async with conn.cursor() as cursor, cursor.copy(sql.SQL("copy {} ({}) from stdin").format(target, names)) as copy:
        for row in values:
            await copy.write_row(row)


def _columns(table: Table, row: SeedRow) -> list[str]:
    columns = list(row) if isinstance(row, Mapping) else list(table.columns or ())
    if not columns:
        raise InvalidArgument(f"rows for {table.name} are sequences, so the seed must name their columns=")
    return columns


def _values(row: SeedRow, columns: Sequence[str]) -> list[Any]:
    if isinstance(row, Mapping):
        if row.keys() != set(columns):
            raise InvalidArgument(
                f"a row has the columns {sorted(row)}, the first had {sorted(columns)}: yield equal rows"
            )
        row = [row[column] for column in columns]
    elif len(row) != len(columns):
        raise InvalidArgument(f"a row has {len(row)} values for {len(columns)} columns")
    return [Jsonb(value) if isinstance(value, dict) else value for value in row]


def _reason(error: psycopg.Error) -> str:
    # the primary message only: details would print the row
    return (
        f"{error.diag.message_primary} ({error.diag.context})" if error.diag.message_primary else type(error).__name__
    )
