"""Finds the bad rows of a batch, and writes the good ones."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

import psycopg
from psycopg import AsyncConnection

from pgonce.core.execute_async import execute
from pgonce.core.lent_connection import naming_loss
from pgonce.errors import RowRejected, is_transient
from pgonce.jobs.run_async import AsyncRun
from pgonce.seeds import calls_operate
from pgonce.seeds.batch import Batch
from pgonce.seeds.calls import Counts, Reject
from pgonce.seeds.copy_format import copy_lines, copy_values
from pgonce.seeds.copy_text import RowFormatter
from pgonce.seeds.table_loader_async import TableLoader

_ROW_FAULT = ("21", "22", "23", "38", "44", "54", "P0")
"""Classes of SQLSTATE that one row causes: a trigger has made its key another row's, data, constraints, a function in
another language, check option, size limits, PL/pgSQL."""
_BY_POLICY, _BY_RAISE = "ExecWithCheckOptions", "exec_stmt_raise"
"""Functions of the server in which an error with any SQLSTATE is caused by one row, too."""
_INPUT_FAULT = ("0A", "3D", "3F", "42", "XX000")
"""Those that one row causes if COPY names the column whose value it was reading, as of regclass, ltree and hstore."""
# The first one: a value may be quoted after it, such as "x, line 7, column y". The words are in the server's language.
_PLACE = re.compile(r"^COPY .*?, \S+ (?P<line>\d+)(?:, \S+ (?P<column>[^:]*[^:\s])\s*:)?", re.MULTILINE)
_VALUE = re.compile(r'(?<!encoding )".*"', re.DOTALL)
KEPT = 32_000_000
"""Bytes of a bad row at most of which its values are kept. jsonb holds 268 MB in all, and bytes take two each there.

libpq sends what is longer in a time that grows with the square of its length, and keeps Python's global lock: 91 s for
145 MB, in which no heartbeat was sent.
"""
_ORPHANS = 1000
"""Rows of a batch that may wait for the rows that they refer to; one that no row follows is tried twice."""
_RESENT = 20
"""How often the rows of a batch, on average, may be sent again after a line that COPY names; then pieces are halved.

Of 1,000 rows with 10 bad ones each is sent 5 times in 20 COPYs; halving takes more than 100.
"""


async def write(
    conn: AsyncConnection[Any], loader: TableLoader, batch: Batch, *, seen: int, room: int
) -> tuple[Counts, list[dict[str, Any]]]:
    """Write ``batch`` in the open transaction (``loader.begin`` was called), without its bad rows.

    Returns what became of its rows, and the bad ones as reject_seed_rows wants them.

    Args:
        seen: rows that came before the batch: a row's number is counted from there.
        room: the number of bad rows that are allowed.

    Raises:
        RowRejected: there are more. Its message has the row's number, cursor and reason, never its values.
    """
    found = _Rejects(batch, loader.seed.into, seen, room)
    for bad in batch.refused:
        found.add(
            bad.index, None, bad.shown.encode(errors="backslashreplace"), bad.reason, _Why(bad.reason, bad.column)
        )
    rows = batch.rows - len(batch.refused)
    if not rows:
        return found.counts, found.in_order
    try:
        return found.counts + await loader.write(conn, batch, batch.parts, rows), found.in_order
    except psycopg.Error as error:
        if not is_row_fault(error):
            raise
    counts = await _write_in_pieces(conn, loader, batch, found)  # which adds to found.counts
    return found.counts + counts, found.in_order


async def _write_in_pieces(conn: AsyncConnection[Any], loader: TableLoader, batch: Batch, found: _Rejects) -> Counts:
    """Write the lines of ``batch`` without those that the table refuses, which are added to ``found``.

    A piece with a bad line is cut at that line if COPY has named it, and otherwise in the middle.
    """
    lines = copy_lines(b"".join(batch.parts))
    refused = {bad.index for bad in batch.refused}
    numbers = [index for index in range(batch.rows) if index not in refused]
    counts, resent = Counts(), 0
    orphans = dict[int, psycopg.Error]()
    pieces = [(0, len(lines))]
    while pieces:
        start, stop = pieces.pop()
        if start == stop:
            continue
        part = lines[start:stop]
        try:
            counts += await loader.write(conn, batch, [b"".join(part)], stop - start)
        except psycopg.Error as error:
            if not is_row_fault(error):
                raise
            if stop - start == 1:
                is_orphan = isinstance(error, psycopg.errors.ForeignKeyViolation)
                if loader.facts.refers_to_itself and is_orphan and len(orphans) < _ORPHANS:
                    orphans[start] = error
                else:
                    found.add_line(numbers[start], part[0], error)
                continue
            named = _named(error, stop - start) if resent < _RESENT * len(lines) else None
            resent += stop - start
            if named is None:
                middle = (start + stop) // 2
                pieces += [(middle, stop), (start, middle)]
                continue
            pieces.append((start + named + 1, stop))
            if _place(error, "column"):
                found.add_line(numbers[start + named], part[named], error)
            else:  # by itself: its key may be there, and of a row that is too big COPY names the last one it has read
                pieces.append((start + named, start + named + 1))
            pieces.append((start, start + named))
    counts += await _write_orphans(conn, loader, batch, lines, orphans)
    for place, reason in orphans.items():
        found.add_line(numbers[place], lines[place], reason)
    return counts


async def _write_orphans(
    conn: AsyncConnection[Any], loader: TableLoader, batch: Batch, lines: Sequence[bytes],
    orphans: dict[int, psycopg.Error],
) -> Counts:  # fmt: skip
    """Write the rows whose parents were in other pieces, and take them out of ``orphans``.

    All at once: their order does not matter then. If one has no parent at all they go one by one, back and forth: so a
    chain of rows in either order takes two turns, and not one for each row.
    """
    counts, pieces = Counts(), [sorted(orphans)] if orphans else []
    while pieces:
        before = len(orphans)
        for places in pieces:
            try:
                counts += await loader.write(conn, batch, [lines[place] for place in places], len(places))
            except psycopg.Error as error:
                if not is_row_fault(error):
                    raise
            else:
                for place in places:
                    del orphans[place]
        single = [[place] for places in reversed(pieces) for place in reversed(places) if place in orphans]
        pieces = single if len(orphans) < before or len(pieces) < len(single) else []
    return counts


async def retry(run: AsyncRun, loader: TableLoader, reject: Reject, schema: str) -> bool:
    """Write a rejected row after all and delete the reject, in one transaction; False: it still does not fit.

    If another client has resolved the reject meanwhile, the row is not written a second time.
    """
    if reject.row is None:  # it has no text: no retry helps
        return False
    formatter = RowFormatter(loader.facts.find(list(reject.row), loader.seed.into))
    data = bytearray()
    formatter.write(reject.row, data)
    batch = Batch(formatter.columns, parts=[bytes(data)], rows=1)
    try:
        async with run.transaction() as tx:
            with naming_loss(tx):
                await loader.begin(tx)
                counts = await loader.write(tx, batch, batch.parts, 1)
                await loader.check_batch(tx, batch)
                if not await execute(tx, calls_operate.resolve_reject(reject.id, counts), schema):
                    raise _Resolved
    except _Resolved:
        pass
    except psycopg.Error as error:
        if not is_row_fault(error):
            raise
        return False
    return True


class _Resolved(Exception):
    """Another client has written the row, or has begun the partition anew."""


class _Rejects:
    def __init__(self, batch: Batch, table: str, seen: int, room: int) -> None:
        self._batch = batch
        self._table = table
        self._seen = seen
        self._room = room
        self.rows: list[dict[str, Any]] = []

    @property
    def counts(self) -> Counts:
        return Counts(rejected=len(self.rows))

    @property
    def in_order(self) -> list[dict[str, Any]]:
        """By their numbers: the records without values were found first."""
        return sorted(self.rows, key=itemgetter("row_number"))

    def add_line(self, index: int, line: bytes, error: psycopg.Error) -> None:
        values = copy_values(line)
        row = dict(zip(self._batch.columns, values, strict=False)) if len(values) == len(self._batch.columns) else None
        if row is not None and any("\0" in value or "\ufffd" in value for value in values if value):
            row = None  # not what jsonb can hold, or not UTF-8: the line is kept as it is
        full = " ".join(filter(None, (error.diag.message_primary or str(error), error.diag.message_detail)))
        self.add(index, row, line, full, _why(error))

    def add(self, index: int, row: dict[str, Any] | None, line: bytes, full: str, why: _Why) -> None:
        """``row``: its values, if it has them; otherwise ``line`` is kept."""
        number, cursor = self._seen + index + 1, self._batch.cursor_of(index)
        if len(self.rows) >= self._room:
            at = f"row {number:,}, cursor {json.dumps(cursor, default=str)[:200]}"
            raise RowRejected(
                f"a row does not fit into {self._table}: {at}: {why}"
                + (f" ({self._room} more rejects were allowed)" if self._room else "")
            ) from None
        is_kept = len(line) <= KEPT
        self.rows.append({
            "row_number": number,
            "cursor": cursor,
            "row": row if is_kept else None,
            "line": line.hex() if row is None and is_kept else None,
            "sqlstate": why.sqlstate,
            "error": full.replace("\0", "\ufffd")[:2000] + ("" if is_kept else " (too long: its values are not kept)"),
            "reason": why.reason.replace("\0", "\ufffd")[:500],
            "column_name": why.column,
        })  # fmt: skip


def is_row_fault(error: psycopg.Error) -> bool:
    """Whether the same batch without one of its rows would be accepted."""
    diag, state = error.diag, error.sqlstate or ""
    if state.startswith(_ROW_FAULT) or diag.source_function == _BY_POLICY:
        return True
    if diag.source_function == _BY_RAISE:
        return not is_transient(error)
    return state.startswith(_INPUT_FAULT) and _place(error, "column") is not None


def _named(error: psycopg.Error, lines: int) -> int | None:
    """The line that COPY names, from 0."""
    line = int(_place(error, "line") or 0)
    return line - 1 if 0 < line <= lines else None


def _place(error: psycopg.Error, part: Literal["line", "column"]) -> str | None:
    """The number of the line, or the name of the column, that COPY was reading."""
    match = _PLACE.search(error.diag.context or "")
    return match[part] if match else None


@dataclass(frozen=True, slots=True)
class _Why:
    """What was wrong with a row, without its values."""

    reason: str
    column: str | None = None
    sqlstate: str | None = None

    def __str__(self) -> str:
        return f"{self.reason} (column {self.column})" if self.column and self.sqlstate else self.reason


def _why(error: psycopg.Error) -> _Why:
    return _Why(reason_of(error), error.diag.column_name or _place(error, "column"), error.sqlstate)


def reason_of(error: psycopg.Error) -> str:
    """The server's message without the values that it quotes: 'value "2147483648" is out of range for type integer'.

    Messages in another language are known by their SQLSTATE alone, because each quotes values in its own way.
    """
    diag, state = error.diag, error.sqlstate or ""
    if diag.severity != diag.severity_nonlocalized:
        return " ".join(filter(None, (type(error).__name__, diag.constraint_name)))
    message = (diag.message_primary or type(error).__name__).splitlines()[0]
    if state.startswith(("P0", "38")) or diag.source_function == _BY_RAISE:
        return f"a trigger or function refuses it ({state}); --max-rejects keeps its message"
    # each type quotes the value in its own way
    if state.startswith(_INPUT_FAULT) and diag.source_function != _BY_POLICY:
        return f"the column's type cannot read the value ({state})"
    if state.startswith("22") and state != "22P04":  # 22P04 quotes names of columns, and class 23 names of constraints
        message = _VALUE.sub("…", re.sub(r': ".*', "", diag.message_primary or "", flags=re.DOTALL))
    return message
