"""An iterator that is advanced in a thread of its own, one item ahead of whoever takes them."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Advances an iterator while its items are worked on, so that parsing overlaps with the database.

    The next item is made while one is worked on, and no further: two are in memory. ``make`` is called, advanced and
    closed in the one thread: what it opens (a file, an SQLite connection) never meets another one.

    Args:
        make: makes the iterator.
        lockstep: make the next item only when it is asked for.
    """

    def __init__(self, make: Callable[[], Iterator[T]], *, lockstep: bool = False) -> None:
        self._lockstep = lockstep
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
            self._changed.wait_for(lambda: self._stopped or (self._wanted if self._lockstep else not self._made))
            return not self._stopped

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
        """Let the thread end, and wait for it a little: one that blocks in the user's code is left behind."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(1)
