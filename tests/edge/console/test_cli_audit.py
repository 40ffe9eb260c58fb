"""What an operator does with jobs and imports on the command line is in the audit, with who and from which machine."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg

from tests.edge.command import pgonce

Connection = psycopg.Connection[Any]

COMMANDS = {
    "job pause j --reason why": ("pause", "job", "j", "why"),
    "job stop RUN": ("stop", "run", "RUN", None),
    "job expect j --every 1h": ("expect", "job", "j", None),
    "job schedule j --cron @daily": ("schedule", "job", "j", None),
    "job request j --wait 0": ("request", "job", "j", None),
    "seed reset s": ("reset", "import", "s", None),
}


def test_each_command_leaves_one_line(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        for command, wanted in COMMANDS.items():
            check(database, conn, command, *wanted)


def check(database: str, conn: Connection, command: str, action: str, noun: str, name: str, reason: str | None) -> None:
    conn.execute("truncate cron_job_runs, pgonce_job_pauses, seed_checkpoints, pgonce_audit")
    row = conn.execute("insert into cron_job_runs (job_name) values ('other') returning id::text").fetchone()
    assert row
    conn.execute("insert into seed_checkpoints (seed_name) values ('s')")
    conn.execute(
        "insert into pgonce_processes (id, does, host, pid, version, jobs) values (%s, 'jobs', 'h', 1, '1', '{j}')",
        [uuid4()],
    )
    code, _, err = pgonce(database, *command.replace("RUN", row[0]).split(), PGONCE_ACTOR="ann")
    assert code == 0, err
    lines = conn.execute("select actor, source, action, noun, object, reason from pgonce_audit").fetchall()
    assert lines == [("ann", "cli", action, noun, name.replace("RUN", row[0]), reason)], command
