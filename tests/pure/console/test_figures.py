"""The figure of the first page: per cent across, pixels down, and words for whoever does not see it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from pgonce.console.figures.now import hours, step_of
from pgonce.console.templating import Clock
from pgonce.core.facts import Hour

NOW = datetime(2026, 11, 26, 13, 2, tzinfo=UTC)
CLOCK = Clock(ZoneInfo("Europe/Berlin"), NOW)


def day(**counts: list[int]) -> list[Hour]:
    start = NOW.replace(minute=0) - timedelta(hours=23)
    columns = [counts.get(kind, [0] * 24) for kind in ("ok", "ignored", "waiting", "bad")]
    return [Hour(start + timedelta(hours=n), *(column[n] for column in columns)) for n in range(24)]


def test_a_bar_has_at_least_two_pixels_and_stays_within_the_figure() -> None:
    figure = hours(day(ok=[1, *[10_000] * 23], bad=[1] * 24), CLOCK)
    boxes = re.findall(r'<rect class="(\S+)" x="([\d.]+)%" width="([\d.]+)%" y="(\d+)" height="(\d+)"', figure)
    assert len(boxes) == 48
    for _, x, width, y, height in boxes:
        assert int(height) >= 2
        assert int(y) >= 8
        assert int(y) + int(height) <= 146
        assert 0 <= float(x) <= float(x) + float(width) <= 100.01


def test_the_description_has_the_finding() -> None:
    figure = hours(day(ok=[5] * 20 + [91] + [3] * 3, bad=[0] * 23 + [15]), CLOCK)
    assert "The busiest hour had 91 from 11:00. 15 failed." in figure
    assert ">91<" in figure
    assert ">15 failed<" in figure
    assert "style=" not in figure
    assert "#" not in figure


def test_a_day_without_events_is_a_figure_too() -> None:
    figure = hours(day(), CLOCK)
    assert "None failed." in figure
    assert "<rect" not in figure


@pytest.mark.parametrize("behind", range(5))
def test_the_name_of_a_new_day_does_not_leave_the_figure(behind: int) -> None:
    midnight = datetime(2026, 11, 26, 23, tzinfo=UTC)  # in Berlin
    start = midnight + timedelta(hours=behind - 23)
    figure = hours([Hour(start + timedelta(hours=n), 0, 0, 0, 0) for n in range(24)], CLOCK)
    [(kind, x)] = re.findall(r'<text class="([^"]*)" x="([\d.]+)%"[^>]*>Fri 00:00<', figure)
    assert float(x) + (0 if "end" in kind.split() else 20) <= 100.01


@pytest.mark.parametrize(("most", "step"), [(0, 1), (2, 1), (4, 2), (45, 20), (91, 40), (104, 50), (1204, 500)])
def test_the_grid_has_round_numbers(most: int, step: int) -> None:
    assert step_of(most) == step
