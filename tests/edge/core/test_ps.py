"""`pgonce ps` and real processes: running ones are listed, stopped ones are not, and killed ones are marked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg

from tests.conftest import wait_until
from tests.forked import PGONCE, Forked

Connection = psycopg.Connection[Any]
APP = """
import pgonce
app = pgonce.App()

@app.job("letters", cron="0 3 * * *")
def letters(run):
    pass
"""


def start(tmp_path: Path, database: str, release: str) -> subprocess.Popen[str]:
    command: list[str | Path] = [PGONCE, "worker", "--app", "shop", "--database-url", database]
    environment = {**os.environ, "PGONCE_RELEASE": release}
    return Forked(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)


def ps(database: str, *options: str) -> str:
    command: list[str | Path] = [PGONCE, "ps", *options, "--database-url", database]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_ps_lists_what_runs_marks_an_older_release_and_what_was_killed_and_forgets_a_clean_stop(
    database: str, conn: Connection, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(APP)
    registered = "select count(*) from pgonce_processes where does = 'jobs'"
    old = start(tmp_path, database, "2026.11.25")
    wait_until(lambda: conn.execute(registered.encode()).fetchone() == (1,), "the first registration", 60)
    new = start(tmp_path, database, "2026.11.26")
    try:
        wait_until(lambda: conn.execute(registered.encode()).fetchone() == (2,), "the second registration", 60)
        first, second = json.loads(ps(database, "--json"))
        assert (first["pid"], first["app"], first["release"], first["outdated"]) == (
            old.pid, "shop:app", "2026.11.25", True,
        )  # fmt: skip
        assert (second["pid"], second["jobs"], second["outdated"], second["live"]) == (
            new.pid, ["letters"], False, True,
        )  # fmt: skip
        shown = ps(database)
        assert "shop 2026.11.25 !" in shown
        assert shown.splitlines()[-1] == "! another release than the newest start of this app"
        old.kill()
        old.wait(30)
        conn.execute("update pgonce_processes set last_seen_at = now() - interval '2 min' where pid = %s", [old.pid])
        assert "! 2 min ago" in ps(database)
    finally:
        for process in (old, new):
            process.send_signal(signal.SIGTERM)
    assert new.wait(60) == 0
    assert [line["pid"] for line in json.loads(ps(database, "--json"))] == [old.pid], "only what was killed is left"
