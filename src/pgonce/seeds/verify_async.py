"""A dry run of an import, and the comparison of a table with its source."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection, AsyncCopy, postgres, sql

from pgonce.core.execute_async import Pool, fetch, own_connection, run
from pgonce.errors import SourceUnfinished
from pgonce.seeds import rejects_async as rejects
from pgonce.seeds.batch import BatchSizer, without_values
from pgonce.seeds.calls import Checkpoint, Counts
from pgonce.seeds.calls_operate import Rehearsed, RejectGroup
from pgonce.seeds.columns import Column, Kind, TableFacts
from pgonce.seeds.expected import Rejected, RowReader
from pgonce.seeds.importer_async import Source, batches
from pgonce.seeds.same_source import check_source
from pgonce.seeds.seed import Seed
from pgonce.seeds.source import check_columns
from pgonce.seeds.stream_async import batches_of, prefetched
from pgonce.seeds.table_async import check_table
from pgonce.seeds.table_loader_async import TableLoader

Sources: TypeAlias = Mapping[str | None, Source]
_RESULT = ("keys", "found", "equal", "extra", "examples")
_EXPECTED = sql.SQL("pg_temp.pgonce_expected")
_COPY = sql.SQL("copy {} from stdin with (encoding 'UTF8')").format(_EXPECTED)
_PATIENT = "set local idle_in_transaction_session_timeout = 0"  # the source is read in the transaction
_EXACT: frozenset[Kind] = frozenset({"boolean", "integer", "uuid"})
# Every name is an alias or a number of ours: a table called "source" or a column called "n" cannot be taken for one.
# The order of the temporary table's ctid is that of the source: nothing was deleted from it.
# Only rows with the key of a source's row are compared: other sources may have brought others.
_COMPARE = """
with pgonce_one as (
  select distinct on ({key}) * from {expected} order by {key}, ctid {order}
), pgonce_pair as materialized ( -- without it the join has the columns of both as its output: 1,664 at most
  select {key_of_e}, t.{first} is not null as pgonce_found, {equal} as pgonce_equal
  from pgonce_one e left join {table} t on {same}
)
select count(*) as keys, count(*) filter (where pgonce_found) as found,
  count(*) filter (where pgonce_found and pgonce_equal) as equal,
  (select count(*) from {table}) - count(*) filter (where pgonce_found) as extra,
  (array_agg(jsonb_build_array({key}) order by {key}) filter (where not (pgonce_found and pgonce_equal)))[1:5]
    as examples
from pgonce_pair
"""

# Without a key rows are equal as a whole, each as often as the source has it; a changed row is one that is missing.
_COMPARE_ROWS = """
with pgonce_wanted as (select {expected_row} as pgonce_row, count(*) as pgonce_count from {expected} e group by 1),
  pgonce_there as (select {found_row} as pgonce_row, count(*) as pgonce_count from {table} t group by 1),
  pgonce_sums as (
    select coalesce(sum(w.pgonce_count), 0)::bigint as keys,
      coalesce(sum(least(w.pgonce_count, coalesce(f.pgonce_count, 0))), 0)::bigint as found
    from pgonce_wanted w left join pgonce_there f using (pgonce_row)
  )
select keys, found, found as equal, (select count(*) from {table}) - found as extra, null as examples from pgonce_sums
"""


async def rehearse(
    pool: Pool, sources: Iterable[tuple[Source, Checkpoint | None]], seed: Seed, *, again: bool, accept_change: bool,
    kept: int,
) -> Rehearsed:  # fmt: skip
    """Import everything after the checkpoints in one transaction, constraints and all, and roll it back.

    All partitions in the one: a key that two of them have is there already for the second, as it would be.

    ``sources``: the source of each part, and its checkpoint; ``again``: it has run and begins at the start;
    ``kept``: the rejects that it has.

    Raises:
        RowRejected: more than the seed's ``max_rejects`` rows were refused.
        SourceChanged: as a run would raise it at such a checkpoint; TableChanged, too.
    """
    async with own_connection(pool) as conn:
        loader = TableLoader(seed, await check_table(conn, seed), conn.adapters)
        sizer, total, last = BatchSizer(), Counts(), time.monotonic()
        unfinished: str | None = None
        async with conn.transaction(force_rollback=True):
            await run(conn, _PATIENT)
            await loader.begin(conn)
            if again:
                await loader.check_restart(conn)
            refused: list[dict[str, Any]] = []
            for source, at in sources:
                cursor, before = at.cursor if at else None, total.seen - (at.rows_seen if at else 0)
                if at and not accept_change:
                    await loader.check_target(conn, at)
                check_source(seed, source, at, accept_change=accept_change)
                try:
                    async with prefetched(batches(loader, source, cursor, sizer)) as (taken, want):
                        async for batch in taken:
                            batch.on_first_bytes_sent = want
                            room = max(0, seed.max_rejects - kept - total.rejected)
                            seen = total.seen - before
                            with without_values(seed.into):
                                counts, bad = await rejects.write(conn, loader, batch, seen=seen, room=room)
                            refused += ({**each, "row": None, "line": None} for each in bad)
                            total += counts
                            sizer.record(batch.rows, time.monotonic() - last)
                            last = time.monotonic()
                except SourceUnfinished as error:
                    unfinished = str(error)
        counted = total.inserted, total.skipped, total.updated, total.rejected
        return Rehearsed(*counted, unfinished, tuple(_grouped(refused)))


def _grouped(refused: Iterable[dict[str, Any]]) -> list[RejectGroup]:
    """As pgonce_group_seed_rejects does it with rejects that were stored."""
    rows = defaultdict[tuple[str, str | None, str | None], list[int]](list)
    for each in refused:
        rows[each["reason"], each["column_name"], each["sqlstate"]].append(each["row_number"])
    groups = [RejectGroup(*why, len(each), min(each), "") for why, each in rows.items()]
    return sorted(groups, key=lambda group: (-group.rows, group.first_row))


async def compare(pool: Pool, sources: Sources, seed: Seed, rejected: Mapping[str | None, Rejected]) -> dict[str, Any]:
    """Read all of ``sources`` again and compare their values with the table's, in the database.

    Nothing is shared with the writer: a source that offers ``reread`` is read through the library of its format, and
    psycopg writes the values, by its own dumpers, into a temporary table of the columns' types.

    Args:
        rejected: by partition the rows that are rejects, by their numbers: exactly these are left out.
    """
    result: dict[str, Any] = {"rows": 0, "rejected": 0, "keys": 0, "found": 0, "equal": 0, "extra": 0, "examples": None}
    async with own_connection(pool) as conn:
        facts = await check_table(conn, seed)
        async with conn.transaction(force_rollback=True):
            await run(conn, "; ".join(["set local client_encoding = 'UTF8'", _PATIENT, *facts.settings]))
            for source in sources.values():
                check_columns(source, facts.columns, seed.into, seed.columns)
            reader: RowReader | None = None
            try:
                for partition, source in sources.items():
                    # also of a source without rows: a header that a run refuses makes no table equal to it
                    facts.find(getattr(source, "columns", None) or (), seed.into)
                    reader = RowReader(seed, facts, source, rejected.get(partition, {}), reader)
                    await _copy(conn, facts.table, reader, source)
                if reader and reader.columns:
                    result |= await _compared(conn, seed, facts, reader.columns)
                else:
                    count = sql.SQL("select count(*) from {}").format(facts.rows)
                    result["extra"] = (await fetch(conn, count))[0][0]
            except (psycopg.Error, ValueError) as error:
                # the source has a row now that is not a reject and that the column cannot hold
                if isinstance(error, psycopg.Error) and not rejects.is_row_fault(error):
                    raise
                result["error"] = f"{type(error).__name__} at or after row {reader.rows if reader else 0:,}"
            except SourceUnfinished as error:
                result["error"] = str(error)
            if reader:
                result |= {"rows": reader.rows, "rejected": reader.rejected}
    different, missing = result["found"] - result["equal"], result["keys"] - result["found"]
    return {
        **result,
        "different": different,
        "missing": missing,
        "ok": not (different or missing or "error" in result),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


async def _copy(conn: AsyncConnection[Any], table: sql.Identifier, reader: RowReader, source: Source) -> None:
    """Copy the rows of one source into the temporary table."""
    reread = getattr(source, "reread", None)
    stream = ((row, None) for row in reread()) if reread else source(None)
    async with prefetched(batches_of(stream, reader)) as (taken, want), AsyncExitStack() as opened:
        copy: AsyncCopy | None = None
        async for rows in taken:
            want()
            if copy is None:
                if not reader.is_begun:
                    await fetch(conn, _like(table, reader.columns))
                    reader.is_begun = True
                cursor = await opened.enter_async_context(psycopg.AsyncCursor(conn))
                # psycopg's own dumpers, whatever the application has registered in their place; its classes keep theirs
                postgres.register_default_adapters(cursor.adapters)
                copy = await opened.enter_async_context(cursor.copy(_COPY))
            for row in rows:
                try:
                    await copy.write_row(row)
                except Exception as error:
                    if isinstance(error, psycopg.OperationalError) or getattr(error, "sqlstate", None):
                        raise
                    raise ValueError("a value cannot be written") from error  # its class has no dumper, or a broken one


async def _compared(
    conn: AsyncConnection[Any], seed: Seed, facts: TableFacts, columns: tuple[str, ...]
) -> dict[str, Any]:
    await fetch(conn, sql.SQL("analyze {}").format(_EXPECTED))
    places = _places(columns)
    if not seed.key:
        statement = sql.SQL(_COMPARE_ROWS).format(
            expected=_EXPECTED,
            table=facts.rows,
            expected_row=_row("e", places.values()),
            found_row=_row("t", map(sql.Identifier, columns)),
        )
        return await _one(conn, statement)
    compared = [
        column for column in map(facts.columns.__getitem__, columns)
        # of a row that was there, an identity column is never updated
        if (column.name not in seed.key or not column.has_one_text)
        and not (column.written_by_server and seed.on_conflict == "update")
    ]  # fmt: skip
    same = (facts.equal(column, sql.SQL("e.{}").format(places[column])) for column in seed.key)
    equal = [_equal(column, places[column.name]) for column in compared]
    statement = sql.SQL(_COMPARE).format(
        expected=_EXPECTED,
        table=facts.rows,
        key=sql.SQL(", ").join(places[column] for column in seed.key),
        key_of_e=sql.SQL(", ").join(sql.SQL("e.{}").format(places[column]) for column in seed.key),
        first=sql.Identifier(seed.key[0]),
        same=sql.SQL(" and ").join(same),
        equal=sql.SQL(" and ").join(equal) if equal else sql.SQL("true"),
        order=sql.SQL("desc" if seed.on_conflict == "update" else "asc"),
    )
    return await _one(conn, statement)


async def _one(conn: AsyncConnection[Any], statement: sql.Composed) -> dict[str, Any]:
    """The one row that it returns, by names."""
    [row] = await fetch(conn, statement)
    return dict(zip(_RESULT, row, strict=True))


def _equal(column: Column, expected: sql.SQL) -> sql.Composed:
    """Equal as texts: 1.0 and 1.00 are one number, and two texts may be equal under the column's collation."""
    values = {"found": sql.Identifier(column.name), "expected": expected}
    if column.kind in _EXACT:
        return sql.SQL("t.{found} is not distinct from e.{expected}").format(**values)
    text = 't.{found}::text collate "C" is not distinct from e.{expected}::text collate "C"'
    if column.kind == "json" and column.type == "json":  # which keeps blanks and the order of keys
        otherwise = "t.{found}::jsonb::text is not distinct from e.{expected}::jsonb::text"
        text = f"(case when {text} then true else {otherwise} end)"
    return sql.SQL(text).format(**values)


def _row(alias: str, columns: Iterable[sql.Composable]) -> sql.Composed:
    """All values of a row as texts."""
    texts = (sql.SQL('{}.{}::text collate "C"').format(sql.SQL(alias), column) for column in columns)
    return sql.SQL("array[{}]").format(sql.SQL(", ").join(texts))


def _places(columns: tuple[str, ...]) -> dict[str, sql.SQL]:
    """The names of the columns in the temporary table."""
    return {column: sql.SQL(f"c{number}") for number, column in enumerate(columns)}


def _like(table: sql.Identifier, columns: tuple[str, ...]) -> sql.Composed:
    """The temporary table: types, lengths and collations of the columns, under names of our own."""
    names = [sql.SQL("{} as {}").format(sql.Identifier(name), place) for name, place in _places(columns).items()]
    text = "create temp table pgonce_expected on commit drop as select {} from {} limit 0"
    return sql.SQL(text).format(sql.SQL(", ").join(names), table)
