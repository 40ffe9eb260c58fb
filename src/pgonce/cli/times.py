"""Times and durations, as the commands print them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def took(length: timedelta | int | None) -> str:
    """A duration (an int is in milliseconds): 0.2 s, 42 s, 12 min, 3 h 10 min, 2 d 4 h."""
    if length is None:
        return ""
    milliseconds = length if isinstance(length, int) else length // timedelta(milliseconds=1)
    seconds, minutes = milliseconds // 1000, milliseconds // 60_000
    if milliseconds < 10_000:
        return f"{milliseconds / 1000:.2g} s"
    if seconds < 60:
        return f"{seconds} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 1440:
        return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
    return f"{minutes // 1440} d {minutes // 60 % 24} h" if minutes // 60 % 24 else f"{minutes // 1440} d"


def span(first: int, last: int) -> str:
    """A range of durations in milliseconds: 9 to 11 min."""
    (low, _, low_unit), (high, _, high_unit) = (took(each).rpartition(" ") for each in (first, last))
    if (low, low_unit) == (high, high_unit):
        return took(last)
    return f"{low} to {high} {high_unit}" if low_unit == high_unit else f"{low} {low_unit} to {high} {high_unit}"


def ago(moment: datetime | None, now: datetime) -> str:
    """A time in the past: relative within a day, otherwise its date and minute in UTC."""
    if moment is None:
        return "–"
    if now - moment >= timedelta(days=1):
        return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    return f"{took(max(now - moment, timedelta()) // timedelta(seconds=1) * 1000)} ago"


def coming(moment: datetime | None, now: datetime) -> str:
    """A time in the future, in UTC: its time today, "tomorrow", or its date."""
    if moment is None:
        return ""
    local, today = moment.astimezone(UTC), now.astimezone(UTC).date()
    if local.date() == today:
        return f"{local:%H:%M}"
    return "tomorrow" if local.date() == today + timedelta(days=1) else f"{local:%Y-%m-%d}"
