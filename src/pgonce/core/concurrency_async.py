"""Timers, time limits and waits, which differ in sync code: ``concurrency.py`` is written by hand, too."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import Context
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

from psycopg import AsyncConnection

from pgonce.core import concurrency as threads
from pgonce.core.concurrency import alarm
from pgonce.errors import InvalidArgument

T = TypeVar("T")
Result: TypeAlias = Awaitable[T]
"""What a user's function returns."""
Lock = asyncio.Lock
CANCELS = True
"""Whether `repeating` cancels the body; a thread cannot be cancelled."""
LEAVE = 5.0
"""Seconds that the end of a run waits for a heartbeat that hangs, and a cancelled task for a statement of its own."""


class repeating:  # noqa: N801 -- a function to its callers; a generator costs each short run more
    """Run ``action`` every ``seconds`` during the body, in a thread, even if the body blocks the event loop.

    If it returns False, or does not return within ``patience`` seconds, the body is cancelled once. The action is
    repeated while the body cleans up. The CancelledError is not raised; the caller must check whether there was one.
    """

    def __init__(self, action: Callable[[], bool], seconds: float, patience: float) -> None:
        self._action = action
        self._patience = patience
        self._repetition = threads.repeating(self._watched, seconds, patience)
        self._cancelled = self._ended = False

    async def __aenter__(self) -> None:
        self._body, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        self._repetition.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._ended = True
        if thread := self._repetition.stop():
            try:
                await _join(thread)
            except asyncio.CancelledError:
                if not self._take_back():
                    raise
        return isinstance(error, asyncio.CancelledError) and self._take_back()

    def _take_back(self) -> bool:
        """Whether the body was cancelled from here, and not from elsewhere, too."""
        return self._cancelled and not (self._body and self._body.uncancel() > 0)

    def _cancel(self) -> None:
        if self._body and not self._cancelled and not self._ended:
            self._cancelled = True
            self._body.cancel()

    def _cancel_from_thread(self) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._cancel)

    def _watched(self) -> bool:
        too_late = alarm.set(self._patience, self._cancel_from_thread)
        try:
            if not self._action():
                self._cancel_from_thread()
        finally:
            alarm.cancel(too_late)
        return True


@asynccontextmanager
async def in_thread(action: Callable[[], bool], seconds: float) -> AsyncIterator[None]:
    """Run ``action`` every ``seconds`` during the body, in a thread, until it returns False.

    A body that blocks the event loop does not stop it.
    """
    repetition = threads.in_thread(action, seconds)
    repetition.begin()
    try:
        yield
    finally:
        if thread := repetition.stop():
            await _join(thread)


@asynccontextmanager
async def meanwhile(action: Callable[[], Coroutine[Any, Any, bool]], seconds: float) -> AsyncIterator[None]:
    """Run ``action`` every ``seconds`` during the body, until it returns False. The body is not cancelled.

    At the end of the body, wait at most `LEAVE` seconds for an action that has begun.
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
    """Await the result of a callback if it can be awaited."""
    if inspect.isawaitable(result):
        await result


async def isolated(work: Callable[[], Awaitable[T]], context: Context | None = None) -> T:
    """The result of ``work()``, in a task of its own, with ``context``, or with a copy of this task's.

    A context variable that it sets, such as a tenant, does not reach what this task does next. If it cancels "the
    current task", that is its own. A SystemExit goes to the caller: raised by a task, it would end the event loop.
    """

    async def contained() -> tuple[T, None] | tuple[None, BaseException]:
        try:
            return await work(), None
        except BaseException as error:  # noqa: BLE001 -- raised again below
            return None, error

    task = asyncio.get_running_loop().create_task(contained(), context=context)
    result, error = await task
    if error is not None:
        raise error
    return result  # type: ignore[return-value] # of type T where there is no error


async def wait_until_free(lock: asyncio.Lock) -> None:
    """Wait until nobody has the lock, at most `LEAVE` seconds: the event loop closes a left generator by itself."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LEAVE), lock:
            pass


async def _join(thread: threading.Thread) -> None:
    # not in the loop's executor, whose threads may all be busy with the user's work
    gives_up_at = time.monotonic() + LEAVE
    while thread.is_alive() and time.monotonic() < gives_up_at:  # noqa: ASYNC110 -- a thread sets no asyncio.Event
        await asyncio.sleep(0.002)


def call_in_loop(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Run ``work`` in ``loop``, and wait for its result in the calling thread for at most ``seconds``.

    Raises:
        TimeoutError: there is no result yet, because the loop is blocked or the work takes longer, and it is cancelled;
            or the loop has ended.
    """
    try:
        future = asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError as error:
        work.close()
        raise TimeoutError("the event loop has ended") from error
    try:
        return future.result(seconds)
    except CancelledError as error:  # asyncio.run() cancels what is left when its main task has ended
        raise TimeoutError("the event loop has ended") from error
    except BaseException:
        future.cancel()
        raise


def running_loop() -> asyncio.AbstractEventLoop:
    """The event loop of the caller.

    Raises:
        InvalidArgument: it is another library's.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise InvalidArgument(
            "pgonce's asynchronous names need asyncio, and it does not run here: under trio, use the others in a thread"
        ) from None


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which a cancellation of this task does not stop.

    anyio, which FastAPI uses, cancels every await in a cancelled scope, also those that record the failure.
    """
    task = asyncio.create_task(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


async def or_undone(work: Coroutine[Any, Any, T], undo: Callable[[T, BaseException], Awaitable[object]]) -> T:
    """The result of ``work``. If this task is cancelled meanwhile, ``undo`` gets the result, if it comes within 5 s."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError as error:
        await shielded(asyncio.wait({task}, timeout=LEAVE))
        if not task.done():
            task.cancel()
        elif not task.cancelled() and task.exception() is None:
            await undo(task.result(), error)
        raise


async def sleep(seconds: float) -> None:
    """Wait for ``seconds``."""
    await asyncio.sleep(seconds)


def time_limit(
    _conn: AsyncConnection[Any] | None, seconds: float | None, _expired: Callable[[BaseException], Awaitable[None]]
) -> AbstractAsyncContextManager[object]:
    """Cancel the body after ``seconds``: it ends with a TimeoutError, and the connection stays usable."""
    return asyncio.timeout(seconds)


def asked_to_stop(error: BaseException) -> bool:
    """Whether this task was cancelled. A CancelledError without a cancellation is a failure of the handler."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
