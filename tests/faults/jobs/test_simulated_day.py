"""A part of the simulated day: with deploys, an outage, a kill and a hanging job every tick is still recorded."""

from __future__ import annotations

import pytest

from tests.faults.jobs.simulated_day import simulate


@pytest.mark.long
def test_every_tick_of_a_day_with_deploys_an_outage_and_a_kill_is_accounted_for(database: str) -> None:
    lines, wrong = simulate(database, hours=1.5, speed=90)
    assert not wrong, "\n".join(lines)
