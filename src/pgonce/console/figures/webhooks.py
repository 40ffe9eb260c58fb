"""The figures of an event: its attempts on a line of time, and the order of an object's events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations

from markupsafe import Markup

from pgonce.console.figures.svg import figure, label, level, line, rect, use
from pgonce.console.templating import STATES, Clock
from pgonce.webhooks.calls_console import HistoryLine, LaneEvent

FIRST, LAST = 6.0, 94.0
"""Per cent: where the first and the last mark of a lane stand."""
ABOVE, BELOW = 46, 104
"""Pixels from the top: the line of the creation times and the line of the arrival times."""


@dataclass(frozen=True, slots=True)
class LaneMark:
    """An event in a lane: where it stands, and whether it arrived out of order."""

    number: int
    event: LaneEvent
    above: float
    below: float
    late_after: int
    """The number of an event that was created later and arrived before it; 0: none."""


def lane_marks(events: Sequence[LaneEvent]) -> list[LaneMark]:
    """The events in the order of their creation, each with its two places in per cent.

    Places follow time, and half of them the mere order, so that ten events of one second do not cover each other. Both
    lines share one scale: two lines cross exactly if two events arrived in the other order.
    """
    order = sorted(events, key=lambda each: (each.created or each.received_at, each.received_at, each.id))
    # (moment, whether it is an arrival, number): events of one second stand side by side
    moments = [(each.created or each.received_at, 0, number) for number, each in enumerate(order, 1)]
    moments += [(each.received_at, 1, number) for number, each in enumerate(order, 1)]
    moments.sort()
    places = {key[1:]: place for key, place in zip(moments, _places([key[0] for key in moments]), strict=True)}
    marks = []
    for number, each in enumerate(order, 1):
        created = each.created or each.received_at
        before = [
            other
            for other, later in enumerate(order, 1)
            if (later.created or later.received_at) > created and later.received_at < each.received_at
        ]
        marks.append(LaneMark(number, each, places[0, number], places[1, number], max(before, default=0)))
    return marks


def _places(moments: Sequence[datetime]) -> Iterator[float]:
    whole = (moments[-1] - moments[0]).total_seconds() if moments else 0.0
    for rank, moment in enumerate(moments):
        share = (moment - moments[0]).total_seconds() / whole if whole else rank / max(len(moments) - 1, 1)
        yield FIRST + (LAST - FIRST) * (share + rank / max(len(moments) - 1, 1)) / 2


def lane(name: str, title: str, marks: Sequence[LaneMark], this: str) -> Markup:
    """The figure of a lane: above as created at Stripe, below as arrived; ``this`` is the event of the page."""
    crossed: set[int] = set()
    diamonds = []
    for one, other in combinations(marks, 2):
        if (other.above - one.above) * (other.below - one.below) < 0:
            crossed |= {one.number, other.number}
            share = (other.above - one.above) / ((other.above - one.above) - (other.below - one.below))
            x, y = one.above + share * (one.below - one.above), ABOVE + share * (BELOW - ABOVE)
            diamonds.append(use("m warn", "dia", x, round(min(max(y, 54), 92), 1)))
    parts = [
        level("base", ABOVE),
        label("Created at Stripe", 0, 14),
        level("base", BELOW),
        label("Arrived here", 0, 130),
    ]
    joined = Markup('<line class="{}" x1="{:.2f}%" x2="{:.2f}%" y1="{}" y2="{}"/>')
    for each in marks:
        kind = "cross" if each.number in crossed else "ln"
        parts.append(joined.format(kind, each.above, each.below, ABOVE, BELOW))
    parts += diamonds[:40]
    labelled = -10.0
    for each in marks:
        if each.event.created:
            parts.append(use("m mute", "dot", each.above, ABOVE))
        if each.above - labelled > 2.2:
            weight = "ctr t-run" if each.event.stripe_event_id == this else "ctr ink"
            parts.append(label(str(each.number), each.above, 38, weight))
            labelled = each.above
        parts.append(_glyph(each.below, BELOW, each.event.state))
    return figure(name, 136, title, _describe_order(marks, this), parts)


def _describe_order(marks: Sequence[LaneMark], this: str) -> str:
    said = [f"{len(marks)} events." if len(marks) != 1 else "One event."]
    late = [each for each in marks if each.late_after]
    for each in late[:3]:
        said.append(
            f"No. {each.number}, {each.event.event_type}, arrived after no. {each.late_after}: their lines cross."
        )
    if not late and len(marks) > 1:
        said.append("All arrived in their order.")
    said += [f"No. {each.number} is this one." for each in marks if each.event.stripe_event_id == this]
    return " ".join(said)


def attempts(name: str, history: Sequence[HistoryLine], received: datetime, is_dead: bool, clock: Clock) -> Markup:
    """The figure of the attempts that failed, from the first to now."""
    tried = [each for each in history if each.what in {"failed", "lost"}]
    began = min([received, *((each.began_at or each.ended_at) for each in tried)])
    whole = max((clock.now - began).total_seconds(), 1.0)

    def place(moment: datetime) -> float:
        return 1.5 + 95 * min(max((moment - began).total_seconds() / whole, 0), 1)

    ends = [each.ended_at for each in tried]
    said = f"{len(tried)} attempts, the first at {clock.text(ends[0])}, the last at {clock.text(ends[-1])}."
    parts = [level("base", 20), label(clock.text(began), 0.4, 44)]
    last = place(ends[-1])
    if 18 < last < 78:
        word = " dead letter" if is_dead else ""
        parts.append(label(f"{clock.text(ends[-1])}{word}", last - 1, 44))
    parts.append(label("now", 100, 44, "end"))
    for number, each in enumerate(tried, 1):
        parts.append(_glyph(place(each.ended_at), 20, "dead" if is_dead and number == len(tried) else "failed"))
    parts.append(line("now", 98, 8, 30))
    return figure(name, 50, "The failed attempts on a line of time", said, parts)


def _glyph(x: float, y: int, state: str) -> Markup:
    shape, colour, _ = STATES.get(state, ("unk", "mute", ""))
    return Markup(
        '<svg x="{:.2f}%" y="{}" overflow="visible"><circle class="bg" r="9"/>'
        '<use href="#g-{}" x="-8" y="-8" width="16" height="16" class="g {}"/></svg>'
    ).format(x, y, shape, colour)


def progress(name: str, counts: dict[str, int], total: int) -> Markup:
    """The bar of a replay: how many of its events succeeded, failed again, were left as they were, and wait."""
    said = ", ".join(f"{counts.get(state, 0):,} {word}" for state, word in REPLAYED if counts.get(state))
    parts = [rect("cover", 0, 100, 4, 14, 3)]
    x = 0.0
    for state, kind in (
        ("succeeded", "b"),
        ("ignored", "b-off"),
        ("changed", "b-seen"),
        ("failed", "b b-bad"),
        ("queued", "b b-run"),
    ):
        width = 100 * counts.get(state, 0) / max(total, 1)
        if width:
            parts.append(rect(kind, x, max(width, 0.3), 4, 14, 0))
            x += width
    done = total - counts.get("planned", 0) - counts.get("queued", 0)
    parts.append(label(f"{done:,} of {total:,} have an outcome", 0, 38, "ink"))
    found = f"Of {total:,}: {said or 'none has moved'}."
    return figure(name, 44, "What has become of the events", found, parts)


REPLAYED = (
    ("succeeded", "succeeded"), ("failed", "failed again"), ("ignored", "ignored"),
    ("changed", "changed meanwhile and left"), ("queued", "queued"), ("planned", "not queued yet"),
)  # fmt: skip
