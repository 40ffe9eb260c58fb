"""The figures of an event: its attempts on a line of time, and the order of an object's events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations

from markupsafe import Markup

from pgonce.console.templating import STATES, Clock
from pgonce.console.text import visible
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
            diamonds.append(
                Markup('<use class="m warn" href="#m-dia" x="{:.2f}%" y="{:.1f}"/>').format(x, min(max(y, 54), 92))
            )
    parts = [_described(name, title, _order_said(marks, this))]
    for y, text, at in ((ABOVE, "Created at Stripe", 14), (BELOW, "Arrived here", 130)):
        parts.append(Markup('<line class="base" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(y))
        parts.append(Markup('<text x="0" y="{}">{}</text>').format(at, text))
    line = Markup('<line class="{}" x1="{:.2f}%" x2="{:.2f}%" y1="{}" y2="{}"/>')
    for each in marks:
        kind = "cross" if each.number in crossed else "ln"
        parts.append(line.format(kind, each.above, each.below, ABOVE, BELOW))
    parts += diamonds[:40]
    labelled = -10.0
    for each in marks:
        if each.event.created:
            parts.append(Markup('<use class="m mute" href="#m-dot" x="{:.2f}%" y="{}"/>').format(each.above, ABOVE))
        if each.above - labelled > 2.2:
            weight = "ctr t-run" if each.event.stripe_event_id == this else "ctr ink"
            parts.append(
                Markup('<text class="{}" x="{:.2f}%" y="38">{}</text>').format(weight, each.above, each.number)
            )
            labelled = each.above
        parts.append(_glyph(each.below, BELOW, each.event.state))
    return _figure(name, 136, parts)


def _order_said(marks: Sequence[LaneMark], this: str) -> str:
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
    parts = [_described(name, "The failed attempts on a line of time", said)]
    parts.append(Markup('<line class="base" x1="0" x2="100%" y1="20" y2="20"/>'))
    parts.append(Markup('<text x="0.4%" y="44">{}</text>').format(clock.text(began)))
    last = place(ends[-1])
    if 18 < last < 78:
        word = " dead letter" if is_dead else ""
        parts.append(Markup('<text x="{:.2f}%" y="44">{}{}</text>').format(last - 1, clock.text(ends[-1]), word))
    parts.append(Markup('<text class="end" x="100%" y="44">now</text>'))
    for number, each in enumerate(tried, 1):
        parts.append(_glyph(place(each.ended_at), 20, "dead" if is_dead and number == len(tried) else "failed"))
    parts.append(Markup('<line class="now" x1="98%" x2="98%" y1="8" y2="30"/>'))
    return _figure(name, 50, parts)


def _described(name: str, title: str, said: str) -> Markup:
    return Markup('<title id="{0}-t">{1}</title><desc id="{0}-d">{2}</desc>').format(
        name, visible(title), visible(said)
    )


def _figure(name: str, height: int, parts: Sequence[Markup]) -> Markup:
    head = Markup('<svg class="fig live" id="{0}" height="{1}" role="img" aria-labelledby="{0}-t {0}-d">')
    return head.format(name, height) + Markup("").join(parts) + Markup("</svg>")


def _glyph(x: float, y: int, state: str) -> Markup:
    shape, colour, _ = STATES.get(state, ("unk", "mute", ""))
    return Markup(
        '<svg x="{:.2f}%" y="{}" overflow="visible"><circle class="bg" r="9"/>'
        '<use href="#g-{}" x="-8" y="-8" width="16" height="16" class="g {}"/></svg>'
    ).format(x, y, shape, colour)


def progress(name: str, counts: dict[str, int], total: int) -> Markup:
    """The bar of a replay: what has ended well, what failed again, what was left, and what waits."""
    said = ", ".join(f"{counts.get(state, 0):,} {word}" for state, word in REPLAYED if counts.get(state))
    parts = [_described(name, "What has become of the events", f"Of {total:,}: {said or 'none has moved'}.")]
    parts.append(Markup('<rect class="cover" x="0" width="100%" y="4" height="14" rx="3"/>'))
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
            parts.append(
                Markup('<rect class="{}" x="{:.2f}%" width="{:.2f}%" y="4" height="14"/>').format(
                    kind, x, max(width, 0.3)
                )
            )
            x += width
    done = total - counts.get("planned", 0) - counts.get("queued", 0)
    parts.append(Markup('<text class="ink" x="0" y="38">{}</text>').format(f"{done:,} of {total:,} have an outcome"))
    return _figure(name, 44, parts)


REPLAYED = (
    ("succeeded", "succeeded"), ("failed", "failed again"), ("ignored", "ignored"),
    ("changed", "changed meanwhile and left"), ("queued", "queued"), ("planned", "not queued yet"),
)  # fmt: skip
