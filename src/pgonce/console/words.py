"""Small texts of the pages for jobs, runs and imports."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from urllib.parse import quote
from uuid import UUID

from markupsafe import Markup, escape

from pgonce.console.respond import Form
from pgonce.console.text import visible
from pgonce.core.call import clean
from pgonce.errors import InvalidArgument

LINKS = {"PGONCE_LINK_LOGS": "Logs", "PGONCE_LINK_TRACES": "Traces"}
"""Environment variables with templates of addresses, such as "https://logs.example/?run={run_id}", and their names."""
_CODE = re.compile(r"`([^`]+)`")


def coded(text: str) -> Markup:
    """``text`` with its parts between backticks as code."""
    parts = _CODE.split(visible(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )


def link(template: str, values: Mapping[str, object]) -> str | None:
    """The address that a template makes; None if it is no address of http, or names a value that there is not."""
    if not template.startswith(("https://", "http://")):
        return None
    try:
        return template.format_map({name: quote(str(value), safe="") for name, value in values.items()})
    except (KeyError, ValueError, IndexError, AttributeError):
        return None


def links(values: Mapping[str, object], environment: Mapping[str, str] = os.environ) -> list[tuple[str, str]]:
    """Where the logs and the traces of a run or an event are: the first template of each whose values there are."""
    found = []
    for variable, name in LINKS.items():
        made = (link(template, values) for template in environment.get(variable, "").split())
        found += [(name, address) for address in made if address is not None][:1]
    return found


def shortened(text: str, most: int) -> str:
    """``text``, or its first ``most`` signs and how many there are: a page stays small whatever was written."""
    return text if len(text) <= most else f"{text[:most]} … ({len(text):,} signs in all)"


def read_uuid(text: str, what: str) -> UUID:
    """The id in ``text``.

    Raises:
        InvalidArgument: it is none.
    """
    try:
        return UUID(text)
    except ValueError:
        raise InvalidArgument(f"{text[:60]!r} is not the id of {what}") from None


def read_date(text: str) -> date | None:
    """The date in ``text``; None if it is empty.

    Raises:
        InvalidArgument: it cannot be read, or is so far away that no figure can show it.
    """
    if not text:
        return None
    with suppress(ValueError):
        found = date.fromisoformat(text)
        if 2000 <= found.year <= 2200:
            return found
    raise InvalidArgument(f"cannot read {text[:40]!r} as a day of the years 2000 to 2200: write 2026-11-26")


def read_moment(text: str, zone: tzinfo = UTC) -> datetime | None:
    """The time in ``text``, in ``zone`` if it names none; None if it is empty.

    Raises:
        InvalidArgument: it cannot be read, or is far away.
    """
    if not text:
        return None
    with suppress(ValueError):
        found = datetime.fromisoformat(text)
        if 2000 <= found.year <= 2200:
            return found if found.tzinfo else found.replace(tzinfo=zone)
    raise InvalidArgument(f"cannot read {text[:40]!r} as a time of the years 2000 to 2200: write 2026-11-26T13:00Z")


def read_number(sent: Form, field: str) -> int:
    """The number in a field; 0 if the field is missing.

    Raises:
        InvalidArgument: it is none.
    """
    text = sent.get(field, "0")
    if not text.isdecimal() or len(text) > 18:
        raise InvalidArgument(f"{field} is not a number: {text[:40]!r}")
    return int(text)


def raw(sent: Form, field: str) -> str | None:
    """A name or key exactly as it was sent, spaces and all; None: the field is missing."""
    found = sent.all(field)
    return clean(found[-1], 2500) if found else None


def reason_of(sent: Form, *, required: bool = False) -> str:
    """The reason in a form.

    Raises:
        InvalidArgument: it is required, and empty.
    """
    text = sent.get("why")
    if required and not text:
        raise InvalidArgument("a reason is needed: it is kept in the audit")
    return text[:1000]


def midnight(day: date, zone: datetime) -> datetime:
    """The beginning of a day in the zone of a moment; a day has 23, 24 or 25 hours."""
    return datetime.combine(day, time.min, zone.tzinfo).astimezone(UTC)


def next_day(day: date, days: int = 1) -> date:
    """The date so many days later."""
    return day + timedelta(days=days)
