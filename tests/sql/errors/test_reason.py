"""The line that summarises an error: the exception's last line, and the place in the user's code."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.sql.race import value

Connection = psycopg.Connection[Any]


@pytest.fixture
def database(swept_database: str) -> str:
    """One database for the module: no test writes."""
    return swept_database


def line(conn: Connection, text: str) -> Any:
    return value(conn, "select pgonce_error_line(%s)", text)


def place(conn: Connection, text: str) -> Any:
    return value(conn, "select pgonce_error_place(%s)", text)


def traceback_of(function: Callable[[], Any]) -> str:
    try:
        function()
    except BaseException as error:  # noqa: BLE001 -- whatever it raises is what is asked about
        return "".join(traceback.format_exception(error))
    raise AssertionError("it raised nothing")


def value_error() -> None:
    raise ValueError("first\nsecond\n  third")


def chained() -> None:
    try:
        value_error()
    except ValueError as error:
        raise RuntimeError("the import failed") from error


def during() -> None:
    try:
        value_error()
    except ValueError:
        raise KeyError("discounts")  # noqa: B904 -- "during handling of the above exception"


def with_note() -> None:
    error = ValueError("boom")
    error.add_note("a note")
    raise error


def recursive() -> None:
    recursive()


def group() -> None:
    raise ExceptionGroup("two failed", [ValueError("a"), KeyError("b")])


async def in_task_group() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.to_thread(value_error))


@pytest.mark.parametrize(
    ("function", "expected", "where"),
    [
        (value_error, "ValueError: first", "value_error"),
        (chained, "RuntimeError: the import failed", "chained"),
        (during, "KeyError: 'discounts'", "during"),
        (with_note, "ValueError: boom", "with_note"),
        (recursive, "RecursionError: maximum recursion depth exceeded", "recursive"),
        (lambda: compile("f(", "app.py", "exec"), "SyntaxError: '(' was never closed", "<lambda>"),
        (group, "ExceptionGroup: two failed (2 sub-exceptions)", "group"),
        (lambda: asyncio.run(in_task_group()), "ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)", ""),
        (lambda: sys.exit(3), "SystemExit: 3", "<lambda>"),
        (lambda: int("x" * 9), "ValueError: invalid literal for int() with base 10: 'xxxxxxxxx'", "<lambda>"),
    ],
)
def test_of_a_traceback_it_is_the_first_line_of_the_exception_and_the_innermost_frame_of_the_user(
    conn: Connection, function: Callable[[], Any], expected: str, where: str
) -> None:
    text = traceback_of(function)
    assert line(conn, text).startswith(expected)
    found = place(conn, text)
    assert found.startswith("errors/test_reason.py:")
    assert found.endswith(f" in {where}" if where else "")


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("select * from nowhere", 'UndefinedTable: relation "nowhere" does not exist'),
        ("select frm", 'UndefinedColumn: column "frm" does not exist'),
        ("select 'secret'::int", "InvalidTextRepresentation: invalid input syntax for type integer"),
        ("select 'se\"cret'::date", "InvalidDatetimeFormat: invalid input syntax for type date"),
        ("select '31.13.2026 secret'::timestamp", "InvalidDatetimeFormat: invalid input syntax for type timestamp"),
        ("select '2026-13-31'::date", "DatetimeFieldOverflow: date/time field value out of range"),
        ("select '99999999999'::int", "NumericValueOutOfRange: value … is out of range for type integer"),
        ("select '{secret'::int[]", "InvalidTextRepresentation: malformed array literal"),
        (
            (
                "insert into pgonce_job_retries values ('00000000-0000-0000-0000-000000000000', 'secret', now()),"
                " ('00000000-0000-0000-0000-000000000000', 'secret', now())"
            ),
            'UniqueViolation: duplicate key value violates unique constraint "pgonce_job_retries_pkey"',
        ),
        (
            "insert into webhook_events (stripe_event_id, event_type, status) values ('secret', 'x', 'unknown')",
            (
                'CheckViolation: new row for relation "webhook_events" violates check constraint'
                ' "webhook_events_status_check"'
            ),
        ),
        ("select start_job_run('')", "psycopg.errors.InvalidParameterValue: the job name must not be empty"),
    ],
)
def test_of_a_database_error_it_is_the_message_without_the_row_the_position_and_the_value(
    conn: Connection, statement: str, expected: str
) -> None:
    raised = traceback_of(lambda: conn.execute(statement.encode()))
    found = line(conn, raised)
    assert found.removeprefix("psycopg.errors.").startswith(expected.removeprefix("psycopg.errors."))
    assert "secret" not in found
    bare = line(conn, str(raised.rsplit("psycopg.errors.", 1)[1]).partition(": ")[2])
    assert found.endswith(bare), "without a traceback, as a client of SQL stores it"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("disk full\nexit code 3", "disk full (exit code 3)"),
        ("Traceback (most recent call last):\n  File \"x\", line 1, in f\nKeyError: 1\nlogged\ndisk full\nexit code 3",
         "disk full (exit code 3)"),
        ('psql:x.sql:1: ERROR:  column "a" does not exist\nLINE 1: select a;\n               ^\nexit code 3',
         'psql:x.sql:1: ERROR:  column "a" does not exist (exit code 3)'),
        ("exit code 1", "exit code 1"),
        ("killed\r\nended by signal 9\n", "killed (ended by signal 9)"),
        ("Error: no such customer\n    at sync (/app/billing.ts:88:3)\n    at async main", "Error: no such customer"),
        ("(psycopg.errors.UniqueViolation) duplicate key value\nDETAIL:  Key\n[SQL: insert\ninto t]\n[parameters: {}]",
         "(psycopg.errors.UniqueViolation) duplicate key value"),
        ("plain", "plain"),
        ("one\ntwo\n\n", "two"),
        ("", None),
        ("  \n\n", None),
    ],
)  # fmt: skip
def test_of_any_other_text_it_is_the_last_line_that_says_something(
    conn: Connection, text: str, expected: str | None
) -> None:
    assert line(conn, text) == expected
    assert place(conn, text) in {None, "x:1 in f"}


def test_a_failure_below_a_library_names_the_users_frame(conn: Connection, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "billing.py").write_text(
        "import json\ndef sync_invoice():\n    json.loads('{')\nsync_invoice()\n", "utf-8"
    )
    ran = subprocess.run(
        [sys.executable, tmp_path / "shop" / "billing.py"], capture_output=True, text=True, check=False
    )
    assert place(conn, ran.stderr) == "shop/billing.py:3 in sync_invoice"
    assert line(conn, ran.stderr).startswith("json.decoder.JSONDecodeError: Expecting property name")


FRAME = 'Traceback (most recent call last):\n  File "/srv/shop/billing.py", line 88, in sync\n    x\n'
LONG = "x" * 500_000
LOG = "line of a log\n" * 40_000
AGAIN = "\n\nDuring handling of the above exception, another exception occurred:\n\n"


@pytest.mark.parametrize(
    ("error", "line", "place"),
    [
        (f"{FRAME}ValueError: {LONG}", f"ValueError: {LONG[:488]}", "shop/billing.py:88 in sync"),
        (f"{LOG}{FRAME}{LOG}disk full\nexit code 3", "disk full (exit code 3)", None),
        (
            f"{FRAME}KeyError: {LONG}{AGAIN}{FRAME.replace('88', '99')}OSError: no space\n",
            "OSError: no space",
            "shop/billing.py:99 in sync",
        ),
    ],
)
def test_of_a_message_of_megabytes_only_the_ends_are_read(
    conn: Connection, error: str, line: str, place: str | None
) -> None:
    found = conn.execute("select pgonce_error_line(%s), pgonce_error_place(%s)", [error, error]).fetchone()
    assert found == (line, place)


def test_a_message_of_any_length_becomes_at_most_500_characters(conn: Connection) -> None:
    assert len(line(conn, "ValueError: " + "é" * 20_000)) == 500
