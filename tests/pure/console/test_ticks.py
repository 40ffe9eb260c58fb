"""Which starts to come a lane has."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pgonce
from pgonce.console.figures.jobs import MOST_TICKS
from pgonce.console.pages.jobs import future_ticks, next_tick, view
from pgonce.console.templating import Clock
from pgonce.jobs.calls_console import Lane

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
END = NOW + timedelta(hours=12)
CLOCK = Clock(ZoneInfo("UTC"), NOW)
LANE = Lane(
    "job", "", "0 * * * *", "UTC", timedelta(minutes=5), [NOW + timedelta(minutes=90)], None, None, None, None, None,
    None, None, None, None, False, None,
)  # fmt: skip
BOMB = "0 0 1--100000000 * *"


def app(cron: str = "0 * * * *") -> pgonce.App:
    found = pgonce.App()
    found.job("job", cron=cron)(print)
    return found


def test_the_starts_to_come_are_those_of_the_registered_schedule() -> None:
    # the one at END is the next day's
    assert future_ticks(LANE, app(), NOW, END) == [NOW + timedelta(hours=n) for n in range(1, 12)]


def test_without_the_app_the_starts_to_come_are_those_that_a_scheduler_has_written() -> None:
    assert future_ticks(LANE, None, NOW, END) == [NOW + timedelta(minutes=90)]


def test_an_expression_that_the_app_does_not_have_is_never_expanded() -> None:
    assert future_ticks(replace(LANE, cron=BOMB), app(), NOW, END) == [NOW + timedelta(minutes=90)]


def test_a_paused_job_starts_after_its_pause_and_not_at_all_without_an_end() -> None:
    paused = replace(LANE, paused_at=NOW, paused_until=NOW + timedelta(hours=9, minutes=30))
    assert future_ticks(paused, app(), NOW, END) == [NOW + timedelta(hours=n) for n in (10, 11)]
    assert future_ticks(replace(LANE, paused_at=NOW), app(), NOW, END) == []


def test_the_next_start_is_one_that_no_pause_prevents() -> None:
    assert next_tick(LANE, app(), NOW) == NOW + timedelta(hours=1)
    assert next_tick(LANE, None, NOW) == NOW + timedelta(minutes=90)
    for_long = replace(LANE, paused_at=NOW, paused_until=NOW + timedelta(days=9))
    assert next_tick(for_long, app(), NOW) == NOW + timedelta(days=9, hours=1)
    assert next_tick(for_long, None, NOW) is None  # nobody has written that far
    assert next_tick(replace(LANE, paused_at=NOW), app(), NOW) is None


def test_the_starts_to_come_are_bounded() -> None:
    ticks = future_ticks(replace(LANE, cron="* * * * *"), app("* * * * *"), NOW, END)
    assert len(ticks) == MOST_TICKS + 1  # one more says that there are more
    assert view(LANE, [], ticks, CLOCK).note == "over 100 starts to come, the first 100 are drawn"
    assert view(LANE, [], ticks[:-1], CLOCK).note == ""
