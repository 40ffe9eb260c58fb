"""Decompresses and decodes files, between the bytes on the disk and those that are read."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from pgonce.errors import InvalidArgument
from pgonce.seeds.readers.descriptor import Positioned, RawFile

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
"""Endings of packed files, after the ending that says what is in them."""
_PACKED_BY = {b"\x1f\x8b": ".gz", b"PK\3\4": ".zip", b"(\xb5/\xfd": ".zst", b"\xfd7zX": ".xz"}
"""By the bytes with which such a file begins, and no text does."""
BLOCK = 128 * 1024
NOT_TEXT = "\udcff"
"""In place of bytes that no character has in the file's encoding: the byte ff, which no UTF-8 has."""
codecs.register_error("pgonce_not_text", lambda error: (NOT_TEXT, getattr(error, "end", 0)))


class Unpacker:
    """How the bytes of a file become UTF-8.

    Args:
        name: the file's, for its ending.
        encoding: of its text; None: UTF-8, or that of the byte order mark with which the file begins.

    Raises:
        InvalidArgument: Python does not know that encoding, or it is not one of text.
    """

    def __init__(self, name: str, encoding: str | None = None, *, text: bool = True) -> None:
        ending = Path(name).suffix.lower()
        self.packing = ending if ending in PACKED else ""
        self.encoding = self.declared = _known(encoding) if encoding else None
        self._name, self._wanted, self._text = name, encoding, text

    @property
    def is_plain(self) -> bool:
        """Whether an offset of the text is the same offset in the file."""
        return not self.packing and self.encoding in {None, "utf-8"}

    def fresh(self) -> Unpacker:
        """A new one with the same arguments, for another file: it finds that file's encoding."""
        return Unpacker(self._name, self._wanted, text=self._text)

    def unpack(self, file: Positioned) -> BinaryIO:
        """The text of ``file``, in UTF-8."""
        stream = self._unpacked(RawFile(file))
        if not self._text:
            return stream
        begin = _begin_of(stream)
        if not self.packing:
            self._refuse_packed(begin)
        marked = _by_mark(begin)
        if self.declared and marked and not self.declared.startswith(marked):
            said = f"the text begins with the byte order mark of {marked}, so it is not {self.declared}"
            raise InvalidArgument(f"{said}: leave --encoding out")
        self.encoding = self.declared or marked
        stream = self._unpacked(RawFile(file))  # not seek(0), which gzip ignores after an error
        if self.encoding in {None, "utf-8"}:
            return stream
        return cast(BinaryIO, _Recoded(stream, str(self.encoding)))

    def _refuse_packed(self, begin: bytes) -> None:
        """Refuse a packed file whose name does not say so: its bytes would be those of some encoding."""
        for magic, ending in _PACKED_BY.items():
            if begin.startswith(magic):
                name = "standard input" if self._name == "-" else self._name
                sheet = ", or, of a spreadsheet, save it as CSV" if ending == ".zip" else ""
                raise InvalidArgument(f"{name} is packed as {ending} files are: unpack it first{sheet}")

    def _unpacked(self, raw: io.RawIOBase) -> BinaryIO:
        if not self.packing:
            return cast(BinaryIO, raw)  # without a buffer: its bytes would be from before a replacement
        stream: Any = io.BufferedReader(raw, BLOCK)
        match self.packing:
            case ".gz":
                if not stream.peek(1):
                    raise InvalidArgument(f"{self._name} is damaged or not finished: it is empty")
                stream = gzip.GzipFile(fileobj=stream)
            case ".bz2":
                stream = _Streams(stream, bz2.BZ2Decompressor)
            case ".xz":
                stream = _Streams(stream, lzma.LZMADecompressor, padding=b"\0")
            case ".zst":
                stream = _Streams(stream, _zstandard())
            case ".zip":
                stream = _only_member(stream)
        return cast(BinaryIO, stream)


class _Streams(io.RawIOBase):
    """One compressed stream after another, unpacked.

    bz2.open, lzma.open and zstd.open end without a word where what follows a stream is not another one: the rest of a
    damaged file of several streams, as pbzip2 and pixz write them, would be missing. ``make`` makes the decompressor
    of one stream; ``padding`` may stand between two streams.
    """

    def __init__(self, stream: BinaryIO, make: Callable[[], Any], padding: bytes = b"") -> None:
        self._stream, self._make, self._padding = stream, make, padding
        self._decompressor: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes, at least one, or 0 at the end.

        Raises:
            EOFError, OSError, lzma.LZMAError, ZstdError: the bytes are not whole streams.
        """
        while True:
            packed = self._next_packed()
            if packed is None:
                return 0
            data = self._decompressor.decompress(packed, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)

    def _next_packed(self) -> bytes | None:
        """What the decompressor is to be given, a new one where a stream has ended; None at the end of the file."""
        current = self._decompressor
        if current is not None and not current.eof:
            packed = self._stream.read(BLOCK) if current.needs_input else b""
            if current.needs_input and not packed:
                raise EOFError("it ends in the middle")
            return packed
        packed = b"" if current is None else self._without_padding(bytes(current.unused_data))
        while not packed and (more := self._stream.read(BLOCK)):
            packed = more if current is None else self._without_padding(more)
        if not packed:
            if current is None:
                raise EOFError("it is empty")
            return None
        self._decompressor = self._make()
        return packed

    def _without_padding(self, packed: bytes) -> bytes:
        return packed.lstrip(self._padding) if self._padding else packed

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Recoded(io.RawIOBase):
    """Text in another encoding as UTF-8. ``read`` gives at least one byte, or none at the end.

    Bytes that are not a character, also half a character at the end, become a byte that never occurs in UTF-8. So their
    line is a bad row.
    """

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("pgonce_not_text")
        self._rest = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._rest and not self._ended:
            self._rest = self._next(size)
        if size < 0:
            size = len(self._rest)
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def _next(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._ended = not data
        return self._decoder.decode(data, final=self._ended).encode("utf-8", "surrogateescape")

    def close(self) -> None:
        self._stream.close()
        super().close()


def _known(encoding: str) -> str:
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)  # it refuses those that make bytes of bytes: base64, zlib
        return codecs.lookup(encoding).name
    except LookupError:
        raise InvalidArgument(
            f"there is no encoding {encoding!r}: pass one that Python knows, such as cp1252 or utf-16"
        ) from None


def _begin_of(stream: BinaryIO) -> bytes:
    begin = b""
    try:
        while len(begin) < 4 and (more := stream.read(4 - len(begin))):
            begin += more
    except damaged():
        pass  # it is said when the bytes are read
    return begin


def _by_mark(begin: bytes) -> str | None:
    """The encoding that a byte order mark tells; that of UTF-32 begins with that of UTF-16."""
    if begin.startswith(codecs.BOM_UTF8):
        return "utf-8"
    if begin in {codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE}:
        return "utf-32"
    return "utf-16" if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else None


def _zstandard() -> Callable[[], Any]:
    try:
        from compression import zstd  # type: ignore[import-not-found] # from Python 3.14 on
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            raise InvalidArgument(
                ".zst needs a library: pip install 'pgonce[zstd]', or unpack the file with zstd -d"
            ) from None
    made: Callable[[], Any] = zstd.ZstdDecompressor
    return made


def _only_member(stream: BinaryIO) -> Any:
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise InvalidArgument(f"the .zip is damaged or not finished: {error}") from error
    # macOS adds a file of attributes for each file
    members = [each for each in archive.infolist() if not each.is_dir() and not each.filename.startswith("__MACOSX/")]
    if not members:
        raise InvalidArgument("the .zip has no file in it")
    if len(members) > 1:
        raise InvalidArgument(
            f"the .zip has {len(members)} files: unpack it, and load them by a pattern: 'folder/*.csv'"
        )
    try:
        return archive.open(members[0])
    except NotImplementedError as error:
        raise InvalidArgument(f"the .zip cannot be read ({error}): unpack it, and load its file") from error
    except RuntimeError as error:
        raise InvalidArgument("the .zip is encrypted: unpack it, and load its file") from error


def damaged() -> tuple[type[Exception], ...]:
    """What the libraries raise about bytes that they cannot unpack; bz2 has nothing better than OSError."""
    known = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
    loaded = (sys.modules.get(name) for name in ("compression.zstd", "backports.zstd"))
    return (*known, *(module.ZstdError for module in loaded if module))
