"""Reads what a page's address and forms send: ids, days, times, numbers, names and reasons."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, date, datetime, tzinfo
from uuid import UUID

from pgonce.console.respond import Form
from pgonce.core.call import clean
from pgonce.errors import InvalidArgument


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
