"""``pgonce ps``: the processes that run pgonce, on every machine."""

from __future__ import annotations

from datetime import timedelta

import click

from pgonce.cli.options import Database, as_json, with_database
from pgonce.cli.output import print_json, print_line, print_table
from pgonce.cli.times import took
from pgonce.cli.watch import watchable
from pgonce.core import processes

KINDS = {"receives": "serve", "events": "worker", "jobs": "worker", "alerts": "alerts"}
"""The name of a process, by the first of these that it does."""


@click.command()
@as_json
@watchable
@with_database
def ps(json_: bool, db: Database) -> None:
    """List the processes that run pgonce.

    A line says where a process runs, which release it is, what it does, and when it was last seen.

    A process that has not been seen for a minute is marked "!"; its row goes after a day. One that was stopped cleanly
    is not listed.
    """
    lines = db.call(processes.list_processes())
    if json_:
        print_json(lines)
        return
    print_table(
        ["process", "host", "pid", "release", "does", "busy", "seen"],
        [
            (name, line.host, line.pid, _release(line), _does(line), _busy(line), _seen(line))
            for name, line in zip(_names(lines), lines, strict=True)
        ],
        "no process has been seen in the last day",
        "does",
    )
    for line in lines:
        for work in line.busy_with:
            print_line(f"{line.host} {line.pid}  {'at' if line.live else 'was at'} work on {work}")
    if any(line.outdated and line.live for line in lines):
        print_line("! another release than the newest start of this app")
    if not all(line.live for line in lines):
        print_line("! silent for over a minute: killed, stopped in a debugger, or without the database")


def _names(lines: list[processes.ProcessLine]) -> list[str]:
    """serve-1, worker-1, worker-2 …, in the order of the starts."""
    count: dict[str, int] = {}
    names = []
    for line in lines:
        kind = next(name for does, name in KINDS.items() if does in line.does)
        count[kind] = count.get(kind, 0) + 1
        names.append(f"{kind}-{count[kind]}")
    return names


def _does(line: processes.ProcessLine) -> str:
    return ", ".join(does for does in KINDS if does in line.does)


def _release(line: processes.ProcessLine) -> str:
    name = " ".join(filter(None, [line.app.partition(":")[0], line.release]))
    return f"{name} !" if line.outdated and line.live else name


def _busy(line: processes.ProcessLine) -> str:
    return f"{line.busy} of {line.capacity}" if line.capacity else "–"


def _seen(line: processes.ProcessLine) -> str:
    seen = f"{took(line.seen_ago // timedelta(seconds=1) * 1000)} ago"
    return seen if line.live else f"! {seen}"
