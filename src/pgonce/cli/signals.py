"""Signal handling of commands: handle signals during a block, finish the current step, or end a job's run as failed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, Self, TypeVar

import click

from pgonce.cli.output import print_line
from pgonce.core.service import StopRequests

T = TypeVar("T")
STOPS = ("SIGINT", "SIGTERM", "SIGHUP")
"""The signals that ask a command to end."""
_restores: list[Callable[[], None]] = []
"""Those of the blocks of `handled` that are entered, the innermost last."""


@contextmanager
def handled(handler: Callable[[int], object], names: tuple[str, ...] = STOPS) -> Iterator[Callable[[], None]]:
    """Call ``handler`` with the number of each signal that comes during the block.

    A signal that nohup or a shell's & ignores stays ignored; one that the system does not have is left out. The
    yielded function restores the previous handlers before the end of the block.
    """
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    usual = {number: found for number in numbers if (found := signal.getsignal(number)) is not signal.SIG_IGN}

    def restore() -> None:
        for number, before in usual.items():
            signal.signal(number, before)

    for number in usual:
        signal.signal(number, lambda number, _: handler(number))
    _restores.append(restore)
    try:
        yield restore
    finally:
        _restores.remove(restore)
        restore()


def _restore_in_child() -> None:
    # A job may fork. The child would take the SIGTERM by which a multiprocessing.Pool ends it for a request to this
    # command, and its parent would wait for ever.
    for restore in reversed(_restores):
        restore()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_restore_in_child)


@contextmanager
def first_handled(handler: Callable[[int], object]) -> Iterator[None]:
    """Call ``handler`` with the number of the first signal of the block.

    A SIGINT or SIGTERM that is a request of its own (see `StopRequests`) has its usual effect then. A second SIGHUP has
    none: a terminal that is closed sends two (the kernel and the shell do), and systemd one after SIGTERM.
    """
    requests = StopRequests()
    asked = False

    def ask(number: int) -> None:
        nonlocal asked
        if (asked and signal.Signals(number).name == "SIGHUP") or not requests.is_new():
            return
        if asked:
            restore()
            signal.raise_signal(number)
        else:
            asked = True
            handler(number)

    with handled(ask) as restore:
        yield


@contextmanager
def stopping_after_batch() -> Iterator[list[int]]:
    """Yield the signals received during the block. At the first one, a line says that the batch is finished first.

    A second signal has its usual effect, as in ``first_handled``.
    """
    received: list[int] = []

    def remember(number: int) -> None:
        received.append(number)
        with suppress(OSError):  # after SIGHUP the terminal is gone
            click.echo("stopping after this batch; once more to stop at once", err=True)

    with first_handled(remember):
        yield received


class Interrupts:
    """During the block a signal raises KeyboardInterrupt, so that a job's run ends as failed now, not a window later.

    The exit code is then 128 and the signal's number. In the event loop of ``run`` the first one cancels the work, as
    asyncio does with Ctrl-C; a second one is raised, if it is not the same request (see `StopRequests`).
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._received: list[str] = []
        self._requests = StopRequests()
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        self._handlers = ExitStack()
        self._handlers.enter_context(handled(self._interrupt))
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        self._handlers.close()
        if self._received and isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
            last = self._received[-1]
            with suppress(OSError):  # after SIGHUP the terminal is gone
                print_line(f"{self._name}: stopped by {last}", err=True)
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

    def _interrupt(self, number: int) -> None:
        if not self._requests.is_new():  # it would interrupt the recording of the end
            return
        self._received.append(signal.Signals(number).name)
        why = f"stopped by {self._received[-1]}"
        if self._task is None or len(self._received) > 1:
            raise KeyboardInterrupt(why)
        self._task.cancel(why)
        self._task.get_loop().call_soon_threadsafe(lambda: None)  # it may wait for something else
