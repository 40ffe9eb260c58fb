"""A time limit for answers to own statements: a host that has vanished, or a pooler without its server, sends none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg

from pgonce.core.concurrency import alarm
from pgonce.core.lent_connection import cut


@contextmanager
def answered_within(
    seconds: float, conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]
) -> Iterator[Callable[[], None]]:
    """Cut the connection if the block takes longer: its statements then fail as those of a lost one.

    Yields a function that lifts the limit for the rest of the block. A cancellation is not enough: psycopg would wait
    for the server to confirm it.
    """
    number = alarm.set(seconds, partial(cut, conn))
    try:
        yield partial(alarm.cancel, number)
    finally:
        alarm.cancel(number)
