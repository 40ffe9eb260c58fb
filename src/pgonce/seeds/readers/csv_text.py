r"""Converts CSV to COPY's text format, a block at a time, because the server reads that faster than CSV.

The text of a block outside of quotes and the text inside are separated once. Then each is converted as a whole, without
Python code for each row. A block with a quote in a wrong place is cut record by record instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pgonce.errors import InvalidArgument
from pgonce.seeds.copy_format import SPECIAL

_SPECIAL = [(special.encode(), escape.encode()) for special, escape in SPECIAL.items()]
_DOUBLED = b"\x01"
"""Replaces a doubled quote, so that all other quotes open or close."""
NEVER_CLOSED = "a quote is never closed"


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written.

    Args:
        delimiter: one ASCII character.
        quote: one ASCII character; None: there are no quotes, a quote is a character like any other.
        nulls: how NULL is written, without quotes.
        force_null: such a text is NULL inside of quotes, too.

    Raises:
        InvalidArgument: a file with these characters would be ambiguous.
    """

    delimiter: str = ","
    quote: str | None = '"'
    nulls: Sequence[str] = ("",)
    force_null: bool = False

    def __post_init__(self) -> None:
        for what, sign in [("delimiter", self.delimiter), ("quote", self.quote)]:
            refused = "\r\n\\.\0" + ("\1" if self.quote else "")  # \1 replaces doubled quotes; Hive's files have none
            if sign is not None and (len(sign) != 1 or not sign.isascii() or sign in refused or sign.isalnum()):
                raise InvalidArgument(f"the {what} must be one ASCII sign, such as , ; | or a tab: not {sign!r}")
        if self.delimiter == self.quote:
            raise InvalidArgument("the delimiter must be one ASCII sign, and not the quote")
        if self.quote == "\t":  # COPY's text format, which is made of the file, has tabs between values
            raise InvalidArgument("the quote must be one ASCII sign, and not a tab")
        for null in self.nulls:
            if any(sign in null for sign in (self.delimiter, "\r", "\n", *(self.quote or ()))):
                raise InvalidArgument(f"--null {null!r} has a delimiter, a quote or a line end in it")

    @cached_property
    def grammar(self) -> Grammar:
        """The expressions that cut records."""
        return Grammar(self)


class Grammar:
    """The expressions of one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        mark = self.mark = dialect.delimiter.encode()
        quote = self.quote = (dialect.quote or "").encode()
        d, q = re.escape(mark), re.escape(quote)
        if quote:
            self.quoted = re.compile(rb"%b[^%b]*+(?:%b%b[^%b]*+)*+%b" % (q, q, q, q, q, q))
            value = rb"(?:%b(?=%b|\r?\n|\r?\Z)|[^%b%b\r\n]*+)" % (self.quoted.pattern, d, d, q)
        else:
            value = rb"[^%b\r\n]*+" % d
        self.values = re.compile(rb"%b(?:%b%b)*+" % (value, d, value))
        self.record = re.compile(rb"%b\r?\n" % self.values.pattern)
        # outside of quotes one quote stands for a whole quoted value: it must be all of its value
        self.before = [each + quote for each in (mark, b"\n", _DOUBLED)]
        self.after = [quote + each for each in (mark, b"\n", b"\r\n")]
        # 2n quotes that are all of a value: n - 1 are its text; 2n + 1 at its begin: n are text, and one opens
        self.forced = dialect.force_null and bool(quote)
        # and where they may be NULL, a line of them alone: it is a row, and an empty line is none
        alone = rb"|\n\x01\r?\n" if self.forced else b""
        self.doubled_inside = re.compile(rb"(?<![\n\x01%b])\x01|\x01(?![\r\n\x01%b%b])%b" % (d, q, d, alone))
        self.whole = re.compile(rb"\x01(?=[\t\n\r])")
        self.empty = re.compile(rb"(?<=[\n%b])\x01(?=[\r\n%b])" % (d, d))
        spelled = [re.escape(_escaped(null.encode())) for null in dialect.nulls if null]
        self.spelled = re.compile(rb"(?<=[\n%b])(?:%b)(?=[\n%b])" % (d, b"|".join(spelled), d)) if spelled else None
        self.forces_words = self.forced and any(dialect.nulls)
        self.empty_is_null = "" in dialect.nulls
        self.nulls = frozenset(dialect.nulls)


def as_text(data: bytes, dialect: Dialect) -> tuple[bytes, int] | None:
    """Whole records as COPY's text format has them, and how many; None: cut them one by one.

    None: there is a quote in the middle of a value, text after a closing quote, or a CR without LF. The last line end
    of ``data`` may be missing.
    """
    grammar = dialect.grammar
    quote = grammar.quote
    if not data.endswith(b"\n"):
        data += b"\n"
    if not quote or quote not in data:
        outside = _outside(data, grammar)
        return (outside, outside.count(b"\n")) if outside is not None else None
    if _DOUBLED in data:
        return _record_by_record(data, dialect)
    doubled, parts = data, data.split(quote)  # the even ones are outside of quotes
    if b"" in parts[1:-1]:  # two quotes side by side; this takes a fifth of the time of looking for them in the bytes
        doubled = data.replace(quote * 2, _DOUBLED)
        parts = doubled.split(quote)
    outside = b"\n" + quote.join(parts[::2])
    quoted = len(parts) // 2
    if len(parts) % 2 == 0 or not (_all(outside, quoted, grammar.before) and _all(outside, quoted, grammar.after)):
        return None
    odd = doubled is not data and _DOUBLED in outside and grammar.doubled_inside.search(outside)
    if odd or grammar.forces_words:
        return _record_by_record(data, dialect)
    if grammar.forced and doubled is not data:
        outside = grammar.empty.sub(b"", outside)
    text = _outside(outside[1:], grammar)
    if text is None:
        return None
    if doubled is not data and _DOUBLED in text:
        text = grammar.whole.sub(b"", text)
    rows = text.count(b"\n")  # line ends inside of quotes are escaped
    if len(parts) > 1:
        inside = quote.join(parts[1::2])
        escaped = _escaped(inside)
        parts[::2] = text.split(quote)
        if escaped is not inside:
            parts[1::2] = escaped.split(quote)
        text = b"".join(parts)
    return (text if doubled is data else text.replace(_DOUBLED, quote)), rows


def _outside(text: bytes, grammar: Grammar) -> bytes | None:
    r"""Converts the text outside of quotes: line ends, values, ``\N`` where there is none, and tabs between them."""
    delimiter = grammar.mark
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
        if b"\r" in text:
            return None
    if b"\\" in text:
        text = text.replace(b"\\", rb"\\")
    if delimiter != b"\t" and b"\t" in text:
        text = text.replace(b"\t", rb"\t")
    while b"\n\n" in text:
        text = text.replace(b"\n\n", b"\n")
    text = text.removeprefix(b"\n")
    if grammar.spelled:
        text = grammar.spelled.sub(rb"\\N", b"\n" + text)[1:]
    if grammar.empty_is_null:
        for before, after in [(delimiter, delimiter), (b"\n", delimiter), (delimiter, b"\n")]:
            while before + after in text:  # twice for equal ones: in a row of them each serves two
                text = text.replace(before + after, before + rb"\N" + after)
        if text.startswith((delimiter, b"\n")):
            text = rb"\N" + text
    if delimiter != b"\t":
        text = text.replace(delimiter, b"\t")
    return text


def _all(text: bytes, number: int, places: Sequence[bytes]) -> bool:
    """Whether ``number`` quotes stand in these places: counted, for a regular expression takes twice as long."""
    for place in places:
        if not number:
            break
        number -= text.count(place)
    return not number


def _record_by_record(data: bytes, dialect: Dialect) -> tuple[bytes, int] | None:
    lines, start = [], 0
    for end, bad in cut(data, dialect):
        if bad is not None:
            return None
        record = data[start:end].removesuffix(b"\n").removesuffix(b"\r")
        start = end
        if record:
            lines.append(line_of(values(record.decode("utf-8", "surrogateescape"), dialect)))
    return (b"".join(lines), len(lines)) if start == len(data) else None


def _escaped(text: bytes) -> bytes:
    """The same object where nothing is to be escaped."""
    for special, escape in _SPECIAL:
        if special in text:
            text = text.replace(special, escape)
    return text


def line_of(found: Sequence[str | None]) -> bytes:
    """The values of one record as a line of COPY's text format."""
    texts = (rb"\N" if each is None else _escaped(each.encode("utf-8", "surrogateescape")) for each in found)
    return b"\t".join(texts) + b"\n"


def record_end(data: bytes, quote: bytes = b'"') -> int:
    """How many bytes of ``data``, which begins a record, are whole records; 0 when the first is not complete.

    Where all quotes stand at the ends of values, a line end belongs to a value exactly if an odd number of quotes lies
    before it: that is counted and not parsed.
    """
    cut = data.rfind(b"\n") + 1
    quotes = data.count(quote, 0, cut) if quote else 0
    while quotes % 2:
        # This line end stands inside quotes. So do all back to the last quote before it: go before that one.
        earlier = data.rfind(b"\n", 0, data.rfind(quote, 0, cut)) + 1
        quotes -= data.count(quote, earlier, cut)
        cut = earlier
    return cut


def cut(data: bytes, dialect: Dialect) -> Iterator[tuple[int, str | None]]:
    """The end of each record in ``data``, and what is wrong with it; what is left has no end yet.

    A bad record ends at the first line end after the place that is wrong.
    """
    grammar, position = dialect.grammar, 0
    while position < len(data):
        if found := grammar.record.match(data, position):
            position = found.end()
            yield position, None
            continue
        head = grammar.values.match(data, position)
        wrong = head.end() if head else position
        if wrong >= len(data) or data[wrong:] == b"\r":
            return
        reason = "a CR without LF (for a file of an old Mac: tr '\\r' '\\n')"
        if grammar.quote and data[wrong : wrong + 1] == grammar.quote:
            begins = wrong == position or data[wrong - 1 : wrong] == grammar.mark
            reason = "a quote in the middle of a value"
            if begins:
                closed = grammar.quoted.match(data, wrong)
                if closed is None:
                    return
                wrong, reason = closed.end(), "text after a closing quote"
        end = data.find(b"\n", wrong) + 1
        if not end:
            return
        position = end
        yield position, reason


def records(data: bytes, dialect: Dialect) -> Iterator[bytes]:
    """Whole good records one by one, each with its line end."""
    start = 0
    for end, _ in cut(data, dialect):
        yield data[start:end]
        start = end


def values(text: str, dialect: Dialect) -> list[str | None]:
    """The values of one good record without its line end."""
    grammar = dialect.grammar
    quote, nulls = dialect.quote, grammar.nulls
    if not quote or quote not in text:
        return [None if each in nulls else each for each in text.split(dialect.delimiter)]
    found: list[str | None] = []
    position = 0
    while True:
        if text.startswith(quote, position):
            end = position + 1
            while True:
                end = text.index(quote, end)
                if not text.startswith(quote, end + 1):
                    break
                end += 2
            value = text[position + 1 : end].replace(quote * 2, quote)
            found.append(None if grammar.forced and value in nulls else value)
            position = end + 1
        else:
            end = text.find(dialect.delimiter, position)
            value = text[position:] if end < 0 else text[position:end]
            found.append(None if value in nulls else value)
            position += len(value)
        if position >= len(text):
            return found
        position += len(dialect.delimiter)
