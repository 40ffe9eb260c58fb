# Generated from table_loader_async.py by tools/unasync.py: edit that one, then `make generate`.
"""Writes the rows of a batch into their table, each exactly once, however often the batch is repeated."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, Literal, LiteralString, TypeAlias

import psycopg
from psycopg import Connection, sql
from psycopg.adapt import AdaptersMap

from pgonce.core.execute import OwnCursor, fetch, run
from pgonce.errors import InvalidArgument, PgonceError, TableChanged
from pgonce.seeds.batch import Batch
from pgonce.seeds.calls import Checkpoint, Counts
from pgonce.seeds.columns import Kind, TableFacts
from pgonce.seeds.copy_format import copy_lines, copy_values
from pgonce.seeds.seed import Seed
from pgonce.seeds.table import IDENTITY, find_facts, find_key_index

Last: TypeAlias = tuple[Mapping[str, Any], Collection[int | None]]
"""By what the rows of a batch are found again: its ``target``, and the numbers of the table's files."""
_GONE = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction)
_RANGE = 1000
"""Rows of a batch from which on reading a range of the index is cheaper than looking up each key."""
_NOW = f"""
select exists (select from pg_catalog.pg_index where indexrelid = {{index}} and indisunique and indisvalid),
  array(select {IDENTITY} from pg_catalog.pg_attribute a where a.attrelid = {{oid}} and a.attnum > 0),
  array(select pg_catalog.pg_relation_filenode(t.relid) from pg_catalog.pg_partition_tree({{oid}}) t)
    || pg_catalog.pg_relation_filenode({{oid}}),
  {{has_last}}
"""
_STAGING = sql.Identifier("pg_temp", "pgonce_batch")
_EXACT: frozenset[Kind] = frozenset({"boolean", "integer", "uuid", "zoneless"})
"""Kinds of columns in which equal values have one text; 1.0 and 1.00 are equal, and texts under some collations."""


class TableLoader:
    """Writes batches into one table.

    COPY first writes straight into the table: in a first load no key exists yet, and a staging table costs a third
    more. If a key exists, the batch is written again through a staging table. As long as keys are found, the next
    batches use the staging table at once: a run over rows that all exist would otherwise write every batch twice.
    """

    def __init__(self, seed: Seed, facts: TableFacts, adapters: AdaptersMap) -> None:
        self.seed = seed
        self.facts = facts
        self.adapters = adapters  # of the pool's connections: they may know classes of the application
        self._key_index = facts.key_index
        self._settings = facts.settings  # facts that are read again, in a transaction that has them, lack them
        self._keys_found = False
        self._ranges = bool(facts.order)
        self._staging: Literal["none", "empty", "full"] = "none"
        self.files = set[int | None]()  # the numbers of the table's files, as ``check_batch`` has found them

    def begin(self, conn: Connection[Any]) -> None:
        """Call at the start of each transaction."""
        self._staging = "none"
        settings = list(self._settings)
        if conn.info.encoding != "utf-8":  # of a user's pool, or PGCLIENTENCODING: cursors and rejects are Unicode
            settings.append("set local client_encoding = 'UTF8'")
        if self.facts.has_deferred:  # else COMMIT reports a bad row, without naming it
            settings.append("set constraints all immediate")
        if settings:
            run(conn, "; ".join(settings))

    @property
    def copies_straight(self) -> bool:
        """Whether the next batch is tried by COPY straight into the table."""
        return not (self._keys_found or self.facts.has_policies)

    @property
    def _inserts_all(self) -> bool:
        """Whether no row is left out before the insert."""
        return self.seed.on_conflict == "fail" or not self.seed.key

    def write_straight(self, conn: Connection[Any], batch: Batch) -> Counts:
        """``write`` without a savepoint, two round trips less: when it raises, the transaction is lost."""
        with self._as_changed():
            inserted = self._copy(conn, self.facts.table, batch, batch.parts)
        return _counted(batch.rows, inserted=inserted)

    def write(self, conn: Connection[Any], batch: Batch, parts: Sequence[bytes], rows: int) -> Counts:
        """Insert ``parts``, ``rows`` rows of ``batch``, in the open transaction, after a savepoint.

        Raises:
            psycopg.Error: the table refuses a row; nothing of the parts is written.
            TableChanged: it, or one of its columns, was renamed or dropped.
        """
        with self._as_changed():
            return self._write(conn, batch, parts, rows)

    @contextmanager
    def _as_changed(self) -> Iterator[None]:
        try:
            yield
        except _GONE as error:
            if error.diag.context:  # of a function that the table calls
                raise
            if not isinstance(error, psycopg.errors.UndefinedTable):
                raise self._other_columns() from error
            raise TableChanged(
                f"table {self.seed.into} was renamed or dropped during the import: this batch is rolled back: pass the "
                "new name, and the import resumes"
            ) from error

    def _other_columns(self) -> TableChanged:
        return TableChanged(
            f"columns of {self.seed.into} were dropped, renamed or changed their type during the import: this batch is "
            "rolled back: run the same command again"
        )

    def _write(self, conn: Connection[Any], batch: Batch, parts: Sequence[bytes], rows: int) -> Counts:
        # one row by itself: if its key is there it is left out, whatever else the table would refuse
        if self.copies_straight and (rows > 1 or self._inserts_all):
            try:
                with conn.transaction():
                    return _counted(rows, inserted=self._copy(conn, self.facts.table, batch, parts))
            except psycopg.errors.UniqueViolation:
                if self._inserts_all:
                    raise
        names = _names(batch.columns)
        if self._staging == "none":
            fetch(
                conn,
                sql.SQL("create temp table {} on commit drop as select {} from {} with no data").format(
                    _STAGING, names, self.facts.table
                ),
            )
            self._staging = "empty"
            # otherwise whole rows may be sorted on disk, only to be compared with a range of keys
            run(conn, "set local enable_mergejoin = off")
        with conn.transaction():
            if self._staging == "full":
                fetch(conn, sql.SQL("truncate {}").format(_STAGING))
            if self._copy(conn, _STAGING, batch, parts) != rows:
                _counted(rows, inserted=-1)
            counts = self._merge(conn, batch, rows)
        self._staging = "full"
        self._keys_found = counts.inserted < rows
        return counts

    def check_batch(self, conn: Connection[Any], batch: Batch, last: Last | None = None) -> bool:
        """Refuse a batch whose rows no index has compared, or whose values were written for columns of other types.

        Call it after the batch was written: from then on nobody can alter the table before the end of the transaction.

        Args:
            last: by what the rows of the batch before are found again; None: this run has committed none.

        Returns:
            Whether they are there. Look at it after the checkpoint was advanced: a failover loses rows together with
            the checkpoint, and then they are read again.

        Raises:
            TableChanged: the unique index was dropped during the import, or columns were renamed or got another type.
        """
        keys = last[0]["keys"] if last else []
        statement = sql.SQL(_NOW).format(
            index=sql.Literal(self._key_index),
            oid=sql.Literal(self.facts.oid),
            has_last=self.facts.has_one(self.seed.key, keys),
        )
        try:
            [[is_unique, there, files, has_last]] = fetch(conn, statement)
        except _GONE as error:  # the key has another name now, or is not comparable
            raise self._other_columns() from error
        if not {self.facts.columns[name].identity for name in batch.columns}.issubset(there):
            if not there:
                raise TableChanged(f"table {self.seed.into} was dropped during the import: this batch is rolled back")
            facts = find_facts(conn, self.seed, self.facts.oid)
            if any(not facts.columns[name].is_written_like(self.facts.columns[name]) for name in batch.columns):
                raise self._other_columns()
            self.facts = facts
        self.files = set(files)
        self._check_index(conn, is_unique=is_unique)
        # without keys: TRUNCATE gives a table another file, and VACUUM FULL does so, too
        return bool(has_last) if keys or last is None else self.files.issuperset(last[1])

    def _check_index(self, conn: Connection[Any], *, is_unique: bool) -> None:
        if self._key_index is None:  # there is no key
            return
        if not is_unique:  # another one may have taken its place, as REINDEX CONCURRENTLY makes it
            self._key_index = find_key_index(conn, self.seed, self.facts.oid)
        if self._key_index is None:
            raise TableChanged(
                f"the unique index over ({', '.join(self.seed.key)}) of {self.seed.into} was dropped during the import:"
                " this batch is rolled back: create it again, then run the same command"
            )

    def emptied(self) -> TableChanged:
        """The error for a table that has lost the rows of the last batch; its message names the ways to go on."""
        name = self.facts.table.as_string()
        return TableChanged(self._lost(f"table {name} has not the rows of the last batch: was it emptied?"))

    def target(self, batch: Batch, bad: set[int]) -> dict[str, Any]:
        """What identifies the table at the next resume: its name, oid and columns, and two keys of ``batch``.

        The oid alone is not enough: a table that was restored from a dump with its rows is the same table. A row that a
        trigger may change, or a policy may hide, identifies nothing.

        Args:
            bad: the places in the batch of rows that were rejected.
        """
        found: dict[str, Any] = {**self.facts.target(batch.columns), "keys": []}
        if not self.seed.key or self.facts.has_triggers or self.facts.has_policies or not batch.parts:
            return found
        lines = copy_lines(batch.parts[-1])
        if not lines:
            return found
        if bad or batch.refused:
            refused = {each.index for each in batch.refused}
            places = [place for place in range(batch.rows) if place not in refused][-len(lines) :]
            lines = [line for place, line in zip(places, lines, strict=True) if place not in bad]
        for line in lines[:: max(1, len(lines) - 1)]:
            row = dict(zip(batch.columns, copy_values(line), strict=True))
            found["keys"].append([row[name] for name in self.seed.key])
        return found

    def check_target(self, conn: Connection[Any], at: Checkpoint | None) -> None:
        """Refuse to resume with another table, or with one that has lost the rows of the last batch.

        Raises:
            TableChanged: the message names the ways to go on.
        """
        if not at or not at.target:
            return
        name, before = self.facts.table.as_string(), at.target
        # None: the table was accepted as it was
        keys = [] if before["keys"] and (self.facts.has_triggers or self.facts.has_policies) else before["keys"]
        if self.facts.is_other(before):
            lost = f"the checkpoint belongs to table {before['table']}, not to {name}"
        elif column := self.facts.other_column(before):
            lost = f"column {column} of {name} is not the one that the rows of the last batch have: was it made anew?"
        elif keys and not self._has_keys(conn, keys):
            lost = f"table {name} has not the rows of the last batch: was it emptied, or created anew?"
        elif keys == [] and at.total_inserted and not self.facts.has_policies and self._is_empty(conn):
            lost = f"table {name} is empty, and {at.rows_inserted:,} rows were inserted"
        else:
            return
        raise TableChanged(self._lost(lost))

    def _lost(self, what: str) -> str:
        return (
            f"{self.seed.name}: {what}: run it from the start (--restart) or from the checkpoint (--accept-change), or "
            "use another --name"
        )

    def check_table_of(self, at: Checkpoint | None) -> None:
        """Refuse the checkpoint of an import into another table: its rejects and its proof are that table's.

        Raises:
            TableChanged: the message names the table.
        """
        if at and at.target and self.facts.is_other(at.target):
            ours = self.facts.table.as_string()
            raise TableChanged(f"{at.seed_name} was imported into table {at.target['table']}, and not into {ours}")

    def _has_keys(self, conn: Connection[Any], keys: Sequence[Sequence[str]]) -> bool:
        try:
            [[found]] = fetch(conn, sql.SQL("select {}").format(self.facts.has_one(self.seed.key, keys)))
        except psycopg.DataError:  # texts that are read otherwise today, under another DateStyle: they prove nothing
            return True
        return bool(found)

    def _is_empty(self, conn: Connection[Any]) -> bool:
        [[found]] = fetch(conn, sql.SQL("select not exists (select from {})").format(self.facts.rows))
        return bool(found)

    def check_restart(self, conn: Connection[Any]) -> None:
        """Refuse to insert every row a second time.

        Raises:
            InvalidArgument: there is no key by which rows that are there could be skipped, and there are rows.
        """
        if not self.seed.key and not self._is_empty(conn):
            raise InvalidArgument(
                f"{self.seed.name} has no key, so a restart would insert every row again: empty table {self.seed.into}"
                " first, or name a key"
            )

    def _copy(self, conn: Connection[Any], target: sql.Identifier, batch: Batch, parts: Sequence[bytes]) -> int:
        statement = sql.SQL("copy {} ({}) from stdin with (encoding 'UTF8')").format(target, _names(batch.columns))
        with OwnCursor(conn) as cursor:
            with cursor.copy(statement) as copy:
                for part in parts:
                    copy.write(part)
                    batch.on_first_bytes_sent()
            return cursor.rowcount

    def _merge(self, conn: Connection[Any], batch: Batch, rows: int) -> Counts:
        values = {
            "table": self.facts.table, "rows": self.facts.rows, "names": _names(batch.columns),
            "key": _names(self.seed.key), "batch": _STAGING,
            "same": sql.SQL(" and ").join(self.facts.equal(each, sql.Identifier("s", each)) for each in self.seed.key),
        }  # fmt: skip
        # of a key, the spelling: 1.00 overwrites 1.0
        changing = [
            column for column in batch.columns
            if (column not in self.seed.key or not self.facts.columns[column].has_one_text)
            and not self.facts.columns[column].written_by_server
        ]  # fmt: skip
        if self.seed.on_conflict == "update" and changing:
            return self._update(conn, batch, values, changing, rows)
        # A scan of the staging table is in the order of the lines: of two rows with one key the first wins.
        # No ORDER BY for it: sorting wide rows costs more than finding their keys.
        if not self._inserts_all and self._ranges and rows >= _RANGE:
            return self._merge_range(conn, values, rows)
        text = "insert into {table} ({names}) overriding system value select {names} from {batch} s"
        if not self._inserts_all:
            # A look into the index for each row is a quarter faster than a conflict. An anti-join might scan all of the
            # index. The conflict clause is for keys that the batch has twice, and for other writers.
            text += " where (select true from {rows} t where {same}) is null on conflict ({key}) do nothing"
        with OwnCursor(conn) as cursor:
            cursor.execute(sql.SQL(text).format(**values))
            return _counted(rows, inserted=cursor.rowcount)

    def _update(
        self, conn: Connection[Any], batch: Batch, values: dict[str, sql.Composable], changing: Sequence[str],
        rows: int,
    ) -> Counts:  # fmt: skip
        """Insert what is new, update what differs, and leave equal rows untouched: no dead rows, no triggers.

        Equal rows are left out first: ON CONFLICT DO UPDATE locks each row that it meets, and writes that to the log,
        also where its WHERE finds no difference. A trigger may change a row on its way in, so it is asked then.
        """
        changed = sql.Identifier(next(name for n in count() if (name := f"changed{n}") not in batch.columns))
        statement = sql.SQL(
            # of rows with the same key the last one stays, as in two batches: one statement cannot update a row twice
            "with last as materialized (select {names}, (select {differs} from {rows} t where {same}) as {changed}"
            " from (select distinct on ({key}) {names} from {batch} order by {key}, ctid desc) s),"
            " written as (insert into {table} as t ({names}) overriding system value"
            " select {names} from last where {wanted}"
            " on conflict ({key}) do update set {changes} where {differs_again} returning true)"
            " select count(*) filter (where {changed} is null), (select count(*) from written),"
            # rows with the same key count as if each were a batch: by what the one before it has left
            " case when count(*) < {many} then (select count(*) from (select {names},"
            " lag(ctid) over (partition by {key} order by ctid) as {changed} from {batch}) s where case"
            " when s.{changed} is null then (select {differs} from {rows} t where {same})"
            " else (select {differs} from {batch} t where t.ctid = s.{changed}) end is false)"
            " else count(*) - (select count(*) from written) end from last"
        ).format(
            changed=changed,
            wanted=sql.SQL("true" if self.facts.has_triggers else "{} is not false").format(changed),
            changes=sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(each)) for each in changing),
            differs=sql.SQL(" or ").join(self._differs(each, "s") for each in changing),
            differs_again=sql.SQL(" or ").join(self._differs(each, "excluded") for each in changing),
            many=sql.Literal(0 if self.facts.has_triggers else rows),  # what a trigger makes of a row is not known
            **values,
        )
        [[new, written, skipped]] = fetch(conn, statement)
        # another client may insert or delete a key in between: then an insert counts as an update, or the reverse
        inserted = min(new, written)
        return Counts(inserted=inserted, updated=rows - inserted - skipped, skipped=skipped)

    def _differs(self, column: str, row: LiteralString) -> sql.Composed:
        text = sql.SQL("t.{0} is distinct from {1}.{0}")
        if self.facts.columns[column].kind not in _EXACT:  # also for types without equality, such as json and point
            text = sql.SQL('(t.{0})::text collate "C" is distinct from ({1}.{0})::text collate "C"')
        return text.format(sql.Identifier(column), sql.SQL(row))

    def _merge_range(self, conn: Connection[Any], values: dict[str, sql.Composable], rows: int) -> Counts:
        """Leave out rows that are there by one pass over the index, from the least key to the greatest: 0.6 us a row.

        Looking up each key takes 1.4 us. The keys of a batch without order may span the whole table: so at most twice
        the rows of the batch are read, the conflict clause does the rest, and the next batches look up each key.
        """
        backwards = (sql.SQL("{} desc").format(sql.Identifier(column)) for column in self.facts.order)
        statement = sql.SQL(
            "with there as materialized (select {order} from {rows}"
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
        [[there, inserted]] = fetch(conn, statement)
        self._ranges = there < 2 * rows
        return _counted(rows, inserted=inserted)


def _counted(rows: int, *, inserted: int) -> Counts:
    if not 0 <= inserted <= rows:
        raise PgonceError(f"the source says {rows} rows, and COPY counts others: its blocks must hold whole rows")
    return Counts(inserted=inserted, skipped=rows - inserted)


def _names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
