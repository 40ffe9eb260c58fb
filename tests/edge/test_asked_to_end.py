"""``pgonce serve`` and ``pgonce console`` that a supervisor or a person asks to end have succeeded: exit code 0."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.faults.child import PGONCE, children

SECRET = {"PGONCE_WEBHOOK_SECRET": "whsec_test"}
APP = """
import pgonce
app = pgonce.App()
@app.webhook("invoice.paid")
def paid(event, tx): ...
@app.job("tick", cron="0 0 1 1 *")
def tick(run): ...
"""
EARLY = """
import os, signal
from pgonce.jobs.scheduler import Scheduler
start = Scheduler.start
def start_and_ask(self):
    started = start(self)
    os.kill(os.getpid(), signal.{})
    return started
Scheduler.start = start_and_ask
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
@pytest.mark.parametrize("command", ["serve", "console", "worker"])
def test_a_signal_while_it_runs_ends_it_with_exit_code_0(
    database: str, tmp_path: Path, command: str, name: str
) -> None:
    (tmp_path / "shop.py").write_text(APP)
    options = [] if command == "worker" else ["--port", "0"]
    ready = {"serve": "Uvicorn running on", "console": "console +http://", "worker": "worker started"}[command]
    with children(database) as start:
        process = start(*PGONCE, command, *options, cwd=tmp_path, PGONCE_APP="shop", **SECRET)
        process.until(ready)
        process.process.send_signal(getattr(signal, name))
        assert process.end() == 0
        assert "Traceback" not in process.said


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_while_it_starts_its_services_ends_it(
    database: str, conn: psycopg.Connection[Any], tmp_path: Path, name: str
) -> None:
    (tmp_path / "shop.py").write_text(EARLY.format(name) + APP)
    with children(database) as start:
        process = start(*PGONCE, "serve", "--port", "0", cwd=tmp_path, PGONCE_APP="shop", **SECRET)
        assert process.end() == 0
        assert "Traceback" not in process.said
    assert conn.execute("select does from pgonce_processes").fetchall() == [], "each service has written that it ends"
