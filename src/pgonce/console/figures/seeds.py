"""The figures of imports: progress with its resumes, the rate of the last batches, and the proof as a sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pgonce.console.figures.runs import step_of
from pgonce.console.figures.svg import figure, label, level, percent, rect, scale, use
from pgonce.console.templating import number
from pgonce.seeds.pace import Pace

LEAST = 0.35
"""Per cent: a part of the sum that is not zero is at least three pixels wide on a page of usual width."""


@dataclass(frozen=True, slots=True)
class Sum:
    """The rows of an import, by what became of them."""

    seen: int
    inserted: int
    updated: int
    skipped: int
    rejected: int

    @property
    def total(self) -> int:
        """What is accounted for."""
        return self.inserted + self.updated + self.skipped + self.rejected

    @property
    def gap(self) -> int:
        """Rows that were seen and are not accounted for; negative: more are accounted for than were seen."""
        return self.seen - self.total


def progress(seen: int, total: int, resumes: Sequence[int], *, running: bool, counted: bool = True) -> Markup:
    """The bar of an import whose source says how many rows it has.

    ``resumes``: the rows at which it was resumed. Unless it is ``counted``, the total is an estimate.
    """
    most = max(total, seen, 1)
    done = 100 * seen / most
    parts = [Markup('<rect class="cover" x="0" width="100%" y="4" height="14" rx="3"/>')]
    if seen:
        parts.append(rect("b b-run" if running else "b", 0, max(done, 0.2), 4, 14, 3))
    for count, row in enumerate(resumes, 1):
        place = 100 * min(row / most, 1)
        parts.append(use("m mute", "notch", place, 25))
        if len(resumes) <= 4:
            parts.append(label(f"resume {count}", max(place, 3), 44, "ctr opt"))
    near_end = done > 80
    parts.append(label(number(seen), done - 0.6 if near_end else done + 0.6, 36, "end ink" if near_end else "ink"))
    if done < 60 or not near_end:
        parts.append(label(f"{'' if counted else 'about '}{number(total)}", 100, 36, "end"))
    said = f"{number(seen)} of {'' if counted else 'about '}{number(total)} rows, {done:.0f} per cent"
    if resumes:
        said += f"; resumed at {' and at '.join(number(row) for row in resumes[-5:])} rows"
    return figure("progress", 50, "Progress", f"{said}.", parts)


def rates(pace: Pace) -> Markup | None:
    """Rows per second of the last batches; None of fewer than five."""
    if len(pace.rates) < 5:
        return None
    most = max(pace.rates)
    step = step_of(most) * (2 if most / step_of(most) > 3 else 1)
    top = max(step * -(-most // step), step)
    base, height = 70, 58

    def y(rate: float) -> float:
        return round(base - height * rate / top, 1)

    parts = []
    value = step
    while value <= top + step / 1000:
        parts += [level("grid", y(value)), scale(f"{value:,.0f}", y(value) + 4)]
        value += step
    parts.append(scale("0", base + 4))
    width = 100 / len(pace.rates)
    for place, rate in enumerate(pace.rates):
        parts.append(rect("b", (place + 0.15) * width, width * 0.7, y(rate), max(base - y(rate), 1), 0))
    parts.append(level("base", base))
    parts += [label(f"{len(pace.rates)} batches ago", 0, 90), label("now", 100, 90, "end")]
    found = f"Between {min(pace.rates):,.0f} and {most:,.0f} rows per second; {pace.rate or 0:,.0f} on average."
    return figure("rates", 96, f"Rows per second of the last {len(pace.rates)} batches", found, parts)


def proof(rows: Sum) -> Markup:
    """Two bars of one length: what was seen, and what became of it. If they differ, the gap is drawn."""
    most = max(rows.seen, rows.total, 1)
    parts = [label("Seen in the source", 0, 12), rect("b-seen", 0, 100 * rows.seen / most, 20, 22),
             Markup('<text class="on" x="10" y="36">{}</text>').format(number(rows.seen))]  # fmt: skip
    at = 0.0
    counts = ((rows.inserted, "b"), (rows.updated, "b b-up"), (rows.skipped, "b-off"), (rows.rejected, "b b-bad"))
    widths = _widths([count for count, _ in counts], most)
    for width, (count, kind) in zip(widths, counts, strict=True):
        if count:
            parts.append(rect(kind, at, width, 50, 22, 0))
            at += width
    if rows.inserted and widths[0] > 18:
        parts.append(Markup('<text class="on" x="10" y="66">{} inserted</text>').format(number(rows.inserted)))
    if rows.gap:
        begin, width = (at, 100 * rows.gap / most) if rows.gap > 0 else (100 * rows.seen / most, -100 * rows.gap / most)
        y = 50 if rows.gap > 0 else 20
        parts.append(Markup('<rect x="{}" width="{}" y="{}" height="22" fill="url(#hatch)" class="hz"/>').format(
            percent(begin), percent(max(width, LEAST)), y))  # fmt: skip
        parts.append(label(f"{number(abs(rows.gap))} not accounted for", 100, 12, "end t-bad"))
    parts.append(Markup('<path class="tie" d="M.5 14v6M.5 72v8"/><svg x="{}" overflow="visible">'
                        '<path class="tie" d="M-.5 14v6M-.5 72v8"/></svg>').format("100%"))  # fmt: skip
    named = ((rows.updated, "updated"), (rows.skipped, "skipped"), (rows.rejected, "rejected"))
    others = ", ".join(f"{number(count)} {name}" for count, name in named)
    parts.append(label(others, 100, 94, "end"))
    parts.append(label("They differ" if rows.gap else "Both end at the same line", 0, 94, "opt"))
    found = (
        f"Above: {number(rows.seen)} rows seen. "
        f"Below: {number(rows.inserted)} inserted, {number(rows.updated)} updated, "
        f"{number(rows.skipped)} skipped and {number(rows.rejected)} rejected, end to end. "
        + (f"{number(abs(rows.gap))} rows are not accounted for." if rows.gap else "Both bars are equally long.")
    )
    return figure("proof", 100, "The sum, drawn", found, parts)


def _widths(counts: Sequence[int], most: int) -> list[float]:
    """The widths in per cent: none that is not zero disappears, and together they are as long as the sum."""
    exact = [100 * count / most for count in counts]
    shown = [max(width, LEAST) if count else 0.0 for width, count in zip(exact, counts, strict=True)]
    surplus = sum(shown) - sum(exact)
    largest = max(range(len(shown)), key=shown.__getitem__)
    shown[largest] = max(shown[largest] - surplus, LEAST if counts[largest] else 0.0)
    return shown
