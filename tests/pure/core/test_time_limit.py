"""The time limit of synchronous code."""

from __future__ import annotations

import threading

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
