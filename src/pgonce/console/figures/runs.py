"""The figures of runs: durations, progress, heartbeats. Per cent across, pixels down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup

from pgonce.console.figures.svg import figure, label, level, line, percent, scale, use
from pgonce.console.templating import Clock, duration, number, plural
from pgonce.jobs.calls_console import ConsoleRun, Release, RunDetail

STRIP, BASE, TOP = 262, 236, 36
_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms"))


@dataclass(frozen=True, slots=True)
class Usual:
    """How long a job's runs take, in milliseconds."""

    runs: int
    """How many have succeeded."""
    half: float
    p95: float
    outside: float
    """A run that takes longer is outside the usual."""


def usual(runs: Sequence[ConsoleRun]) -> Usual | None:
    """The usual duration of the runs that succeeded; None if there are fewer than 20."""
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
    """The durations of the last runs, the oldest on the left; ``runs`` has the newest first, without skipped ones."""
    ordered = list(reversed(runs))
    band = usual(ordered)
    most = max((run.duration_ms for run in ordered), default=1) or 1
    unit, name = unit_of(most)
    step = step_of(most / unit)
    top = max(step * -(-most // (unit * step)), step)  # the next line above the longest

    def y(ms: float) -> float:
        return round(BASE - (BASE - TOP) * min(ms / unit / top, 1), 1)

    parts: list[Markup] = [level("base", BASE), scale("0", BASE + 4)]
    value = step
    while value <= top + step / 1000:
        parts += [level("grid", y(value * unit)), scale(f"{value:g}", y(value * unit) + 4)]
        value += step
    if band is not None:
        parts.append(Markup('<rect class="rng" x="0" width="100%" y="{:g}" height="{:g}"/>').format(
            y(band.p95), max(y(band.half) - y(band.p95), 1)))  # fmt: skip
        parts += [level("mid", y(band.half)), level("p95", y(band.p95))]
    places = [(index + 0.5) * 100 / max(len(ordered), 1) for index in range(len(ordered))]
    parts += _releases(ordered, places, releases)
    labelled = 0
    for place, run in zip(places, ordered, strict=True):
        unusual = band is not None and run.duration_ms > band.outside
        if run.status == "failed":
            parts.append(use("x bad", "x", place, y(run.duration_ms)))
        elif unusual or run.status == "running":
            parts.append(use("m warn" if unusual else "m run", "dia" if unusual else "dot", place, y(run.duration_ms)))
        else:
            parts.append(use("m pt", "dot", place, y(run.duration_ms)))
        if (unusual or run.status == "running") and labelled < 6:
            labelled += 1
            text = duration(run.duration_ms) + (", still running" if run.status == "running" else "")
            kind, beside = ("end", place - 1.1) if place > 70 else ("", place + 0.9)
            parts.append(label(text, beside, y(run.duration_ms) + (22 if y(run.duration_ms) < 60 else 4),
                               f"{kind} {'t-warn' if unusual else 't-run'}".strip()))  # fmt: skip
    if ordered:
        parts.append(label(_day(ordered[0].started_at, clock), 0, 256))
        parts.append(label(_day(ordered[-1].started_at, clock), 100, 256, "end"))
    return figure(
        "strip", STRIP, f"Duration of the last {len(ordered)} runs, in {name}", describe(ordered, band), parts
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
        parts.append(line("rel", place, 10, BASE))
        if place - last > 16:
            end = place > 80
            parts.append(label(release.release[:24], place + (-0.6 if end else 0.6), 18, "end opt" if end else "opt"))
            last = place
    return parts


def describe(runs: Sequence[ConsoleRun], band: Usual | None) -> str:
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
    parts = [level("base", 16, 4, here), level("rel", 16, here, 99)]
    parts.append(Markup('<line class="bt" x1="4%" x2="4%" y1="8" y2="24"/>'))
    parts.append(line("now", here, 2, 30))
    parts.append(label("now", here + 1, 10, "ink") if here < 80 else label("now", here - 1, 10, "end ink"))
    parts.append(line("rel", 99, 2, 30))
    word = "counted as dead from" if late else "counts as dead at"
    parts.append(label(f"{word} {clock.text(run.dead_after)}", 100, 46, "end"))
    parts.append(label(f"last {clock.text(run.heartbeat_at)}", 0, 46, "opt"))
    found = (
        f"The last one was {duration(now - begin)} ago. "
        f"Without another the run counts as dead at {clock.text(run.dead_after)}."
    )
    return figure("beat", 52, "Heartbeat", found, parts)


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

    parts = [level("base", base), scale("0", base + 4)]
    for share in (0.5, 1):
        parts += [level("grid", y(most * share)), scale(number(round(most * share)), y(most * share) + 4)]
    if run.usual_to_ms and run.progress_total:
        there = min(run.usual_to_ms / long * 100, 100)
        parts.append(Markup('<line class="mid" x1="0" x2="{}" y1="{}" y2="{}"/>').format(percent(there), base, top))
        beside = top - 10 if run.progress_done < 0.7 * most else base - 10  # where the newest report is not
        parts.append(label(f"usual: {duration(run.usual_to_ms)}", there, beside, "end" if there > 30 else ""))
    reported, done = x(run.progress_at), y(run.progress_done)
    parts.append(Markup('<line class="path" x1="0%" x2="{}" y1="{}" y2="{:g}"/>').format(percent(reported), base, done))
    parts.append(level("path", done, reported, x(end)))
    parts.append(use("m run", "dot", x(end), done))
    parts.append(label(f"{number(run.progress_done)} {'now' if run.ended_at is None else 'last reported'}",
                       x(end), done - 9, "end t-run" if x(end) > 20 else "t-run"))  # fmt: skip
    begin, stop = f"{clock.local(run.started_at):%H:%M}", f"{clock.local(end):%H:%M}"
    if x(end) > 26:  # on a telephone two times need a quarter of the width
        parts.append(label(begin, 0, 148))
        parts.append(label(stop, x(end), 148, "ctr" if x(end) < 90 else "end"))
    else:
        parts.append(label(begin if begin == stop else f"{begin} to {stop}", 0, 148))
    of = f" of {number(run.progress_total)}" if run.progress_total else ""
    found = f"{number(run.progress_done)}{of} at {clock.text(run.progress_at)}, the last report."
    return figure("progress", 154, "Progress since the start", found, parts)
