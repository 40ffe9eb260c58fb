"""Advances an iterator in its own thread, one item before it is needed."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


YIELD_SECONDS = 0.000001
"""The kernel makes about 0.05 ms of it, after some hundred rows that took 0.1 ms to format."""


def yield_to_sender() -> None:
    """Let the thread that feeds the database run first; called chunk by chunk by the one that makes the next batch.

    A socket's buffer holds what PostgreSQL reads in a millisecond or two, but a thread that wants the interpreter back
    from one that computes waits for 5 ms (``sys.getswitchinterval``): the server idled for a third of the time. A
    sleep of 0 is not enough: the interpreter is taken back before the other thread has woken up.
    """
    time.sleep(YIELD_SECONDS)


class Prefetcher(Generic[T]):
    """Advances an iterator while its items are worked on, so that parsing overlaps with the database.

    The next item is made when it is taken, or from ``want`` on while the one before is worked on, and no further: two
    are in memory. ``make`` is called, advanced and closed in the one thread: what it opens (a file, an SQLite
    connection) is never used by another one.
    """

    def __init__(self, make: Callable[[], Iterator[T]]) -> None:
        self._wanted = False
        self._changed = threading.Condition()
        self._made: list[T] = []
        self._stopped = self._ended = False
        self._error: BaseException | None = None
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run, make), name="pgonce source", daemon=True)
        self._thread.start()

    def _run(self, make: Callable[[], Iterator[T]]) -> None:
        try:
            items = make()
            try:
                for item in items:
                    if not self._hand_over(item):
                        break
            finally:
                if close := getattr(items, "close", None):
                    close()
        except BaseException as error:  # noqa: BLE001 -- it is raised in the thread that takes the items
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _hand_over(self, item: T) -> bool:
        """Wait until it is taken; False when no more are wanted."""
        with self._changed:
            self._made.append(item)
            self._wanted = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopped or (self._wanted and not self._made))
            return not self._stopped

    def want(self) -> None:
        """Allow the next item to be made while the current one is processed."""
        with self._changed:
            self._wanted = True
            self._changed.notify_all()

    def take(self) -> list[T]:
        """The next item as a list of one; an empty list at the end. Raises what the iterator has raised."""
        with self._changed:
            if not self._made:
                self._wanted = True
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._made or self._ended or self._stopped)
            taken, self._made = self._made, []
            self._changed.notify_all()
            if not taken and self._error is not None:
                raise self._error
            return taken

    def close(self) -> None:
        """End the thread, and wait a second for it. A thread that blocks in the user's code is abandoned."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(1)
