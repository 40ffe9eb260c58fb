"""The hash of all bytes that an import has read, over several runs."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b


class Prefix:
    """A running hash in parts: the hash of a part begins with the digest of the part before it."""

    def __init__(self, marks: Sequence[int] = (0,), before: bytes = b"") -> None:
        self.marks = list(marks)
        self._hash = blake2b(before, digest_size=16)

    def update(self, data: bytes) -> None:
        """Hash more bytes."""
        self._hash.update(data)

    def digest(self) -> str:
        """The hash of all bytes so far, in hexadecimal."""
        return self._hash.hexdigest()

    def copy(self) -> Prefix:
        """An independent copy."""
        copied = Prefix(self.marks)
        copied._hash = self._hash.copy()
        return copied

    def next_part(self) -> None:
        """End a part: what follows is hashed after this part's digest."""
        self._hash = blake2b(self._hash.digest(), digest_size=16)
