r"""CSV as COPY's text format, a block at a time: the server reads that faster than CSV.

What stands outside of quotes and what stands inside are taken apart once, then each is changed as a whole: no Python
for each row. Only a block with quotes in places where nobody writes them is parsed row by row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pgonce.seeds.copy_format import SPECIAL

_SPECIAL = [(special.encode(), escape.encode()) for special, escape in SPECIAL.items()]
_QUOTE = b"\x01"
"""Stands for a doubled quote, so that all others open or close."""
_WHOLE = re.compile(rb"\x01(?=[\t\n\r])")
"""The first of the doubled quotes that are all of a value: they are that value's own quotes."""


def as_text(data: bytes, delimiter: str) -> tuple[bytes, int]:
    """Whole records as COPY's text format has them, and how many.

    Args:
        data: with LF or CRLF; the last line end may be missing.
        delimiter: one ASCII character.
    """
    if not data.endswith(b"\n"):
        data += b"\n"
    doubled = data.replace(b'""', _QUOTE) if b'""' in data else data
    parts = doubled.split(b'"')  # the even ones are outside of quotes
    outside = b'"'.join(parts[::2])
    if doubled is not data and (_QUOTE in data or (_QUOTE in outside and not _begin_values(outside, delimiter))):
        return _row_by_row(data, delimiter)
    outside = _outside(outside, delimiter.encode())
    if doubled is not data and _QUOTE in outside:
        outside = _WHOLE.sub(b"", outside)
    if len(parts) == 1:
        text = outside
    else:
        inside = b'"'.join(parts[1::2])
        escaped = _escaped(inside)
        parts[::2] = outside.split(b'"')
        if escaped is not inside:
            parts[1::2] = escaped.split(b'"')
        text = b"".join(parts)
    rows = text.count(b"\n")
    return (text if doubled is data else text.replace(_QUOTE, b'"')), rows


def _begin_values(outside: bytes, delimiter: str) -> bool:
    """Whether all doubled quotes outside of quotes stand at the begin of a value, and at its end or before a quote.

    Of 2n quotes in a row that are all of a value, n - 1 are its text; 2n + 1 at its begin are n and one that opens.
    """
    mark = re.escape(delimiter).encode()
    return not re.search(rb"(?<![\n\x01%b])\x01|\x01(?![\r\n\x01\"%b])" % (mark, mark), b"\n" + outside)


def _outside(text: bytes, delimiter: bytes) -> bytes:
    r"""What stands outside of quotes: line ends, values, ``\N`` where there is none, and tabs between them."""
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    if b"\\" in text:
        text = text.replace(b"\\", rb"\\")
    if delimiter != b"\t" and b"\t" in text:
        text = text.replace(b"\t", rb"\t")
    while b"\n\n" in text:
        text = text.replace(b"\n\n", b"\n")
    text = text.removeprefix(b"\n")
    for before, behind in [(delimiter, delimiter), (b"\n", delimiter), (delimiter, b"\n")]:
        while before + behind in text:  # twice for equal ones: in a row of them each serves two
            text = text.replace(before + behind, before + rb"\N" + behind)
    if text.startswith((delimiter, b"\n")):
        text = rb"\N" + text
    if delimiter != b"\t":
        text = text.replace(delimiter, b"\t")
    return text


def _escaped(text: bytes) -> bytes:
    """The same object where nothing is to be escaped."""
    for special, escape in _SPECIAL:
        if special in text:
            text = text.replace(special, escape)
    return text


def _row_by_row(data: bytes, delimiter: str) -> tuple[bytes, int]:
    lines = []
    for record in records(data):
        line = record.removesuffix(b"\n").removesuffix(b"\r")
        if line:
            found = values(line.decode("utf-8", "surrogateescape"), delimiter)
            texts = (rb"\N" if each is None else _escaped(each.encode("utf-8", "surrogateescape")) for each in found)
            lines.append(b"\t".join(texts) + b"\n")
    return b"".join(lines), len(lines)


def records(data: bytes) -> Iterator[bytes]:
    """Whole records one by one, each with its line end."""
    start = position = quotes = 0
    # find() and not splitlines(), which would end a line at a lone CR, too
    while end := data.find(b"\n", position) + 1:
        quotes += data.count(b'"', position, end)
        position = end
        if quotes % 2 == 0:
            yield data[start:end]
            start = end
    if start < len(data):
        yield data[start:]


def values(text: str, delimiter: str) -> list[str | None]:
    """The values of one record without its line end."""
    found: list[str | None] = []
    value, quoted = "", False
    parts = text.split('"')
    for index, part in enumerate(parts):
        if index % 2:  # inside of quotes
            value, quoted = value + part, True
        elif not part and 0 < index < len(parts) - 1:
            value += '"'  # two quotes in a row
        else:
            head, *tail = part.split(delimiter)
            value += head
            for each in tail:
                found.append(value if value or quoted else None)
                value, quoted = each, False
    found.append(value if value or quoted else None)
    return found
