"""The elements of which figures are made. Per cent across, pixels down."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

from pgonce.console.text import visible


def percent(place: float) -> str:
    """A place or a width in per cent across."""
    return f"{place:.2f}".rstrip("0").rstrip(".") + "%"


# A page has hundreds of these. Markup.format escapes each value by itself, which took half of the page's time. So only
# texts are escaped here: classes and marks are our own names, and places are numbers.


def use(kind: str, mark: str, place: float, y: float) -> Markup:
    """A mark of the sprite."""
    return Markup(f'<use class="{kind}" href="#m-{mark}" x="{percent(place)}" y="{y:g}"/>')  # noqa: S704


def label(text: str, place: float, y: float, kind: str = "") -> Markup:
    """A label."""
    return Markup(f'<text class="{kind}" x="{percent(place)}" y="{y:g}">{escape(visible(text))}</text>')  # noqa: S704


def scale(text: str, y: float) -> Markup:
    """What a line of the grid stands for, to the left of the figure."""
    return Markup(f'<text class="end" x="-8" y="{y:g}">{escape(text)}</text>')  # noqa: S704


def line(kind: str, place: float, top: float, bottom: float) -> Markup:
    """A line from top to bottom."""
    x = percent(place)
    return Markup(f'<line class="{kind}" x1="{x}" x2="{x}" y1="{top:g}" y2="{bottom:g}"/>')  # noqa: S704


def level(kind: str, y: float, begin: float = 0, end: float = 100) -> Markup:
    """A line from left to right."""
    return Markup(f'<line class="{kind}" x1="{percent(begin)}" x2="{percent(end)}" y1="{y:g}" y2="{y:g}"/>')  # noqa: S704


def rect(kind: str, begin: float, width: float, y: float, height: float, rx: int = 1) -> Markup:
    """A bar or a field."""
    return Markup(  # noqa: S704
        f'<rect class="{kind}" x="{percent(begin)}" width="{percent(width)}" y="{y:g}" height="{height:g}" rx="{rx}"/>'
    )


def figure(identifier: str, height: int, title: str, found: str, parts: Iterable[Markup]) -> Markup:
    """A figure with its title and what it shows, for people who do not see it."""
    head = Markup(
        '<svg class="fig live" id="{0}" height="{1}" role="img" aria-labelledby="{0}t {0}d">'
        '<title id="{0}t">{2}</title><desc id="{0}d">{3}</desc>'
    ).format(identifier, height, visible(title), visible(found))
    return head + Markup("".join(parts)) + Markup("</svg>")  # noqa: S704
