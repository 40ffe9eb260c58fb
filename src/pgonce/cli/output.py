"""What the commands print: tables, JSON, times and durations; and the option types for times and durations."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource
from rich.cells import cell_len

from pgonce.core.diagnosis import Diagnosis, command_line
from pgonce.core.interval import interval
from pgonce.errors import InvalidArgument, schema_option

if TYPE_CHECKING:
    from rich.console import Console


class Moment(click.ParamType):  # type: ignore[type-arg] # generic only in newer releases of click
    """A time: "2 hours" (ago), a date, or a date and time (UTC if it does not name a zone).

    It must be more than a day after the start of the year 1 and before the end of 9999, so that the database's driver
    can read it in any time zone.

    Args:
        side: of now on which a length lies, for the message.
    """

    name = "when"

    def __init__(self, side: str = "ago") -> None:
        self._side = side

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The time as a datetime with a zone."""
        if isinstance(value, datetime):
            return value
        day = timedelta(days=1)
        try:
            moment = self._read(value, param, ctx)
            moment.astimezone(UTC) - day, moment.astimezone(UTC) + day
        except OverflowError:
            self.fail(f'"{value}" is not a time in the years 1 to 9999', param, ctx)
        return moment

    def _read(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return datetime.now(UTC) - interval(value.removesuffix("ago").strip())
        except InvalidArgument:
            pass
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f'cannot read "{value}" as a time: use "2 hours" ({self._side}), 2026-11-23 or 2026-11-23T06:00',
                param,
                ctx,
            )
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Length(click.ParamType):  # type: ignore[type-arg] # generic only in newer releases of click
    """A duration, such as "30 minutes"."""

    name = "interval"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The duration as a timedelta."""
        try:
            return interval(value)
        except InvalidArgument as error:
            self.fail(str(error), param, ctx)


def when(moment: datetime | None) -> str:
    """``moment`` formatted for people, in UTC; empty for None."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if moment else ""


def print_json(value: Any) -> None:
    """Print ``value`` as JSON; dataclasses become objects, times are in ISO 8601."""
    click.echo(json_text(value, default=_as_json, indent=2))


def in_line(value: Any) -> str:
    """``value`` as JSON in one line."""
    return json_text(value, default=str)


def json_text(value: Any, **options: Any) -> str:
    """``value`` as JSON, readable, and with escapes for the characters that a terminal would interpret."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return _NOT_ASCII.sub(lambda sign: sign[0] if sign[0].isprintable() else json.dumps(sign[0])[1:-1], text)


_NOT_ASCII = re.compile(r"[^\n -~]")


def _as_json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)


def terminal(*, err: bool = False) -> Console | None:
    """The terminal that standard output is, or standard error with ``err``; None if it is a file or a pipe.

    Rich is imported for a terminal only: a command whose output goes into a file does not pay for it.
    """
    stream = sys.stderr if err else sys.stdout
    forced = {"FORCE_COLOR", "TTY_COMPATIBLE"} & os.environ.keys()  # what else makes rich take a file for a terminal
    if not forced and not (stream and stream.isatty()):
        return None
    from rich.console import Console

    console = Console(markup=False, highlight=False, stderr=err)
    return console if console.is_terminal else None


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one in a line, with the values below each other; empty values are left out."""
    given = [(name, printable(value)) for name, value in fields if value]
    width = max((len(name) for name, _ in given), default=0)
    for name, value in given:
        print_line(f"  {name:{width}}  {value}", width + 4)


def print_line(text: str, indent: int = 0, *, before: int = 0, err: bool = False) -> None:
    """Print one line. A terminal that is too narrow gets several, broken between words, those after the first indented.

    What is not printable in it, such as a line break in a name, becomes a space. The first ``indent`` characters are
    never broken. ``before``: columns that are printed already.
    """
    text = printable(text)
    console = terminal(err=err)
    if console is None or cell_len(text) <= (width := console.width - before):
        click.echo(text, err=err)
        return
    from rich.text import Text

    lines = Text(text[indent:]).wrap(console, max(width - indent, 20))
    for number, line in enumerate(lines):
        click.echo(f"{' ' * (indent + before) if number else text[:indent]}{line.plain.rstrip()}", err=err)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], empty: str, cut: str) -> None:
    """Print a table, or the sentence ``empty``. Columns without any value are left out.

    On a terminal that is too narrow, texts are shortened and end with "…": first in the column ``cut``, then in the
    other columns of text, and last in the first column. In a file or pipe, the table is as wide as its contents.
    """
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if not cells:
        click.echo(empty, err=True)
        return
    kept = [number for number in range(len(headings)) if any(row[number] for row in cells)]
    if not kept:
        return
    widths = {
        headings[number]: max(cell_len(text) for text in (headings[number], *(row[number] for row in cells)))
        for number in kept
    }
    numbers = {headings[at] for at in kept if all(re.fullmatch(r"[+-]?[\d,.]*( %)?", row[at]) for row in cells)}
    times = {headings[at] for at in kept if all(TIME.fullmatch(row[at]) for row in cells)}
    console = terminal()
    if console is None:
        for line in (headings, *cells):
            texts = [_padded(line[at], widths[headings[at]], right=headings[at] in numbers) for at in kept]
            click.echo((" " * GAP).join(texts))
        return
    from rich.table import Table
    from rich.text import Text

    whole = sum(widths.values()) + GAP * (len(widths) - 1)
    _narrow(widths, {*numbers, *times, "state"}, cut, whole - console.width)
    table = Table(box=None, pad_edge=False, header_style="" if os.environ.get("NO_COLOR") else "bold")
    for name, width in widths.items():
        justify: Literal["left", "right"] = "right" if name in numbers else "left"
        table.add_column(name, overflow="ellipsis", no_wrap=True, justify=justify, max_width=width, min_width=width)
    for row in cells:
        table.add_row(*(Text(row[number], STYLES.get(row[number][:1], "")) for number in kept))
    console.print(table)


def _padded(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def suggested(command: str, value: str, options: str = "") -> str:
    """``command_line``, with the schema if the present command names it."""
    return command_line(command, printable(value), options + named_schema())


def named_schema() -> str:
    """`` --schema NAME`` if the present command names it, for a command that is printed; else an empty text."""
    context = click.get_current_context(silent=True)
    if context and context.get_parameter_source("schema") is ParameterSource.COMMANDLINE:
        return schema_option(context.params["schema"])
    return ""


def print_diagnosis(found: Iterable[Diagnosis]) -> None:
    """Print what is the matter with a row, and what to do; nothing for a row that is final."""
    for each in found:
        click.echo()
        for name, text in (("what it is", each.cause), ("how we know", each.evidence), ("what to do", each.action)):
            print_line(f"{name:18}{printable(text)}", 18)
        if each.command:
            click.echo(f"{'':18}{each.command}")


TIME = re.compile(r"|–|.* ago|tomorrow|\d\d:\d\d|\d{4}-\d\d-\d\d.*|[\d.]+( (s|min|h|d))?( (to )?[\d.]+ (s|min|h|d))*")
"""A time or a length of time, which says nothing, or something else, if it is cut."""
GAP = 2
"""Spaces between two columns."""
STYLES = {"✔": "green", "✗": "red", "!": "yellow", "●": "cyan"}
"""The colour of a cell, by its first character. The colour only repeats what that character means."""


def _narrow(widths: dict[str, int], fixed: set[str], cut: str, excess: int) -> None:
    """Take ``excess`` characters from the columns, each from the widest column that may still be narrowed.

    An id in the first column keeps 14 characters and "…" if possible. The columns in ``fixed`` are cut last.
    """
    first = next(iter(widths))
    texts = [name for name in widths if name not in {first, cut} | fixed]
    widest = (40, [cut]), (24, texts)  # before one of them is cut to its least
    least_first = 15 if widths[first] > 20 else 20  # an id may be cut shorter than the name of a job or import
    for least, names in (
        *widest,
        (16, [cut]),
        (12, texts),
        (least_first, [first]),
        (8, [cut, *texts]),
        (1, list(widths)),
    ):
        while excess > 0 and (wide := [name for name in names if widths.get(name, 0) > least]):
            widths[max(wide, key=lambda name: widths[name])] -= 1
            excess -= 1


def printable(text: str) -> str:
    """``text`` in one line, without control characters, which a terminal would interpret."""
    return "".join(sign if sign.isprintable() else " " for sign in text)
