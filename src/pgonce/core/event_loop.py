"""The event loop that runs all async handlers and async jobs of a process, and a thread that reports what blocks it.

An async engine, a pool or an HTTP client of a module belongs to the event loop that used it first. With one loop
for each run, the second run of a job failed. With a loop beside the web application's, a shared engine crashed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from pgonce.core.failures import LIBRARIES, OURS

T = TypeVar("T")

BLOCKED = 1.0
"""Seconds that a function may block the loop before a warning names it."""
_WARN_EVERY = 60.0
"""Seconds between two warnings about the same function."""

log = logging.getLogger("pgonce")


class EventLoop:
    """An event loop, running in the thread with this identity, that other threads submit work to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        self.loop = loop
        self._thread = thread
        self._closed = threading.Event()
        self._warned: dict[str, float] = {}

    @classmethod
    def running(cls) -> EventLoop:
        """The loop of the caller, which is a coroutine or a callback."""
        return cls(asyncio.get_running_loop(), threading.get_ident())

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``work`` as a task of the loop; called in any thread."""
        return asyncio.run_coroutine_threadsafe(_contained(work), self.loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``.

        Raises:
            RuntimeError: the caller is in the loop's own thread, and would wait for itself.
        """
        if threading.get_ident() == self._thread:
            work.close()
            raise RuntimeError("plain code in an event loop cannot wait for asynchronous work: call it in a thread")
        return self.submit(work).result()

    def watch(self) -> None:
        """Log a warning whenever a function blocks the loop, until ``close``."""
        threading.Thread(target=self._watch, name="pgonce event loop watch", daemon=True).start()

    def close(self) -> None:
        """End the watch."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(BLOCKED):
            reached = threading.Event()
            try:
                self.loop.call_soon_threadsafe(reached.set)
            except RuntimeError:  # the loop is closed
                return
            if not reached.wait(BLOCKED):
                self._warn(_blocking(sys._current_frames().get(self._thread)))  # noqa: SLF001 -- documented
                while not (reached.wait(BLOCKED) or self._closed.is_set() or self.loop.is_closed()):
                    pass

    def _warn(self, found: str | None) -> None:
        if found is None or time.monotonic() - self._warned.get(found, -_WARN_EVERY) < _WARN_EVERY:
            return
        self._warned[found] = time.monotonic()
        log.warning(
            "%s blocks the event loop: for over %g s no other async handler or job could go on; "
            "make it a plain function, or await what it waits for",
            found,
            BLOCKED,
        )


async def _contained(work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:  # asyncio would end the loop with it, and all other work
        raise RuntimeError(f"an async handler or job raised {type(error).__name__}") from error


def _blocking(frame: FrameType | None) -> str | None:
    """The application's function that pgonce has called, and its current line; None if there is none."""
    stack: list[FrameType] = []
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    files = [each.f_code.co_filename for each in stack]
    if not any(file.startswith(OURS) and file != __file__ for file in files):
        return None  # the web application's own code: not ours to report
    theirs = [each for each in stack if not each.f_code.co_filename.startswith((OURS, *LIBRARIES, "<"))]
    if not theirs:
        return None
    handler, line = theirs[-1], theirs[0]
    name = f"{handler.f_globals.get('__name__', '?')}.{handler.f_code.co_qualname}"
    return f"{name} ({Path(line.f_code.co_filename).name}:{line.f_lineno})"


of_worker: ContextVar[EventLoop | None] = ContextVar("pgonce_event_loop", default=None)
"""Set in a worker's threads: the loop of its async handlers."""
_lock = threading.Lock()
_background: EventLoop | None = None


def background() -> EventLoop:
    """The loop of this process. It runs in its own thread until the end of the process."""
    global _background  # noqa: PLW0603 -- one for each process is the point
    with _lock:
        if _background is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_run_forever, args=[loop], name="pgonce event loop", daemon=True)
            thread.start()
            _background = EventLoop(loop, thread.ident or 0)
            _background.watch()
        return _background


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    while not loop.is_closed():
        try:
            loop.run_forever()
        except BaseException:  # sys.exit() in a task that a handler started
            log.exception("an async handler or job tried to end the event loop; the loop goes on")


def _forget() -> None:
    """In a forked child: the thread of the parent's loop does not exist there."""
    global _background, _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _background = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
