"""The addresses of logs and traces that the environment's templates make."""

from __future__ import annotations

import pytest

from pgonce.console.addresses import links

RUN = {"id": "1", "run_id": "1", "job": "a&b/c d"}
EVENT = {"id": "evt_1", "event_id": "evt_1"}
LOGS = "PGONCE_LINK_LOGS"


def test_each_kind_of_page_takes_the_first_template_whose_values_it_has() -> None:
    both = {
        LOGS: "https://log/?run={run_id} https://log/?event={event_id}",
        "PGONCE_LINK_TRACES": "https://trace/{id}",
    }
    assert links(RUN, both) == [("Logs", "https://log/?run=1"), ("Traces", "https://trace/1")]
    assert links(EVENT, both) == [("Logs", "https://log/?event=evt_1"), ("Traces", "https://trace/evt_1")]
    assert links(EVENT, {LOGS: "https://log/?run={run_id}"}) == []
    assert links(RUN, {}) == []


def test_a_value_cannot_leave_its_place() -> None:
    assert links(RUN, {LOGS: "https://log/?q={job}"}) == [("Logs", "https://log/?q=a%26b%2Fc%20d")]


@pytest.mark.parametrize(
    "template", ["javascript:{id}", "//evil/{id}", "{id}", "https://x/{", "https://x/{0}", "https://x/{id.real}"]
)
def test_what_is_no_address_or_no_template_is_left_out(template: str) -> None:
    assert links(RUN, {LOGS: template}) == []
