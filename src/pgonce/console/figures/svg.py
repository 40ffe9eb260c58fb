"""The elements of which figures are made. Per cent across, pixels down."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

from pgonce.console.text import visible


def percent(place: float) -> str:
    """A place or a width in per cent across."""
    return f"{place:.2f}".rstrip("0").rstrip(".") + "%"


def use(kind: str, mark: str, place: float, y: float) -> Markup:
    """A mark of the sprite."""
    return Markup('<use class="{}" href="#m-{}" x="{}" y="{}"/>').format(kind, mark, percent(place), f"{y:g}")


def label(text: str, place: float, y: float, kind: str = "") -> Markup:
    """A label."""
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, percent(place), f"{y:g}", visible(text))


def line(kind: str, place: float, top: float, bottom: float) -> Markup:
    """A line from top to bottom."""
    return Markup('<line class="{0}" x1="{1}" x2="{1}" y1="{2:g}" y2="{3:g}"/>').format(
        kind, percent(place), top, bottom
    )


def level(kind: str, y: float, begin: float = 0, end: float = 100) -> Markup:
    """A line from left to right."""
    return Markup('<line class="{0}" x1="{1}" x2="{2}" y1="{3:g}" y2="{3:g}"/>').format(
        kind, percent(begin), percent(end), y
    )


def rect(kind: str, begin: float, width: float, y: float, height: float, rx: int = 1) -> Markup:
    """A bar or a field."""
    return Markup('<rect class="{}" x="{}" width="{}" y="{:g}" height="{:g}" rx="{}"/>').format(
        kind, percent(begin), percent(width), y, height, rx
    )


def figure(identifier: str, height: int, title: str, found: str, parts: Iterable[Markup]) -> Markup:
    """A figure with its title and what it shows, for people who do not see it."""
    head = Markup(
        '<svg class="fig live" id="{0}" height="{1}" role="img" aria-labelledby="{0}t {0}d">'
        '<title id="{0}t">{2}</title><desc id="{0}d">{3}</desc>'
    ).format(identifier, height, visible(title), visible(found))
    return head + Markup("").join(parts) + Markup("</svg>")
