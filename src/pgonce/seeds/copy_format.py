"""COPY's text format: escapes, ends of rows, and the values of a row."""

from __future__ import annotations

import re
from dataclasses import dataclass

SPECIAL = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}  # the backslash first: the others bring new ones

_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Text:
    """COPY's text format: a line per row, because line ends inside of values are escaped."""

    options: str = "format text"

    def lines(self, data: bytes) -> list[bytes]:
        """``data`` row by row."""
        return [line + b"\n" for line in data.removesuffix(b"\n").split(b"\n")] if data else []

    def values(self, line: bytes) -> list[str | None]:
        """The row's values, None for NULL."""
        return [_plain(part) for part in line.removesuffix(b"\n").decode("utf-8", "replace").split("\t")]


def _plain(part: str) -> str | None:
    if part == r"\N":
        return None
    return _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), part)


TEXT = Text()
