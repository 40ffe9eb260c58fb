"""The bytes of a file from an offset on, plain or gzip, and whether it is still the file it was."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from hashlib import blake2b
from io import FileIO
from pathlib import Path
from typing import Any, Self

from pgonce.errors import InvalidArgument
from pgonce.seeds.source import Cursor, Verdict

EDGE = 64 * 1024
"""Bytes that are hashed at either end of what was read."""


class File:
    """The file at ``path``; with ``.gz`` behind its name all offsets are those of the unpacked bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.packed = path.suffix.lower() == ".gz"

    @property
    def size(self) -> int:
        """In bytes, as it lies on the disk.

        Raises:
            InvalidArgument: there is no such file.
        """
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def open(self, offset: int) -> Reader:
        """The bytes from ``offset`` on.

        Raises:
            InvalidArgument: there is no such file, or it is shorter.
        """
        try:
            raw = self.path.open("rb", buffering=0)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if not self.packed:
            if offset > self.size:
                raw.close()
                raise InvalidArgument(f"{self.path.name} is shorter than what was read of it: {offset:,} bytes")
            raw.seek(offset)
            return Reader(raw, raw, self.path)
        reader = Reader(raw, gzip.GzipFile(fileobj=raw), self.path)
        # gzip has no index: what lies before must be unpacked again, at some 300 MB/s
        while offset:
            skipped = len(reader.read(min(offset, 1 << 20)))
            if not skipped:
                reader.close()
                raise InvalidArgument(f"{self.path.name} is shorter than what was read of it")
            offset -= skipped
        return reader

    def fingerprint(self, offset: int, shape: Mapping[str, Any]) -> dict[str, Any]:
        """What the file looks like, for a run that has read it up to ``offset``; 0.2 ms.

        The time of its last change plays no part: a copy of a file is the same file. ``shape`` is how it was read
        (delimiter, columns); read otherwise it is another source.
        """
        size = self.size
        end = size if self.packed else min(offset, size)  # the unpacked offset says nothing of the packed file
        return {"size": size, "end": end, "head": self._hash(0, end), "tail": self._hash(end - EDGE, end), **shape}

    def same(self, stored: Mapping[str, Any], shape: Mapping[str, Any]) -> Verdict:
        """How the file compares with an earlier fingerprint: what was read of it counts, and its size.

        A file that was read to an end without a line end, and goes on in that very line, has changed: the row that
        was last then was only half of one.
        """
        size, end = self.size, stored["end"]
        if any(stored.get(key) != value for key, value in shape.items()) or size < stored["size"]:
            return "changed"
        if stored["head"] != self._hash(0, end) or stored["tail"] != self._hash(end - EDGE, end):
            return "changed"
        if size == stored["size"]:
            return "same"
        if end and end == stored["size"] and not self.packed:
            with self.open(end - 1) as reader:
                if b"\n" not in reader.read(2).replace(b"\r", b"\n"):
                    return "changed"
        return "grown"

    def _hash(self, start: int, end: int) -> str:
        start = max(start, 0)
        with self.path.open("rb", buffering=0) as file:
            file.seek(start)
            data = file.read(min(end - start, EDGE))
        if self.packed and not start:
            data = data[:4] + data[8:]  # gzip's own time of packing: the same file packed anew is the same file
        return blake2b(data, digest_size=16).hexdigest()


class Reader:
    """An open file; close it, or use it in a ``with`` block."""

    def __init__(self, raw: FileIO, unpacked: FileIO | gzip.GzipFile, path: Path) -> None:
        self._raw = raw
        self._unpacked = unpacked
        self._path = path

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end.

        Raises:
            InvalidArgument: a .gz that is none, is damaged or ends in the middle.
        """
        try:
            return self._unpacked.read(size)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InvalidArgument(f"{self._path.name} is damaged: {error}") from error

    def close(self) -> None:
        """Close it."""
        self._unpacked.close()
        self._raw.close()  # which GzipFile leaves open

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def offset_of(cursor: Cursor | None, name: str) -> tuple[int, int]:
    """(offset, rows before it) of a reader's cursor; zeros at the start.

    Raises:
        InvalidArgument: the cursor of another kind of source.
    """
    if cursor is None:
        return 0, 0
    match cursor:
        case {"offset": int(offset), "row": int(row)} if offset > 0 and row >= 0:
            return offset, row
    raise InvalidArgument(
        f'the checkpoint {cursor!r} is no place in {name}: it looks like {{"offset": 4096, "row": 52}}; '
        "another source has run under this name"
    )


def at(offset: int, row: int) -> dict[str, int]:
    """The cursor behind data row ``row`` (the first is 1), which ends before byte ``offset``."""
    return {"offset": offset, "row": row}


def _unreadable(path: Path, error: OSError) -> InvalidArgument:
    return InvalidArgument(f"cannot read {path}: {error.strerror or error}")
