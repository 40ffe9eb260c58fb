"""Sends the heartbeats of a run from a thread, over any connection that works."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import psycopg
from psycopg import Connection

from pgonce.core.call import Call
from pgonce.core.execute import execute
from pgonce.core.lent_connection import cut
from pgonce.errors import PgonceError, translate

T = TypeVar("T")

log = logging.getLogger("pgonce")


class HeartbeatSender:
    """Uses its own connection, opened at the first heartbeat, or one of the pool's if it cannot be opened.

    All connections of the pool may be in use, so its own is tried first. A role with a connection limit, or a server
    with no slot left, refuses it; the pool may then have an idle one.

    Args:
        address: returns what the pool connects with: a conninfo and keyword arguments for ``psycopg.connect``.
        schema: where ``pgonce migrate`` put the tables.
        call_on_pool: executes a call on a connection of the pool within a number of seconds.
    """

    def __init__(
        self,
        address: Callable[[], tuple[str, dict[str, Any]]],
        schema: str,
        call_on_pool: Callable[[Call[Any], float], Any],
    ) -> None:
        self._address = address
        self._schema = schema
        self._call_on_pool = call_on_pool
        self._connection: Connection[Any] | None = None
        self._sending = threading.Lock()
        self._closed = False
        self._pid = os.getpid()

    def send(self, wanted: Call[T], seconds: float) -> T:
        """The answer to ``wanted``; each way to send it takes about ``seconds`` at most.

        Raises:
            PgonceError, psycopg.Error: no way led to an answer; the error of the last one.
        """
        with self._sending:
            if self._connection is not None:
                try:
                    return self._execute(self._connection, wanted)
                except (psycopg.Error, PgonceError, OSError):
                    self._disconnect()
            try:
                self._connection = self._connect(seconds)
                return self._execute(self._connection, wanted)
            except (psycopg.Error, PgonceError, OSError):  # OSError: no file descriptor is left
                self._disconnect()
            answer: T = self._call_on_pool(wanted, seconds)
            return answer

    def close(self) -> None:
        """Close the connection. A heartbeat that is being sent, and hangs, is cut off."""
        if os.getpid() != self._pid:  # a forked child: the connection is its parent's, and a "close" would end it
            return
        self._closed = True
        if self._sending.acquire(blocking=False):
            self._disconnect()
            self._sending.release()
        elif (conn := self._connection) is not None and not conn.closed:
            cut(conn)

    def _execute(self, conn: Connection[Any], wanted: Call[T]) -> T:
        answer = execute(conn, wanted, self._schema)
        if self._closed:
            self._disconnect()
        return answer

    def _connect(self, seconds: float) -> Connection[Any]:
        # libpq accepts whole seconds only, and takes 1 as 2
        conninfo, options = self._address()
        options["connect_timeout"] = max(2, min(5, int(seconds)))
        try:
            return psycopg.connect(conninfo, **options)
        except psycopg.Error as error:
            raise translate(error) from error

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def warn_if_beat_is_late(title: str, seconds: float, window: timedelta) -> None:
    """Log it when more than half of the window has passed between two heartbeats."""
    if seconds > window.total_seconds() / 2:
        why = "code that keeps Python's global lock, or a slow database; give the job a wider window"
        log.warning("%s: %.1f s between two heartbeats, window %s: %s", title, seconds, window, why)
