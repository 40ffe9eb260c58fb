"""The time limit of synchronous code."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from pgonce.core.concurrency import time_limit


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
