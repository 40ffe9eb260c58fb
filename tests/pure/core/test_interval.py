"""Lengths of time as people write them."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgonce.core.interval import interval
from pgonce.errors import InvalidArgument

second, minute, hour, day = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("30 minutes", 30 * minute),
        ("1 minute", minute),
        ("90s", 90 * second),
        ("15 min", 15 * minute),
        ("2 mins", 2 * minute),
        ("1.5 hours", 90 * minute),
        ("1h", hour),
        ("1 hour 30 min", 90 * minute),
        ("1h30m", 90 * minute),
        ("250 ms", timedelta(milliseconds=250)),
        ("2 secs", 2 * second),
        ("90 days", 90 * day),
        ("1 week", 7 * day),
        ("2w", 14 * day),
        ("  15 MINUTES  ", 15 * minute),
    ],
)
def test_a_length_of_time_reads_as_it_is_written(text: str, length: timedelta) -> None:
    assert interval(text) == length


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "5", "minutes", "5 fortnights", "1 month", "1 year", "-5 s", "+5 s", "1e3 s", "5 s!", "1 s, 2 s",
        "1h 5", "٣ s", "5 s\0", "00:15:00", "P1D", "inf s", "nan s", "1..5 s", "soon",
    ],
)  # fmt: skip
def test_what_is_not_a_length_of_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidArgument, match='write "30 minutes"'):
        interval(text)


@pytest.mark.parametrize("zero", ["0 s", "0 minutes", "0.0h", "0.0000001 s", timedelta(), timedelta(seconds=-1)])
def test_zero_and_less_are_refused_by_name(zero: str | timedelta) -> None:
    with pytest.raises(InvalidArgument, match="the window of job x must be longer than zero"):
        interval(zero, "the window of job x")


@pytest.mark.parametrize("text", ["1000000000 days", "9" * 400 + " s", "9" * 5000 + " weeks"])
def test_longer_than_a_timedelta_can_be_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="too long"):
        interval(text)


@given(st.timedeltas(min_value=timedelta(microseconds=1)))
def test_a_timedelta_stays_what_it_is(length: timedelta) -> None:
    assert interval(length) == length


@given(st.text(st.characters(exclude_categories=["Cs"])))  # without it each character is tried, which takes 3 s
def test_no_text_at_all_makes_it_fail_in_another_way(text: str) -> None:
    with suppress(InvalidArgument):
        assert interval(text) > timedelta()
