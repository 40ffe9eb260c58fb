"""How the console writes numbers, ids and times, and that it escapes what others have written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from pgonce.console import templating
from pgonce.console.templating import Clock, duration, length_text, read_zone, short, size, span
from pgonce.core.interval import interval

NOW = datetime(2026, 11, 26, 13, 2, 36, tzinfo=UTC)
BERLIN = Clock(ZoneInfo("Europe/Berlin"), NOW)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (0, "0 ms"), (180, "180 ms"), (999.6, "1 s"), (2100, "2.1 s"), (3000, "3 s"), (89_000, "89 s"),
        (90_000, "1.5 min"), (60_000 * 4.92, "4.9 min"), (89 * 60_000, "89 min"), (90 * 60_000, "1.5 h"),
        (9.96 * 3_600_000, "10 h"), (47 * 3_600_000, "47 h"), (timedelta(hours=60), "2.5 d"),
        (timedelta(days=2), "2 d"), (timedelta(seconds=42), "42 s"),
    ],
)  # fmt: skip
def test_a_duration_has_seconds_below_90_s_then_minutes_hours_days(length: float | timedelta, text: str) -> None:
    assert duration(length) == text


def test_a_span_names_its_unit_once() -> None:
    assert span(540_000, 660_000) == "9 to 11 min"
    assert span(59_000, 120_000) == "59 s to 2 min"
    assert span(600_000, 610_000) == "10 min"
    assert span(228_000, 294_000) == "3.8 to 4.9 min"


def test_a_count_beyond_the_bound_is_not_exact() -> None:
    assert templating.count(10_000) == "10,000"
    assert templating.count(10_001) == "10,000+"
    assert templating.plural(1, "event") == "1 event"
    assert templating.plural(10_001, "event") == "10,000+ events"


def test_a_time_is_in_the_viewers_zone_with_utc_in_its_title() -> None:
    assert BERLIN.at(NOW) == ('<time datetime="2026-11-26T13:02:36Z" title="2026-11-26 13:02:36 UTC">14:02:36</time>')
    assert BERLIN.text(NOW - timedelta(days=1)) == "25 Nov 14:02"
    assert BERLIN.text(NOW - timedelta(days=400)) == "22 Oct 2025 15:02"
    assert BERLIN.ago(NOW - timedelta(seconds=12)) == "12 s ago"
    assert BERLIN.ago(NOW - timedelta(seconds=119)) == "1 min ago"
    assert BERLIN.ago(NOW - timedelta(minutes=112)) == "1.9 h ago"
    assert BERLIN.ago(NOW + timedelta(minutes=4)) == "in 4 min"
    assert BERLIN.coming(NOW + timedelta(hours=12)) == "tomorrow 02:02"


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "Europe/Berlin\0", "x"])
def test_a_zone_that_does_not_exist_is_utc(name: str) -> None:
    assert read_zone(name).key == "UTC"


def test_an_id_is_shortened_with_the_whole_of_it_in_the_title() -> None:
    assert short("evt_1SXvjASde5KgyNdHocfCBeqf") == (
        '<span class="mono" title="evt_1SXvjASde5KgyNdHocfCBeqf">evt_1SXv…Beqf</span>'
    )
    assert ">12345678<" in short(UUID("12345678-0000-0000-0000-000000000000"))
    assert ">cus_1<" in short("cus_1")
    assert "<script>" not in short('evt_"><script>alert(1)</script>')


def test_a_size_has_two_digits() -> None:
    assert [size(n) for n in (324, 2100, 64_000, 5_000_000)] == ["324 B", "2.1 kB", "64 kB", "5 MB"]


def test_what_others_have_written_is_escaped() -> None:
    hostile = '<script>"&\u202e'
    assert "<script>" not in templating.state(hostile)
    assert "<script>" not in templating.state("failed", hostile)
    assert "<script>" not in templating.glyph(hostile, hostile)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (86_400, "1 day"),
        (172_800, "2 days"),
        (5400, "90 minutes"),
        (3600, "1 hour"),
        (45, "45 seconds"),
        (61.5, "61.5 seconds"),
    ],
)
def test_a_length_in_a_form_is_read_back_as_it_is(seconds: float, text: str) -> None:
    length = timedelta(seconds=seconds)
    assert length_text(length) == text
    assert interval(text) == length
