"""Times and durations, as the commands print them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def took(length: timedelta | float | None) -> str:
    """A duration (a number is in milliseconds), rounded: 0.2 s, 42 s, 12 min, 3 h 10 min, 2 d 4 h."""
    if length is None:
        return ""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length / 1000
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 1440:
        return _two(minutes, 60, "h", "min")
    return _two(round(seconds / 3600), 24, "d", "h")


def _two(count: int, many: int, large: str, small: str) -> str:
    rest = f"{count % many} {small}" if count % many or count < many else ""
    return f"{count // many} {large} {rest}".rstrip() if count >= many else rest


def exactly(length: timedelta) -> str:
    """A length of time as it was given, not rounded: 1 min 59 s."""
    days, seconds = length.days, length.seconds
    parts = ((days, "d"), (seconds // 3600, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s"))
    text = " ".join(f"{count} {unit}" for count, unit in parts if count)
    return text if text and not length.microseconds else f"{text} {length.microseconds / 1000:g} ms".lstrip()


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
