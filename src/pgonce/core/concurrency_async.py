"""The few things that wait differently in the two worlds; its twin is written by hand, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias, TypeVar

from psycopg import AsyncConnection

from pgonce.errors import InvalidArgument
from pgonce.seeds.batch import Packed, Packer, is_unpacking, pack
from pgonce.seeds.prefetch import Ahead
from pgonce.seeds.source import NO_CURSOR, Cursor, SeedRow

T = TypeVar("T")
Result: TypeAlias = Awaitable[T]
"""What a function of the user's returns in this world."""
Stream: TypeAlias = AsyncIterable[T] | Iterable[T]
"""What a source of rows may be in this world."""
CANCELS = True
"""Whether `repeating` cancels the body; a thread can only be told."""
LEAVE = 5.0
"""Seconds that the end of a run waits for a heartbeat that hangs."""


@asynccontextmanager
async def repeating(
    action: Callable[[], Coroutine[Any, Any, bool]], seconds: float, patience: float
) -> AsyncIterator[None]:
    """Run ``action`` every ``seconds`` beside the body.

    When it returns False, or nothing within ``patience`` seconds, the body is cancelled, once, and the action goes on
    while the body cleans up; the CancelledError ends here, and the caller looks at why.
    """
    body = asyncio.current_task()
    loop = asyncio.get_running_loop()
    told = False
    tasks: list[asyncio.Task[Any]] = []

    async def repeat() -> None:
        nonlocal told
        while True:
            # in a task of its own: where the server hangs, psycopg waits for its answer even when it is cancelled
            task = loop.create_task(action())
            tasks[1:] = [task]
            while not task.done():
                await asyncio.wait({task}, timeout=patience)
                if not told and not (task.done() and task.result()):
                    told = True
                    if body:
                        body.cancel()
            await asyncio.sleep(seconds)

    def begin() -> None:
        tasks[:] = [loop.create_task(repeat())]

    # the task is made when the first call is due: a short run never needs it
    timer = loop.call_later(seconds, begin)
    try:
        try:
            yield
        finally:
            timer.cancel()
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=LEAVE)
    except asyncio.CancelledError:
        if not told or (body and body.uncancel() > 0):  # somebody else's cancellation goes on
            raise


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


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which a cancellation of this task does not stop.

    anyio, and with it FastAPI, cancels every await of a cancelled scope anew: also those that record the failure.
    """
    task = asyncio.create_task(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


async def sleep(seconds: float) -> None:
    """Wait for ``seconds``."""
    await asyncio.sleep(seconds)


@asynccontextmanager
async def time_limit(
    _conn: AsyncConnection[Any] | None, seconds: float | None, _expired: Callable[[BaseException], Awaitable[None]]
) -> AsyncIterator[None]:
    """Cancel the body after ``seconds``: it ends with a TimeoutError, and the connection stays usable."""
    async with asyncio.timeout(seconds):
        yield


def asked_to_stop(error: BaseException) -> bool:
    """Whether somebody cancelled this task; a CancelledError that nobody asked for is the handler's own failure."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
