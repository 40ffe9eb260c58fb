"""COPY's text format: escapes, ends of rows, and the values of a row."""

from __future__ import annotations

import re

SPECIAL = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}  # the backslash first: the others bring new ones

_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_ESCAPED = re.compile(rb"\\(x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|.)", re.DOTALL)


def split_unescaped(data: bytes, sign: bytes) -> list[bytes]:
    """``data`` cut at each ``sign`` that has no backslash before it, which would make it part of a value."""
    pieces = data.split(sign)
    if b"\\" + sign not in data:
        return pieces
    found, joined = list[bytes](), list[bytes]()
    for piece in pieces:
        joined.append(piece)
        if not ends_in_escape(piece):
            found.append(sign.join(joined))
            joined = []
    return [*found, sign.join(joined)] if joined else found


def ends_in_escape(text: bytes) -> bool:
    """Whether the last character is a backslash that belongs to the next one."""
    return (len(text) - len(text.rstrip(b"\\"))) % 2 == 1


def copy_lines(data: bytes) -> list[bytes]:
    """``data`` row by row: line ends inside of values are escaped."""
    return [line + b"\n" for line in data.removesuffix(b"\n").split(b"\n")] if data else []


def copy_values(line: bytes) -> list[str | None]:
    """The row's values, None for NULL."""
    return [_plain(part) for part in split_unescaped(line.removesuffix(b"\n"), b"\t")]


def _plain(part: bytes) -> str | None:
    if part == rb"\N":
        return None
    return _ESCAPED.sub(_unescaped, part).decode("utf-8", "replace")


def _unescaped(found: re.Match[bytes]) -> bytes:
    name = found[1]
    if name[:1] == b"x" and len(name) > 1:
        return bytes([int(name[1:], 16)])
    if name[:1] in b"01234567":
        return bytes([int(name, 8) & 0xFF])  # as COPY has it: \777 is one byte
    return _ESCAPES.get(name, name)
