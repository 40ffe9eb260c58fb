"""The few things that wait differently in the two worlds; its twin is written by hand, too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeAlias, TypeVar

T = TypeVar("T")
Result: TypeAlias = Annotated[T, "returned as it is"]
"""What a function of the user's returns in this world."""
Stream: TypeAlias = Iterable[T]
"""What a source of rows may be in this world."""


@contextmanager
def repeating(action: Callable[[], bool], seconds: float) -> Iterator[None]:
    """Run ``action`` every ``seconds`` beside the body, in a thread, until it returns False.

    A thread cannot be cancelled: the body looks at ``run.lost``, and its transactions refuse to commit.
    """
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            if not action():
                return

    beating = threading.Thread(target=repeat, name="pgonce heartbeat", daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()


def iterate(source: Stream[T]) -> Iterator[T]:
    """The source itself; the other world has two kinds."""
    return iter(source)


def sleep(seconds: float) -> None:
    """Wait for ``seconds``."""
    time.sleep(seconds)
