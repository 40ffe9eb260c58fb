"""Lengths of time for people, in one style for the commands and the console."""

from __future__ import annotations

from datetime import timedelta

_UNITS = (
    (90_000, 1000, "s"),
    (90 * 60_000, 60_000, "min"),
    (48 * 3_600_000, 3_600_000, "h"),
    (float("inf"), 86_400_000, "d"),
)
"""Up to how many milliseconds a unit is used, how many it has, and its name."""


def duration(length: timedelta | float | None) -> str:
    """A length of time (a number: milliseconds): 180 ms, 42 s, 4.9 min, 12 min, 3 h, 4 d.

    Below ten there is a decimal: "95 of 100 under 4 min" would not be true of 4.9 min.
    """
    if length is None:
        return ""
    ms = length / timedelta(milliseconds=1) if isinstance(length, timedelta) else length
    if ms < 999.5:
        return f"{max(ms, 0):.0f} ms"
    _, unit, name = next(each for each in _UNITS if ms < each[0])
    value = ms / unit
    return (f"{value:.1f}".removesuffix(".0") if value < 9.95 else f"{value:.0f}") + f" {name}"


def span(low: float, high: float) -> str:
    """Two lengths in milliseconds: 9 to 11 min."""
    first, last = duration(low), duration(high)
    if first == last:
        return last
    value, _, unit = first.rpartition(" ")
    return f"{value} to {last}" if last.endswith(f" {unit}") else f"{first} to {last}"


def elapsed(gone: timedelta) -> str:
    """How long ago something was: in whole seconds, then in whole minutes."""
    if timedelta(seconds=90) <= gone < timedelta(minutes=90):
        return f"{gone // timedelta(minutes=1)} min"
    return duration(gone // timedelta(seconds=1) * 1000) if gone >= timedelta(seconds=1) else "0 s"
