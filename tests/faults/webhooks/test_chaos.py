"""The small version of tests/faults/webhooks/chaos.py."""

from __future__ import annotations

from tests.faults.webhooks.chaos import Chaos


def test_kills_and_crashes_leave_exactly_one_effect_of_every_distinct_event() -> None:
    # leases are ended by SQL, instead of after 30 s; the full version waits
    outcome = Chaos(deliveries=500, crashes=2, kill_every=1.0, expire=True).run()
    assert outcome.exactly_once, outcome
    assert outcome.crashes == 2
    assert outcome.kills >= 2, outcome
    assert outcome.failed_attempts > 0
    assert outcome.distinct < outcome.deliveries
