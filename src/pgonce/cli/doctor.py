"""``pgonce doctor``: is this installation healthy, and what is to be done?"""

from __future__ import annotations

import os
import sys

import click

from pgonce import doctor as examination
from pgonce.cli.options import as_json, with_database
from pgonce.cli.output import print_json

SIGNS = {"ok": "✔", "warning": "!", "failure": "✗"}
COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}

AREA = 14
WIDTH = 80
EXIT_1 = "exit code 1"


@click.command()
@as_json
@with_database
def doctor(json_: bool, url: str, schema: str) -> None:
    """Examine the database, the schema and what is in it; each finding says what to do. Nothing is written.

    Exits with 1 if there is a failure. Warnings alone exit with 0.
    """
    found = examination.examine(url, schema)
    if json_:
        print_json(found)
    else:
        for each in found:
            text = each.finding if each.action is None else f"{each.finding}: {each.action}"
            sign = click.style(SIGNS[each.state], fg=COLOURS[each.state])
            click.echo(f"{sign} {each.area:<{AREA}}{text}", color=False if os.environ.get("NO_COLOR") else None)
        click.echo(_summary([each.state for each in found]))
    sys.exit(any(each.state == "failure" for each in found))


def _summary(states: list[examination.State]) -> str:
    counts = [(states.count("failure"), "failure"), (states.count("warning"), "warning")]
    said = [f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts if count]
    summary = ", ".join(said) or "all is well"
    return f"{summary:<{WIDTH - len(EXIT_1)}}{EXIT_1}" if counts[0][0] else summary
