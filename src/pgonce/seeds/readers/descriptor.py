"""An open file by its descriptor, read by position: pipes are copied to a temporary file first."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
import time
import weakref
from io import RawIOBase
from pathlib import Path
from typing import Any, Protocol

from pgonce.errors import InvalidArgument

TICK = 0.05
"""Seconds. A change within one tick of the kernel's clock (at most 10 ms) leaves the times of a file as they were."""


class Descriptor:
    """A descriptor that is closed with its last reference: a source may be dropped in the middle of a file."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.close = weakref.finalize(self, os.close, number)
        """Close it now; more than once does nothing."""


def open_file(path: Path) -> tuple[Descriptor, bool]:
    """The descriptor, and whether it is of a pipe's copy."""
    try:
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        opened = Descriptor(os.dup(0) if str(path) == "-" else os.open(path, flags))
        kind = os.fstat(opened.number).st_mode
        if stat.S_ISDIR(kind):
            raise InvalidArgument(is_a_folder(path))
        if stat.S_ISREG(kind) and str(path) != "-":
            return opened, False
        with tempfile.TemporaryFile(prefix="pgonce-") as copy:  # it can be read twice, and from an offset on
            while data := os.read(opened.number, 1 << 20):
                copy.write(data)
            copy.flush()
            return Descriptor(os.dup(copy.fileno())), True
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror or error}") from error


def is_a_folder(path: Path) -> str:
    """The message for a folder. Its files are not looked for: a folder that Spark wrote holds more than the data."""
    return f"{path} is a folder: load its files by a pattern, such as '{path}/*.csv'"


def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """Up to ``size`` bytes from ``offset`` on. The positions of other readers do not change."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    with _SEEKING:  # Windows has one position for all
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)


_SEEKING = threading.Lock()


def times_of(found: os.stat_result) -> list[int]:
    """A file's size, and when it was last changed: other after any change but one within a tick of the clock."""
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def stat_of(found: os.stat_result) -> list[int]:
    """What ``times_of`` returns, after the numbers of the device and the file."""
    return [found.st_dev, found.st_ino, *times_of(found)]


def is_settled(found: os.stat_result) -> bool:
    """Whether the last change is longer ago than a tick, so that the next one will show."""
    return time.time() - max(found.st_mtime, found.st_ctime) > TICK


class Positioned(Protocol):
    """What is read by position."""

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    def read_at(self, offset: int, size: int, /) -> bytes:
        """Up to ``size`` bytes."""
        ...


class RawFile(RawIOBase):
    """A descriptor as a stream with a position of its own."""

    def __init__(self, file: Positioned) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, or all; not by way of ``readinto``, which would copy them twice."""
        if size < 0:
            return self.readall()
        data = self._file.read_at(self._position, size)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """The next bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to ``offset``."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position
