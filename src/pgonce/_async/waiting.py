"""The few things that wait differently in the two worlds; its twin is written by hand, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

from psycopg import AsyncConnection

T = TypeVar("T")
Result: TypeAlias = Awaitable[T]
"""What a function of the user's returns in this world."""
Stream: TypeAlias = AsyncIterable[T] | Iterable[T]
"""What a source of rows may be in this world."""


@asynccontextmanager
async def repeating(action: Callable[[], Awaitable[bool]], seconds: float) -> AsyncIterator[None]:
    """Run ``action`` every ``seconds`` beside the body, until it returns False.

    Then the body is cancelled; the CancelledError ends here, and the caller looks at why.
    """
    body = asyncio.current_task()
    lost = False

    async def repeat() -> None:
        nonlocal lost
        while True:
            await asyncio.sleep(seconds)
            if not await action():
                lost = True
                if body:
                    body.cancel()
                return

    beating = asyncio.create_task(repeat())
    try:
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
    except asyncio.CancelledError:
        if not lost or (body and body.uncancel() > 0):  # somebody else's cancellation goes on
            raise


async def iterate(source: Stream[T]) -> AsyncIterator[T]:
    """Both kinds of iterables; a synchronous one is advanced in a thread, so that it may block."""
    if isinstance(source, AsyncIterable):
        async for item in source:
            yield item
        return
    iterator, end = iter(source), object()
    while (item := await asyncio.to_thread(next, iterator, end)) is not end:  # type: ignore[arg-type]
        yield item


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
