"""The time limit of synchronous code."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgonce.core.concurrency import time_limit
from pgonce.errors import DatabaseUnavailable


def test_a_body_that_is_out_of_time_ends_after_the_function_that_records_it() -> None:
    began, recorded = threading.Event(), threading.Event()

    def expired(_: BaseException) -> None:
        began.set()
        threading.Event().wait(0.2)  # as long as the database takes
        recorded.set()

    with pytest.raises(TimeoutError), time_limit(None, 0.01, expired):
        assert began.wait(20)
    assert recorded.is_set()


def test_the_longest_length_of_time_is_a_limit() -> None:
    before = set(threading.enumerate())
    with time_limit(None, timedelta.max.total_seconds(), lambda _: None):
        [timer] = set(threading.enumerate()) - before
        timer.join(0.2)
        assert timer.is_alive(), "the system refuses to wait for so long"


class _ClosedMeanwhile:
    closed = False

    def cancel_safe(self, **_: object) -> None:
        raise psycopg.OperationalError("the connection is closed")

    def fileno(self) -> int:
        raise psycopg.OperationalError("the connection is closed")

    def close(self) -> None:
        """It is."""


def test_the_end_is_recorded_although_another_thread_has_just_closed_the_connection() -> None:
    recorded: list[BaseException] = []
    conn: Any = _ClosedMeanwhile()
    with pytest.raises(TimeoutError) as raised, time_limit(conn, 0.01, recorded.append):
        threading.Event().wait(0.3)
    assert recorded == [raised.value]


def test_an_end_that_cannot_be_recorded_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def expired(_: BaseException) -> None:
        raise DatabaseUnavailable("the database is away")

    with pytest.raises(TimeoutError), time_limit(None, 0.01, expired):
        threading.Event().wait(0.3)
    assert caplog.messages == ["the database is away"]
