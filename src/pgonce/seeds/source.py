"""What a source of rows may offer: rows, a fingerprint, and blocks that are ready for COPY.

A source is a callable ``source(cursor)`` that returns an iterable of ``(row, cursor)``. The argument is the cursor of
the checkpoint, None at the start; the cursor of a row says where to resume after this row. A generator function is a
source. Everything else in this file is optional; the engine looks for each attribute when an import begins:

======================  =============================================================================================
``columns``, ``total``  names for rows that are sequences (those of a seed must be equal); the number of all rows
``fingerprint, same``   whether the source is still what an earlier run has read: `Fingerprinted`
``copy_blocks, …``      rows as bytes for COPY: `BlockSource`
``needs_rows``          called with the table's columns by name; True: their types decide how values are written, so
                        the engine takes rows and not blocks
``check_columns``       called with the table's columns and its name: raises where the source has one of them, and not
                        in its rows, such as in the name of a folder
``json_strings``        True: a str is a JSON string, also for a json column; otherwise it is JSON text there
``reread``              called without arguments: all rows from the start by the library of the format alone, for
                        ``--verify``
``types``               by column the type that a dry run shows, such as int64
``progress``            called with a cursor: the share of the source that lies before it, 0 to 1, or None
======================  =============================================================================================

A source that ends before its end (half a last line, a pipe whose writer died) raises `pgonce.errors.SourceUnfinished`
after its last whole row: the rows before it are committed, and the run ends as ``unfinished`` with that message. A
generator that reads the rows of such a source may let the error pass.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from pgonce.errors import InvalidArgument

SeedRow: TypeAlias = Mapping[str, Any] | Sequence[Any]
"""A mapping of columns, or a sequence in the order of the seed's ``columns``."""
Cursor: TypeAlias = Any
"""Any JSON value but null, usually an object such as {"last_book": "PSA", "last_chapter": 119}."""
NO_CURSOR = "a row has no cursor: yield (row, cursor); the cursor says where to resume after this row"
Verdict: TypeAlias = Literal["same", "grown", "changed"]


def as_jsonb(value: Cursor) -> str:
    """The text that equal values of jsonb share: 1e23 and its digits are one number, 1 and true are not equal.

    Raises:
        InvalidArgument: it is not JSON.
    """
    try:
        return json.dumps(json.loads(json.dumps(value), parse_float=_number), sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the checkpoint is not JSON: {error}") from None


def _number(text: str) -> float:
    exact = Decimal(text)
    return int(exact) if exact == exact.to_integral_value() else float(text)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that cannot be cut into values. A source yields it in the place of a row, and it becomes a reject."""

    reason: str
    """One line, with the place: ``people.csv, line 52: text after a closing quote``."""
    text: str
    """The record as it was read."""


@runtime_checkable
class Fingerprinted(Protocol):
    """A source that can tell whether it is still what an earlier run has read."""

    def fingerprint(self, cursor: Cursor | None, /) -> Mapping[str, Any] | None:
        """What the source looks like up to ``cursor``, as a JSON object: sizes, hashes; None: it cannot say.

        Called once per batch before its commit, and stored with the batch's checkpoint. So it must not read everything
        before the cursor again: hash the bytes as they are read, and go on with that hash.

        Raises:
            SourceChanged: what was read is no longer what the source holds; the batch is not committed.
        """
        ...

    def same(self, stored: Mapping[str, Any], /) -> Verdict:
        """How the source compares with a stored fingerprint; called once, before a resume.

        ``same``: resume. ``grown``: what was read is unchanged and more has been appended: resume. ``changed``: the
        cursor means nothing any more; the import stops with a choice.

        Raises:
            SourceChanged: as ``changed``, with a sentence of the source's own.
        """
        ...


@runtime_checkable
class BlockSource(Protocol):
    """A source whose rows are nearly COPY's text format, so that no row becomes Python objects.

    It must also be callable for rows, with the same cursors: a run may resume by rows where another ended by blocks.
    """

    copy_columns: Sequence[str]
    """The columns of the table that a line holds, in order."""

    def copy_blocks(self, cursor: Cursor | None, /) -> Iterator[tuple[Any, int, Cursor]]:
        """``(data, rows, cursor)``: whole rows, how many, and the cursor after the last of them; or one bad row.

        Rows with the same cursor are in the same block. A block has 64 kB to 1 MB, more only if a single row is longer:
        the engine joins blocks to a batch of the size that it needs, and never divides one.
        """
        ...


def check_columns(source: object, known: Collection[str], table: str, named: Sequence[str] | None = None) -> None:
    """Refuse a source that has one of the table's columns elsewhere than in its rows, where it can tell.

    Also one that has other columns than the seed has ``named``: values would be taken for those of other columns.

    Raises:
        InvalidArgument: with what to change.
    """
    own = getattr(source, "columns", None) if named else None
    if named and own and tuple(own) != tuple(named):
        raise InvalidArgument(
            f"the source has the columns {', '.join(own)}, and the seed names {', '.join(named)}: leave columns= out "
            "of the seed"
        )
    if (check := getattr(source, "check_columns", None)) is not None:
        check(known, table)


def check_sequence(row: Any, columns: Sequence[str]) -> None:
    """Refuse a row that is neither a mapping nor a sequence of values, and one whose own names have another order.

    ``columns``: the names in the order of the seed.

    Raises:
        InvalidArgument: the message says what to yield.
    """
    kind, values = type(row).__name__, row
    is_refused = isinstance(row, str | bytes | AbstractSet) or not isinstance(row, Iterable)
    # pydantic's models yield pairs of name and value: in columns of text even those could be stored
    if is_refused or not isinstance(row, Sized | Iterator):
        raise InvalidArgument(f"a row is a mapping or a sequence, not {kind}: yield a dict of its values")
    own = getattr(row, "_fields", None)  # of a named tuple; sqlite3's and asyncpg's rows have keys()
    if own is None and callable(keys := getattr(row, "keys", None)):
        own = keys()
    if own is None:
        return
    names = list(own)
    if names and all(type(name) is type(each) and name == each for name, each in zip(names, values, strict=False)):
        raise InvalidArgument(
            f"{kind} iterates over its names, and not over values: yield its rows one by one, as dicts"
        )
    if names != list(columns) and set(names) == set(columns):
        raise InvalidArgument(
            f"the values of {kind} are in the order {', '.join(names)}, and the columns are {', '.join(columns)}: "
            "name them in one order, or yield dicts"
        )


def refuse_pairs(values: Sequence[Any], columns: Sequence[str]) -> None:
    """Refuse pairs of name and value, as ``row.items()`` has them: columns of text would take them for values.

    Raises:
        InvalidArgument: each value is its column's name and another one.
    """
    pairs = zip(values, columns, strict=False)
    if values and all(isinstance(each, tuple | list) and len(each) == 2 and each[0] == name for each, name in pairs):
        raise InvalidArgument("a row is pairs of name and value: yield a dict of them")


def has_exactly(row: Mapping[str, Any], columns: Sequence[str]) -> bool:
    """Whether the mapping has these columns and no others. A defaultdict would make those that it lacks."""
    return len(row) == len(columns) and all(map(row.__contains__, columns))
