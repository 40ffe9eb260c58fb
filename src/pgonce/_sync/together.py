"""Calls of one function that come at the same time; its twin is written by hand, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pgonce._sync.execute import Pool
from pgonce._sync.value import call_value
from pgonce.protocol.call import Call

T = TypeVar("T")


class Together:
    """Calls of functions that return one value: each thread sends its own.

    Sharing was tried, and gave little: each has to be woken by another. docs/decisions/runs-together.md
    """

    def __init__(self, pool: Pool, schema: str, _unclaimed: Callable[[Any], None]) -> None:
        self._pool = pool
        self._schema = schema

    def value(self, wanted: Call[T]) -> T:
        """The value of ``wanted``, committed. Raises as ``call_value``."""
        return call_value(self._pool, wanted, self._schema)
