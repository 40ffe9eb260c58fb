"""The figures of jobs and runs: what is drawn where."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import pytest

from pgonce.console.figures import jobs as figures
from pgonce.console.figures import runs as run_figures
from pgonce.console.templating import Clock
from pgonce.console.text import visible
from pgonce.jobs.calls_console import ConsoleRun, Kind, Mark, Release, RunDetail

DAY = datetime(2026, 11, 26, tzinfo=UTC)
NOW = DAY + timedelta(hours=12)
PERIOD = figures.Period(DAY, DAY + timedelta(days=1), NOW)
CLOCK = Clock(ZoneInfo("UTC"), NOW)


def mark(kind: Kind, begin: float, end: float, run: UUID | None = None, blocked_by: UUID | None = None) -> Mark:
    at = [DAY + timedelta(hours=each) for each in (begin, end)]
    return Mark("job", "", kind, at[0], at[1], 1, run or uuid4(), blocked_by)


def draw(
    marks: list[Mark], ticks: tuple[float, ...] = (), pause: tuple[float, float | None] | None = None
) -> ET.Element:
    pausing = None
    if pause:
        pausing = (DAY + timedelta(hours=pause[0]), None if pause[1] is None else DAY + timedelta(hours=pause[1]))
    times = [DAY + timedelta(hours=tick) for tick in ticks]
    return ET.fromstring(figures.lane("f0", "job", marks, times, pausing, PERIOD, CLOCK))


def uses(svg: ET.Element, name: str) -> list[tuple[str, str]]:
    return [(each.attrib["x"], each.attrib["y"]) for each in svg.iter("use") if each.attrib["href"] == f"#m-{name}"]


def rects(svg: ET.Element, kind: str) -> list[tuple[str, str]]:
    return [(each.attrib["x"], each.attrib["width"]) for each in svg.iter("rect") if each.attrib.get("class") == kind]


def lines(svg: ET.Element, kind: str) -> list[str]:
    return [each.attrib["x1"] for each in svg.iter("line") if each.attrib["class"] == kind]


def test_a_run_is_a_bar_from_its_start_to_its_end_and_a_failed_one_has_a_cross() -> None:
    svg = draw([mark("succeeded", 6, 12), mark("failed", 18, 18.5)])
    assert rects(svg, "b") == [("25%", "25%")]
    assert rects(svg, "b b-bad") == [("75%", "2.08%")]
    assert uses(svg, "x") == [("76.04%", "34")]


def test_a_running_run_is_open_at_the_now_line() -> None:
    svg = draw([mark("running", 6, 12)])
    assert uses(svg, "go") == [("50%", "19")]
    assert lines(svg, "now") == ["50%"]


def test_ticks_to_come_are_hollow_and_those_that_would_touch_are_one() -> None:
    assert uses(draw([], (13, 13.05, 14)), "tick") == [("54.17%", "19"), ("58.33%", "19")]


def test_a_missed_tick_and_a_late_one_are_broken_ticks() -> None:
    assert len(uses(draw([mark("missed", 6, 6), mark("late", 8, 8.2)]), "miss")) == 2


def test_a_skip_stands_under_the_run_in_its_way() -> None:
    blocker = uuid4()
    svg = draw([mark("running", 6, 12, blocker), mark("skipped", 9, 9, blocked_by=blocker)])
    assert uses(svg, "notch") == [("37.5%", "34")]
    assert svg.findtext("desc") == "The one of 06:00:00 still runs and stands in the way of 1 start."


def test_overlapping_runs_stand_on_two_levels_and_are_hatched() -> None:
    first, second = mark("succeeded", 6, 9), mark("succeeded", 8, 10)
    svg = draw([first, second, mark("overlap", 8, 9, second.run_id)])
    assert {each.attrib["y"] for each in svg.iter("rect") if each.attrib.get("class") == "b"} == {"8", "24"}
    assert [each.attrib["fill"] for each in svg.iter("rect") if each.attrib.get("class") == "hz"] == ["url(#hatch)"]


def test_a_pause_is_a_pale_field_to_its_end_or_that_of_the_day() -> None:
    assert rects(draw([], pause=(6, 18)), "rest") == [("25%", "50%")]
    assert rects(draw([], pause=(6, None)), "rest") == [("25%", "75%")]


def test_starts_that_an_earlier_pause_skipped_are_one_field_until_a_run() -> None:
    marks = [mark("paused", 1, 1), mark("paused", 3, 3), mark("succeeded", 4, 4.1), mark("paused", 6, 6)]
    assert [x for x, _ in rects(draw(marks), "rest")] == ["4.17%", "25%"]


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '"><img src=x>', "\u202eevil"])
def test_what_a_user_has_written_is_text(hostile: str) -> None:
    svg = ET.fromstring(figures.lane("f0", hostile, [], [], None, PERIOD, CLOCK))
    assert svg.findtext("title") == visible(hostile)
    assert not list(svg.iter("script"))


def test_nothing_has_a_colour_or_a_style_of_its_own() -> None:
    text = figures.lane("f0", "job", [mark("running", 6, 12)], [NOW], None, PERIOD, CLOCK)
    assert not re.search(r"style=|fill=\"#|stroke=", text)


def test_the_axis_of_a_day_with_25_hours_ends_at_24() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    begin, end = (datetime(2026, 10, day, tzinfo=berlin).astimezone(UTC) for day in (25, 26))
    period = figures.Period(begin, end, end + timedelta(days=9))
    assert end - begin == timedelta(hours=25)
    texts = [each.text for each in ET.fromstring(figures.axis(period, Clock(berlin, NOW))).iter("text")]
    assert (texts[0], texts[-1]) == ("00:00", "24:00")
    assert period.days == 1


def test_the_axis_of_a_week_has_its_days() -> None:
    period = figures.Period(DAY, DAY + timedelta(days=7), DAY - timedelta(days=1))
    texts = [each.text for each in ET.fromstring(figures.axis(period, CLOCK)).iter("text")]
    assert texts == ["Thu 26", "Fri 27", "Sat 28", "Sun 29", "Mon 30", "Tue 1", "Wed 2"]


def runs(*minutes: float) -> list[ConsoleRun]:
    """Runs that took so long, one an hour, the newest first; it is the last of ``minutes``."""
    return [
        ConsoleRun(
            uuid4(), "job", "", "succeeded", NOW - timedelta(hours=n), None, round(each * 60_000), 0, 0, None, None,
            None, 1, None, False, None, None, None, None,
        )
        for n, each in enumerate(reversed(minutes))
    ]  # fmt: skip


def test_an_outlier_is_a_diamond_with_its_duration() -> None:
    svg = ET.fromstring(run_figures.strip(runs(*[9, 10, 11] * 10, 40), [], CLOCK))
    assert len(uses(svg, "dia")) == 1
    assert len(uses(svg, "dot")) == 30
    assert "40 min" in [each.text for each in svg.iter("text")]
    assert "1 run is outside the usual, the longest with 40 min." in (svg.findtext("desc") or "")


def test_runs_of_equal_length_are_all_usual() -> None:
    usual = run_figures.usual(runs(*[10] * 30))
    assert usual
    assert usual.outside > 10 * 60_000


def test_under_twenty_runs_there_is_no_band() -> None:
    assert run_figures.usual(runs(*[10] * 19)) is None
    assert not rects(ET.fromstring(run_figures.strip(runs(10, 11), [], CLOCK)), "rng")


def test_a_release_stands_before_its_first_run_and_not_before_all() -> None:
    releases = [Release("old", NOW - timedelta(days=9)), Release("new", NOW - timedelta(hours=1.5))]
    assert lines(ET.fromstring(run_figures.strip(runs(1, 1, 1, 1), releases, CLOCK)), "rel") == ["50%"]


def test_a_strip_without_runs_and_with_runs_of_no_length_is_drawn() -> None:
    for found in (runs(), runs(0)):
        ET.fromstring(run_figures.strip(found, [], CLOCK))


@pytest.mark.parametrize(
    ("most", "step"), [(1, 0.2), (5, 1), (41.5, 10), (100, 20), (0.004, 0.001), (9.9, 2), (250_000, 50_000)]
)
def test_a_grid_has_at_most_five_lines_at_round_numbers(most: float, step: float) -> None:
    assert run_figures.step_of(most) == pytest.approx(step)


@pytest.mark.parametrize(("ms", "unit"), [(900, "ms"), (2000, "s"), (119_000, "s"), (120_000, "min"), (10**8, "h")])
def test_durations_are_in_a_unit_that_reads_easily(ms: float, unit: str) -> None:
    assert run_figures.unit_of(ms)[1] == unit


def detail(**fields: object) -> RunDetail:
    known: dict[str, object] = dict.fromkeys(RunDetail.__dataclass_fields__)
    known |= {
        "id": uuid4(), "job_name": "job", "key": "", "status": "running", "started_at": NOW - timedelta(hours=1),
        "heartbeat_at": NOW - timedelta(minutes=5), "window": timedelta(minutes=15), "transactions": 0, "attempt": 1,
        "duration_ms": 3_600_000, "dead_after": NOW + timedelta(minutes=10),
    }  # fmt: skip
    return RunDetail(**(known | fields))  # type: ignore[arg-type]


def test_a_heartbeat_line_says_when_the_run_counts_as_dead() -> None:
    svg = run_figures.heartbeat(detail(), NOW, CLOCK)
    assert svg
    assert "counts as dead at 12:10:00" in [each.text for each in ET.fromstring(svg).iter("text")]
    late = run_figures.heartbeat(detail(), NOW + timedelta(hours=1), CLOCK)
    assert late
    assert "counted as dead from 12:10:00" in late
    assert run_figures.heartbeat(detail(dead_after=None), NOW, CLOCK) is None


def test_progress_is_drawn_only_where_it_is_reported() -> None:
    assert run_figures.progress(detail(), NOW, CLOCK) is None
    reported = detail(progress_done=50, progress_total=100, progress_at=NOW - timedelta(minutes=30))
    svg = run_figures.progress(reported, NOW, CLOCK)
    assert svg
    assert ET.fromstring(svg).findtext("desc") == "50 of 100 at 11:30:00, the last report."
    assert run_figures.progress(detail(progress_done=0, progress_at=NOW), NOW, CLOCK)


def test_the_times_of_a_run_that_has_just_begun_are_one_label() -> None:
    young = detail(started_at=NOW - timedelta(minutes=1), progress_done=1, progress_at=NOW, usual_to_ms=3_600_000)
    assert ">11:59 to 12:00<" in str(run_figures.progress(young, NOW, CLOCK))
    old = str(run_figures.progress(detail(progress_done=1, progress_at=NOW), NOW, CLOCK))
    assert ">11:00<" in old
    assert ">12:00<" in old
