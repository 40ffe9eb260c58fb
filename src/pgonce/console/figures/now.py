"""Events per hour: handled ones up from the line, failed ones down."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from pgonce.console.figures.svg import figure, label, level, rect, scale
from pgonce.console.templating import Clock
from pgonce.core.facts import Hour

HEIGHT, BASE = 146, 97
UP, DOWN = 79, 22
"""Pixels for the bars above and below the line."""


def step_of(most: int) -> int:
    """The distance of the grid's two lines: the largest 1, 2, 4 or 5 times a power of ten of which two fit."""
    fits = [step for power in range(10) for step in (10**power, 2 * 10**power, 4 * 10**power, 5 * 10**power)]
    return max((step for step in fits if 2 * step <= most), default=1)


def hours(found: Sequence[Hour], clock: Clock) -> Markup:
    """The figure of the last hours."""
    most = max((each.succeeded + each.ignored + each.waiting for each in found), default=0)
    step = step_of(most)
    height = UP / max(most, 1)
    lost = max((each.failed for each in found), default=0)
    parts = _grid(step, most, height)
    width = 100 / max(len(found), 1)
    for number, each in enumerate(found):
        x = number * width + 0.35
        parts += _bars(each, x, width - 0.7, height, lost)
    parts.append(level("base", BASE))
    parts += _numbers(found, width, height, most, lost) + _hours(found, width, clock)
    return figure("hours", HEIGHT, "Events per hour, by how they ended", _describe(found, clock), parts)


def _describe(found: Sequence[Hour], clock: Clock) -> str:
    busiest = max(found, key=lambda each: each.succeeded + each.ignored + each.waiting, default=None)
    said = f"{len(found)} hours to {clock.text(clock.now)}. Handled events go up from the line, failed ones down."
    if busiest is not None and busiest.succeeded + busiest.ignored + busiest.waiting:
        total = busiest.succeeded + busiest.ignored + busiest.waiting
        said += f" The busiest hour had {total:,} from {clock.local(busiest.hour):%H:%M}."
    failed = sum(each.failed for each in found)
    return said + (f" {failed:,} failed." if failed else " None failed.")


def _grid(step: int, most: int, height: float) -> list[Markup]:
    lines = []
    for value in (step, 2 * step):
        y = BASE - round(value * height)
        if value <= most:
            lines += [level("grid", y), scale(f"{value:,}", y + 4)]
    return lines


def _bars(each: Hour, x: float, width: float, height: float, lost: int) -> list[Markup]:
    bars = [rect(kind, x, width, top, tall, 0) for kind, top, tall in _stacked(each, height)]
    if each.failed:
        bars.append(rect("b-bad", x, width, BASE + 3, max(round(DOWN * each.failed / lost), 2), 0))
    return bars


def _stacked(each: Hour, height: float) -> list[tuple[str, int, int]]:
    """The bars above the line: class, upper edge, height."""
    bars, top = [], BASE - 1
    for value, kind in ((each.succeeded, "b"), (each.ignored, "b-off"), (each.waiting, "b-run")):
        if value:
            tall = max(round(value * height), 2)
            top -= tall + (1 if kind != "b" else 0)
            bars.append((kind, top, tall))
    return bars


def _numbers(found: Sequence[Hour], width: float, height: float, most: int, lost: int) -> list[Markup]:
    """The largest value above, and the largest below."""
    numbers = []
    for number, each in enumerate(found):
        total = each.succeeded + each.ignored + each.waiting
        middle = (number + 0.5) * width
        if most and total == most:
            y = max(min(top for _, top, _ in _stacked(each, height)) - 5, 10)
            numbers.append(label(f"{total:,}", middle, y, "ctr ink"))
            break
    numbers += _most_failed(found, width, lost)
    return numbers


def _most_failed(found: Sequence[Hour], width: float, lost: int) -> list[Markup]:
    """The largest value below the line, beside its bar, where no other bar is in the way."""
    room = round(9 / width)  # hours that the text covers
    for number, each in enumerate(found):
        if not lost or each.failed != lost:
            continue
        text = f"{each.failed:,} failed"
        if number >= room and not any(other.failed for other in found[number - room : number]):
            kind, x = "end", number * width - 0.5
        elif number + room < len(found) and not any(other.failed for other in found[number + 1 : number + 1 + room]):
            kind, x = "", (number + 1) * width + 0.5
        else:
            continue
        return [label(text, x, BASE + 19, f"opt {kind} t-bad")]
    return []


def _hours(found: Sequence[Hour], width: float, clock: Clock) -> list[Markup]:
    labels = []
    for number, each in enumerate(found):
        there = clock.local(each.hour)
        if number == 0 or (there.hour % 6 == 0 and number > 2):
            named = number == 0 or there.hour == 0
            text = f"{there:%a %H:%M}" if named else f"{there:%H:%M}"
            kind = "" if number == 0 or (there.hour % 12 == 0 and number > 5) else "opt"
            if number > len(found) - 5:  # on a telephone it would leave the figure
                labels.append(label(text, (number + 1) * width, HEIGHT - 4, f"{kind} end".strip()))
            else:
                labels.append(label(text, number * width + 0.35, HEIGHT - 4, kind))
    return labels
