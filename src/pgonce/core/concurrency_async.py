"""The few things that wait differently in the two worlds; its twin is written by hand, too."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias, TypeVar

from psycopg import AsyncConnection

T = TypeVar("T")
Result: TypeAlias = Awaitable[T]
"""What a function of the user's returns in this world."""
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


@asynccontextmanager
async def meanwhile(action: Callable[[], Coroutine[Any, Any, bool]], seconds: float) -> AsyncIterator[None]:
    """Run ``action`` every ``seconds`` during the body, until it returns False. The body is not cancelled.

    At the end of the body an action that has begun is waited for, at most `LEAVE` seconds.
    """
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []

    async def repeat() -> None:
        while not ended and await action():
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), seconds)

    def begin() -> None:
        tasks.append(loop.create_task(repeat()))

    ended, over = False, asyncio.Event()
    timer = loop.call_later(seconds, begin)  # no task for a body that is shorter
    try:
        yield
    finally:
        ended = True
        over.set()
        timer.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LEAVE)


async def finish(result: object) -> None:
    """Await ``result``, what a callback returned, where it can be awaited."""
    if inspect.isawaitable(result):
        await result


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
