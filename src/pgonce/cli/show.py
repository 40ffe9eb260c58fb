"""How the commands print: tables for people, JSON for machines, moments and lengths of time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.table import Table

from pgonce.errors import InvalidArgument
from pgonce.protocol.interval import interval


class Moment(click.ParamType):  # type: ignore[type-arg] # generic only in newer releases of click
    """A moment: "2 hours" (ago), a date, or a date and time (UTC where it names no zone)."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The moment as a datetime with a zone."""
        if isinstance(value, datetime):
            return value
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


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table, or the sentence ``empty``. Piped elsewhere it is as wide as it needs to be."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    if not table.row_count:
        click.echo(empty, err=True)
        return
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 400  # whoever reads a pipe wants whole lines
    console.print(table)
