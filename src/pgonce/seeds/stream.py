"""Batches made from a source of rows, one before the database needs it; its twin is written by hand, too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias, TypeVar

from pgonce.seeds.batch import Builder, build_batches
from pgonce.seeds.prefetch import Prefetcher
from pgonce.seeds.source import Cursor, SeedRow

T = TypeVar("T")
Stream: TypeAlias = Iterable[T]
"""What a source of rows may be here."""


def batches_of(stream: Stream[tuple[SeedRow, Cursor]], builder: Builder[T]) -> Stream[T]:
    """What ``builder`` makes of ``stream``: batches, say."""
    return build_batches(stream, builder)


@contextmanager
def prefetched(items: Stream[T]) -> Iterator[tuple[Iterator[T], Callable[[], None]]]:
    """``items``, made in a thread when they are needed, or one earlier after a call of the second function."""
    thread = Prefetcher(lambda: iter(items))
    try:
        yield _iterate(thread), thread.want
    finally:
        thread.close()


def _iterate(thread: Prefetcher[T]) -> Iterator[T]:
    while item := thread.take():
        yield item[0]
