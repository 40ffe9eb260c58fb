"""``pgonce doctor``: is this installation healthy, and what is to be done?"""

from __future__ import annotations

import os
import sys

import click
from rich.cells import cell_len
from rich.console import Console

from pgonce import doctor as examination
from pgonce.cli.options import Database, as_json, with_database
from pgonce.cli.output import print_json, print_line
from pgonce.cli.watch import watchable

SIGNS = {"ok": "✔", "warning": "!", "failure": "✗"}
COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}

AREA = 14
WIDTH = 80
EXIT_1 = "exit code 1"


@click.command()
@as_json
@watchable
@with_database
def doctor(json_: bool, db: Database) -> None:
    """Examine the database, the schema and what is in it.

    Each finding says what to do. Nothing is written.

    Exits with 1 if there is a failure. Warnings alone exit with 0.
    """
    found = examination.examine(db.url, db.schema)
    if json_:
        print_json(found)
    else:
        for each in found:
            colour = False if os.environ.get("NO_COLOR") else None
            click.echo(click.style(SIGNS[each.state], fg=COLOURS[each.state]), nl=False, color=colour)
            print_finding(f" {each.area:<{AREA}}", each.finding, each.action)
        click.echo(_summary([each.state for each in found]))
    sys.exit(any(each.state == "failure" for each in found))


def print_finding(area: str, finding: str, action: str | None) -> None:
    """The finding and its command; where both do not fit into a line, the command is in the next one, unbroken."""
    text = finding if action is None else f"{finding}: {action}"
    console = Console()
    if action is None or not console.is_terminal or 1 + cell_len(area + text) <= console.width:
        print_line(f"{area}{text}", len(area), before=1)
    else:
        print_line(f"{area}{finding}:", len(area), before=1)
        click.echo(f"{' ' * (1 + len(area))}{action}")


def _summary(states: list[examination.State]) -> str:
    counts = [(states.count("failure"), "failure"), (states.count("warning"), "warning")]
    parts = [f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts if count]
    summary = ", ".join(parts) or "all is well"
    return f"{summary:<{WIDTH - len(EXIT_1)}}{EXIT_1}" if counts[0][0] else summary
