"""Runs statements at the same time, in real sessions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg

from tests.conftest import is_waiting_for_lock, wait_until

T = TypeVar("T")
Connection = psycopg.Connection[Any]
Open = Callable[..., Connection]

# A session that must not wait for a lock: it fails instead. The limit does not measure speed; it only has to end.
IMPATIENT = "-c lock_timeout=10s"


def together(sessions: list[Connection], work: Callable[[Connection], T]) -> list[T]:
    """Run ``work`` in all sessions, started at the same moment; returns what each returned."""
    gun = threading.Barrier(len(sessions))

    def run(conn: Connection) -> T:
        conn.execute(
            "set lock_timeout = '60s'"
        )  # this also warms the session up, so that only the work itself is in the race
        gun.wait(60)
        return work(conn)

    with ThreadPoolExecutor(len(sessions)) as pool:
        return list(pool.map(run, sessions))


@contextmanager
def waiting(observer: Connection, waiter: Connection, work: Callable[[], T]) -> Iterator[Future[T]]:
    """Start ``work`` in the session ``waiter``. The block begins when it waits for a lock, and must release it."""
    with background(work, waiter.cancel) as future:
        wait_until(lambda: future.done() or is_waiting_for_lock(observer, waiter), "the other session waits for a lock")
        assert not future.done(), f"it did not wait: {future}"
        yield future


@contextmanager
def background(work: Callable[[], T], cancel: Callable[[], None]) -> Iterator[Future[T]]:
    """Start ``work`` in a thread that ends with the block; ``cancel`` ends it when the block fails."""
    with ThreadPoolExecutor(1) as pool:
        try:
            yield (future := pool.submit(work))
            future.exception(60)
        except BaseException:
            cancel()
            raise


def value(conn: Connection, query: str, *arguments: Any) -> Any:
    """The first column of the query's first row; None when there is no row."""
    row = conn.execute(query.encode(), arguments or None).fetchone()
    return row[0] if row else None
