"""The day of jobs in lanes. Per cent across, pixels down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup

from pgonce.console.figures.svg import figure, label, line, percent, rect, use
from pgonce.console.templating import Clock, duration, number, plural
from pgonce.jobs.calls_console import Mark

LANE, MIDDLE, BELOW = 46, 19, 34
"""Pixels: the height of a lane, the middle of its bars, and the place of what stands under them."""
MOST_TICKS = 100
"""Future ticks that are drawn in a lane, at most."""
TICK_GAP = 0.6
"""Per cent of the width between two future ticks, at least; a tick that is closer is left out."""
_BARS = {"succeeded": "b", "failed": "b b-bad", "running": "b b-run"}


@dataclass(frozen=True, slots=True)
class Period:
    """What a figure of lanes covers."""

    begin: datetime
    end: datetime
    now: datetime

    def at(self, moment: datetime) -> float:
        """The place of a moment, in per cent."""
        return min(max((moment - self.begin) / (self.end - self.begin), 0), 1) * 100

    @property
    def days(self) -> int:
        """The length in days; a day of 23 or 25 hours is one."""
        return round((self.end - self.begin) / timedelta(days=1))

    def holds(self, moment: datetime) -> bool:
        """Whether the moment is inside."""
        return self.begin <= moment <= self.end


def _grid(period: Period) -> list[float]:
    steps = 8 if period.days <= 2 else period.days
    return [100 / steps * step for step in range(steps + 1)]


def axis(period: Period, clock: Clock) -> Markup:
    """The hours of a day, or the days of a week, and the time now."""
    parts = []
    places = _grid(period)
    for step, place in enumerate(places):
        moment = clock.local(period.begin + (period.end - period.begin) * (place / 100))
        if period.days <= 2:
            text = "24:00" if step == len(places) - 1 else f"{moment:%H:%M}"
        elif step == len(places) - 1:
            continue
        else:
            text = f"{moment:%a} {moment.day}"
        kind = "" if step == 0 else "end" if step == len(places) - 1 else "ctr" if period.days <= 2 else ""
        hidden = " opt" if (step % 2 and period.days <= 2) or (step % 3 and period.days > 2) else ""
        away = abs(period.at(period.now) - place) if period.holds(period.now) else 100
        if away >= 5:
            hidden = " opt" if away < 14 else hidden  # at 360 px the time now needs this much
            parts.append(label(text, place, 16, (kind + hidden).strip()))
    if period.holds(period.now):
        parts.append(label(f"{clock.local(period.now):%H:%M}", period.at(period.now), 16, "ctr ink"))
    return (
        Markup('<svg class="fig live" id="axis" height="24" aria-hidden="true">')
        + Markup("").join(parts)
        + Markup("</svg>")
    )


def describe(marks: Sequence[Mark], ticks: Sequence[datetime], clock: Clock) -> str:
    """What a lane shows, in words."""
    runs = {kind: sum(mark.runs for mark in marks if mark.kind == kind) for kind in ("succeeded", "failed", "missed")}
    said = []
    if runs["succeeded"]:
        said.append(f"{plural(runs['succeeded'], 'run')} succeeded.")
    if runs["failed"]:
        said.append(f"{number(runs['failed'])} failed.")
    for mark in marks:
        if mark.kind == "running":
            blocked = sum(each.runs for each in marks if each.kind == "skipped" and each.blocked_by == mark.run_id)
            in_way = f" and stands in the way of {plural(blocked, 'start')}" if blocked else ""
            said.append(f"The one of {clock.text(mark.began_at)} still runs{in_way}.")
    said += [f"Two runs overlapped from {clock.text(m.began_at)} to {clock.text(m.ended_at)}." for m in marks
             if m.kind == "overlap"][:3]  # fmt: skip
    late = [mark for mark in marks if mark.kind == "late"]
    if late:
        said.append(
            f"The tick of {clock.text(late[-1].began_at)} began at {clock.text(late[-1].ended_at)}, after its grace."
        )
    if runs["missed"]:
        said.append(f"{plural(runs['missed'], 'tick was', 'ticks were')} missed.")
    if len(ticks) > MOST_TICKS:
        said.append(f"Over {MOST_TICKS} starts to come; the first {MOST_TICKS} are drawn.")
    elif ticks:
        said.append(f"{plural(len(ticks), 'start')} to come.")
    return " ".join(said) or "Nothing ran."


def lane(
    identifier: str,
    title: str,
    marks: Sequence[Mark],
    ticks: Sequence[datetime],
    pause: tuple[datetime, datetime | None] | None,
    period: Period,
    clock: Clock,
) -> Markup:
    """One job and key. ``ticks`` are the starts to come; ``pause``: from when to when, None while it has no end."""
    parts = [line("grid", place, 0, LANE) for place in _grid(period)]
    parts += _paused(marks, pause, period)
    overlaps = [mark for mark in marks if mark.kind == "overlap"]
    second = {mark.run_id for mark in overlaps}  # they began while another run was at work: the lower level
    for mark in marks:
        parts += _bar(mark, period, any(o.began_at <= mark.ended_at and mark.began_at <= o.ended_at for o in overlaps),
                      mark.run_id in second)  # fmt: skip
    for mark in overlaps:
        begin, width = _extent(mark, period)
        parts.append(Markup('<rect x="{}" width="{}" y="6" height="32" fill="url(#hatch)" class="hz"/>').format(
            percent(begin), percent(width)))  # fmt: skip
    parts += [
        use("m warn", "notch", period.at(m.began_at), BELOW) for m in [m for m in marks if m.kind == "skipped"][-100:]
    ]
    parts += [use("m bad", "miss", period.at(m.began_at), MIDDLE) for m in marks if m.kind in {"missed", "late"}
              and period.holds(m.began_at)]  # fmt: skip
    last = -1.0
    for tick in ticks[:MOST_TICKS]:
        place = period.at(tick)
        if period.holds(tick) and place - last >= TICK_GAP:
            parts.append(use("hol", "tick", place, MIDDLE))
            last = place
    note = _note(marks, period, clock)
    if note:
        parts.append(note)
    if period.holds(period.now):
        parts.append(line("now", period.at(period.now), 0, LANE))
    return figure(identifier, LANE, title, describe(marks, ticks, clock), parts)


def _extent(mark: Mark, period: Period) -> tuple[float, float]:
    begin = period.at(mark.began_at)
    return begin, max(period.at(mark.ended_at) - begin, 0.1)


def _bar(mark: Mark, period: Period, overlapping: bool, lower: bool) -> list[Markup]:
    kind = _BARS.get(mark.kind)
    if kind is None:
        return []
    begin, width = _extent(mark, period)
    y = 13 if not overlapping else 24 if lower else 8
    parts = [rect(kind, begin, width, y, 12)]
    if mark.kind == "failed":
        parts.append(use("x bad", "x", begin + width / 2, BELOW if not overlapping else 42))
    if mark.kind == "running":
        parts.append(use("m run", "go", begin + width, y + 6))
    return parts


def _paused(marks: Sequence[Mark], pause: tuple[datetime, datetime | None] | None, period: Period) -> list[Markup]:
    """A pale field for the pause, and for starts that an earlier pause has skipped, one after the other."""
    fields: list[tuple[datetime, datetime]] = []
    for mark in sorted(marks, key=lambda each: each.began_at):
        if mark.kind == "paused":
            if fields and not any(m.kind in _BARS and fields[-1][1] < m.began_at < mark.began_at for m in marks):
                fields[-1] = (fields[-1][0], mark.ended_at)
            else:
                fields.append((mark.began_at, mark.ended_at))
    if pause is not None:
        begin, end = pause[0], pause[1] or period.end
        fields = [each for each in fields if each[1] < begin] + [(begin, end)]
    parts = []
    for begin, end in fields:
        if end >= period.begin and begin <= period.end:
            left = period.at(begin)
            width = max(period.at(end) - left, 0.4)
            parts.append(rect("rest", left, width, 7, 32, 3))
            if width > 6:
                parts.append(label("paused", left + 0.8, 26))
    return parts


def _note(marks: Sequence[Mark], period: Period, clock: Clock) -> Markup | None:
    """A few words beside what is unusual, where there is room."""
    for mark in marks:
        if mark.kind == "late":
            text, end = (
                f"missed {clock.local(mark.began_at):%H:%M}, began {clock.local(mark.ended_at):%H:%M}",
                mark.ended_at,
            )
        elif mark.kind == "overlap":
            text, end = f"2 runs overlapped for {duration(mark.ended_at - mark.began_at)}", mark.ended_at
        else:
            continue
        place = period.at(end) + 1
        later = [period.at(m.began_at) for m in marks if m.kind in _BARS and m.began_at > end]
        free = all(not place - 1 < other < place + 24 for other in [*later, period.at(period.now)])
        if place < 70 and free:
            return label(text, place, 23, "opt")
    return None
