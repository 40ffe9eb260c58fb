"""Looking a thing up by its name."""

from __future__ import annotations

from typing import TypeVar

from pgonce.errors import NotFound

V = TypeVar("V")


def get_named(found: dict[str, V], name: str, kind: str) -> V:
    """The ``kind`` (such as "job") called ``name``.

    Raises:
        NotFound: there is none; the message lists the names that exist.
    """
    if name not in found:
        raise NotFound(f"there is no {kind} {name!r} in this app; it has: {', '.join(sorted(found)) or 'none'}")
    return found[name]
