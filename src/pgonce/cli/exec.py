"""``pgonce exec``: run any command as a run of a job; for crontab, Kubernetes and programs in any language."""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from pgonce.cli import signals
from pgonce.cli.errors import TIMEOUT
from pgonce.cli.options import OVERLAP, Database, with_database, with_scope
from pgonce.cli.output import Length, Moment, printable
from pgonce.cli.process_group import STATUS_UNKNOWN, CannotExecute, Group, find_command, require_posix
from pgonce.cli.skipped import why_skipped
from pgonce.cli.times import took
from pgonce.jobs import calls
from pgonce.jobs.calls_operate import EXPECT_GRACE, expect_job
from pgonce.jobs.guard import Guard
from pgonce.jobs.repeated_call import PAUSES
from pgonce.jobs.run import BEAT, Run

TAIL = 4000
"""How many bytes from the end of the command's stderr are stored in the run's row."""
LOOK = 0.2
"""Seconds between two checks whether this process still holds the run."""
LATE = "its time is over"
STOPS = (*signals.STOPS, "SIGQUIT")
"""Signals that stop the command. They are passed on; when the grace is over, SIGKILL follows."""
PASSED_ON = ("SIGUSR1", "SIGUSR2", "SIGWINCH")
"""Signals that are only passed on to the command."""


def _text(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("it is not UTF-8") from None
    return value


class _StopsAtCommand(click.Command):
    """Does not parse COMMAND and what follows it.

    Options after COMMAND belong to it, with or without ``--`` before it.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert a missing ``--`` before COMMAND."""
        flags = {name for option in self.get_params(ctx) if getattr(option, "is_flag", False) for name in option.opts}
        names = place = 0
        while place < len(args) and args[place] != "--":
            if not args[place].startswith("-"):
                names += 1
            elif "=" not in args[place] and args[place] not in flags:
                place += 1  # the option's value
            if names == 2:
                args = [*args[:place], "--", *args[place:]]
                break
            place += 1
        return super().parse_args(ctx, args)


@click.command("exec", cls=_StopsAtCommand)
@click.argument("name", callback=_text)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--key", default="", callback=_text, help="Runs with different keys may run side by side.")
@click.option(
    "--window",
    default=calls.WINDOW,
    show_default=True,
    type=Length(),
    metavar="INTERVAL",
    help="Without a heartbeat for this long the run counts as dead.",
)
@click.option("--timeout", type=Length(), metavar="INTERVAL", help="Stop the command after this long.")
@click.option(
    "--grace", default="10s", show_default=True, type=Length(), metavar="INTERVAL", help="From SIGTERM to SIGKILL."
)
@click.option("--scheduled-for", type=Moment(), metavar="TIME", help="The tick this run is for: it fires once.")
@click.option(
    "--expect-every", type=Length(), metavar="INTERVAL", help="Alert when it does not run at least this often: '1 day'."
)
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
    expect_every: timedelta | None,
    scope: dict[str, Any],
    db: Database,
) -> None:
    """Run COMMAND as a run of the job NAME. If a run is in progress, exit with 75.

    Its exit code is passed on, and its last lines on stderr become the run's error message. It is stopped if the run is
    lost, and at SIGTERM and Ctrl-C. It finds PGONCE_RUN_ID, PGONCE_IDEMPOTENCY_KEY and, with --scheduled-for,
    PGONCE_SCHEDULED_FOR in its environment. Options of pgonce must be before COMMAND.

    Example: pgonce exec backup --window 30m pg_dump --file shop.sql shop
    """
    require_posix()
    # one tick has one idempotency key, in whatever time zone it was given
    scheduled_for = scheduled_for and scheduled_for.astimezone(UTC)
    # A parent may have set SIGCHLD to be ignored ("trap '' CHLD"); the kernel then keeps no exit status.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pool = db.pool  # before the handlers: a signal ends the wait for a connection
    received: list[int] = []
    with signals.handled(received.append, STOPS + PASSED_ON):
        # not the timeout of a run: it would end the run before the command
        start = calls.Start(name, window, key, scope, scheduled_for)
        if expect_every:
            db.call(expect_job(name, expect_every, EXPECT_GRACE, key))
        try:
            # nothing in this process would close a run whose start was not answered: it would block the job
            with Guard(pool, db.schema, PAUSES).start(start) as run:
                if run is None:
                    usual = "another run is at work or this tick has fired"
                    _say(f"{name}: skipped, {why_skipped(db, name, usual)}")
                    sys.exit(OVERLAP)
                code = _run(run, command, received, grace.total_seconds(), timeout, _key(run, scheduled_for))
        except TimeoutError:
            _say(f"pgonce: the job {name} took longer than {took(timeout)}")
            sys.exit(TIMEOUT)
    sys.exit(code)


def _key(run: Run, scheduled_for: datetime | None) -> str:
    # a tick starts at most one run, but a repetition by hand should have the same key
    return f"{run.name}:{run.key}:{scheduled_for.isoformat()}" if scheduled_for else str(run.id)


def _run(
    run: Run, command: tuple[str, ...], received: list[int], grace: float, limit: timedelta | None, key: str
) -> int:
    if stop := _find_stop(received):
        run.fail(f"ended by {stop.name} before the command began")
        return 128 + stop
    try:
        path = find_command(command[0])
    except CannotExecute as error:
        _say(f"pgonce: {command[0]}: {error}")
        run.fail(f"{command[0]}: {error}")
        return error.code
    # a successor may start one window after the last heartbeat, which is at most a third of a window old
    alone = min(grace, run.window.total_seconds() / 2)
    ids = {"PGONCE_RUN_ID": str(run.id), "PGONCE_IDEMPOTENCY_KEY": key}
    if run.scheduled_for:
        ids["PGONCE_SCHEDULED_FOR"] = run.scheduled_for.isoformat()
    # Suspended, this process sends no heartbeats: three quarters of the time until a successor may start, then the
    # grace. At least 2 s, because a busy machine keeps a process waiting for as long.
    window = run.window.total_seconds()
    silence = max(2.0, (window - min(window / 3, BEAT)) * 0.75)
    group = Group(path, command, os.environ | ids, alone, silence)
    output = _Output(group.leader.stderr)
    output.start()
    why = _watch(run, group, output, received, grace, limit)
    group.release()
    output.has_ended(1)
    if why == LATE:
        run.fail(f"timed out after {limit}")
        raise TimeoutError
    status = group.leader.returncode
    code = 1 if status == STATUS_UNKNOWN else status if status >= 0 else 128 - status
    if code and not (why and run.stop_requested):
        last_lines = output.tail.decode(errors="replace").strip()
        ended = f"ended by signal {-status}" if status < 0 else f"exit code {status}"
        if status == STATUS_UNKNOWN:
            ended = "it ended, and its exit status could not be read"
        run.fail(f"{last_lines}\n{ended}" if last_lines else ended)
    return code


def _watch(
    run: Run, group: Group, output: _Output, received: list[int], grace: float, limit: timedelta | None
) -> str | None:
    """Wait for the end of the command, or stop its whole session if necessary. Return why it was stopped, or None.

    A command that was stopped has ended when its children have ended, too: a successor must not run beside them. Any
    other command has ended when its stderr is passed on as well, because it would itself wait for the reader of ours.
    """
    late_at = math.inf if limit is None else time.monotonic() + limit.total_seconds()
    kill_at = math.inf
    why: str | None = None
    ours = True
    while not group.has_ended(LOOK) or not (group.is_empty(LOOK) if why else output.has_ended(LOOK)):
        group.report()
        to_send = [received.pop(0) for _ in received[:]]
        if why is None and _find_stop(to_send):
            why = "a signal"
            kill_at = time.monotonic() + grace
        if why is None and (why := LATE if time.monotonic() > late_at else _stopped(run)):
            _say(f"{run.name}: {why}")
            to_send = [signal.SIGTERM]
            kill_at = time.monotonic() + grace
        if time.monotonic() > kill_at:
            to_send.append(signal.SIGKILL)
        sent = [group.signal(each) for each in to_send]
        if ours and not all(sent):
            ours = False
            _say(f"{run.name}: it runs as another user and cannot be stopped from here: waiting for its end")
    return why


def _find_stop(numbers: Iterable[int]) -> signal.Signals | None:
    return next((each for each in map(signal.Signals, numbers) if each.name in STOPS), None)


def _stopped(run: Run) -> str | None:
    if not run.stop_requested:
        return None
    return "the run was lost" if run.lost else "asked to stop"


class _Output(threading.Thread):
    """Passes on what the command writes to stderr, and keeps the end of it in ``tail``.

    It goes on reading if our stderr cannot be written: otherwise the pipe fills, and the command blocks.
    """

    def __init__(self, source: Any) -> None:
        super().__init__(daemon=True)
        self.tail = bytearray()
        self._source = source
        self._command_ended = threading.Event()

    def run(self) -> None:
        """Read until the end, or until the command has ended: what it leaves running may keep the pipe open."""
        is_last = False
        with self._source:
            while not is_last:
                is_last = self._command_ended.is_set()
                if select.select([self._source], [], [], 0 if is_last else LOOK)[0]:
                    chunk = os.read(self._source.fileno(), 65536)  # all that a pipe holds
                    is_last = is_last or not chunk
                    self.tail += chunk
                    del self.tail[:-TAIL]
                    _show(chunk)

    def has_ended(self, seconds: float) -> bool:
        """Call it after the command's end. Whether everything is passed on within ``seconds``."""
        self._command_ended.set()
        self.join(seconds)
        return not self.is_alive()


def _show(text: bytes) -> None:
    with suppress(OSError):  # a full disk or a closed pipe: the text is in the tail all the same
        while sys.stderr and text:  # sys.stderr is None if it was closed from the start
            try:
                text = text[os.write(sys.stderr.fileno(), text) :]
            except BlockingIOError:  # another process that has the same pipe or terminal has made it non-blocking
                select.select([], [sys.stderr], [])


def _say(line: str) -> None:
    """Print a line on stderr. If stderr stays full for a second, the line is dropped: stopping must not wait for it."""
    with suppress(OSError):
        if sys.stderr and select.select([], [sys.stderr], [], 1)[1]:
            _show(f"{printable(line)}\n".encode(errors="backslashreplace"))
