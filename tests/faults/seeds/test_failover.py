"""An import over a failover: kill -9 of the primary in the middle, promotion of its standby, a URL with both hosts."""

from __future__ import annotations

import pytest

from tests.faults.seeds import failover


@pytest.mark.parametrize("lagging", [False, True], ids=["standby is close", "standby lags"])
def test_an_import_survives_a_failover_by_itself_and_is_verified_on_the_new_primary(lagging: bool) -> None:
    found, proof, _ = failover.run(60_000, lagging=lagging, batch_size=2000)
    assert (proof["ok"], proof["missing"], proof["different"]) == (True, 0, 0)
    if lagging:
        assert found.resumed == 1
