"""An event's figures, its life, its traceback; text of others; keys that readers do not see."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from pgonce.console.figures.webhooks import attempts, lane, lane_marks, progress
from pgonce.console.mask import MASK, is_masked, masked
from pgonce.console.pages.webhook import key_named, life, stripe_address
from pgonce.console.pages.webhooks import _just_after, position_text, read_position
from pgonce.console.templating import Clock
from pgonce.console.text import block, visible
from pgonce.console.traceback import read_traceback
from pgonce.core.diagnosis import Diagnosis
from pgonce.errors import InvalidArgument
from pgonce.webhooks.calls_console import EventDetails, HistoryLine, LaneEvent

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
CLOCK = Clock(ZoneInfo("UTC"), NOON + timedelta(hours=1))


def seconds(number: float) -> datetime:
    return NOON + timedelta(seconds=number)


def events(*times: tuple[float | None, float]) -> list[LaneEvent]:
    """By creation and receipt, in seconds; the id is the place in this list."""
    return [
        LaneEvent(UUID(int=n), f"evt_{n}", "a.b", "succeeded", None if made is None else seconds(made), seconds(came))
        for n, (made, came) in enumerate(times)
    ]


def test_lines_cross_exactly_where_events_arrived_in_another_order() -> None:
    marks = lane_marks(events((0, 1), (2, 9), (3, 5), (20, 21)))
    assert [(each.number, each.event.stripe_event_id, each.late_after) for each in marks] == [
        (1, "evt_0", 0), (2, "evt_1", 3), (3, "evt_2", 0), (4, "evt_3", 0),
    ]  # fmt: skip
    figure = lane("x", "Title", marks, "evt_3")
    assert figure.count('class="cross"') == 2
    assert figure.count("#m-dia") == 1
    assert "No. 2, a.b, arrived after no. 3: their lines cross." in figure
    assert "No. 4 is this one." in figure


def test_events_of_one_moment_stand_side_by_side_and_do_not_cross() -> None:
    marks = lane_marks(events((0, 5), (0, 5), (0, 6), (None, 7)))
    places = [place for each in marks for place in (each.above, each.below)]
    assert len(set(places)) == len(places)
    assert all(0 < place < 100 for place in places)
    assert "All arrived in their order." in lane("x", "Title", marks, "")


def test_a_lane_of_one_event_is_a_figure_too() -> None:
    assert "One event." in lane("x", "Title", lane_marks(events((0, 0))), "")


def test_a_figure_is_text_where_others_have_written_in_it() -> None:
    event = LaneEvent(UUID(int=1), "evt_1", "<script>\"'", "odd state", seconds(5), seconds(6))
    late = LaneEvent(UUID(int=2), "evt_2", "<script>\"'", "dead", seconds(1), seconds(9))
    figure = lane("x", "<b>", lane_marks([event, late]), "evt_1")
    assert "<script>" not in figure
    assert "<b>" not in figure


def test_the_attempts_stand_between_the_first_and_now() -> None:
    history = [failed(n, seconds(60 * 2**n)) for n in range(1, 5)]
    figure = attempts("a", history, NOON, is_dead=True, clock=CLOCK)
    found = [float(x) for x in re.findall(r'<svg x="([\d.]+)%"', figure)]
    assert found == sorted(found)
    assert found[-1] < 98
    assert figure.count("#g-retry") == 3
    assert figure.count("#g-dead") == 1
    assert "4 attempts" in figure


def test_the_bar_of_a_replay_has_a_part_for_each_result() -> None:
    figure = progress("p", {"succeeded": 50, "failed": 25, "queued": 25, "planned": 100}, 200)
    assert re.findall(r'<rect class="([\w -]+)" x="([\d.]+)%" width="([\d.]+)%"', figure) == [
        ("cover", "0", "100"), ("b", "0", "25"), ("b b-bad", "25", "12.5"), ("b b-run", "37.5", "12.5"),
    ]  # fmt: skip
    assert "75 of 200 have an outcome" in figure


def event(**more: Any) -> EventDetails:
    columns: dict[str, Any] = {
        "id": UUID(int=1), "stripe_event_id": "evt_1", "event_type": "invoice.paid", "state": "dead", "queued": True,
        "attempts": 2, "deliveries": 1, "object_id": "in_1", "object_type": "invoice", "customer_id": "cus_1",
        "subscription_id": None, "account": None, "livemode": True, "api_version": None, "created": seconds(-5),
        "received_at": NOON, "processed_at": None, "next_attempt_at": None, "lease_expires_at": None, "reason": None,
        "failure": None, "error": None, "size": 10, "exact": False, "snapshot_event": None, "like_it": None,
        "lease": None,
    }  # fmt: skip
    return EventDetails(**{**columns, **more})


def failed(attempt: int, at: datetime, **more: Any) -> HistoryLine:
    columns: dict[str, Any] = {"what": "failed", "worker": "web-1:7", "began_at": at - timedelta(milliseconds=41),
                               "line": "KeyError: 'x'", "error": "KeyError: 'x'", "replay_id": None}  # fmt: skip
    return HistoryLine(attempt=attempt, ended_at=at, **{**columns, **more})


def said(steps: Sequence[Any]) -> list[tuple[str, str, str]]:
    return [(each.shape, each.text, each.note) for each in steps]


def test_a_life_has_all_that_happened_and_ends_with_what_it_waits_for() -> None:
    diagnosis = [Diagnosis("dead", True, "A dead letter: nobody tries it again.", "", "", None)]
    history = [
        failed(1, seconds(4)),
        HistoryLine("lost", 2, None, None, seconds(60), None, "no outcome", None),
        HistoryLine("replayed", 2, "ann", None, seconds(90), None, "mended", 7),
        failed(1, seconds(91)),
    ]
    steps = life(event(deliveries=3), history, diagnosis)
    assert said(steps) == [
        ("new", "Created at Stripe", ""),
        ("in", "Delivered, recorded", "5 s after its creation. Queued for a worker."),
        ("in", "Delivered 2 times more", "The same event; it was not recorded again."),
        ("retry", "Attempt 1 failed after 41 ms", "Waited 4 s. web-1:7. KeyError: 'x'"),
        ("retry", "Attempt 2 was lost", "Waited 56 s. No outcome: the process died, or lost its connection."),
        ("hand", "Replayed by ann", "mended"),
        ("dead", "Attempt 1 failed after 41 ms: dead letter", "web-1:7. No further attempt by itself."),
        ("hand", "Waits for you: a dead letter: nobody tries it again.", ""),
    ]
    assert steps[5].replay == 7


def test_a_life_that_is_over_ends_with_its_outcome() -> None:
    done = event(state="succeeded", processed_at=seconds(1.5), attempts=1, created=None)
    assert said(life(done, [], []))[-1] == ("ok", "Succeeded", "1.5 s after it was recorded.")
    ignored = event(state="ignored", processed_at=seconds(1), reason="a test")
    assert said(life(ignored, [], []))[-1] == ("ign", "Ignored", "a test")


TRACE = """Traceback (most recent call last):
  File "/usr/lib/python3.11/site-packages/pgonce/webhooks/executor.py", line 211, in perform
    outcome = function(event, tx)
              ^^^^^^^^^^^^^^^^^^^
  File "C:\\\\srv\\\\shop\\\\billing.py", line 88, in sync_invoice
    coupons = invoice["discounts"]
  File "/usr/lib/python3.11/json/decoder.py", line 3, in decode
KeyError: 'discounts'
"""


def test_the_frame_of_the_user_s_code_comes_first() -> None:
    found = read_traceback(f"ValueError: x\n\nDuring handling of the above exception, another one:\n\n{TRACE}")
    assert found.frame
    assert (found.frame.line, found.frame.function) == (88, "sync_invoice")
    assert found.frame.file.endswith("billing.py")
    assert list(found.frame.code) == ['coupons = invoice["discounts"]']
    assert [each.line for each in found.around] == [211, 3]
    assert key_named(found) == "discounts"


@pytest.mark.parametrize("text", ["", "no row 17", "Traceback\n  File x", '  File "a", line 7'])
def test_text_that_is_no_traceback_has_no_frame(text: str) -> None:
    assert read_traceback(text).frame is None


def test_signs_that_cannot_be_seen_are_shown_as_escapes() -> None:
    assert visible("a\u202eb\u200bc\x00d\x1b[31m\ne\tf") == "a\\u202eb\\u200bc\\u0000d\\u001b[31m\ne\tf"
    assert block('<b a="1">&\u2066') == '&lt;b a="1"&gt;&amp;\\u2066'


PAYLOAD = """{
    "id": "evt_1",
    "total": 12345678901234567890.10,
    "data": {"object": {"email": "a@b", "address": {"city": "X", "lines": ["1, \\"2\\"", {"a": 1}]}, "name": null,
      "items": [{"name": "N1", "n": 1e400000}, {"name": "N2"}], "email_count": 2}},
    "email": "c@d"
}"""


@pytest.mark.parametrize(
    ("patterns", "gone", "count"),
    [
        (["email"], ["a@b", "c@d"], 2),
        (["address"], ['"X"', '"1, '], 1),
        (["*.name"], ["N1", "N2", "null"], 3),
        (["data.object.email"], ["a@b"], 1),
        (["email*"], ["a@b", "c@d", ": 2}"], 3),
        (["*"], ["evt_1", "12345", "a@b", "X"], 4),
        (["nothing"], [], 0),
        ([], [], 0),
    ],
    ids=str,
)
def test_masked_keys_lose_their_values_and_nothing_else_changes(
    patterns: list[str], gone: list[str], count: int
) -> None:
    text, hidden = masked(PAYLOAD, patterns)
    assert hidden == count
    assert [each for each in gone if each in text] == []
    assert text.count(MASK) == count
    if "*" not in patterns:
        assert "12345678901234567890.10" in text
        assert text.count("\n") == PAYLOAD.count("\n")
    if not count:
        assert text == PAYLOAD
    assert (text.count("{"), text.count("[")) == (text.count("}"), text.count("]"))


def test_a_part_of_json_is_masked_without_an_error() -> None:
    for end in range(len(PAYLOAD)):
        assert "a@b" not in masked(PAYLOAD[:end], ["email"])[0]


def test_a_value_below_a_masked_key_is_masked() -> None:
    assert is_masked(["data", "object", "address", "city"], ["address"])
    assert not is_masked(["data", "object", "city"], ["address"])


def test_an_address_in_stripe_s_dashboard_names_account_and_mode() -> None:
    assert stripe_address(event()) == "https://dashboard.stripe.com/events/evt_1"
    test = event(livemode=False, account="acct_1/x", stripe_event_id="evt_<")
    assert stripe_address(test) == "https://dashboard.stripe.com/acct_1%2Fx/test/events/evt_%3C"
    assert stripe_address(event(stripe_event_id="mine")) is None


def test_a_place_in_a_list_survives_an_address() -> None:
    place = (seconds(0.123456), UUID(int=2**128 - 1))
    assert read_position(position_text(place) or "") == place
    assert _just_after(place) == (seconds(0.123457), UUID(int=0))
    assert _just_after((NOON, UUID(int=1))) == (NOON, UUID(int=2))
    with pytest.raises(InvalidArgument):
        read_position("yesterday~x")
