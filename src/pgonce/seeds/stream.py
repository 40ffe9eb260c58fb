"""Batches made from a source of rows, one ahead of the database; its twin is written by hand, too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias, TypeVar

from pgonce.seeds.batch import Packed, Packer, pack
from pgonce.seeds.prefetch import Ahead
from pgonce.seeds.source import Cursor, SeedRow

T = TypeVar("T")
Stream: TypeAlias = Iterable[T]
"""What a source of rows may be in this world."""


def packed(stream: Stream[tuple[SeedRow, Cursor]], packer: Packer) -> Stream[Packed]:
    """The batches that ``packer`` makes of ``stream``."""
    return pack(stream, packer)


@contextmanager
def ahead(items: Stream[T]) -> Iterator[tuple[Iterator[T], Callable[[], None]]]:
    """``items``, made in a thread when they are asked for, or one ahead, from the call of the second function on."""
    thread = Ahead(lambda: iter(items))
    try:
        yield _taken(thread), thread.want
    finally:
        thread.close()


def _taken(thread: Ahead[T]) -> Iterator[T]:
    while item := thread.take():
        yield item[0]
