# Generated from verify_async.py by tools/unasync.py: edit that one, then `make generate`.
"""An import tried without writing, and a table compared with its source."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from psycopg import sql
from psycopg.rows import tuple_row

from pgonce.core.execute import Pool, connection
from pgonce.seeds import rejects
from pgonce.seeds.batch import Pace
from pgonce.seeds.calls import Counts, Cursor
from pgonce.seeds.importer import Source, batches, formatter
from pgonce.seeds.stream import ahead
from pgonce.seeds.table_loader import Facts, Loader, Table, check

_SOURCE = "pg_temp.pgonce_source"
# Row by row over the keys, then as sums over all of them: no order is needed, and a sum does not lose doubles as an XOR
# would. Only rows with the key of a source's row count: the table may hold more.
_COMPARE = """
with source as (
  select distinct on ({key}) {names} from pg_temp.pgonce_source order by {key}, ctid {order}
), pairs as (
  select row({wanted})::text as wanted, case when t.{first} is not null then row({found})::text end as found
  from source s left join {table} t on {same}
)
select count(*), count(found), count(*) filter (where wanted = found),
  sum(hashtextextended(wanted, 0)) filter (where found is not null)::text, sum(hashtextextended(found, 0))::text
from pairs
"""


def rehearse(pool: Pool, sources: Iterable[tuple[Source, Cursor | None]], table: Table, max_rejects: int) -> Counts:
    """Import everything behind the cursors in one transaction, constraints and all, and roll it back.

    All partitions in the one: a key that two of them have is there already for the second, as it would be.

    Raises:
        RowRejected: more than ``max_rejects`` rows were refused.
    """
    with connection(pool) as conn:
        loader = Loader(table, check(conn, table))
        make, pace = formatter(loader, conn), Pace()
        total, last = Counts(), time.monotonic()
        with conn.transaction(force_rollback=True):
            loader.begin(conn)
            for source, cursor in sources:
                before = total.seen
                with ahead(batches(source, cursor, pace, make)) as (taken, want):
                    for batch in taken:
                        batch.under_way = want
                        room = max_rejects - total.rejected
                        counts, _ = rejects.write(conn, loader, batch, seen=total.seen - before, room=room)
                        total += counts
                        pace.took(batch.rows, time.monotonic() - last)
                        last = time.monotonic()
        return total


def compare(pool: Pool, sources: Sequence[Source], table: Table, stored_rejects: int) -> dict[str, Any]:
    """Read all of ``sources`` again and compare them with the table, in the database, where values have one form.

    Returns:
        The proof, as JSON: ``rows`` of the sources, ``keys`` among them, ``found`` in the table, ``equal`` ones, the
        two checksums over those that were found, and ``ok``: all is equal, and no more is missing than was rejected.
    """
    with connection(pool) as conn:
        facts = check(conn, table)
        copied = Loader(Table(_SOURCE, (), table.columns, "fail"), Facts(False, False, facts.arrays))
        make, pace, total = formatter(copied, conn), Pace(), Counts()
        columns: tuple[str, ...] = ()
        with conn.transaction(force_rollback=True):
            for source in sources:
                with ahead(batches(source, None, pace, make)) as (taken, want):
                    for batch in taken:
                        batch.under_way = want
                        if not columns:
                            columns = tuple(batch.columns)
                            conn.execute(_like(table, columns))
                        counts, _ = rejects.write(conn, copied, batch, seen=total.seen, room=batch.rows)
                        total += counts
            found: Any = (0, 0, 0, None, None)
            if columns:
                with conn.cursor(row_factory=tuple_row) as cursor:
                    cursor.execute(_statement(table, columns))
                    found = cursor.fetchone()
    keys, there, equal, wanted, have = found
    missing = keys - there + total.rejected
    return {
        "rows": total.seen,
        "keys": keys,
        "found": there,
        "equal": equal,
        "rejected": stored_rejects,
        "checksum_source": wanted,
        "checksum_table": have,
        "ok": equal == there and wanted == have and missing <= stored_rejects,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _like(table: Table, columns: tuple[str, ...]) -> sql.Composed:
    text = "create temp table pgonce_source as select {} from {} with no data"
    return sql.SQL(text).format(_names(columns), table.identifier)


def _names(columns: tuple[str, ...], alias: str = "") -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(*filter(None, (alias, column))) for column in columns)


def _statement(table: Table, columns: tuple[str, ...]) -> sql.Composed:
    same = (sql.SQL("t.{0} = s.{0}").format(sql.Identifier(column)) for column in table.key)
    return sql.SQL(_COMPARE).format(
        table=table.identifier,
        key=_names(tuple(table.key)),
        first=sql.Identifier(table.key[0]),
        names=_names(columns),
        wanted=_names(columns, "s"),
        found=_names(columns, "t"),
        same=sql.SQL(" and ").join(same),
        order=sql.SQL("desc" if table.on_conflict == "update" else "asc"),
    )
