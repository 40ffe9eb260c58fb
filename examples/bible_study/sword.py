"""Reads SWORD modules, the free texts in Debian's `sword-*` packages, starting at any entry.

`mod2imp` is not used, for two reasons. It prints a module from its first entry, so a resume would read everything
again. And it relies on the module's .conf: that of Matthew Henry's commentary says `zCom4` (sizes of four bytes), but
the files have sizes of two bytes. The result is 410 MB of shifted text.

Formats: all numbers little-endian. zLD (a dictionary): `.idx` holds (offset, size) into `.dat`, one pair per key in
order; `.dat` holds the key, CR LF, and (block, entry); `.zdx` holds (offset, size) of each zlib block in `.zdt`,
which is a count, that many (offset, size), and the texts. zCom (a commentary): `.?zv` holds (block, start, size) for
every place, `.?zs` (offset, packed size, size) of each zlib block in `.?zz`. Verses that share a text point to the same
bytes.
"""

from __future__ import annotations

import html
import os
import re
import struct
import zlib
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from examples.bible_study.missing import NotInstalled
from examples.bible_study.versification import ENTRIES, TOTAL


class Entry(NamedTuple):
    """One text of a commentary and the numbers of the first and the last place that share it."""

    first: int
    last: int
    markup: str


class Dictionary:
    """A zLD module whose keys are numbers, such as Strong's; open it in a `with` block or let it be collected.

    Raises `NotInstalled` if its files are missing; `package` is the Debian package that contains them.
    """

    def __init__(self, module: str, package: str) -> None:
        self._base = _folder(f"lexdict/zld/{module}", "dict.idx", package) / "dict"
        index, keys = self._read("idx"), self._read("dat")
        self._places: list[tuple[int, int, int]] = []  # (number, block, entry in the block)
        for offset, size in struct.iter_unpack("<II", index):
            key, _, where = keys[offset : offset + size].partition(b"\r\n")
            self._places.append((int(key), *struct.unpack_from("<II", where)))

    def after(self, number: int) -> Iterator[tuple[int, str]]:
        """(number, markup) of every entry after `number`, in order; a number that occurs twice is yielded twice."""
        at = -1
        offsets = block = b""
        with self._base.with_suffix(".zdt").open("rb") as texts:
            for key, wanted, entry in self._places:
                if key <= number:
                    continue
                if wanted != at:
                    offsets = offsets or self._read("zdx")
                    block, at = _block(texts.fileno(), *struct.unpack_from("<II", offsets, 8 * wanted)), wanted
                start, size = struct.unpack_from("<II", block, 4 + 8 * entry)
                yield key, block[start : start + size].rstrip(b"\0").decode()

    def _read(self, suffix: str) -> bytes:
        return self._base.with_suffix(f".{suffix}").read_bytes()


class Commentary:
    """A zCom module in the King James numbering.

    Raises `NotInstalled` if its files are missing; `package` is the Debian package that contains them.
    """

    def __init__(self, module: str, package: str) -> None:
        folder = _folder(f"comments/zcom/{module}", "ot.?zs", package)
        [first] = folder.glob("ot.?zs")
        # the letter says how the texts were grouped into blocks: by book or by chapter
        self._files = [folder / f"{testament}.{first.suffix[1]}z" for testament in ("ot", "nt")]

    def after(self, number: int) -> Iterator[Entry]:
        """The texts that begin after place `number`, in order; not the rest of a text that includes this place."""
        ends = list(accumulate(ENTRIES))
        for files, count, end in zip(self._files, ENTRIES, ends, strict=True):
            if number < end - 1:
                yield from _texts(files, count, end - count, number)

    def __len__(self) -> int:
        return TOTAL


def _texts(files: Path, count: int, first: int, number: int) -> Iterator[Entry]:
    places = files.with_suffix(files.suffix + "v").read_bytes()
    offsets = files.with_suffix(files.suffix + "s").read_bytes()
    width = len(places) // count  # 10 or 12; computed, because the .conf is not always right
    format_ = "<IIH" if width == 10 else "<III"
    at, block = -1, b""
    here = max(number - first, -1)
    shared = struct.unpack_from(format_, places, here * width) if here >= 0 else None
    with files.with_suffix(files.suffix + "z").open("rb") as texts:
        while (here := here + 1) < count:
            found = struct.unpack_from(format_, places, here * width)
            wanted, start, size = found
            if not size or found == shared:
                continue
            shared, last = found, here
            while last + 1 < count and struct.unpack_from(format_, places, (last + 1) * width) == found:
                last += 1
            if wanted != at:
                offset, packed, _ = struct.unpack_from("<III", offsets, 12 * wanted)
                block, at = _block(texts.fileno(), offset, packed), wanted
            yield Entry(first + here, first + last, block[start : start + size].decode())


def _block(file: int, offset: int, size: int) -> bytes:
    return zlib.decompress(os.pread(file, size, offset))


def _folder(path: str, pattern: str, package: str) -> Path:
    """The module's folder: under SWORD_PATH, as in SWORD's own tools, or in Debian's default folder."""
    folder = Path(os.environ.get("SWORD_PATH") or "/usr/share/sword") / "modules" / path
    if not list(folder.glob(pattern)):
        raise NotInstalled(f"{path.rpartition('/')[2]} is not installed: run apt install {package}")
    return folder


_BREAK = re.compile(r"<(?:div|lb|title|lg|l|item|p)\b[^>]*>|</title>")
_TAG = re.compile(r"<[^>]*>")


def plain(markup: str) -> str:
    """The text of OSIS or TEI markup: one line per paragraph, single spaces, no tags; '' if it is only markup."""
    lines = _TAG.sub("", _BREAK.sub("\v", " ".join(markup.split()))).split("\v")
    return "\n".join(filter(None, (" ".join(html.unescape(line).split()) for line in lines)))
