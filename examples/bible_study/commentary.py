"""Two commentaries, as the seed `commentary_entries` reads them.

From Debian's `sword-comm-mhcc` (Matthew Henry's Concise Commentary, 1706-1721: 4,059 texts) and
`sword-comm-scofield` (the notes of the Scofield Reference Bible, 1917: 3,214 texts).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from examples.bible_study.sword import Commentary, plain
from examples.bible_study.versification import TOTAL as PLACES
from examples.bible_study.versification import place

MODULES = (("mhcc", "sword-comm-mhcc"), ("scofield", "sword-comm-scofield"))  # in the order in which they are read
TOTAL = 4_059 + 3_214


class Note(NamedTuple):
    """One text, on one verse or on several; the fields are the columns of `commentary_entries`."""

    row_id: int
    source: str
    book: str
    chapter: int
    verse: int
    last_verse: int
    body: str

    @property
    def cursor(self) -> dict[str, int]:
        """The checkpoint "this row is done", in the specification's shape."""
        return {"last_row_id": self.row_id}


def notes(after: Mapping[str, Any] | None = None) -> Iterator[Note]:
    """All texts after a cursor, Matthew Henry's and then Scofield's; None starts at Genesis.

    A row's id is the number of its first verse in its module, plus 32,361 places for every module before it. The id
    gives the position in the file, so a resume does not read earlier texts.

    Raises `NotInstalled` if a commentary is missing and `ValueError` if the cursor is not a row id. Both are raised by
    the call itself.
    """
    last = _start(after)
    open_ = [(number, name, Commentary(name, package)) for number, (name, package) in enumerate(MODULES)]
    return _notes(open_, last)


def _notes(modules: list[tuple[int, str, Commentary]], last: int) -> Iterator[Note]:
    for number, name, module in modules:
        for entry in module.after(max(last - number * PLACES, -1)):
            body = plain(entry.markup)
            if body:  # otherwise it is only the heading of a book or chapter
                at, end = place(entry.first), place(entry.last)
                yield Note(number * PLACES + entry.first, name, *at, end.verse, body)


def _start(after: object) -> int:
    if after is None or after == {}:
        return -1
    row_id = after.get("last_row_id") if isinstance(after, Mapping) else None
    if type(row_id) is int and 0 <= row_id < PLACES * len(MODULES):
        return row_id
    raise ValueError(f"no row id: {after!r}; a cursor looks like {{'last_row_id': 48291}}")
