"""Concurrent calls of one SQL function; ``call_batcher_async.py`` is written by hand, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

from pgonce.core.call import Call
from pgonce.core.execute import Pool, get_connection
from pgonce.core.fast_call import execute_value
from pgonce.errors import translate

T = TypeVar("T")


class CallBatcher:
    """Calls of functions that return one value. Each thread sends its own call.

    Sharing statements between threads was tried and gained little, because each thread has to be woken by another one:
    docs/decisions/runs-together.md.
    """

    def __init__(self, pool: Pool, schema: str, _unclaimed: Callable[[Any], None]) -> None:
        self._pool = pool
        self._schema = schema

    def value(self, wanted: Call[T]) -> T:
        """The value of ``wanted``, committed. Raises as ``execute_value``."""
        try:
            conn = get_connection(self._pool)
        except psycopg.Error as error:
            raise translate(error) from error
        try:
            return execute_value(conn, wanted, self._schema)
        finally:
            self._pool.putconn(conn)
