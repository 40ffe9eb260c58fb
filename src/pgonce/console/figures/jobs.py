"""The figures of jobs and runs: lanes, durations, progress, heartbeats. Per cent across, pixels down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup

from pgonce.console.templating import Clock, duration, number, plural
from pgonce.jobs.calls_console import ConsoleRun, Mark, Release, RunDetail

LANE, MIDDLE, BELOW = 46, 19, 34
"""Pixels: the height of a lane, the middle of its bars, and the place of what stands under them."""
TICK_GAP = 0.6
"""Per cent between two ticks to come: those that would touch are left out."""
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


def _percent(place: float) -> str:
    return f"{place:.2f}".rstrip("0").rstrip(".") + "%"


def _use(kind: str, mark: str, place: float, y: float) -> Markup:
    return Markup('<use class="{}" href="#m-{}" x="{}" y="{}"/>').format(kind, mark, _percent(place), f"{y:g}")


def _text(text: str, place: float, y: float, kind: str = "") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, _percent(place), f"{y:g}", text)


def _line(kind: str, place: float, top: float, bottom: float) -> Markup:
    return Markup('<line class="{0}" x1="{1}" x2="{1}" y1="{2:g}" y2="{3:g}"/>').format(
        kind, _percent(place), top, bottom
    )


def _level(kind: str, y: float, begin: float = 0, end: float = 100) -> Markup:
    return Markup('<line class="{0}" x1="{1}" x2="{2}" y1="{3:g}" y2="{3:g}"/>').format(
        kind, _percent(begin), _percent(end), y
    )


def _rect(kind: str, begin: float, width: float, y: float, height: float, rx: int = 1) -> Markup:
    return Markup('<rect class="{}" x="{}" width="{}" y="{:g}" height="{:g}" rx="{}"/>').format(
        kind, _percent(begin), _percent(width), y, height, rx
    )


def _figure(identifier: str, height: int, title: str, found: str, parts: Iterable[Markup]) -> Markup:
    head = Markup(
        '<svg class="fig live" id="{0}" height="{1}" role="img" aria-labelledby="{0}t {0}d">'
        '<title id="{0}t">{2}</title><desc id="{0}d">{3}</desc>'
    ).format(identifier, height, title, found)
    return head + Markup("").join(parts) + Markup("</svg>")


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
            parts.append(_text(text, place, 16, (kind + hidden).strip()))
    if period.holds(period.now):
        parts.append(_text(f"{clock.local(period.now):%H:%M}", period.at(period.now), 16, "ctr ink"))
    return (
        Markup('<svg class="fig live" id="axis" height="24" aria-hidden="true">')
        + Markup("").join(parts)
        + Markup("</svg>")
    )


def tell(marks: Sequence[Mark], ticks: Sequence[datetime], clock: Clock) -> str:
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
    if ticks:
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
    """One job and key.

    Args:
        identifier: of the figure in its page.
        title: the job's name and key.
        marks: what happened.
        ticks: the starts to come.
        pause: from when to when it is paused; until None: it has no end yet.
        period: what the figure covers.
        clock: the viewer's.
    """
    parts = [_line("grid", place, 0, LANE) for place in _grid(period)]
    parts += _paused(marks, pause, period)
    second = _second_level(marks)
    overlaps = [mark for mark in marks if mark.kind == "overlap"]
    for mark in marks:
        parts += _bar(mark, period, any(o.began_at <= mark.ended_at and mark.began_at <= o.ended_at for o in overlaps),
                      mark.run_id in second)  # fmt: skip
    for mark in overlaps:
        begin, width = _extent(mark, period)
        parts.append(Markup('<rect x="{}" width="{}" y="6" height="32" fill="url(#hatch)" class="hz"/>').format(
            _percent(begin), _percent(width)))  # fmt: skip
    parts += [
        _use("m warn", "notch", period.at(m.began_at), BELOW) for m in _spaced(m for m in marks if m.kind == "skipped")
    ]
    parts += [_use("m bad", "miss", period.at(m.began_at), MIDDLE) for m in marks if m.kind in {"missed", "late"}
              and period.holds(m.began_at)]  # fmt: skip
    last = -1.0
    for tick in ticks:
        place = period.at(tick)
        if period.holds(tick) and place - last >= TICK_GAP:
            parts.append(_use("hol", "tick", place, MIDDLE))
            last = place
    note = _note(marks, period, clock)
    if note:
        parts.append(note)
    if period.holds(period.now):
        parts.append(_line("now", period.at(period.now), 0, LANE))
    return _figure(identifier, LANE, title, tell(marks, ticks, clock), parts)


def _extent(mark: Mark, period: Period) -> tuple[float, float]:
    begin = period.at(mark.began_at)
    return begin, max(period.at(mark.ended_at) - begin, 0.1)


def _second_level(marks: Sequence[Mark]) -> set[object]:
    """The runs that began while another one was at work: they stand on the lower level."""
    return {mark.run_id for mark in marks if mark.kind == "overlap"}


def _bar(mark: Mark, period: Period, overlapping: bool, lower: bool) -> list[Markup]:
    kind = _BARS.get(mark.kind)
    if kind is None:
        return []
    begin, width = _extent(mark, period)
    y = 13 if not overlapping else 24 if lower else 8
    parts = [_rect(kind, begin, width, y, 12)]
    if mark.kind == "failed":
        parts.append(_use("x bad", "x", begin + width / 2, BELOW if not overlapping else 42))
    if mark.kind == "running":
        parts.append(_use("m run", "go", begin + width, y + 6))
    return parts


def _spaced(marks: Iterable[Mark]) -> list[Mark]:
    return list(marks)[-100:]


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
            parts.append(_rect("rest", left, width, 7, 32, 3))
            if width > 6:
                parts.append(_text("paused", left + 0.8, 26))
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
            return _text(text, place, 23, "opt")
    return None


# Durations -----------------------------------------------------------------------------------------------------------

STRIP, BASE, TOP = 262, 236, 36
_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms"))


@dataclass(frozen=True, slots=True)
class Usual:
    """How long a job's runs take, in milliseconds."""

    runs: int
    """That succeeded."""
    half: float
    p95: float
    outside: float
    """A run that takes longer is outside the usual."""


def usual(runs: Sequence[ConsoleRun]) -> Usual | None:
    """From the runs that succeeded; None of fewer than 20."""
    took = sorted(run.duration_ms for run in runs if run.status == "succeeded")
    if len(took) < 20:
        return None
    half, p95 = took[len(took) // 2], took[min(int(len(took) * 0.95), len(took) - 1)]
    quarter, three = took[len(took) // 4], took[len(took) * 3 // 4]
    # the usual rule of box plots, but never less than a quarter over the median: equal runs have no spread
    return Usual(len(took), half, p95, max(three + 3 * (three - quarter), 1.25 * half, half + 1))


def unit_of(most: float) -> tuple[int, str]:
    """The unit in which durations up to ``most`` milliseconds are read easily: its milliseconds and its name."""
    return next((each for each in _UNITS if most >= 2 * each[0]), _UNITS[-1])


def step_of(most: float) -> float:
    """The distance of two lines of the grid, so that at most five fit: 1, 2 or 5 times a power of ten."""
    power = 10.0**-3
    while True:
        for factor in (1, 2, 5):
            if most <= 5 * factor * power:
                return factor * power
        power *= 10


def strip(runs: Sequence[ConsoleRun], releases: Sequence[Release], clock: Clock) -> Markup:
    """The durations of the last runs, the oldest on the left.

    Args:
        runs: the newest first, without those that were skipped.
        releases: when releases started.
        clock: the viewer's.
    """
    ordered = list(reversed(runs))
    band = usual(ordered)
    most = max((run.duration_ms for run in ordered), default=1) or 1
    unit, name = unit_of(most)
    step = step_of(most / unit)
    top = max(step * -(-most // (unit * step)), step)  # the next line above the longest

    def y(ms: float) -> float:
        return round(BASE - (BASE - TOP) * min(ms / unit / top, 1), 1)

    parts: list[Markup] = [_level("base", BASE), Markup('<text class="end" x="-8" y="{}">0</text>').format(BASE + 4)]
    value = step
    while value <= top + step / 1000:
        parts.append(_level("grid", y(value * unit)))
        parts.append(Markup('<text class="end" x="-8" y="{:g}">{}</text>').format(y(value * unit) + 4, f"{value:g}"))
        value += step
    if band is not None:
        parts.append(Markup('<rect class="rng" x="0" width="100%" y="{:g}" height="{:g}"/>').format(
            y(band.p95), max(y(band.half) - y(band.p95), 1)))  # fmt: skip
        parts += [_level("mid", y(band.half)), _level("p95", y(band.p95))]
    places = [(index + 0.5) * 100 / max(len(ordered), 1) for index in range(len(ordered))]
    parts += _releases(ordered, places, releases)
    told = 0
    for place, run in zip(places, ordered, strict=True):
        unusual = band is not None and run.duration_ms > band.outside
        if run.status == "failed":
            parts.append(_use("x bad", "x", place, y(run.duration_ms)))
        elif unusual or run.status == "running":
            parts.append(_use("m warn" if unusual else "m run", "dia" if unusual else "dot", place, y(run.duration_ms)))
        else:
            parts.append(_use("m pt", "dot", place, y(run.duration_ms)))
        if (unusual or run.status == "running") and told < 6:
            told += 1
            text = duration(run.duration_ms) + (", still running" if run.status == "running" else "")
            kind, beside = ("end", place - 1.1) if place > 70 else ("", place + 0.9)
            parts.append(_text(text, beside, y(run.duration_ms) + (22 if y(run.duration_ms) < 60 else 4),
                               f"{kind} {'t-warn' if unusual else 't-run'}".strip()))  # fmt: skip
    if ordered:
        parts.append(Markup('<text x="0" y="256">{}</text>').format(_day(ordered[0].started_at, clock)))
        parts.append(Markup('<text class="end" x="100%" y="256">{}</text>').format(_day(ordered[-1].started_at, clock)))
    return _figure(
        "strip", STRIP, f"Duration of the last {len(ordered)} runs, in {name}", told_of(ordered, band), parts
    )


def _day(moment: datetime, clock: Clock) -> str:
    return f"{clock.local(moment):%a %H:%M}"


def _releases(runs: Sequence[ConsoleRun], places: Sequence[float], releases: Sequence[Release]) -> list[Markup]:
    """A dashed line before the first run of each release, where there was an earlier run."""
    parts: list[Markup] = []
    last = -100.0
    for release in releases:
        first = next((i for i, run in enumerate(runs) if run.started_at >= release.started_at), None)
        if not first:
            continue
        place = (places[first - 1] + places[first]) / 2
        parts.append(_line("rel", place, 10, BASE))
        if place - last > 16:
            end = place > 80
            parts.append(_text(release.release[:24], place + (-0.6 if end else 0.6), 18, "end opt" if end else "opt"))
            last = place
    return parts


def told_of(runs: Sequence[ConsoleRun], band: Usual | None) -> str:
    """What the strip shows, in words."""
    if not runs:
        return "No run yet."
    said = []
    if band is not None:
        said.append(f"Half take less than {duration(band.half)}, 95 of 100 less than {duration(band.p95)}.")
        outside = [run for run in runs if run.duration_ms > band.outside and run.status != "failed"]
        if outside:
            said.append(f"{plural(len(outside), 'run is', 'runs are')} outside the usual, the longest with "
                        f"{duration(max(run.duration_ms for run in outside))}.")  # fmt: skip
    failed = sum(run.status == "failed" for run in runs)
    if failed:
        said.append(f"{failed} failed.")
    if any(run.status == "running" for run in runs):
        said.append("The newest is still running.")
    return " ".join(said) or f"{plural(len(runs), 'run')}."


# One run -------------------------------------------------------------------------------------------------------------


def heartbeat(run: RunDetail, now: datetime, clock: Clock) -> Markup | None:
    """The last heartbeat, now, and when the run counts as dead; None: it has ended."""
    if run.dead_after is None:
        return None
    begin = min(run.heartbeat_at, now)
    late = now >= run.dead_after
    # not to scale: the heartbeat stands at 5 %, now and the limit at a fixed place, so that the words fit
    spent = min((now - begin) / run.window, 1)
    here = 8 + 84 * spent
    parts = [_level("base", 16, 4, here), _level("rel", 16, here, 99)]
    parts.append(Markup('<line class="bt" x1="4%" x2="4%" y1="8" y2="24"/>'))
    parts.append(_line("now", here, 2, 30))
    parts.append(_text("now", here + 1, 10, "ink") if here < 80 else _text("now", here - 1, 10, "end ink"))
    parts.append(_line("rel", 99, 2, 30))
    word = "counted as dead from" if late else "counts as dead at"
    parts.append(_text(f"{word} {clock.text(run.dead_after)}", 100, 46, "end"))
    parts.append(_text(f"last {clock.text(run.heartbeat_at)}", 0, 46, "opt"))
    found = (
        f"The last one was {duration(now - begin)} ago. "
        f"Without another the run counts as dead at {clock.text(run.dead_after)}."
    )
    return _figure("beat", 52, "Heartbeat", found, parts)


def progress(run: RunDetail, now: datetime, clock: Clock) -> Markup | None:
    """What the run has done since its start; None: it reports no progress.

    The database has only the newest report. So the line goes straight to it, and is level from then on.
    """
    if run.progress_done is None or run.progress_at is None:
        return None
    end = run.ended_at or now
    most = max(run.progress_total or 0, run.progress_done, 1)
    long = max((end - run.started_at) / timedelta(milliseconds=1), run.usual_to_ms or 0, 1) * 1.06
    base, top = 128, 24

    def x(moment: datetime) -> float:
        return min(max((moment - run.started_at) / timedelta(milliseconds=1), 0) / long * 100, 100)

    def y(done: float) -> float:
        return round(base - (base - top) * done / most, 1)

    parts = [_level("base", base), Markup('<text class="end" x="-8" y="132">0</text>')]
    for share in (0.5, 1):
        parts.append(_level("grid", y(most * share)))
        parts.append(Markup('<text class="end" x="-8" y="{:g}">{}</text>').format(
            y(most * share) + 4, number(round(most * share))))  # fmt: skip
    if run.usual_to_ms and run.progress_total:
        there = min(run.usual_to_ms / long * 100, 100)
        parts.append(Markup('<line class="mid" x1="0" x2="{}" y1="{}" y2="{}"/>').format(_percent(there), base, top))
        parts.append(_text(f"usual: {duration(run.usual_to_ms)}", min(there + 0.8, 70), 40))
    reported, done = x(run.progress_at), y(run.progress_done)
    parts.append(
        Markup('<line class="path" x1="0%" x2="{}" y1="{}" y2="{:g}"/>').format(_percent(reported), base, done)
    )
    parts.append(_level("path", done, reported, x(end)))
    parts.append(_use("m run", "dot", x(end), done))
    parts.append(_text(f"{number(run.progress_done)} {'now' if run.ended_at is None else 'at its end'}",
                       x(end), done - 9, "end t-run" if x(end) > 20 else "t-run"))  # fmt: skip
    parts.append(_text(f"{clock.local(run.started_at):%H:%M}", 0, 148))
    parts.append(_text(f"{clock.local(end):%H:%M}", x(end), 148, "ctr" if 10 < x(end) < 90 else "end"))
    of = f" of {number(run.progress_total)}" if run.progress_total else ""
    found = f"{number(run.progress_done)}{of} at {clock.text(run.progress_at)}, the last report."
    return _figure("progress", 154, "Progress since the start", found, parts)
