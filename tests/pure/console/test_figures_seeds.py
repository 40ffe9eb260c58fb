"""The figures of imports, and what their pace allows to say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgonce.console.figures.seeds import LEAST, Sum, _widths, progress, proof, rates
from pgonce.seeds.pace import Pace, pace

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def of(
    seconds: list[float], *, silent: float = 1, seen: int = 50_000, total: int | None = 100_000, running: bool = True
) -> Pace:
    """The pace of an import whose batches of 1,000 rows took so long, the last one ``silent`` seconds ago."""
    times = [NOW - timedelta(seconds=silent + sum(seconds[index:])) for index in range(len(seconds) + 1)]
    since = times[0] if running else None
    return pace([1000] * len(times), times, running_since=since, seen=seen, total=total, now=NOW)


def test_a_steady_import_has_a_range_of_time_left() -> None:
    found = of([1.0, 1.25] * 20)
    assert found.left == (timedelta(seconds=50), timedelta(seconds=62.5))
    assert found.why_unknown is None
    assert found.rate == pytest.approx(1000 / 1.125)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (of([1, 9] * 20), "the rate is not steady"),
        (of([1, 1]), "too few batches"),
        (of([1] * 20, seen=100_001), "it has read more rows than the source said"),
        (of([0.1] * 9, seen=10), "it has just begun"),
    ],
)
def test_without_ground_there_is_no_time_left_but_a_reason(found: Pace, why: str) -> None:
    assert found.left is None
    assert found.why_unknown == why


def test_without_a_total_or_a_run_nothing_is_said() -> None:
    for found in (of([1] * 20, total=None), of([1] * 20, running=False)):
        assert (found.left, found.why_unknown) == (None, None)


def test_no_batch_for_ten_times_the_usual_is_standing_still() -> None:
    assert of([4.0] * 20, silent=39).stalled_for is None
    found = of([4.0] * 20, silent=41)
    assert found.stalled_for == timedelta(seconds=41)
    assert found.left is None
    assert of([0.1] * 20, silent=29).stalled_for is None, "some seconds of silence are no standstill"
    assert of([0.1] * 20, silent=31).stalled_for is not None
    assert of([1] * 20, silent=9999, running=False).stalled_for is None


def test_the_pace_of_a_run_does_not_count_what_was_before_it() -> None:
    times = [NOW - timedelta(hours=2), *(NOW - timedelta(seconds=n) for n in (3, 2, 1))]
    found = pace([10] * 4, times, running_since=NOW - timedelta(seconds=4), seen=40, total=None, now=NOW)
    assert found.rates == (10.0, 10.0)


def widths(svg: ET.Element, kind: str) -> list[float]:
    return [float(r.attrib["width"].rstrip("%")) for r in svg.iter("rect") if r.attrib.get("class") == kind]


def test_the_bar_has_its_share_and_a_notch_for_each_resume() -> None:
    svg = ET.fromstring(progress(250, 1000, [100, 200], running=True))
    assert widths(svg, "b b-run") == [25]
    assert [each.attrib["x"] for each in svg.iter("use")] == ["10%", "20%"]
    assert svg.findtext("desc") == "250 of 1,000 rows, 25 per cent; resumed at 100 and at 200 rows."


def test_an_import_with_more_rows_than_its_source_said_has_a_full_bar() -> None:
    assert widths(ET.fromstring(progress(1500, 1000, [], running=False)), "b") == [100]


def test_an_estimated_total_is_said_to_be_one() -> None:
    assert "about 1,000" in progress(250, 1000, [], running=True, counted=False)


def test_the_proof_is_two_bars_of_one_length() -> None:
    svg = ET.fromstring(proof(Sum(1000, 900, 50, 40, 10)))
    assert widths(svg, "b-seen") == [100]
    parts = [width for kind in ("b", "b b-up", "b-off", "b b-bad") for width in widths(svg, kind)]
    assert sum(parts) == pytest.approx(100)
    assert not widths(svg, "hz")


@pytest.mark.parametrize(("seen", "gap"), [(1010, 10), (990, -10)])
def test_a_sum_that_does_not_add_up_is_drawn_with_its_gap(seen: int, gap: int) -> None:
    rows = Sum(seen, 900, 50, 40, 10)
    assert rows.gap == gap
    svg = ET.fromstring(proof(rows))
    assert len(widths(svg, "hz")) == 1
    assert "10 not accounted for" in [each.text for each in svg.iter("text")]


def test_an_import_without_rows_is_drawn() -> None:
    ET.fromstring(proof(Sum(0, 0, 0, 0, 0)))


@given(st.lists(st.integers(0, 10**9), min_size=4, max_size=4))
def test_no_part_of_the_sum_disappears(counts: list[int]) -> None:
    found = _widths(counts, max(sum(counts), 1))
    assert all(width >= LEAST * 0.99 for width, count in zip(found, counts, strict=True) if count)
    assert sum(found) <= 100 + 4 * LEAST


def test_rates_are_bars_of_the_last_batches_and_few_are_none() -> None:
    assert rates(of([1] * 4)) is None
    svg = rates(of([1] * 30))
    assert svg
    assert len(widths(ET.fromstring(svg), "b")) == 30
