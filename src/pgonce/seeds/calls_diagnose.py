"""The calls of ``sql/api/seeds_diagnose.sql``."""

from __future__ import annotations

from pgonce.core.call import Call, rows_as
from pgonce.core.diagnosis import Diagnosis


def diagnose_seed(name: str) -> Call[list[Diagnosis]]:
    """The diagnosis of an import; empty if it is complete. NotFound: it has never run."""
    return Call("pgonce_diagnose_seed", {"p_seed_name": name}, rows_as(Diagnosis))
