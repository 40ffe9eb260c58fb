"""``pgonce exec``: any command as a run of a job; for crontab, Kubernetes and every language."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, BinaryIO

import click

from pgonce import database
from pgonce._sync.jobs import Jobs
from pgonce._sync.run import Run
from pgonce.cli.failing import TookTooLong
from pgonce.cli.job import took, with_scope
from pgonce.cli.options import OVERLAP, with_database
from pgonce.cli.show import Length, Moment
from pgonce.protocol import jobs as protocol

TAIL = 4000
"""Bytes of the command's last stderr that stand in the run's row."""
LOOK = 0.2
"""Seconds between two looks whether the run is still ours."""

# Should this process be killed, nobody would stop the command any more, and once the window is over it would run beside
# its successor: on Linux the kernel ends it then (prctl PR_SET_PDEATHSIG). In a small Python in between, and not by
# preexec_fn, which may deadlock where there are threads.
_TIED = """
import ctypes, os, sys
parent, command = int(sys.argv[1]), sys.argv[2:]
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() != parent:
    sys.exit(143)
try:
    os.execvp(command[0], command)
except OSError as error:
    print(f"pgonce: {command[0]}: {error.strerror}", file=sys.stderr)
    sys.exit(126)
"""


@click.command("exec")
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--key", default="", help="Runs with different keys may run side by side.")
@click.option(
    "--window",
    default=protocol.WINDOW,
    show_default=True,
    type=Length(),
    metavar="INTERVAL",
    help="Without a heartbeat for this long the run counts as dead.",
)
@click.option("--timeout", type=Length(), metavar="INTERVAL", help="Stop the command after this long.")
@click.option(
    "--grace", default="10s", show_default=True, type=Length(), metavar="INTERVAL", help="Between SIGTERM and SIGKILL."
)
@click.option("--scheduled-for", type=Moment(), metavar="TIME", help="The tick this run is for: it fires once.")
@with_scope
@with_database
def exec_(
    name: str,
    command: tuple[str, ...],
    key: str,
    window: timedelta,
    timeout: timedelta | None,
    grace: timedelta,
    scheduled_for: datetime | None,
    scope: dict[str, Any],
    url: str,
    schema: str,
) -> None:
    """Run COMMAND as a run of the job NAME, unless one is at work: then exit with 75.

    Its exit code is passed on; its last lines on stderr become the run's error message. It is stopped when the run is
    lost, and on SIGTERM and Ctrl-C. It finds PGONCE_RUN_ID and PGONCE_IDEMPOTENCY_KEY in its environment.

    Example: pgonce exec nightly_backup --window 30m -- pg_dump --file /backup/shop.sql shop
    """
    options: dict[str, Any] = {"key": key, "window": window, "timeout": timeout}
    with database.open_pool(url, 2) as pool, _signals() as received:
        try:
            with Jobs(pool, schema=schema).run(name, scope=scope, scheduled_for=scheduled_for, **options) as run:
                if run is None:
                    click.echo(f"{name}: skipped, another run is at work or this tick has fired", err=True)
                    sys.exit(OVERLAP)
                code = _run(run, command, received, grace.total_seconds(), _key(run, scheduled_for))
        except TimeoutError as error:
            raise TookTooLong(f"the job {name} took longer than {took(timeout)}") from error
    sys.exit(code)


def _key(run: Run, scheduled_for: datetime | None) -> str:
    # of a tick there is one run at most, but whoever repeats it by hand wants the same key
    return f"{run.name}:{run.key}:{scheduled_for.isoformat()}" if scheduled_for else str(run.id)


def _run(run: Run, command: tuple[str, ...], received: list[int], patience: float, key: str) -> int:
    if shutil.which(command[0]) is None:
        click.echo(f"pgonce: {command[0]}: not found", err=True)
        run.fail(f"{command[0]}: not found")
        return 127
    tied = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid())] if sys.platform == "linux" else []
    # a session of its own: its whole group is stopped, and a Ctrl-C of the terminal reaches it once, from here
    child = subprocess.Popen(
        [*tied, *command],
        env=os.environ | {"PGONCE_RUN_ID": str(run.id), "PGONCE_IDEMPOTENCY_KEY": key},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    tail = bytearray()
    reader = threading.Thread(target=_pass_on, args=(child.stderr, tail), daemon=True)
    reader.start()
    asked = _watch(run, child, received, patience)
    # what the command left behind may hold stderr open for ever
    reader.join(1)
    code = child.returncode if child.returncode >= 0 else 128 - child.returncode
    if code and not (asked and run.stop_requested):
        said = tail.decode(errors="replace").strip()
        ended = f"ended by signal {-child.returncode}" if child.returncode < 0 else f"exit code {code}"
        run.fail(f"{said}\n{ended}" if said else ended)
    return code


def _watch(run: Run, child: subprocess.Popen[bytes], received: list[int], patience: float) -> bool:
    """Wait for the end of the command; stop it, group and all, where that is called for. Whether it was."""
    kill_at: float | None = None
    while True:
        with suppress(subprocess.TimeoutExpired):
            child.wait(LOOK)
            return kill_at is not None
        while received:
            _signal(child, received.pop(0))
            kill_at = kill_at or time.monotonic() + patience
        if kill_at is None and run.stop_requested:
            why = "its time is over" if run.timed_out else "the run was lost" if run.lost else "asked to stop"
            click.echo(f"{run.name}: {why}", err=True)
            _signal(child, signal.SIGTERM)
            kill_at = time.monotonic() + patience
        if kill_at is not None and time.monotonic() > kill_at:
            _signal(child, signal.SIGKILL)


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def _pass_on(source: BinaryIO, tail: bytearray) -> None:
    while chunk := os.read(source.fileno(), 65536):
        sys.stderr.buffer.write(chunk)
        sys.stderr.buffer.flush()
        tail += chunk
        del tail[:-TAIL]


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT, SIGTERM and SIGHUP, to be passed on."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    usual = {number: signal.signal(number, lambda number, _: received.append(number)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
