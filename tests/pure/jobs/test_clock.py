"""The database's time, on a machine whose own clock is stepped."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Self

import pytest

from pgonce.jobs import clock


@pytest.mark.parametrize("step", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_step_of_the_machine_s_clock_does_not_move_the_database_s(
    monkeypatch: pytest.MonkeyPatch, step: timedelta
) -> None:
    class Stepped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + step

    found = clock.DatabaseClock()
    said = datetime(2026, 1, 1, tzinfo=UTC)
    found.set(said)
    monkeypatch.setattr(clock, "datetime", Stepped)
    assert said <= found.now() < said + timedelta(minutes=5)


def test_the_time_of_day_goes_on_from_what_the_database_said(monkeypatch: pytest.MonkeyPatch) -> None:
    elapsed = [100.0]
    monkeypatch.setattr(clock, "_monotonic", lambda: elapsed[0])
    found = clock.DatabaseClock()
    said = datetime(2026, 1, 1, tzinfo=UTC)
    found.set(said)
    elapsed[0] += 90
    assert found.now() == said + timedelta(seconds=90)
