"""Ctrl-C, SIGTERM and SIGHUP raised where a job is at work: its run ends as failed now, and not a window later."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

import click

T = TypeVar("T")


class Interrupts:
    """Inside of the block a signal is a KeyboardInterrupt that says which; then the exit code is 128 and its number.

    In the event loop of ``run`` it cancels the work, as asyncio does with Ctrl-C; a second one is raised there, too.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._received: list[str] = []
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        # what nohup or a shell's & ignores stays ignored
        numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        self._usual = {number: signal.signal(number, self._interrupt) for number in numbers}
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)
        if self._received and isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
            last = self._received[-1]
            with suppress(OSError):  # after SIGHUP the terminal is gone
                click.echo(f"{self._name}: stopped by {last}", err=True)
            sys.exit(128 + signal.Signals[last])

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """``asyncio.run``, where the task is cancelled."""

        async def known() -> T:
            self._task = asyncio.current_task()
            return await work

        try:
            return asyncio.run(known())
        finally:
            self._task = None

    def _interrupt(self, number: int, _frame: FrameType | None) -> None:
        self._received.append(signal.Signals(number).name)
        why = f"stopped by {self._received[-1]}"
        if self._task is None or len(self._received) > 1:
            raise KeyboardInterrupt(why)
        self._task.cancel(why)
        self._task.get_loop().call_soon_threadsafe(lambda: None)  # it may wait for something else
