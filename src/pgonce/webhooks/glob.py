"""Globs of event types: as regular expressions for the database, and whether two of them can match the same type."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pgonce.errors import InvalidArgument

_GLOB = re.compile(r"\*|\?|\[[^\]]+\]|[^*?\[]+|\[")


def is_glob(pattern: str) -> bool:
    """Whether ``pattern`` can match more than one type."""
    return any(sign in pattern for sign in "*?[")


def any_of(patterns: Sequence[str]) -> str:
    """A regular expression for everything that any of these globs matches. PostgreSQL and Python read it alike."""

    def part(match: re.Match[str]) -> str:
        text = match[0]
        if len(text) > 1 and text.startswith("["):
            return text.replace("[!", "[^", 1)
        return {"*": ".*", "?": "."}.get(text) or re.escape(text)

    return "^(" + "|".join(_GLOB.sub(part, pattern) for pattern in patterns) + ")$"


def overlap(first: str, second: str) -> bool:
    """Whether some event type can match both globs. A set such as [abc] counts as any one character."""
    one, two = (["?" if len(sign) > 1 else sign for sign in _SIGN.findall(glob)] for glob in (first, second))
    # row[at]: whether the rest of `one` and two[at:] can match the same text; filled from the end of `one` backwards
    row = [set(two[at:]) <= {"*"} for at in range(len(two) + 1)]
    for sign in reversed(one):
        after, row = row, [False] * (len(two) + 1)
        for at in reversed(range(len(two) + 1)):
            other = two[at] if at < len(two) else ""
            if sign == "*":
                row[at] = after[at] or (other != "" and row[at + 1])
            elif other == "*":
                row[at] = row[at + 1] or after[at]
            else:
                row[at] = other != "" and (sign == other or "?" in {sign, other}) and after[at + 1]
    return row[0]


_SIGN = re.compile(r"\[[^\]]+\]|.", re.DOTALL)


def check_sets(glob: str) -> None:
    """Refuse brackets in which PostgreSQL sees no regular expression: each statement with the glob would fail.

    Raises:
        InvalidArgument: a set is empty, open or reversed, or has signs that no event type has.
    """
    is_reversed = any(first > last for first, last in _RANGE.findall(glob))
    if is_reversed or any(sign in _SET.sub("", glob) for sign in "[]"):
        raise InvalidArgument(f"{glob!r} has brackets that are not a set of characters: write [abc] or [!a-z]")


_SET = re.compile(r"\[!?(?:[\w.]-[\w.]|[\w.])+\]", re.ASCII)
_RANGE = re.compile(r"([\w.])-([\w.])(?=[^\[]*\])", re.ASCII)
