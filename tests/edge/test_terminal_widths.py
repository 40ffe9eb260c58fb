"""Nothing that a command prints is wider than the terminal: with long names, wide characters, and no rows."""

# ruff: noqa: E501 -- rows of tables
from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from pgonce import App
from pgonce.cli import main, startup
from tests.faults.child import SETTINGS

Connection = psycopg.Connection[Any]
LONG = "a_name_that_somebody_has_generated_from_the_path_of_a_class.module.submodule-0000000000042"
WIDE = "全角文字の名前"
EVENT, RUN = "evt_1SXvjASde5KgyNdHocfCBeqf", "11111111-1111-4111-8111-111111111111"
COMMANDS = [
    "webhook ls", "webhook ls --status failed", "webhook refused", f"webhook show {EVENT}", "webhook show evt_wide",
    "job ls", "job ls --status failed", "job stats", f"job show {RUN}", "seed ls", f"seed show {LONG}",
    f"seed show {WIDE}", f"seed rejects {WIDE}", "ps", "doctor",
]  # fmt: skip
ROWS = f"""
insert into webhook_events (stripe_event_id, event_type, status, attempts, queued, payload, object_id, customer_id,
    error_message) values
  ('{EVENT}', 'customer.subscription.pending_update_applied', 'failed', 5, true, '{{"created": 1795000000}}',
   'in_{"1" * 40}', 'cus_{"2" * 40}',
   E'Traceback (most recent call last):\\n  File "/srv/{LONG}/x.py", line 8, in f\\n    x = {"y" * 90}\\nKeyError: ''{LONG}'''),
  ('evt_wide', '{WIDE * 9}', 'failed', 1, false, '{{}}', null, null, '{WIDE * 30}');
insert into webhook_events (stripe_event_id, event_type, status, received_at, queued, next_attempt_at) values
  ('evt_late', 'a.b', 'processing', now() - interval '1 day', true, now() - interval '1 day');
insert into cron_job_runs (id, job_name, key, status, error_message, process, scope) values
  ('{RUN}', '{LONG}', '{WIDE}', 'failed', 'RuntimeError: {"x" * 300}', '{LONG}:1', '{{"{LONG}": "{LONG}"}}');
insert into cron_job_runs (job_name, status) values ('{WIDE}', 'running');
insert into seed_checkpoints (seed_name, status, rows_inserted, rows_rejected, last_checkpoint, error_message, verified)
values
  ('{LONG}', 'failed', 1234567890, 0, '{{"{LONG}": "{LONG}"}}', 'CheckViolation: {LONG * 3}', null),
  ('{WIDE}', 'complete', 5, 1, '{{"{WIDE}": 1}}', null, '{{"ok": false, "examples": "{LONG * 2}"}}');
insert into pgonce_seed_rejects (seed_name, row_number, cursor, row, error, reason, column_name) values
  ('{WIDE}', 7, '{{"{LONG}": 1}}', '{{}}', '{LONG * 2}', '{WIDE * 20}', '{LONG}');
insert into pgonce_processes (id, does, host, pid, version, app, release, digest, handlers, jobs, capacity, busy, busy_with)
select gen_random_uuid(), does, '{LONG}', 4194304, '0.1.0', '{LONG}:app', '{LONG}', does, '{{}}', '{{}}', 8, 2,
       '{{"job {LONG}", "job {WIDE * 20}"}}'
from unnest('{{receives,events,jobs,alerts}}'::text[]) as does;
select pgonce_count_refused_deliveries('{{signature,time}}', '{{212,1}}');
"""


@pytest.fixture
def rows(request: pytest.FixtureRequest, conn: Connection) -> str:
    if request.param == "odd rows":
        conn.execute(ROWS.encode())
    return str(request.param)


def is_a_command(line: str) -> bool:
    """A command stands alone in its line, and is not broken: it is to be copied."""
    return re.match(r"( +|look: |again: |values: |more: )pgonce ", line) is not None


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("rows", ["odd rows", "no rows"], indirect=True)
def test_no_command_prints_a_line_that_is_wider_than_the_terminal(database: str, rows: str, columns: int) -> None:
    environment = dict.fromkeys(SETTINGS) | {"DATABASE_URL": database, "COLUMNS": str(columns), "FORCE_COLOR": "1"}
    about_a_row = re.compile("show|rejects")
    for command in COMMANDS if rows == "odd rows" else [each for each in COMMANDS if not about_a_row.search(each)]:
        done = CliRunner().invoke(main, command.split(), env=environment)
        assert done.exit_code in ({0, 1} if command == "doctor" else {0}), (command, done.output)
        lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in done.output.splitlines()]
        assert lines, command
        wide = [line for line in lines if cell_len(line) > columns and not is_a_command(line)]
        assert wide == [], f"$ pgonce {command}   at {columns} columns"


@pytest.mark.parametrize("rows", ["odd rows"], indirect=True)
def test_with_no_color_a_terminal_gets_plain_text(database: str, rows: str) -> None:
    environment = dict.fromkeys(SETTINGS) | {"DATABASE_URL": database, "FORCE_COLOR": "1", "NO_COLOR": "1"}
    for command in ("webhook ls", "job ls", "ps", "doctor"):
        assert "\x1b" not in CliRunner().invoke(main, command.split(), env=environment).output, command


@pytest.mark.parametrize("columns", [80, 120])
def test_a_server_s_first_lines_are_not_wider_than_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR", "1")
    app = App()
    for name in (*(f"{LONG}.{number}" for number in range(3)), WIDE * 12):
        app.job(name, cron="0 6 * * *", timezone="America/New_York")(lambda _: None)
        app.webhook(name)(lambda _event, _tx: None)
    for text in (
        f"receives  http://127.0.0.1:8000/webhooks/{LONG}   2 secrets, up to 1,000,000 bytes, live and test",
        startup.describe_handlers(app, 4), startup.describe_jobs(app, None),
        startup.describe_alerts([f"https://{n}.example/x" for n in range(30)]),
    ):  # fmt: skip
        startup.announce(text)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 8
    assert max(map(cell_len, lines)) <= columns
    assert {line[:10].strip() for line in lines} >= {"receives", "handles", "warning", "jobs", "alerts", ""}


@pytest.mark.parametrize("group", ["", "job", "seed", "webhook", "console"])
def test_a_list_of_commands_says_a_whole_sentence_of_each_at_80_columns(group: str) -> None:
    done = CliRunner().invoke(main, [*group.split(), "--help"], env={"COLUMNS": "80"})
    listed = done.output.partition("Commands:\n")[2].splitlines()
    assert listed
    assert [line for line in listed if line.endswith("...")] == []
