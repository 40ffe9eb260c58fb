"""The bytes of one opened file, from an offset on, and whether the file still holds what was read of it.

Everything is read from one descriptor by position, and the fingerprint is a hash of the bytes that were handed out.
So the rows of an import and its fingerprint are of the same bytes, even if another file has replaced the first one.
Before a batch is committed, `check` compares the file at the path with what was read. If they differ, the import stops.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

from pgonce.errors import InvalidArgument, SourceChanged
from pgonce.seeds.readers.descriptor import is_settled, open_file, read_at, stat_of, times_of
from pgonce.seeds.readers.prefix import Prefix
from pgonce.seeds.readers.unpack import Unpacker, damaged
from pgonce.seeds.source import Cursor, Verdict

EDGE = 64 * 1024
"""Bytes at the start and at the end of what was read that are compared if a file has only grown."""
KEPT = 64 * 1024 * 1024
"""Bytes that are kept until the fingerprint of their batch is taken: three batches of 8 MB are under way at a time."""
STILL = 60.0
"""Seconds without any change after which a last line without a line end is taken as whole."""


class Read(Protocol):
    """What was read of an opened file."""

    position: int
    is_closed: bool

    def is_held_by(self, file: OpenFile, /) -> bool:
        """Whether ``file`` holds all of it."""
        ...

    def ends_are_held_by(self, file: OpenFile, /) -> bool:
        """Whether ``file`` holds the first and the last bytes of it."""
        ...

    def prefix(self, offset: int, /) -> Prefix | None:
        """The hash of all bytes before ``offset``, where it is known."""
        ...


class OpenFile:
    """A file that was opened once; each reader of it has a position of its own.

    Args:
        path: where it is; ``-`` is the standard input. A pipe is copied to a temporary file first.
        unpacker: how its bytes become those that are read; all offsets are of the unpacked bytes.

    Raises:
        InvalidArgument: there is no such file, or it is a directory.
    """

    def __init__(self, path: Path, unpacker: Unpacker) -> None:
        self.path = path
        self.name = text_of(path.name)
        self.unpacker = unpacker
        self.reading: Read | None = None
        self._descriptor, self.is_pipe = open_file(path)
        self._seen = self._stat()
        self._sure = is_settled(self._seen)
        self._largest = self._seen.st_size
        self._fully_checked = 0
        self._owes_check = False
        self._lock = threading.RLock()
        self.known: tuple[int, Prefix] | None = None
        """The hash of what lies before an offset, from the check that comes before a resume."""

    @property
    def size(self) -> int:
        """In bytes, as it lies on the disk."""
        return self._stat().st_size

    @property
    def times(self) -> list[int]:
        """Its size, and when it was last changed: other after any change but one within a tick of the clock."""
        return times_of(self._stat())

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` of the file's own bytes."""
        return read_at(self._descriptor.number, offset, size)

    def bytes_from(self, offset: int) -> BinaryIO:
        """The unpacked bytes from ``offset`` on. Packed bytes before it are unpacked and thrown away."""
        stream = self.unpacker.unpack(self)
        if self.unpacker.is_plain:
            stream.seek(offset)
            return stream
        while offset:
            skipped = len(self.read_from(stream, min(offset, 1 << 20)))
            if not skipped:
                raise SourceChanged(advice(f"{self.name} is shorter than what was read of it"))
            offset -= skipped
        return stream

    def read_from(self, stream: BinaryIO, size: int) -> bytes:
        """Up to ``size`` bytes of a stream of this file's.

        Raises:
            InvalidArgument: a packed file that is damaged or ends in the middle; text in another encoding.
        """
        try:
            return stream.read(size)
        except UnicodeError as error:
            raise InvalidArgument(f"{self.name} is not {self.unpacker.encoding}: pass another --encoding") from error
        except damaged() as error:
            raise InvalidArgument(
                f"{self.name} is damaged or not finished: {error}: run the same command again when it is whole; "
                "or unpack it by the program that has packed it"
            ) from error

    def close(self) -> None:
        """Nothing is read from it any more."""
        self._descriptor.close()

    def is_replaced(self) -> bool:
        """Whether another file stands at the path by now; one that was only removed has not been replaced."""
        if self.is_pipe:
            return False
        try:
            there, ours = self.path.stat(), self._stat()
        except OSError:
            return False
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def is_still(self, earlier_size: int | None = None) -> bool:
        """Whether the file is probably no longer being written.

        It is as large as an earlier run has left it, or nothing has changed for STILL seconds (by the time that no
        program can set). A pipe that has ended says nothing: its writer may have died.
        """
        now = self._stat()
        return now.st_size == earlier_size or (not self.is_pipe and time.time() - now.st_ctime > STILL)

    def check(self, *, at_end: bool = False, quick: bool = False) -> None:
        """Compare the file with what was read of it, if there is any sign of a change.

        A file that only grows is compared at both ends of what was read. It is compared as a whole each time that this
        has doubled, and at the end: if it were at each check, the time for a growing log would be quadratic.

        Args:
            at_end: nothing more is read after this.
            quick: do not look again only because the last change was less than TICK ago.

        Raises:
            SourceChanged: what was read is not what the file holds now.
        """
        with self._lock:
            reading = self.reading
            if reading is None or self.is_pipe:
                return
            if self.is_replaced():
                self._compare_replacement(reading)
            before, now = self._seen, self._stat()
            if now.st_size < self._largest:
                raise SourceChanged(advice(f"{self.name} has become shorter while it was read"))
            same = times_of(before) == times_of(now)
            if same and (self._sure or quick) and not (at_end and self._owes_check):
                return
            self._sure = is_settled(now)
            self._seen, self._largest = now, max(self._largest, now.st_size)
            grown = now.st_size > before.st_size or (same and self._owes_check)
            doubled = reading.position >= 2 * self._fully_checked
            if self.unpacker.is_plain and grown and not doubled and not at_end:
                self._owes_check = True
                held = reading.ends_are_held_by(self)
            else:
                self._owes_check, self._fully_checked = False, reading.position
                held = reading.is_held_by(self)
            if not held:
                raise SourceChanged(advice(f"{self.name} was changed while it was read"))

    def _compare_replacement(self, reading: Read) -> None:
        """Continue with the file that is at the path now, if it begins with what was read."""
        try:
            other = OpenFile(self.path, self.unpacker.fresh())
        except InvalidArgument:
            raise SourceChanged(advice(f"{self.name} was replaced while it was read")) from None
        held = reading.is_held_by(other) if self.unpacker.is_plain else _equal(self, other)
        if not held:
            raise SourceChanged(advice(f"{self.name} was replaced by another file while it was read"))
        self._descriptor = other._descriptor
        self._seen, self._sure, self._largest = other._seen, False, other.size

    def fingerprint(self, offset: int, shape: Mapping[str, Any]) -> dict[str, Any]:
        """What the file looks like, for a run that has read it up to ``offset`` (unpacked bytes).

        The hash is of all bytes before ``offset``, in parts that begin at ``marks`` (0, and where runs have resumed).
        ``stat`` spares the next run reading them again, as long as the file is not touched. The file's name and times
        do not count otherwise: an equal copy is the same file. ``shape`` is how it was read (delimiter, columns).

        Raises:
            SourceChanged: what was read is not what the file holds now.
        """
        self.check()
        prefix = self.reading.prefix(offset) if self.reading else None
        if prefix is None:
            prefix = _hash_of(self, offset)
        now = self._stat()
        settled = self._sure and times_of(now) == times_of(self._seen)
        return {
            "size": now.st_size,
            "offset": offset,
            "hash": prefix.digest(),
            "marks": list(prefix.marks),
            "stat": stat_of(now) if settled and not self.is_pipe else None,
            "encoding": self.unpacker.declared,
            **shape,
        }

    def same(self, stored: Mapping[str, Any], shape: Mapping[str, Any]) -> Verdict:
        """How the file compares with an earlier fingerprint: what was read of it counts, and how."""
        if any(stored.get(key) != value for key, value in shape.items()) or "marks" not in stored:
            return "changed"
        offset, now = int(stored["offset"]), self._stat()
        if now.st_size < stored["size"]:
            return "changed"
        # in another encoding it has other text, unless all of it so far was ASCII
        if stored.get("stat") == stat_of(now) and stored.get("encoding") == self.unpacker.declared:
            self.known = offset, Prefix([*stored["marks"], offset], bytes.fromhex(stored["hash"]))
            return "same"
        try:
            prefix = _hash_of(self, offset, stored["marks"])
        except SourceChanged:
            return "changed"
        if prefix.digest() != stored["hash"]:
            return "changed"
        self.known = offset, prefix
        return "same" if now.st_size == stored["size"] else "grown"

    def _stat(self) -> os.stat_result:
        return os.fstat(self._descriptor.number)


class Reading:
    """The unpacked bytes of an opened file from ``offset`` on, and the hash of those that were handed out."""

    def __init__(self, file: OpenFile, offset: int) -> None:
        self.file = file
        self.position = offset
        self.is_closed = False
        self._stream = file.bytes_from(offset)
        known = file.known
        if known and known[0] == offset:
            self._prefix = known[1].copy()
        else:
            self._prefix = Prefix([offset])
        self._hashed = self._taken = offset
        self._kept: deque[bytes] = deque()
        self._kept_size = 0
        self._head = self._tail = b""
        self._lock = threading.RLock()
        file.reading = self

    def read(self, size: int, taken: int = 0) -> bytes:
        """Up to ``size`` bytes; none at the end.

        ``taken``: the offset before which all rows were handed on. The bytes before the ``taken`` of the previous call
        are hashed in this one, while the database is busy; hashing a whole batch at its end would delay the next COPY.
        Their fingerprint has been taken by then, because `Prefetcher` continues only after it.

        Raises:
            InvalidArgument: a packed file that is damaged or ends in the middle; text in another encoding.
            SourceChanged: what was read is not what the file holds now.
        """
        data = self.file.read_from(self._stream, size)
        with self._lock:
            if len(self._head) < EDGE and self.position == self._prefix.marks[0] + len(self._head):
                self._head += data[: EDGE - len(self._head)]
            self.position += len(data)
            self._tail = (self._tail + data)[-EDGE:] if len(data) < EDGE else data[-EDGE:]
            self._kept.append(data)
            self._kept_size += len(data)
            self._hash(self._taken)
            self._taken = taken
            while self._kept_size > KEPT:
                self._hash(self._hashed + len(self._kept[0]))
        self.file.check(at_end=not data, quick=bool(data))
        return data

    def prefix(self, offset: int) -> Prefix | None:
        """The hash of all bytes before ``offset``; None where they are no longer kept, or not yet read."""
        with self._lock:
            if not self._hashed <= offset <= self.position:
                return None
            self._hash(offset)
            return self._prefix.copy()

    def _hash(self, offset: int) -> None:
        while self._hashed < offset:
            data, wanted = self._kept.popleft(), offset - self._hashed
            if len(data) > wanted:
                self._kept.appendleft(data[wanted:])
            data = data[:wanted]
            self._prefix.update(data)
            self._hashed += len(data)
            self._kept_size -= len(data)

    def is_held_by(self, file: OpenFile) -> bool:
        """Whether ``file`` holds all that was read of this one."""
        with self._lock:
            prefix, position = self._prefix.copy(), self.position
            for data in self._kept:
                prefix.update(data)
        try:
            return _hash_of(file, position, prefix.marks).digest() == prefix.digest()
        except (SourceChanged, InvalidArgument):
            return False

    def ends_are_held_by(self, file: OpenFile) -> bool:
        """Whether the first and the last bytes that were read are where they were; not for packed files."""
        with self._lock:
            begin, head, tail, position = self._prefix.marks[0], self._head, self._tail, self.position
        return file.read_at(begin, len(head)) == head and file.read_at(position - len(tail), len(tail)) == tail

    def close(self) -> None:
        """End the reading; the file keeps its descriptor for as long as somebody holds the file."""
        self.is_closed = True
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _hash_of(file: OpenFile, end: int, marks: Sequence[int] = (0,)) -> Prefix:
    """The hash of the bytes of ``file`` from the first mark to ``end``.

    Raises:
        SourceChanged: the file is shorter.
    """
    prefix, position = Prefix(marks), marks[0]
    with file.bytes_from(min(position, end)) as stream:
        for number, stop in enumerate([*marks[1:], end]):
            if number:
                prefix.next_part()
            while position < stop:
                data = file.read_from(stream, min(stop - position, 1 << 20))
                if not data:
                    raise SourceChanged(advice(f"{file.name} is shorter than what was read of it"))
                prefix.update(data)
                position += len(data)
    return prefix


def _equal(one: OpenFile, other: OpenFile) -> bool:
    if one.size != other.size:
        return False
    offset = 0
    while data := one.read_at(offset, 1 << 20):
        if other.read_at(offset, len(data)) != data:
            return False
        offset += len(data)
    return True


def advice(what: str) -> str:
    """What to do about a source that has changed while it was read."""
    return (
        f"{what}: the import stopped after its last whole batch: pass --restart --on-conflict update to read the file "
        "as it is now from its start (--restart alone skips rows that are there), or --accept-change to go on"
    )


def text_of(name: str) -> str:
    """A file's name as text that can be printed and stored: its bytes may be no UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def offset_of(cursor: Cursor | None, name: str) -> tuple[int, int, int]:
    """(offset, rows before it, line ends before it) of a reader's cursor; zeros at the start.

    Raises:
        InvalidArgument: the cursor of another kind of source.
    """
    if cursor is None:
        return 0, 0, 0
    match cursor:
        case {"offset": int(offset), "row": int(row)} if offset > 0 and row >= 0:
            line = cursor.get("line", row)
            return offset, row, line if isinstance(line, int) else row
    raise InvalidArgument(
        f'the checkpoint {cursor!r} is not a place in {name}: it looks like {{"offset": 4096, "row": 52}}; '
        "another source has run under this name"
    )


def at(offset: int, row: int, line: int) -> dict[str, int]:
    """The cursor after data row ``row`` (the first is 1), which ends before byte ``offset`` and with line ``line``."""
    return {"offset": offset, "row": row, "line": line}
