"""A handler or job that is registered after a service has started is not noticed by it, and a warning says so."""

from __future__ import annotations

from typing import Any

import pytest

import pgonce
from pgonce.jobs.scheduler import Scheduler
from pgonce.webhooks.worker import Worker


def handle(event: pgonce.Event, tx: Any) -> None: ...
def run_job(run: pgonce.Run) -> None: ...


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "too late" in record.getMessage()]


def test_a_handler_for_which_a_running_worker_is_too_late_is_warned_of(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = pgonce.App()
    app.webhook("invoice.paid")(handle)
    with Worker(app, database) as worker:
        app.webhook("charge.*")(handle)
        worker.stop()  # the end of the block stops it once more
        app.webhook("refund.*")(handle)
    (line,) = warnings(caplog)
    assert line.startswith("the handler of charge.*, handle, is registered too late: a worker has started, and ")


def test_a_job_for_which_a_running_scheduler_is_too_late_is_warned_of(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = pgonce.App()
    with Scheduler(app, database):
        app.job("nightly", every="1 day")(run_job)
        app.job("by_hand")(run_job)
        app.webhook("charge.*")(handle)  # is no business of a scheduler's
    app.job("weekly", every="7 days")(run_job)
    assert warnings(caplog) == [
        f"job {name} is registered too late: a scheduler has started, and ignores it: register before the start"
        for name in ("nightly", "by_hand")
    ]
