"""Why a start was skipped, for the line that a command prints."""

from __future__ import annotations

from pgonce.cli.options import Database
from pgonce.core.processes import this_process
from pgonce.jobs.calls_stats import get_job_run, list_job_runs


def why_skipped(db: Database, name: str, usual: str) -> str:
    """Return the reason of the pause that refused this process's start of the job ``name``, or ``usual``."""
    for line in db.call(list_job_runs(name=name, status="skipped", limit=1)):
        row = db.call(get_job_run(line.id))
        if row and row["process"] == this_process():  # stored with a start that a pause refuses, and no other
            return str(row["error_message"])
    return usual
