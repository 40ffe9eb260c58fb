"""Dask workers are killed while they import partitions: every row is inserted once, and every checkpoint is exact."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.faults.child import ROOT


@pytest.mark.long
def test_after_five_kills_of_workers_at_random_moments_every_partition_is_exact(database: str) -> None:
    pytest.importorskip("distributed", reason="Dask missing: pip install 'pgonce[cluster]'")
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.seeds.dask_kills", "--kills", "5", "--url", database],
        cwd=ROOT, env={**os.environ, "DASK_ROWS": "20000"}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith("5 kills")
