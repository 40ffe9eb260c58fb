"""The two formats of COPY, as far as a batch with a bad row needs them: where rows end, and what a row holds."""

from __future__ import annotations

import re
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Csv:
    """COPY's CSV format. A quote inside of a quoted value is doubled; an unquoted ``null`` is NULL."""

    delimiter: str = ","
    quote: str = '"'
    null: str = ""

    @property
    def options(self) -> str:
        """The options of the COPY statement."""
        pairs = {"delimiter": self.delimiter, "quote": self.quote, "null": self.null}
        return "format csv, " + ", ".join(
            f"{name} '{value.replace(chr(39), chr(39) * 2)}'" for name, value in pairs.items()
        )

    def lines(self, data: bytes) -> list[bytes]:
        """``data`` row by row: a line that leaves a quote open goes on in the next one."""
        quote, rows, begun = self.quote.encode(), [], b""
        for line in data.splitlines(keepends=True):
            begun += line
            if begun.count(quote) % 2 == 0:
                rows.append(begun)
                begun = b""
        return [*rows, begun] if begun else rows

    def values(self, line: bytes) -> list[str | None]:
        """The row's values, None for NULL."""
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        quote, found = re.escape(self.quote), list[str | None]()
        value = re.compile(
            f"(?:{quote}((?:[^{quote}]|{quote}{quote})*){quote}|([^{re.escape(self.delimiter)}]*))"
            f"({re.escape(self.delimiter)}|$)",
            re.DOTALL,
        )
        position = 0
        while match := value.match(text, position):
            quoted, bare, end = match.groups()
            found.append(
                quoted.replace(self.quote * 2, self.quote)
                if quoted is not None
                else None
                if bare == self.null
                else bare
            )
            position = match.end()
            if not end:
                break
        else:
            return [text]  # an open quote: the line as it is
        return found


TEXT = Text()
