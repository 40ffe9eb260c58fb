"""Batches made from a source of rows, one ahead of the database; its twin is written by hand, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeAlias, TypeVar

from pgonce.core.concurrency_async import asked_to_stop
from pgonce.errors import InvalidArgument
from pgonce.seeds.batch import Packed, Packer, is_unpacking, pack
from pgonce.seeds.prefetch import Ahead
from pgonce.seeds.source import NO_CURSOR, Cursor, SeedRow

T = TypeVar("T")
Stream: TypeAlias = AsyncIterable[T] | Iterable[T]
"""What a source of rows may be in this world."""


def packed(stream: Stream[tuple[SeedRow, Cursor]], packer: Packer) -> Stream[Packed]:
    """The batches that ``packer`` makes of ``stream``."""
    return _packed(stream, packer) if isinstance(stream, AsyncIterable) else pack(stream, packer)


async def _packed(rows: AsyncIterable[tuple[SeedRow, Cursor]], packer: Packer) -> AsyncIterator[Packed]:
    try:
        async for row, cursor in rows:
            if done := packer.add(row, cursor):
                yield done
    except (TypeError, ValueError) as error:
        if is_unpacking(error):
            raise InvalidArgument(f"{NO_CURSOR} ({error})") from error
        raise
    if done := packer.finish():
        yield done


@asynccontextmanager
async def ahead(items: Stream[T]) -> AsyncIterator[tuple[AsyncIterator[T], Callable[[], None]]]:
    """``items``: synchronous ones made in a thread, so that they may block, asynchronous ones in a task.

    Each is made when it is asked for, or one ahead, from the call of the second function on.
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
                    await made.join()  # one ahead, not two
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
            yield _taken(take), wanted.set
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return
    thread = Ahead(lambda: iter(items))
    try:
        yield _taken(lambda: asyncio.to_thread(_take, thread)), thread.want
    finally:
        await asyncio.to_thread(thread.close)


class _End:
    """No more items, because of an error or not."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def _take(thread: Ahead[T]) -> T | _End:
    item = thread.take()
    return item[0] if item else _End(None)


async def _taken(take: Callable[[], Awaitable[T | _End]]) -> AsyncIterator[T]:
    while True:
        item = await take()
        if isinstance(item, _End):
            if item.error is not None:
                raise item.error
            return
        yield item
