"""Lengths of time as people write them: "30 minutes", "90s", "1 hour 30 min", or a timedelta."""

from __future__ import annotations

import functools
import re
from datetime import timedelta

from pgonce.errors import InvalidArgument

_UNITS = {"ms": 0.001, "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600}
_UNITS |= {"d": 86400, "day": 86400, "w": 604800, "week": 604800}
_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)\s*")


def interval(text: timedelta | str, name: str = "the interval") -> timedelta:
    """``text`` as a timedelta of more than zero.

    Raises:
        InvalidArgument: it is a number or cannot be read, or is zero or less; the message calls it ``name``.
    """
    given: object = text
    if isinstance(given, int | float) and not isinstance(given, bool):
        raise InvalidArgument(
            f'{name} is {given}, without a unit: write "{given} seconds" or timedelta(seconds={given})'
        )
    if not isinstance(given, str | timedelta):
        raise InvalidArgument(f'{name} must be a length of time, not {given!r}: write "30 minutes" or a timedelta')
    return _read(given, name)


@functools.lru_cache(256)  # a program has few, and reads them at every run
def _read(text: timedelta | str, name: str) -> timedelta:
    if isinstance(text, timedelta):
        found = text
    else:
        seconds, end = 0.0, 0
        for part in _PART.finditer(text.lower()):
            unit = part[2] if part[2] in _UNITS else part[2].removesuffix("s")
            if part.start() != end or unit not in _UNITS:
                break
            seconds, end = seconds + float(part[1]) * _UNITS[unit], part.end()
        if end == 0 or end != len(text):
            raise InvalidArgument(f'{name} "{text}" is not a length of time: write "30 minutes", "90s" or "1 hour"')
        try:
            found = timedelta(seconds=seconds)
        except OverflowError:
            raise InvalidArgument(f"{name} is too long: a timedelta ends at 999,999,999 days") from None
    if found <= timedelta():
        raise InvalidArgument(f"{name} must be longer than zero")
    return found
