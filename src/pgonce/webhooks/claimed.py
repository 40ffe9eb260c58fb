"""The claimed events that a consumer has not begun: its executor takes them, and another thread may release them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from pgonce.webhooks.calls import Event
from pgonce.webhooks.registry import Handler

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


@contextmanager
def put_back_on_error(work: deque[Work], taken: Work | None) -> Iterator[None]:
    """After an error in the block, put back what was taken: it has not begun."""
    try:
        yield
    except BaseException:
        if taken:
            work.appendleft(taken)
        raise
