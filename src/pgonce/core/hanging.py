"""A time limit for answers to own statements: a host that has vanished, or a pooler without its server, sends none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import psycopg

from pgonce.core.concurrency import alarm
from pgonce.core.lent_connection import cut

HANGS = 12.0
"""Seconds after which statements for a delivery without an answer are given up; Stripe waits for about 20 s. Without
this limit the two INSERTs in flight kept all others waiting until TCP gave up, a quarter of an hour after the
database's host had vanished."""


@contextmanager
def answered_within(
    seconds: float, conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Cut the connection if the block takes longer: its statements then fail as those of a lost one.

    Yields a function for a block inside in which there is no limit, because it is the user's; after it the time begins
    anew. A cancellation is not enough: psycopg would wait for the server to confirm it.
    """
    number = alarm.set(seconds, partial(cut, conn))

    @contextmanager
    def unlimited() -> Iterator[None]:
        nonlocal number
        alarm.cancel(number)
        try:
            yield
        finally:
            number = alarm.set(seconds, partial(cut, conn))

    try:
        yield unlimited
    finally:
        alarm.cancel(number)
