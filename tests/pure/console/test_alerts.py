"""What the page of alerts says of a line: its headline, and whether a newer one has taken its place."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from pgonce.alerts.calls_console import AlertLine
from pgonce.console.pages.alerts import headline, repeated, rest


def line(message: str = "", number: int = 1, subject: str = "s", *, is_open: bool = True) -> AlertLine:
    at = datetime(2026, 11, 30, tzinfo=UTC)
    return AlertLine(
        UUID(int=number), "dead_webhook", subject, message, {}, at, is_open, 1, 0, None, 0, None, None, None, None, None
    )


@pytest.mark.parametrize(
    ("message", "first", "then"),
    [
        ("job j failed: ValueError: no. Next: `pgonce job show 1`", "Job j failed", "ValueError: no"),
        (
            "13 imports failed since 2026-11-29 23:00 UTC; the newest: import_12: no reason. Next: `pgonce`",
            "13 imports failed since 2026-11-29 23:00 UTC",
            "The newest: import_12: no reason",
        ),
        (
            "2 events of type a.b are dead letters: nothing retries them since 23:00 UTC; the newest: evt_1: KeyError",
            "2 events of type a.b are dead letters",
            "Nothing retries them since 23:00 UTC; the newest: evt_1: KeyError",
        ),
    ],
)
def test_a_line_begins_with_what_happened_and_changes_no_name(message: str, first: str, then: str) -> None:
    assert (headline(line(message)), rest(line(message))) == (first, then)


def test_an_older_alert_of_a_cause_that_is_still_there_is_repeated_and_not_closed() -> None:
    lines = [line(number=1), line(number=2, is_open=False), line(number=3, subject="other", is_open=False)]
    assert repeated(lines) == {UUID(int=2)}
