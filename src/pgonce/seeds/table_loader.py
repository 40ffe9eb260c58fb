# Generated from table_loader_async.py by tools/unasync.py: edit that one, then `make generate`.
"""The rows of one batch into their table: each exactly once, however often the batch is repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import psycopg
from psycopg import Connection, sql
from psycopg.rows import tuple_row

from pgonce.errors import PgonceError, SchemaError
from pgonce.seeds.batch import Packed
from pgonce.seeds.calls import Counts

OnConflict: TypeAlias = Literal["skip", "update", "fail"]

# A key that ON CONFLICT can use and that makes a row findable: unique, not partial, not on expressions, not
# deferrable, over exactly these columns, none of them nullable (two NULLs never conflict: rows would double).
_KEY_CHECK = """
select to_regclass(%(table)s) is not null, exists (
  select from pg_index i
  where i.indrelid = to_regclass(%(table)s) and i.indisunique and i.indimmediate and i.indisvalid
    and i.indpred is null and i.indexprs is null
    and (select array_agg(a.attname::text order by a.attname) from pg_attribute a
         where a.attrelid = i.indrelid and a.attnum = any (i.indkey[0:i.indnkeyatts - 1]) and a.attnotnull)
        = (select array_agg(k order by k) from unnest(%(key)s::text[]) k)
    and i.indnkeyatts = cardinality(%(key)s::text[])),
  -- COPY FROM refuses where policies apply to this role
  coalesce(row_security_active(to_regclass(%(table)s)), false),
  exists (select from pg_constraint where conrelid = to_regclass(%(table)s) and condeferred),
  array(select a.attname::text from pg_attribute a join pg_type t on t.oid = a.atttypid
        where a.attrelid = to_regclass(%(table)s) and a.attnum > 0 and t.typcategory = 'A'),
  -- the key in an order in which ORDER BY and row comparisons go through its index; a rule forbids WITH (INSERT)
  array(select a.attname::text from pg_index i join pg_class c on c.oid = i.indrelid and not c.relhasrules
        cross join unnest(i.indkey[0:i.indnkeyatts - 1]::int2[]) with ordinality k(attnum, n)
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where i.indexrelid = (
          select x.indexrelid from pg_index x
          where x.indrelid = to_regclass(%(table)s) and x.indisunique and x.indisvalid and x.indpred is null
            and x.indexprs is null and x.indnkeyatts = cardinality(%(key)s::text[]) and 0 = all (x.indoption::int2[])
            and not exists (select from unnest(x.indclass::oid[]) o(id) join pg_opclass p on p.oid = o.id
                            where not p.opcdefault)
            and not exists (
              select from unnest(x.indkey[0:x.indnkeyatts - 1]::int2[], x.indcollation::oid[]) e(attnum, coll)
              left join pg_attribute a on a.attrelid = x.indrelid and a.attnum = e.attnum
                and a.attcollation = e.coll and a.attname = any (%(key)s::text[])
              where a.attnum is null)
          limit 1)
        order by k.n)
"""
_RANGE = 1000
"""Rows of a batch from which on a range is worth its statement; below, as when bad rows are searched for, a look is."""
_STAGING = sql.Identifier("pg_temp", "pgonce_batch")


@dataclass(frozen=True, slots=True)
class Table:
    """Where the rows go. ``name`` as in SQL, with or without its schema; ``columns`` for rows that are sequences."""

    name: str
    key: Sequence[str]
    columns: Sequence[str] | None = None
    on_conflict: OnConflict = "skip"

    @property
    def identifier(self) -> sql.Identifier:
        """The name, quoted part by part."""
        return sql.Identifier(*self.name.split("."))


@dataclass(frozen=True, slots=True)
class Facts:
    """What the catalog says of the table."""

    has_policies: bool
    has_deferred: bool
    arrays: frozenset[str]
    order: tuple[str, ...] = ()
    """The key in the order of an index whose ranges hold its rows; empty: there is none."""


def check(conn: Connection[Any], table: Table) -> Facts:
    """Refuse a table or key that could double rows, before the first row.

    Raises:
        SchemaError: there is no such table, or no unique index over exactly the key's columns, all NOT NULL.
    """
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(_KEY_CHECK, {"table": table.identifier.as_string(conn), "key": list(table.key)})
        found = cursor.fetchone()
    if not found or not found[0]:
        raise SchemaError(f"there is no table {table.name}: create it before the import")
    if not found[1]:
        raise SchemaError(
            f"table {table.name} has no plain unique index over ({', '.join(table.key)}) with every column NOT NULL: "
            "the key must tell which rows are there already"
        )
    return Facts(found[2], found[3], frozenset(found[4]), tuple(found[5]))


class Loader:
    """Writes batches into one table.

    COPY goes straight into the table first: in a first load nothing is there yet, and staging costs a third more.
    Only when a key is there already the batch is done again through a staging table; and so is the next one at once,
    as long as keys are found (a run over rows that are all there would try, and fail, every batch twice).
    """

    def __init__(self, table: Table, facts: Facts) -> None:
        self.table = table
        self.facts = facts
        self._found = False
        self._ranges = bool(facts.order)
        self._staging: Literal["none", "empty", "full"] = "none"

    def begin(self, conn: Connection[Any]) -> None:
        """Call at the start of each transaction."""
        self._staging = "none"
        if self.facts.has_deferred:  # else a bad row shows at COMMIT only, and nobody knows which
            conn.execute("set constraints all immediate")

    @property
    def goes_straight(self) -> bool:
        """Whether the next batch is tried by COPY straight into the table."""
        return not (self._found or self.facts.has_policies)

    def write_straight(self, conn: Connection[Any], batch: Packed) -> Counts:
        """``write`` without a savepoint, two round trips less: when it raises, the transaction is lost."""
        inserted = self._copy(conn, self.table.identifier, batch, batch.parts)
        return _counted(batch.rows, inserted=inserted)

    def write(self, conn: Connection[Any], batch: Packed, parts: Sequence[bytes], rows: int) -> Counts:
        """Insert ``parts``, ``rows`` rows of ``batch``, in the open transaction, behind a savepoint.

        Raises:
            psycopg.Error: the table refuses a row; nothing of the parts is written.
        """
        fails = self.table.on_conflict == "fail"
        if self.goes_straight:
            try:
                with conn.transaction():
                    return _counted(rows, inserted=self._copy(conn, self.table.identifier, batch, parts))
            except psycopg.errors.UniqueViolation:
                if fails:
                    raise
        names = _names(batch.columns)
        if self._staging == "none":
            conn.execute(
                sql.SQL("create temp table {} on commit drop as select {} from {} with no data").format(
                    _STAGING, names, self.table.identifier
                )
            )
            self._staging = "empty"
            # else the rows may be sorted with all they hold, on the disk, only to be compared with a range of keys
            conn.execute("set local enable_mergejoin = off")
        with conn.transaction():
            if self._staging == "full":
                conn.execute(sql.SQL("truncate {}").format(_STAGING))
            if self._copy(conn, _STAGING, batch, parts) != rows:
                _counted(rows, inserted=-1)
            counts = self._merge(conn, batch, names, rows)
        self._staging = "full"
        self._found = counts.inserted < rows
        return counts

    def _copy(self, conn: Connection[Any], target: sql.Identifier, batch: Packed, parts: Sequence[bytes]) -> int:
        statement = sql.SQL("copy {} ({}) from stdin with ({})").format(
            target,
            _names(batch.columns),
            sql.SQL(batch.format.options),  # a reader's own words, never a user's
        )
        with conn.cursor() as cursor:
            with cursor.copy(statement) as copy:
                for part in parts:
                    copy.write(part)
                    batch.under_way()
            return cursor.rowcount

    def _merge(self, conn: Connection[Any], batch: Packed, names: sql.Composed, rows: int) -> Counts:
        others = [column for column in batch.columns if column not in self.table.key]
        values = {"table": self.table.identifier, "names": names, "key": _names(self.table.key), "batch": _STAGING}
        if self.table.on_conflict == "update" and others:
            changes = sql.SQL(", ").join(
                sql.SQL("{0} = excluded.{0}").format(sql.Identifier(column)) for column in others
            )
            # of two rows with one key the last stands, as it would in two batches; one statement may not do both
            statement = sql.SQL(
                "with written as (insert into {table} ({names}) overriding system value"
                " select distinct on ({key}) {names} from {batch} order by {key}, ctid desc"
                " on conflict ({key}) do update set {changes} returning xmax = 0 as is_new)"
                " select count(*) filter (where is_new) from written"
            ).format(changes=changes, **values)
            with conn.cursor(row_factory=tuple_row) as cursor:
                found = (cursor.execute(statement)).fetchone()
            inserted = int(found[0]) if found else 0
            return Counts(inserted=inserted, updated=rows - inserted)
        # A scan of the staging table is in the order of the lines: of two rows with one key the first wins.
        # No ORDER BY for it: sorting wide rows costs more than finding their keys.
        if self.table.on_conflict == "skip" and self._ranges and rows >= _RANGE:
            return self._merge_range(conn, values, rows)
        text = "insert into {table} ({names}) overriding system value select {names} from {batch} s"
        if self.table.on_conflict != "fail":
            # Those that are there are sorted out first, by one look into the index each: a quarter faster than to let
            # every row run into the conflict. A scalar subquery, because an anti-join may be planned as a scan of the
            # whole index. The conflict clause stays, for doubles in the batch and for other writers.
            text += " where (select true from {table} t where {same}) is null on conflict ({key}) do nothing"
        done = conn.execute(sql.SQL(text).format(same=self._same, **values))
        return _counted(rows, inserted=done.rowcount)

    def _merge_range(self, conn: Connection[Any], values: dict[str, sql.Composable], rows: int) -> Counts:
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
            same=self._same, **values,
        )  # fmt: skip
        with conn.cursor(row_factory=tuple_row) as cursor:
            there, inserted = (cursor.execute(statement)).fetchone() or (0, -1)
        self._ranges = there < 2 * rows
        return _counted(rows, inserted=inserted)

    @property
    def _same(self) -> sql.Composed:
        same = (sql.SQL("t.{0} = s.{0}").format(sql.Identifier(column)) for column in self.table.key)
        return sql.SQL(" and ").join(same)


def _counted(rows: int, *, inserted: int) -> Counts:
    if not 0 <= inserted <= rows:
        raise PgonceError(f"the source says {rows} rows, and COPY counts others: its blocks must hold whole rows")
    return Counts(inserted=inserted, skipped=rows - inserted)


def _names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
