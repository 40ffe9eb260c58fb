"""Spurgeon's Treasury of David, as the seed `spurgeon_index` reads it: from Debian's `sword-comm-tdavid`.

151 texts: the preface (psalm 0) and the 150 psalms. Psalm 119 alone has 1.4 million characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from examples.bible_study.sword import Commentary, plain
from examples.bible_study.versification import FIRST, place

TOTAL = 151


class Text(NamedTuple):
    """Spurgeon's text on one psalm; the fields are the columns of `spurgeon_index`."""

    psalm: int
    characters: int
    body: str

    @property
    def cursor(self) -> dict[str, int]:
        """The checkpoint "this psalm is done"."""
        return {"last_psalm": self.psalm}


def texts(after: Mapping[str, Any] | None = None) -> Iterator[Text]:
    """The texts after a cursor; None starts at the preface, psalm 0.

    Texts before the cursor are not unpacked. Raises `NotInstalled` if the package is missing and `ValueError` if the
    cursor does not name a psalm. Both are raised by the call itself, before the first text.
    """
    return _texts(Commentary("tdavid", "sword-comm-tdavid"), _start(after))


def _texts(module: Commentary, last: int) -> Iterator[Text]:
    number = FIRST["PSA", last + 1] - 1 if last < 150 else len(module)
    for entry in module.after(FIRST["PSA", 0] - 1 if last < 0 else number):
        psalm = place(entry.first).chapter
        body = plain(entry.markup)
        if body:  # otherwise it is only the heading of a chapter
            yield Text(psalm, len(body), body)


def _start(after: object) -> int:
    if after is None or after == {}:
        return -1
    psalm = after.get("last_psalm") if isinstance(after, Mapping) else None
    if type(psalm) is int and 0 <= psalm <= 150:
        return psalm
    raise ValueError(f"no psalm: {after!r}; a cursor looks like {{'last_psalm': 119}}")
