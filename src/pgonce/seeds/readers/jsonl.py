"""JSON Lines: one object per line, from any line on."""

from __future__ import annotations

import io
import json
import shlex
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn, Self

from pgonce.errors import InvalidArgument
from pgonce.seeds.readers.file import OpenFile, at
from pgonce.seeds.readers.names import written
from pgonce.seeds.readers.text_file import LONGEST, ZEROS, TextFile
from pgonce.seeds.source import BadRow, Cursor, Verdict
from pgonce.seeds.value_text import JsonNumber

BLOCK = 256 * 1024
DIGITS = 4000
"""Digits of an integer from which on it stays text: Python refuses to make an int of more than 4,300."""
_TOO_LONG = "the line is over 256 MB long: make one object per line of it: jq -c '.[]'"
NO_SUCH_KEY = "leave it out of --columns, or correct its name"
_BLANK = " \t\n\r\v\f\ufeff"
"""What an empty line may hold: no other space of Unicode."""


class JsonLinesFile(TextFile):
    """The source of a seed: a file with one JSON object per line, plain or packed.

    A key that a line lacks is NULL; of equal keys in one object the last counts, as in jsonb. Objects and lists are
    handed on as dict and list. Numbers keep every digit, also inside: what is not an integer stays as it is written.

    The arguments are those of ``read``.

    Raises:
        InvalidArgument: while reading: a line has a key that the first line lacks, or a named key is in no line.
    """

    json_strings = True
    """A str is a JSON string: in a json column it keeps its quotes."""
    _keys: tuple[OpenFile, tuple[str, ...]] | None = None
    is_alone = True
    """Not one of several files, of which one must have a named key: then `Files` looks for it."""

    @property
    def columns(self) -> Sequence[str]:
        """Those given, or the keys of the first line, by the table's names."""
        return self._renamed(self._keys_of(self._opened_for_columns()), f"the first line of {self.name}")

    @property
    def types(self) -> Mapping[str, str]:
        """What the first line has: a string, a number and so on."""
        file = self._opened()
        for number, line in _lines_of(file):
            found = self._object(line, number)
            if isinstance(found, BadRow):
                break
            kinds = (_KINDS.get(type(found[key]), "a number") if key in found else "" for key in self._keys_of(file))
            return dict(zip(self.columns, kinds, strict=True))
        return {}

    def __call__(self, cursor: Cursor | None) -> Iterator[tuple[Any, Cursor]]:
        """The rows after ``cursor``, in the order of ``columns``."""
        for line, end, row, number, keys in self._lines(cursor):
            found = self._object(line, number)
            if isinstance(found, BadRow):
                yield found, at(end, row, number)
                continue
            self._refuse_unknown(found, keys, number)
            yield [found.get(key) for key in keys], at(end, row, number)

    def reread(self) -> Iterator[list[Any]]:
        """All rows as Python's json module reads them, for a comparison that does not share this file's code."""
        file = self._opened_to_reread()
        keys = self._keys_of(file)
        with io.TextIOWrapper(file.bytes_from(0), "utf-8-sig", errors="surrogateescape", newline="\n") as text:
            for line in text:
                if line.strip(_BLANK):
                    try:
                        line.encode()  # a line that is not UTF-8
                        found = json.loads(line, parse_float=_Spelled, parse_int=_exact)
                    except (ValueError, RecursionError, InvalidOperation):
                        found = None  # a reject: its place in the order counts
                    yield [found.get(key) for key in keys] if isinstance(found, dict) else [None] * len(keys)

    def same(self, stored: Mapping[str, Any]) -> Verdict:
        """``grown`` when there is only more at the end. Columns may be named anew if those of before are among them.

        So an import that has stopped at a new key goes on with ``--columns``: the lines before did not have that key.
        """
        earlier = stored.get("columns")
        if self._named and stored.get("named") is False and earlier and set(earlier) <= set(self._named):
            stored = {**stored, **self._shape}
        return super().same(stored)

    def _lines(self, cursor: Cursor | None) -> Iterator[tuple[bytes, int, int, int, tuple[str, ...]]]:
        """(line, offset after it, its row, its number, the keys) of every line that is not empty."""
        reading, offset, row, number = self._begin(cursor)
        rest = b""
        with reading:
            keys = self._keys_of(reading.file)
            # a line longer than a block: read as much again as there is, or copying would be quadratic
            while chunk := reading.read(max(BLOCK, len(rest)), offset):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    offset, number = offset + len(line) + 1, number + 1
                    if not _is_blank(line):
                        row += 1
                        yield line, offset, row, number, keys
                if len(rest) > LONGEST:
                    raise InvalidArgument(f"{self.name}, line {number + 1:,}: {_TOO_LONG}")
        # an object that is closed is whole, with or without a line end
        if not _is_blank(rest) and (
            isinstance(self._object(rest, number + 1), dict) or self._take_open_line(rest, offset, number + 1)
        ):
            self._open_line = offset + len(rest)
            yield rest, offset + len(rest), row + 1, number + 1, keys

    def _keys_of(self, file: OpenFile) -> tuple[str, ...]:
        """The keys to import: those given, each of which must be in some line, or those of the first line."""
        if self._keys is None or self._keys[0] is not file:
            self._keys = file, self._named_keys(file) if self._named else self._first_keys(file)
        return self._keys[1]

    def _first_keys(self, file: OpenFile) -> tuple[str, ...]:
        for number, line in _lines_of(file):
            found = self._object(line, number)
            if isinstance(found, BadRow):
                if "--encoding" in found.reason:
                    raise InvalidArgument(found.reason)
                raise InvalidArgument(
                    f"{found.reason}: make one object per line of it: jq -c '.[]', or jq -c . for objects; or name the "
                    "keys (--columns), where only this line is bad"
                )
            if not found:
                raise InvalidArgument(f"{self.name}, line {number:,} has no key: name the keys to import (--columns)")
            return tuple(found)
        raise InvalidArgument(f"{self.name} is empty: it has no line that names the columns (or name them: --columns)")

    def _named_keys(self, file: OpenFile) -> tuple[str, ...]:
        """The given names."""
        if self.is_alone and (lacking := self._lacking(file, self.named)):
            raise InvalidArgument(f"{self.name}: no line has the key {min(lacking)!r}: {NO_SUCH_KEY}")
        return self.named

    @property
    def named(self) -> tuple[str, ...]:
        """The keys that were named; none: those of the first line."""
        return self._named or ()

    def lacking(self, keys: Iterable[str]) -> set[str] | None:
        """The ``keys`` that no line has; None if there is no line."""
        was_open = self._file is not None
        found = self._lacking(self._opened(), keys)
        if not was_open:
            self.release()
        return found

    def _lacking(self, file: OpenFile, keys: Iterable[str]) -> set[str] | None:
        """Usually the first line has them all, and a name that no line has costs a look at each."""
        wanted, read = set(keys), False
        for number, line in _lines_of(file):
            read = True
            if any(_spelled(key, line) for key in wanted):
                found = self._object(line, number)
                wanted -= found.keys() if isinstance(found, dict) else set()
            if not wanted:
                break
        return wanted if read else None

    def _refuse_unknown(self, found: dict[str, Any], keys: tuple[str, ...], number: int) -> None:
        if not self._named and not found.keys() <= set(keys):
            new = [key for key in found if key not in keys]
            raise InvalidArgument(
                f"{self.name}, line {number:,} has a key that the first line lacks ({', '.join(new)}): name the "
                f"keys to import, and run the command again with: --columns {shlex.quote(written([*keys, *new]))}"
            )

    def _object(self, line: bytes, number: int) -> dict[str, Any] | BadRow:
        try:
            found = json.loads(
                line.decode("utf-8-sig" if number == 1 else "utf-8"),
                parse_float=JsonNumber, parse_int=_integer, parse_constant=_refuse,
            )  # fmt: skip
            if isinstance(found, dict):
                return found
            reason = f"it is {_KINDS.get(type(found), 'a number')}, not a JSON object"
        except UnicodeDecodeError as error:
            reason = f"not UTF-8: {error.reason} (byte {error.start} of the line): pass its --encoding"
        except RecursionError:
            reason = "not JSON that can be read: it is nested too deep"
        except ValueError as error:
            reason = ZEROS if b"\0" in line else f"not JSON: {error}"
        return BadRow(f"{self.name}, line {number:,}: {reason}", line.decode("utf-8", "replace").strip())

    @property
    def _shape(self) -> dict[str, Any]:
        return {"columns": list(self._keys_of(self._opened())), "named": self._named is not None}


_KINDS = {list: "a list", dict: "an object", str: "a string", bool: "true or false", type(None): "null"}


def _lines_of(file: OpenFile) -> Iterator[tuple[int, bytes]]:
    """(number, line) of the lines that are not empty."""
    rest, number = b"", 0
    with file.bytes_from(0) as stream:
        while chunk := file.read_from(stream, max(BLOCK, len(rest))):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                number += 1
                if not _is_blank(line):
                    yield number, line
            if len(rest) > LONGEST:
                raise InvalidArgument(f"{file.name}, line {number + 1:,}: {_TOO_LONG}")
    if not _is_blank(rest):
        yield number + 1, rest


def _is_blank(line: bytes) -> bool:
    return not line.replace(BOM_UTF8, b"").strip()


def _spelled(key: str, line: bytes) -> bool:
    """Whether the line may have the key: as it is, or with an escape in some name."""
    return b"\\" in line or f'"{key}"'.encode() in line


def _integer(text: str) -> int | JsonNumber:
    return JsonNumber(text) if len(text) > DIGITS or text == "-0" else int(text)


class _Spelled(Decimal):
    """A number that keeps the spelling of the file for columns of text: 1e5 is 1E+5 as a Decimal."""

    _text: str

    def __new__(cls, text: str) -> Self:
        made = super().__new__(cls, text)
        made._text = text
        return made

    def __str__(self) -> str:
        return self._text


def _exact(text: str) -> int | Decimal:
    return Decimal(text) if len(text) > DIGITS or text == "-0" else int(text)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
