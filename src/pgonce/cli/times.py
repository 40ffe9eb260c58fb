"""Times and durations, as the commands print them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pgonce.core.durations import elapsed


def ago(moment: datetime | None, now: datetime) -> str:
    """A time in the past: relative within a day, otherwise its date and minute in UTC."""
    if moment is None:
        return "–"
    if now - moment >= timedelta(days=1):
        return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    return f"{elapsed(now - moment)} ago"


def coming(moment: datetime | None, now: datetime) -> str:
    """A time in the future, in UTC: its time today, "tomorrow", or its date."""
    if moment is None:
        return ""
    local, today = moment.astimezone(UTC), now.astimezone(UTC).date()
    if local.date() == today:
        return f"{local:%H:%M}"
    return "tomorrow" if local.date() == today + timedelta(days=1) else f"{local:%Y-%m-%d}"
