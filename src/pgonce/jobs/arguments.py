"""Checks the arguments with which a run is started: names, keys, ticks and scopes that the database cannot hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from operator import index
from typing import Any
from uuid import UUID

from pgonce.core.interval import interval
from pgonce.errors import InvalidArgument

LONGEST = 2500
"""Bytes of a job's name and key together: an entry of a PostgreSQL index holds 2,704, and a tick is in it, too."""
MOST_DIGITS = 4000
"""Of a whole number in a scope: Python writes no number of more than 4,300 digits as text."""
YEAR = timedelta(days=360)
"""A year, as PostgreSQL counts when it compares intervals. The longest window is a hundred of them."""
LONGEST_BACKOFF = timedelta(days=1)
_AS_TEXT = (UUID, datetime, date, time)


def read_names(name: Any, key: Any) -> tuple[str, str]:
    """A job's name and key as plain text.

    Raises:
        InvalidArgument: one is not text, or the database cannot hold it; the message names the argument.
    """
    texts = _read_text(name, "the job name"), _read_text(key, "the key")
    if not texts[0]:
        raise InvalidArgument("the job name must not be empty")
    # a character has up to four bytes
    if 4 * sum(map(len, texts)) > LONGEST and (length := sum(len(text.encode()) for text in texts)) > LONGEST:
        raise InvalidArgument(f"the job name and the key have {length:,} bytes, and may have {LONGEST:,} together")
    return texts


def read_length(text: Any, name: str, *, least: timedelta | None = None, most: timedelta = 100 * YEAR) -> timedelta:
    """``text`` as a length of time that the database accepts.

    Raises:
        InvalidArgument: it cannot be read, or is shorter than ``least``, or longer than ``most``.
    """
    found = interval(text, name)
    if least is not None and found < least:
        raise InvalidArgument(f"{name} must be at least {least.total_seconds():g} s")
    if found > most:
        raise InvalidArgument(f"{name} must be at most {'a day' if most.days == 1 else f'{most.days:,} days'}")
    return found


def read_tick(tick: Any) -> datetime:
    """``scheduled_for``, a moment with a time zone.

    Raises:
        InvalidArgument: it is something else.
    """
    if not isinstance(tick, datetime):
        raise InvalidArgument(f"scheduled_for must be a datetime with a time zone, not {tick!r}")
    if tick.utcoffset() is None:
        raise InvalidArgument("scheduled_for has no time zone: a tick is a moment, not a wall clock's reading")
    return tick


def read_scope(scope: Any) -> dict[str, Any]:
    """A scope as JSON can hold it: a UUID, a date or time and a Decimal as text, an Enum as its value.

    Raises:
        InvalidArgument: it is not a mapping, or something in it has no faithful form in JSON; the message says where.
    """
    if not isinstance(scope, Mapping):
        raise InvalidArgument(f"the scope must be a mapping, such as {{'user_id': 7}}, not {scope!r}")
    try:
        return _read_mapping(scope, "scope")
    except RecursionError:
        raise InvalidArgument("the scope is nested too deeply, or contains itself") from None


def _read_mapping(found: Mapping[Any, Any], where: str) -> dict[str, Any]:
    for name in found:
        if not isinstance(name, str):
            raise InvalidArgument(f"{where} has the key {name!r}: keys of JSON are text")
    return {
        _read_text(name, f"a key of {where}"): _read_value(value, f"{where}[{name!r}]") for name, value in found.items()
    }


def _read_value(found: Any, where: str) -> Any:
    if isinstance(found, Enum):
        return _read_value(found.value, where)
    if found is None or isinstance(found, bool):
        return found
    if isinstance(found, str):
        return _read_text(found, where)
    if isinstance(found, float):
        if not math.isfinite(found):
            raise InvalidArgument(f"{where} is {found!r}, and JSON has no number for it: pass None or text")
        return float(found)
    if isinstance(found, _AS_TEXT):
        return str(found) if isinstance(found, UUID) else found.isoformat()
    if isinstance(found, Decimal):
        return str(found)
    if isinstance(found, Mapping):
        return _read_mapping(found, where)
    if isinstance(found, list | tuple):
        return [_read_value(value, f"{where}[{number}]") for number, value in enumerate(found)]
    if hasattr(found, "__index__"):  # int, and those of numpy
        if abs(number := index(found)) >= 10**MOST_DIGITS:
            raise InvalidArgument(f"{where} has more than {MOST_DIGITS:,} digits: pass its text")
        return number
    raise InvalidArgument(
        f"{where} is of type {type(found).__name__}, which JSON cannot hold: pass its text or its parts"
    )


def _read_text(text: Any, name: str) -> str:
    if not isinstance(text, str):
        raise InvalidArgument(f"{name} must be text, not {text!r}")
    if "\0" in text:
        raise InvalidArgument(f"{name} contains the character NUL, which PostgreSQL's text cannot hold")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(f"{name} contains half a surrogate pair, which is not a character") from None
    return str.__str__(text)
