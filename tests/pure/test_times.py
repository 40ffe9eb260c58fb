"""Durations as the commands print them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgonce.cli.times import exactly, span, took


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (0, "0 s"), (40, "0 s"), (180, "0.2 s"), (9_940, "9.9 s"), (9_960, "10 s"), (42_000, "42 s"), (99_400, "99 s"),
        (99_600, "2 min"), (12.7 * 60_000, "13 min"), (3_599_000, "1 h"), (190 * 60_000, "3 h 10 min"),
        (23.999 * 3_600_000, "1 d"), (52 * 3_600_000, "2 d 4 h"), (timedelta(minutes=8), "8 min"), (None, ""),
    ],
)  # fmt: skip
def test_a_duration_is_rounded_and_never_cut_off(length: float | timedelta | None, text: str) -> None:
    assert took(length) == text


@pytest.mark.parametrize(
    ("length", "text"),
    [
        ({"days": 1}, "1 d"), ({"seconds": 119}, "1 min 59 s"), ({"minutes": 90}, "1 h 30 min"),
        ({"days": 2, "seconds": 1}, "2 d 1 s"), ({"milliseconds": 1500}, "1 s 500 ms"), ({"milliseconds": 20}, "20 ms"),
    ],
)  # fmt: skip
def test_a_length_that_somebody_chose_is_not_rounded(length: dict[str, int], text: str) -> None:
    assert exactly(timedelta(**length)) == text


def test_two_durations_of_one_unit_name_it_once() -> None:
    assert span(540_000, 660_000) == "9 to 11 min"
    assert span(42_000, 660_000) == "42 s to 11 min"
    assert span(541_000, 542_000) == "9 min"
