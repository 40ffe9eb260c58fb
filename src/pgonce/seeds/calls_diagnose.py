"""The call of ``sql/api/seeds_diagnose.sql``."""

from __future__ import annotations

from pgonce.core.call import Call
from pgonce.core.diagnosis import Diagnosis, read_diagnoses


def diagnose_seed(name: str) -> Call[list[Diagnosis]]:
    """What an import is; empty for one that is complete. NotFound: it has never run."""
    return Call("pgonce_diagnose_seed", {"p_seed_name": name}, read_diagnoses)
