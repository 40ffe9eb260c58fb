"""The few things that wait differently in the two worlds; its twin is written by hand, too."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeAlias, TypeVar

from psycopg import Connection

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


@contextmanager
def time_limit(
    conn: Connection[Any] | None, seconds: float | None, expired: Callable[[BaseException], None]
) -> Iterator[None]:
    """After ``seconds`` cut the connection and call ``expired``; the body ends with a TimeoutError when it ends.

    A thread cannot be interrupted. But its transaction can be ended from outside: the server sees the connection
    close, rolls back and frees the rows, and nothing that the body still does is written.
    """
    if seconds is None:
        yield
        return
    error = TimeoutError(f"the handler took longer than {seconds:g} s")
    over = threading.Event()

    def cut() -> None:
        over.set()
        if conn is not None and not conn.closed:
            with socket.socket(fileno=os.dup(conn.fileno())) as wire:
                wire.shutdown(socket.SHUT_RDWR)
        expired(error)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except BaseException as cause:
        if not over.is_set():
            raise
        _close(conn)
        raise error from cause
    finally:
        timer.cancel()
    if over.is_set():
        _close(conn)
        raise error


def _close(conn: Connection[Any] | None) -> None:
    if conn is not None:
        conn.close()


def asked_to_stop(_: BaseException) -> bool:
    """Whether somebody cancelled this thread; nobody can."""
    return False
