"""The rows of one batch into their table: each exactly once, however often the batch is repeated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import tuple_row

from pgonce.errors import PgonceError
from pgonce.seeds.batch import Batch
from pgonce.seeds.calls import Counts
from pgonce.seeds.columns import Kind, TableFacts
from pgonce.seeds.seed import Seed

_RANGE = 1000
"""Rows of a batch from which on a range is worth its statement; below, as when bad rows are searched for, a look is."""
_STAGING = sql.Identifier("pg_temp", "pgonce_batch")
_EXACT: frozenset[Kind] = frozenset({"boolean", "integer", "uuid", "timestamp"})
"""Kinds of columns whose equal values look alike. 1.0 and 1.00 are equal, too; so are texts under some collations."""


class TableLoader:
    """Writes batches into one table.

    COPY goes straight into the table first: in a first load nothing is there yet, and staging costs a third more.
    Only when a key is there already the batch is done again through a staging table; and so is the next one at once,
    as long as keys are found (a run over rows that are all there would try, and fail, every batch twice).
    """

    def __init__(self, seed: Seed, facts: TableFacts) -> None:
        self.seed = seed
        self.facts = facts
        self._keys_found = False
        self._ranges = bool(facts.order)
        self._staging: Literal["none", "empty", "full"] = "none"

    async def begin(self, conn: AsyncConnection[Any]) -> None:
        """Call at the start of each transaction."""
        self._staging = "none"
        if conn.info.encoding != "utf-8":  # of a user's pool, or PGCLIENTENCODING: cursors and rejects are Unicode
            await conn.execute("set local client_encoding = 'UTF8'")
        if self.facts.has_deferred:  # else a bad row shows at COMMIT only, and nobody knows which
            await conn.execute("set constraints all immediate")

    @property
    def copies_straight(self) -> bool:
        """Whether the next batch is tried by COPY straight into the table."""
        return not (self._keys_found or self.facts.has_policies)

    async def write_straight(self, conn: AsyncConnection[Any], batch: Batch) -> Counts:
        """``write`` without a savepoint, two round trips less: when it raises, the transaction is lost."""
        inserted = await self._copy(conn, self.facts.table, batch, batch.parts)
        return _counted(batch.rows, inserted=inserted)

    async def write(self, conn: AsyncConnection[Any], batch: Batch, parts: Sequence[bytes], rows: int) -> Counts:
        """Insert ``parts``, ``rows`` rows of ``batch``, in the open transaction, after a savepoint.

        Raises:
            psycopg.Error: the table refuses a row; nothing of the parts is written.
        """
        fails = self.seed.on_conflict == "fail"
        if self.copies_straight:
            try:
                async with conn.transaction():
                    return _counted(rows, inserted=await self._copy(conn, self.facts.table, batch, parts))
            except psycopg.errors.UniqueViolation:
                if fails:
                    raise
        names = _names(batch.columns)
        if self._staging == "none":
            await conn.execute(
                sql.SQL("create temp table {} on commit drop as select {} from {} with no data").format(
                    _STAGING, names, self.facts.table
                )
            )
            self._staging = "empty"
            # else the rows may be sorted with all they hold, on the disk, only to be compared with a range of keys
            await conn.execute("set local enable_mergejoin = off")
        async with conn.transaction():
            if self._staging == "full":
                await conn.execute(sql.SQL("truncate {}").format(_STAGING))
            if await self._copy(conn, _STAGING, batch, parts) != rows:
                _counted(rows, inserted=-1)
            counts = await self._merge(conn, batch, rows)
        self._staging = "full"
        self._keys_found = counts.inserted < rows
        return counts

    async def _copy(
        self, conn: AsyncConnection[Any], target: sql.Identifier, batch: Batch, parts: Sequence[bytes]
    ) -> int:
        statement = sql.SQL("copy {} ({}) from stdin with ({}, encoding 'UTF8')").format(
            target,
            _names(batch.columns),
            sql.SQL(batch.format.options),  # a reader's own words, never a user's
        )
        async with conn.cursor() as cursor:
            async with cursor.copy(statement) as copy:
                for part in parts:
                    await copy.write(part)
                    batch.on_first_bytes_sent()
            return cursor.rowcount

    async def _merge(self, conn: AsyncConnection[Any], batch: Batch, rows: int) -> Counts:
        values = {
            "table": self.facts.table, "names": _names(batch.columns), "key": _names(self.seed.key), "batch": _STAGING,
            "same": self._same,
        }  # fmt: skip
        changing = [
            column for column in batch.columns
            if column not in self.seed.key and not self.facts.columns[column].written_by_server
        ]  # fmt: skip
        if self.seed.on_conflict == "update" and changing:
            return await self._update(conn, values, changing, rows)
        # A scan of the staging table is in the order of the lines: of two rows with one key the first wins.
        # No ORDER BY for it: sorting wide rows costs more than finding their keys.
        if self.seed.on_conflict != "fail" and self._ranges and rows >= _RANGE:
            return await self._merge_range(conn, values, rows)
        text = "insert into {table} ({names}) overriding system value select {names} from {batch} s"
        if self.seed.on_conflict != "fail":
            # Those that are there are sorted out first, by one look into the index each: a quarter faster than to let
            # every row run into the conflict. A scalar subquery, because an anti-join may be planned as a scan of the
            # whole index. The conflict clause stays, for doubles in the batch and for other writers.
            text += " where (select true from {table} t where {same}) is null on conflict ({key}) do nothing"
        done = await conn.execute(sql.SQL(text).format(**values))
        return _counted(rows, inserted=done.rowcount)

    async def _update(
        self, conn: AsyncConnection[Any], values: dict[str, sql.Composable], changing: Iterable[str], rows: int
    ) -> Counts:
        """Insert what is new, update what differs, and leave equal rows untouched: no dead rows, no triggers.

        What is new is counted by a look before the insert, because a partitioned table has no xmax to return.
        """
        changes = (sql.SQL("{0} = excluded.{0}").format(sql.Identifier(column)) for column in changing)
        statement = sql.SQL(
            # of two rows with one key the last stands, as it would in two batches; one statement may not do both
            "with last as materialized (select distinct on ({key}) {names} from {batch} order by {key}, ctid desc),"
            " there as materialized (select count(*) as rows from last s"
            " where (select true from {table} t where {same})),"
            " written as (insert into {table} as t ({names}) overriding system value select {names} from last"
            " on conflict ({key}) do update set {changes} where {differs} returning true)"
            " select keys, keys - there.rows, (select count(*) from written)"
            " from there, (select count(*) as keys from last) counted"
        ).format(
            changes=sql.SQL(", ").join(changes),
            differs=sql.SQL(" or ").join(map(self._differs, changing)),
            **values,
        )
        async with conn.cursor(row_factory=tuple_row) as cursor:
            keys, inserted, written = await (await cursor.execute(statement)).fetchone() or (0, 0, 0)
        # somebody else may insert or delete a key between the look and the insert: then one counts as the other
        inserted = min(inserted, written)
        return Counts(inserted=inserted, updated=rows - keys + written - inserted, skipped=keys - written)

    def _differs(self, column: str) -> sql.Composed:
        exact = self.facts.columns[column].kind in _EXACT
        text = "t.{0} is distinct from excluded.{0}"
        if not exact:  # also for types without equality, such as json and point
            text = '(t.{0})::text collate "C" is distinct from (excluded.{0})::text collate "C"'
        return sql.SQL(text).format(sql.Identifier(column))

    async def _merge_range(self, conn: AsyncConnection[Any], values: dict[str, sql.Composable], rows: int) -> Counts:
        """Sort out those that are there by one pass over the index, from the least key to the greatest: 0.6 us a row.

        A look for each takes 1.4 us. Between the keys of a batch in no order may lie the whole table: of at most twice
        the batch is read, the conflict clause does the rest, and the next batches are looked up one by one.
        """
        backwards = (sql.SQL("{} desc").format(sql.Identifier(column)) for column in self.facts.order)
        statement = sql.SQL(
            "with there as materialized (select {order} from {table}"
            " where ({order}) >= (select {order} from {batch} order by {order} limit 1)"
            " and ({order}) <= (select {order} from {batch} order by {backwards} limit 1)"
            " order by {order} limit {most}),"
            " written as (insert into {table} ({names}) overriding system value select {names} from {batch} s"
            # by ctid again, because a join may lose the order of the lines; only the new ones are left to be sorted
            " where not exists (select from there t where {same}) order by s.ctid"
            " on conflict ({key}) do nothing returning true)"
            " select (select count(*) from there), (select count(*) from written)"
        ).format(
            order=_names(self.facts.order), backwards=sql.SQL(", ").join(backwards), most=sql.Literal(2 * rows),
            **values,
        )  # fmt: skip
        async with conn.cursor(row_factory=tuple_row) as cursor:
            there, inserted = await (await cursor.execute(statement)).fetchone() or (0, -1)
        self._ranges = there < 2 * rows
        return _counted(rows, inserted=inserted)

    @property
    def _same(self) -> sql.Composed:
        same = (sql.SQL("t.{0} = s.{0}").format(sql.Identifier(column)) for column in self.seed.key)
        return sql.SQL(" and ").join(same)


def _counted(rows: int, *, inserted: int) -> Counts:
    if not 0 <= inserted <= rows:
        raise PgonceError(f"the source says {rows} rows, and COPY counts others: its blocks must hold whole rows")
    return Counts(inserted=inserted, skipped=rows - inserted)


def _names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
