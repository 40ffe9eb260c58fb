"""The claimed events that a consumer has not begun: its executor takes them, and another thread may release them."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from typing import TypeAlias, TypeVar

from pgonce.webhooks.calls import Event
from pgonce.webhooks.registry import Handler

T = TypeVar("T")
Work: TypeAlias = tuple[Event, list[Handler]]
"""An event and its handlers."""
Batch: TypeAlias = tuple[Handler, list[Event]]
"""A handler of lists, and the events of one list."""


def take(work: deque[Work], until: float) -> Work | None:
    """The next event; None after ``until`` (of ``time.monotonic``), or if another thread has released the rest."""
    try:
        return work.popleft() if time.monotonic() < until else None
    except IndexError:
        return None


def take_all(waiting: deque[T]) -> list[T]:
    """All that is left; another thread may take some of it meanwhile."""
    taken = []
    with suppress(IndexError):
        while True:
            taken.append(waiting.popleft())
    return taken


class put_back_on_error:  # noqa: N801 -- a function to its callers; contextlib's generators cost more for each event
    """After an error in the block, put back what was taken: it has not begun."""

    def __init__(self, work: deque[Work], taken: Work | None) -> None:
        self._work, self._taken = work, taken

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None and self._taken:
            self._work.appendleft(self._taken)
