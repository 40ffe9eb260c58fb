"""The templates, and what they may call: numbers, ids, times in the viewer's zone, states, addresses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response

from pgonce.console.addresses import url as address
from pgonce.console.text import block, breakable, brief, visible
from pgonce.core.adapters import read_time
from pgonce.core.diagnosis import command_line

ZONE_COOKIE = "pgonce_zone"
MOST = 10_000
"""Counts beyond it are not exact: "10,000+"."""

STATES: Mapping[str, tuple[str, str, str]] = {
    # state: shape, colour, word
    "succeeded": ("ok", "ok", "Succeeded"),
    "complete": ("ok", "ok", "Complete"),
    "processing": ("run", "run", "Processing"),
    "running": ("run", "run", "Running"),
    "in_progress": ("run", "run", "Running"),
    "waiting": ("wait", "", "Waiting"),
    "failed": ("retry", "bad", "Failed"),
    "dead": ("dead", "bad", "Dead letter"),
    "ignored": ("ign", "mute", "Ignored"),
    "skipped": ("ign", "mute", "Skipped"),
    "paused": ("ign", "mute", "Paused"),
    "muted": ("ign", "mute", "Muted"),
    "unknown": ("unk", "mute", "Not known"),
    "odd": ("odd", "warn", "Unusual"),
}


def number(value: float | None) -> str:
    """1,204,300; nothing for None."""
    return "" if value is None else f"{value:,}"


def count(value: int | None) -> str:
    """A bounded count: 10,000+ beyond the bound."""
    return "" if value is None else f"{MOST:,}+" if value > MOST else f"{value:,}"


def share(part: float, whole: float) -> str:
    """34 %."""
    return f"{100 * part / whole:.0f} %"


def plural(value: int, one: str, many: str = "") -> str:
    """ "1 event", "17 events", "10,000+ events"."""
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def size(value: int | None) -> str:
    """A number of bytes: 324 B, 2.1 kB, 5 MB."""
    if value is None:
        return ""
    for unit, factor in (("MB", 1_000_000), ("kB", 1000)):
        if value >= factor:
            return f"{value / factor:.2g} {unit}" if value < 10 * factor else f"{value / factor:,.0f} {unit}"
    return f"{value} B"


def short(identifier: object) -> Markup:
    """An id in a list: prefix, 4 signs … last 4; the whole of it in the title."""
    text = str(identifier)
    if not isinstance(identifier, UUID):
        with suppress(ValueError):
            identifier = UUID(text)
    prefix, mark, rest = text.rpartition("_")
    text, prefix, rest = visible(text), visible(prefix), visible(rest)
    if isinstance(identifier, UUID) or len(rest) <= 12:
        return Markup('<span class="mono" title="{}">{}</span>').format(
            text, text[:8] if isinstance(identifier, UUID) else text
        )
    return Markup('<span class="mono" title="{}">{}{}{}…{}</span>').format(text, prefix, mark, rest[:4], rest[-4:])


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


def length_text(length: timedelta | None) -> str:
    """A length of time that is read back as it is: 1 day, 90 minutes, 45 seconds; nothing for None."""
    if length is None:
        return ""
    seconds = length / timedelta(seconds=1)
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds / size:g} {unit}{'' if seconds == size else 's'}"
    return f"{seconds:g} seconds"


def span(low: float, high: float) -> str:
    """Two lengths in milliseconds: 9 to 11 min."""
    first, last = duration(low), duration(high)
    if first == last:
        return last
    value, _, unit = first.rpartition(" ")
    return f"{value} to {last}" if last.endswith(f" {unit}") else f"{first} to {last}"


# With %, because Markup.format takes three times as long, and a page has 200 times and marks.
_QUOTED = re.compile(r'"([a-z_][a-z0-9_]*)"')
_TIME = Markup('<time datetime="%sT%sZ" title="%s %s UTC">%s</time>')
_GLYPH = Markup('<svg class="g%s" aria-hidden="true"><use href="#g-%s"/></svg>')


@dataclass(frozen=True, slots=True)
class Clock:
    """The viewer's time zone, and the current time by the database's clock."""

    zone: ZoneInfo
    now: datetime

    def local(self, moment: datetime) -> datetime:
        """``moment`` in the viewer's zone."""
        return moment.astimezone(self.zone)

    def midnight(self, day: date) -> datetime:
        """The beginning of a day in the viewer's zone, in UTC; a day has 23, 24 or 25 hours."""
        return datetime.combine(day, time.min, self.zone).astimezone(UTC)

    @property
    def zone_name(self) -> str:
        """Such as CET."""
        return self.local(self.now).tzname() or str(self.zone)

    def text(self, moment: datetime) -> str:
        """14:02:36 today, else 25 Nov 17:52, and with the year if it is another one."""
        there, here = self.local(moment), self.local(self.now)
        if there.date() == here.date():
            return f"{there:%H:%M:%S}"
        return f"{there.day} {there:%b %H:%M}" if there.year == here.year else f"{there.day} {there:%b %Y %H:%M}"

    def coming(self, moment: datetime) -> str:
        """A time to come: 14:20, tomorrow 13:00, 3 Dec 06:00."""
        there, here = self.local(moment), self.local(self.now)
        if there.date() == here.date():
            return f"{there:%H:%M}"
        if there.date() == here.date() + timedelta(days=1):
            return f"tomorrow {there:%H:%M}"
        return self.text(moment)

    def ago(self, moment: datetime) -> str:
        """12 s ago, or in 4 min."""
        gone = self.now - moment
        if gone < timedelta(seconds=-1):
            return f"in {duration(-gone)}"
        if gone < timedelta(seconds=1):
            return "just now"
        if timedelta(seconds=90) <= gone < timedelta(minutes=90):
            return f"{gone // timedelta(minutes=1)} min ago"
        return f"{duration(gone // timedelta(seconds=1) * 1000)} ago"

    def _time(self, moment: datetime, text: str) -> Markup:
        day, _, second = f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}".partition(" ")
        return _TIME % (day, second, day, second, text)

    def at(self, moment: datetime | None) -> Markup:
        """The time of day, or the date and minute; UTC in the title."""
        return Markup() if moment is None else self._time(moment, self.text(moment))

    def since(self, moment: datetime | None) -> Markup:
        """How long ago; the time in the title."""
        return Markup() if moment is None else self._time(moment, self.ago(moment))

    def both(self, moment: datetime | None) -> Markup:
        """The time of day, and under it how long ago: for a cell of a table."""
        return Markup() if moment is None else self.at(moment) + Markup("<small>{}</small>").format(self.ago(moment))

    def next(self, moment: datetime | None) -> Markup:
        """A time to come."""
        return Markup() if moment is None else self._time(moment, self.coming(moment))


@cache
def glyph(shape: str, colour: str = "") -> Markup:
    """One of the marks in the sprite of ``_sprite.html``."""
    return _GLYPH % (colour and f" {colour}", shape)


def state(name: str, word: str | None = None) -> Markup:
    """A state: its shape and its word. ``word``: instead of the usual one."""
    shape, colour, usual = STATES.get(name, ("unk", "mute", name))
    return Markup('<span class="st">{}{}</span>').format(glyph(shape, colour), word or usual)


def shown(value: object) -> object:
    """What a template prints: no sign in a text that others have written hides or turns what stands beside it."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def exact(value: object) -> Markup:
    """A value that a form sends back, sign for sign."""
    return escape(value)


def unquoted(name: str) -> str:
    """The quoted name of a table as people write it: public.prices."""
    return _QUOTED.sub(r"\1", name)


class Templates:
    """Renders the pages.

    Args:
        console: the console, for its name, its shell and its static files.
    """

    def __init__(self, console: Any) -> None:
        self._console = console
        self._environment = Environment(
            loader=PackageLoader("pgonce.console"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=shown,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "number": number, "count": count, "size": size, "short": short, "duration": duration,
            "length_text": length_text,
            "visible": visible, "block": block, "breakable": breakable, "brief": brief, "exact": exact,
            "unquoted": unquoted,
        }  # fmt: skip
        self._environment.globals |= {
            "glyph": glyph,
            "state": state,
            "plural": plural,
            "span": span,
            "share": share,
            "version": version("pgonce"),
            "moment": read_time,
            "command_line": command_line,
        }
        self.statics = {each.name: each.read_bytes() for each in files("pgonce.console").joinpath("static").iterdir()}
        self._versions = {name: sha256(body).hexdigest()[:10] for name, body in self.statics.items()}

    async def respond(self, request: Request, template: str, status: int = 200, /, **context: Any) -> Response:
        """A page with the frame of the console."""
        shell = await self._console.shell(request)
        clock = Clock(zone_of(request), shell.now)
        return self.render(request, template, status, shell=shell, clock=clock, **context)

    def render(self, request: Request, template: str, status: int = 200, /, **context: Any) -> Response:
        """A page for which the database is not asked."""

        def url(path: str, **query: Any) -> str:
            return address(request, path, **query)

        def static(file: str) -> str:
            return url(f"/static/{file}", v=self._versions[file])

        def csrf() -> Markup:
            return Markup('<input type="hidden" name="csrf" value="{}">').format(request.state.form_token)

        text = self._environment.get_template(template).render(
            request=request, url=url, static=static, csrf=csrf, user=getattr(request.state, "user", None),
            here=request.scope["path"].removeprefix(request.scope.get("root_path", "")), console=self._console,
            query=request.query_params, **context,
        )  # fmt: skip
        return Response(text, status, media_type="text/html")


def zone_of(request: Request) -> ZoneInfo:
    """The viewer's zone: of the cookie that the footer's form or the script sets, else UTC."""
    return read_zone(request.cookies.get(ZONE_COOKIE, "").replace("%2F", "/"))


def read_zone(name: str) -> ZoneInfo:
    """The zone of this name; UTC if there is none. The name is a path for zoneinfo, so it is checked before."""
    good = len(name) <= 64 and all(sign.isalnum() or sign in "/_+-" for sign in name) and name[:1].isalpha()
    try:
        return ZoneInfo(name) if good else ZoneInfo("UTC")
    except (ValueError, OSError, KeyError):
        return ZoneInfo("UTC")
