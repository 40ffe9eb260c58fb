"""JSON Lines: one object per line, from any line on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

from pgonce.errors import InvalidArgument
from pgonce.seeds.readers.file import File, at, offset_of
from pgonce.seeds.source import Cursor, SeedRow, Verdict

BLOCK = 256 * 1024
LONGEST = 256 * 1024 * 1024
"""Bytes of one line."""


class JsonLinesFile:
    """The source of a seed: a file with one JSON object per line, in UTF-8, also as ``.gz``.

    A key that a line lacks is NULL. An object or a list inside is handed on as JSON text, for a json or jsonb column.
    A number with a fraction is a Decimal, with every digit that the file has.

    Args:
        path: the file.
        columns: the keys to import; by default those of the first line, and then no line may have others.

    Raises:
        InvalidArgument: while reading: a line is no such object, with its number and byte.
    """

    total = None

    def __init__(self, path: str | Path, *, columns: Sequence[str] | None = None) -> None:
        self.file = File(Path(path))
        self._named = tuple(columns) if columns else None

    @cached_property
    def columns(self) -> Sequence[str]:
        """Those given, or the keys of the first line."""
        if self._named:
            return self._named
        for line, end, _ in self._lines(0, 0):
            return tuple(self._object(line, end, 1))
        raise InvalidArgument(f"{self.file.path.name} is empty: it has no line that names the columns")

    def __call__(self, cursor: Cursor | None) -> Iterator[tuple[SeedRow, Cursor]]:
        """The rows behind ``cursor``, in the order of ``columns``."""
        columns = self.columns
        known = frozenset(columns)
        for line, end, row in self._lines(*offset_of(cursor, self.file.path.name)):
            found = self._object(line, end, row)
            if not self._named and not known.issuperset(found):
                raise InvalidArgument(
                    f"line {row:,} of {self.file.path.name} has a key that the first line lacks "
                    f"({', '.join(sorted(found.keys() - known))}): name the columns to import"
                )
            yield [found.get(column) for column in columns], at(end, row)

    def fingerprint(self, cursor: Cursor | None) -> Mapping[str, Any]:
        """The file's size, and hashes of its first 64 kB and of the 64 kB before the cursor."""
        return self.file.fingerprint(offset_of(cursor, self.file.path.name)[0], {"columns": list(self.columns)})

    def same(self, stored: Mapping[str, Any]) -> Verdict:
        """``grown`` when there is only more at the end."""
        return self.file.same(stored, {"columns": list(self.columns)})

    def _lines(self, offset: int, row: int) -> Iterator[tuple[bytes, int, int]]:
        """(line, offset behind it, its number) of every line from ``offset`` on that is not empty."""
        rest = b""
        with self.file.open(offset) as reader:
            # a line longer than a block: read as much again as there is, or copying would be quadratic
            while chunk := reader.read(max(BLOCK, len(rest))):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    offset += len(line) + 1
                    if line.strip():
                        row += 1
                        yield line, offset, row
                if len(rest) > LONGEST:
                    raise InvalidArgument(f"{self.file.path.name}: the line at byte {offset:,} is over 256 MB long")
        if rest.strip():  # no line end at the end of the file
            yield rest, offset + len(rest), row + 1

    def _object(self, line: bytes, end: int, row: int) -> dict[str, Any]:
        where = f"line {row:,} of {self.file.path.name} (before byte {end:,})"
        try:
            text = line.decode("utf-8-sig" if row == 1 else "utf-8")
            found = json.loads(text, parse_float=Decimal)
            if isinstance(found, dict) and any(isinstance(value, dict | list) for value in found.values()):
                plain = json.loads(text)  # without Decimals, which json cannot write again
                for key, value in plain.items():
                    if isinstance(value, dict | list):
                        found[key] = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"{where} is not UTF-8: {error.reason}") from error
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"{where} is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise InvalidArgument(f"{where} is no JSON object")
        return found
