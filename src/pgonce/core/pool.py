"""A connection pool that works after a fork, and a check that refuses the pools that do not."""

from __future__ import annotations

import os
import threading
import time
from typing import Any
from weakref import WeakSet

from psycopg import Connection
from psycopg_pool import ConnectionPool

from pgonce.errors import InvalidArgument


class ForkablePool(ConnectionPool[Connection[Any]]):
    """In a forked child it starts again, with connections and threads of the child's own.

    Prefork servers (Celery, gunicorn with preload) import the application, and with it the pool, before they fork. The
    child would talk to the server on its parent's sockets, and get answers to the statements of its siblings.

    Args:
        args, options: as of psycopg's pool.
        patience: seconds to wait for a connection that is in use before another one is opened. Without it two threads
            that need a connection at the same moment every few seconds keep two open for ever.
    """

    def __init__(self, *args: Any, patience: float = 0.0, **options: Any) -> None:
        self._given = args, options
        self._patience = patience
        self._pid = os.getpid()
        self._renewing = threading.Lock()
        self._inherited: list[Any] = []
        super().__init__(*args, **options)
        _pools.add(self)

    def getconn(self, timeout: float | None = None) -> Connection[Any]:
        """As psycopg's."""
        if self._pid != os.getpid():
            self._begin_anew()
        until = time.monotonic() + self._patience
        while self._patience and self._could_grow() and time.monotonic() < until:
            time.sleep(0.005)
        return super().getconn(timeout)

    def _could_grow(self) -> bool:
        """Whether psycopg would open a connection now although there are others."""
        found = self.get_stats()
        return not found["pool_available"] and 0 < found["pool_size"] < found["pool_max"]

    def close(self, timeout: float = 5.0) -> None:
        """As psycopg's; in a child that has not used the pool it leaves the parent's connections open."""
        if self._pid != os.getpid():
            self._forget()
            self._closed = True
        else:
            super().close(timeout)

    def _begin_anew(self) -> None:
        with self._renewing:
            if self._pid != os.getpid() and not self._closed:
                args, options = self._given
                self._forget()
                super().__init__(*args, **options)
                self._pid = os.getpid()

    def _forget(self) -> None:
        # Kept, and not closed: closing one sends "terminate" on its parent's socket.
        self._inherited += self._pool
        self._pool.clear()
        self._workers = []


_pools: WeakSet[ForkablePool] = WeakSet()


def _renew_locks() -> None:
    for pool in _pools:  # at the fork a thread that the child does not have may have held it
        pool._renewing = threading.Lock()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def refuse_inherited(pool: Any) -> None:
    """Refuse a user's pool that was opened before a fork: the threads that serve it live in the parent process alone.

    Raises:
        InvalidArgument: it was.
    """
    if isinstance(pool, ForkablePool):
        return
    threads = [each for each in getattr(pool, "_workers", ()) if isinstance(each, threading.Thread)]
    if threads and not pool.closed and not any(each.is_alive() for each in threads):
        raise InvalidArgument(
            "this pool was opened before a fork, and its connections are the parent process's: open it in the child"
            " (Celery: worker_process_init, gunicorn: post_fork), or open it with pgonce.database.open_pool"
        )
