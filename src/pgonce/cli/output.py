"""How the commands print: tables for people, JSON for machines, moments and lengths of time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from pgonce.core.interval import interval
from pgonce.errors import InvalidArgument


class Moment(click.ParamType):  # type: ignore[type-arg] # generic only in newer releases of click
    """A moment: "2 hours" (ago), a date, or a date and time (UTC where it names no zone).

    One that the database's driver can read again in any time zone: not within a day of the years 1 and 9999's ends.
    """

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The moment as a datetime with a zone."""
        if isinstance(value, datetime):
            return value
        day = timedelta(days=1)
        try:
            moment = self._read(value, param, ctx)
            moment.astimezone(UTC) - day, moment.astimezone(UTC) + day
        except OverflowError:
            self.fail(f'"{value}" is no moment of the years 1 to 9999', param, ctx)
        return moment

    def _read(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return datetime.now(UTC) - interval(value.removesuffix("ago").strip())
        except InvalidArgument:
            pass
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f'"{value}" is no moment: write "2 hours", 2026-11-23 or 2026-11-23T06:00', param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Length(click.ParamType):  # type: ignore[type-arg] # generic only in newer releases of click
    """A length of time, as "30 minutes"."""

    name = "interval"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The length as a timedelta."""
        try:
            return interval(value)
        except InvalidArgument as error:
            self.fail(str(error), param, ctx)


def when(moment: datetime | None) -> str:
    """``moment`` as people read it, in UTC; empty for None."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if moment else ""


def print_json(value: Any) -> None:
    """``value`` as JSON; dataclasses as objects, moments in ISO 8601."""
    click.echo(json.dumps(_plain(value), default=str, ensure_ascii=False, indent=2))


def in_line(value: Any) -> str:
    """``value`` as JSON in one line."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], empty: str, folding: str) -> None:
    """A table, or the sentence ``empty``. Columns without any value are left out.

    Where the terminal is too narrow, the text in the column ``folding`` is folded, and no other: half an id cannot be
    pasted. Where that does not do, each row becomes a few lines. Piped elsewhere it is as wide as it needs to be.
    """
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not cells:
        click.echo(empty, err=True)
        return
    kept = [number for number in range(len(headings)) if any(row[number] for row in cells)]
    widths = [max(cell_len(text) for text in (headings[number], *(row[number] for row in cells))) for number in kept]
    whole = sum(widths) + GAP * (len(kept) - 1)
    spared = sum(max(0, widths[place] - FOLDED) for place, number in enumerate(kept) if headings[number] == folding)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = whole
    elif whole - spared > console.width:
        for row in cells:
            _print_stacked([(headings[number], row[number]) for number in kept], console.width)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number in kept:
        table.add_column(headings[number], overflow="fold", no_wrap=headings[number] != folding)
    for row in cells:
        table.add_row(*(row[number] for number in kept))
    console.print(table)


GAP = 2
"""Spaces between two columns."""
FOLDED = 24
"""Characters that a folded column has at least; narrower than that it is no text any more."""


def _print_stacked(row: Sequence[tuple[str, str]], width: int) -> None:
    """The first value, by which the row is known, and below it the others by name, as many in a line as fit."""
    line = ""
    click.echo(row[0][1])
    for item in (f"{heading}: {value}" for heading, value in row[1:] if value):
        if line and cell_len(f"{line}  {item}") > width:
            click.echo(line)
            line = ""
        line += f"  {item}"
    click.echo(line)
