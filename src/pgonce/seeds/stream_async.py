"""Batches made from a source of rows, one before the database needs it; its twin is written by hand, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeAlias, TypeVar

from pgonce.core.concurrency_async import asked_to_stop
from pgonce.errors import InvalidArgument, SourceUnfinished
from pgonce.seeds.batch import Builder, build_batches, is_unpacking
from pgonce.seeds.prefetch import Prefetcher
from pgonce.seeds.source import NO_CURSOR, Cursor, SeedRow

T = TypeVar("T")
Stream: TypeAlias = AsyncIterable[T] | Iterable[T]
"""What a source of rows may be here."""


def batches_of(stream: Stream[tuple[SeedRow, Cursor]], builder: Builder[T]) -> Stream[T]:
    """What ``builder`` makes of ``stream``: batches, say."""
    return _batches_of(stream, builder) if isinstance(stream, AsyncIterable) else build_batches(stream, builder)


async def _batches_of(rows: AsyncIterable[tuple[SeedRow, Cursor]], builder: Builder[T]) -> AsyncIterator[T]:
    unfinished: SourceUnfinished | None = None
    try:
        async for row, cursor in rows:
            if done := builder.add(row, cursor):
                yield done
    except SourceUnfinished as error:
        unfinished = error
    except (TypeError, ValueError) as error:
        if is_unpacking(error):
            raise InvalidArgument(f"{NO_CURSOR} ({error})") from error
        raise
    if done := builder.finish():
        yield done
    if unfinished:
        raise unfinished


@asynccontextmanager
async def prefetched(items: Stream[T]) -> AsyncIterator[tuple[AsyncIterator[T], Callable[[], None]]]:
    """Iterate over ``items``: synchronous ones in a thread, because they may block, asynchronous ones in a task.

    Each item is produced when it is needed. A call of the yielded function lets the next one be produced already.
    """
    if isinstance(items, AsyncIterable):
        made: asyncio.Queue[T | _End] = asyncio.Queue(1)
        wanted = asyncio.Event()

        async def make() -> None:
            last = _End(None)
            try:
                async for item in items:
                    wanted.clear()
                    await made.put(item)
                    await made.join()  # one early, not two
                    await wanted.wait()
            except BaseException as error:
                if asked_to_stop(error):
                    raise
                last = _End(error)  # raised where the items are taken
            await made.put(last)

        async def take() -> T | _End:
            if made.empty():
                wanted.set()
            item = await made.get()
            made.task_done()
            return item

        task = asyncio.create_task(make())
        try:
            yield _iterate(take), wanted.set
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return
    thread = Prefetcher(lambda: iter(items))
    try:
        yield _iterate(lambda: asyncio.to_thread(_take, thread)), thread.want
    finally:
        await asyncio.to_thread(thread.close)


class _End:
    """No more items, because of an error or not."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def _take(thread: Prefetcher[T]) -> T | _End:
    item = thread.take()
    return item[0] if item else _End(None)


async def _iterate(take: Callable[[], Awaitable[T | _End]]) -> AsyncIterator[T]:
    while True:
        item = await take()
        if isinstance(item, _End):
            if item.error is not None:
                raise item.error
            return
        yield item
