"""What a source of rows may offer beyond rows: a fingerprint, and ready-made blocks for COPY.

The least a source is: a callable ``source(cursor)`` that returns an iterable of ``(row, cursor)``. The argument is the
checkpoint's cursor, None at the start; a row's own cursor says where to resume behind it. A generator function is
one; everything else in this file is optional, attribute by attribute, and looked for at run time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

SeedRow: TypeAlias = Mapping[str, Any] | Sequence[Any]
"""A mapping of columns, or a sequence in the order of the seed's ``columns``."""
Cursor: TypeAlias = Any
"""Any JSON value but null, usually an object such as {"last_book": "PSA", "last_chapter": 119}."""
NO_CURSOR = "a row has no cursor: yield (row, cursor), the cursor being where to resume behind this row"
Verdict: TypeAlias = Literal["same", "grown", "changed"]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that cannot be cut into values. A source yields it in the place of a row, and it becomes a reject."""

    reason: str
    """One line, with the place: ``people.csv, line 52: text after a closing quote``."""
    text: str
    """The record as it was read."""


class RowSource(Protocol):
    """A source with what a reader of files knows of itself. ``columns`` and ``total`` may be None, or absent."""

    columns: Sequence[str] | None
    """The names for rows that are sequences; the seed's own ``columns`` win."""
    total: int | None
    """How many rows there are in all, where that is known without reading them: for the progress bar."""

    def __call__(self, cursor: Cursor | None, /) -> Iterable[tuple[SeedRow, Cursor]]:
        """The rows behind ``cursor``, each with its own."""
        ...


@runtime_checkable
class Fingerprinted(Protocol):
    """A source that can tell whether it is still what an earlier run has read."""

    def fingerprint(self, cursor: Cursor | None, /) -> Mapping[str, Any] | None:
        """What the source looks like up to ``cursor``, as a JSON object: sizes, hashes; None: it cannot say.

        Stored with every checkpoint, in its transaction; so it is called once per batch, and must not read the whole
        prefix again: hash the head, the block in front of the cursor, or go on with a running hash.
        """
        ...

    def same(self, stored: Mapping[str, Any], /) -> Verdict:
        """How the source of today compares with a stored fingerprint; called once, before a resume.

        ``same``: go on. ``grown``: what was read is unchanged and more has been appended: go on. ``changed``: the
        cursor means nothing any more; the import stops with a choice.
        """
        ...


class CopyFormat(Protocol):
    """How bytes of a COPY fall into rows; ``pgonce.protocol.copy_format`` has TEXT."""

    @property
    def options(self) -> str:
        """The options of the COPY statement, as SQL: ``format csv, delimiter ';'``."""
        ...

    def lines(self, data: bytes) -> list[bytes]:
        """``data`` row by row, each with its line end: asked only where a batch holds a bad row."""
        ...

    def values(self, line: bytes) -> list[str | None]:
        """The values of one row as text, None for NULL: how a rejected row is stored."""
        ...


@runtime_checkable
class BlockSource(Protocol):
    """A source whose rows are (nearly) COPY's own format already, so that no row becomes Python objects.

    It must be a ``RowSource`` as well, with the same cursors: a run may resume by rows where another ended by blocks.
    """

    copy_columns: Sequence[str]
    """The columns of the table that a line holds, in order."""
    copy_format: CopyFormat

    def copy_blocks(self, cursor: Cursor | None, /) -> Iterator[tuple[Any, int, Cursor]]:
        """``(data, rows, cursor)``: whole rows, how many, and the cursor behind the last of them.

        The rows of one cursor stand in one block. A block is 64 kB to 1 MB (more only for a single row that is
        longer): the engine joins blocks to a batch of the size it wants and never cuts one.
        """
        ...
