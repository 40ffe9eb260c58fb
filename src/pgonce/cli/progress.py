"""What ``seed run`` and ``seed load`` print: the progress, on standard error, and how the import ended."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from pgonce.cli.options import OVERLAP
from pgonce.cli.output import suggested, terminal
from pgonce.cli.times import took
from pgonce.seeds.calls import Checkpoint, Counts
from pgonce.seeds.calls_operate import Rehearsed, RejectGroup
from pgonce.seeds.seeds import Progress as Step
from pgonce.seeds.seeds import SeedResult

PLAIN_EVERY = 10.0
"""Seconds between two lines where the output is not a terminal."""
FIGURES = 60
"""Width of the percentage, the rows, the speed and the time left, at most."""
REASONS = 4
"""Different reasons for rejects that are printed, the most frequent first."""


def same_command(options: str = "") -> str:
    """What resumes an import whose whole command is not known."""
    return f"the same command{options}"


def unknown(_: Any) -> float | None:
    """The progress of a source that does not know it."""
    return None


@dataclass(frozen=True, slots=True)
class Import:
    """An import that is shown.

    Args:
        name: the seed's name.
        title: source and table: ``people.csv → people``.
        again: the command that resumes it, with further options.
        total: how many rows there are in all, where that is known.
        share: the share of the source before a cursor, where that is known.
    """

    name: str
    title: str
    again: Callable[..., str]
    total: int | None = None
    share: Callable[[Any], float | None] = unknown

    def texts(self, step: Step) -> tuple[float | None, str, str, str]:
        """(share, rows, speed, time left) after a batch."""
        seen = step.checkpoint.rows_seen
        share = min(1.0, seen / self.total) if self.total else self.share(step.checkpoint.cursor)
        of = f" of {self.total:,}" if self.total else ""
        if share and not self.total:
            of = f" of about {round(seen / share, -3):,.0f}" if share < 1 and seen >= 1000 else ""
        speed = step.rows / step.seconds if step.seconds else 0.0
        left = ""
        if share and speed and 0 < share < 1:
            left = f"{took(seen / share * (1 - share) / speed * 1000)} left"
        return share, f"{seen:,}{of}", f"{speed:,.0f} rows/s" if speed else "", left

    @contextmanager
    def shown(self) -> Iterator[Callable[[Step], None]]:
        """Show a progress bar on a terminal, otherwise a line every ten seconds.

        The yielded function is called after each batch.
        """
        console = terminal(err=True)
        if console is None:
            yield self._lines()
            return
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=max(4, min(22, console.width - len(self.title) - FIGURES))),
            TextColumn("{task.fields[share]:>4}   {task.fields[rows]}   {task.fields[speed]}   {task.fields[left]}"),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(self.title, total=None, share="", rows="", speed="", left="")

            def show(step: Step) -> None:
                share, rows, speed, left = self.texts(step)
                bar.update(
                    task, total=None if share is None else 1.0, completed=share or 0.0, share=percent_of(share),
                    rows=rows, speed=speed, left=left,
                )  # fmt: skip

            yield show

    def _lines(self) -> Callable[[Step], None]:
        shown = time.monotonic()

        def show(step: Step) -> None:
            nonlocal shown
            if time.monotonic() - shown >= PLAIN_EVERY:
                shown = time.monotonic()
                share, *texts = self.texts(step)
                click.echo("   ".join(filter(None, (self.title, percent_of(share), *texts))), err=True)

        return show

    def report(
        self, result: SeedResult, seconds: float, rejects: Sequence[RejectGroup], stopped: list[int], *, were_set: bool
    ) -> None:
        """Print how a run ended, and exit unless it is complete: 75 skipped or paused, 128 + n by signal n, else 1."""
        at = result.checkpoint
        if result.outcome == "overlap":
            click.echo(f"overlap    another runner is at work on {self.name}: nothing was done", err=True)
            sys.exit(OVERLAP)
        done = result.outcome == "complete"
        counted = line_of(at) if at else "no rows yet"
        if done and not result.new_rows:
            counted = f"nothing new   {counted}"
        click.echo(f"{result.outcome:<10} {counted}   {took(seconds * 1000)}", err=not done)
        if result.unfinished:
            click.echo(f"because    {result.unfinished}", err=True)
        if done and at and self.total and at.rows_seen < self.total:
            click.echo(
                f"fewer      {self.total:,} rows were announced, and the source has ended after {at.rows_seen:,}"
            )
        if reasons := reasons_of(rejects):
            click.echo(f"rejected   {reasons}", err=not done)
        if result.resumed:
            click.echo(
                "resumed    the database had gone back to an older state, and the import resumed from there", err=True
            )
        for line in sequence_lines(result.sequences, were_set=were_set):
            click.echo(line, err=not done)
        if result.outcome == "paused":
            click.echo(f"next       {suggested('seed resume', self.name)}   then {self.again()}", err=True)
            sys.exit(OVERLAP)
        if not done:
            if not result.unfinished:
                click.echo(f"next       {self.again()}   goes on after the last batch", err=True)
            sys.exit(128 + stopped[0] if stopped else 1)
        if at and at.rows_rejected:
            show = suggested("seed rejects", self.name)
            click.echo(f"next       {show}   then fix the source and run {self.again()} with --restart")

    def report_dry_run(self, counts: Rehearsed) -> None:
        """Print what an import would do; exits with 1 when its source ends before its end."""
        click.echo(f"dry run    nothing was written; it would be {line_of(counts)}")
        if reasons := reasons_of(counts.reasons):
            click.echo(f"rejected   {reasons}")
        if counts.unfinished:
            click.echo(f"because    {counts.unfinished}", err=True)
            sys.exit(1)

    def report_proof(self, proof: dict[str, Any], *, has_key: bool) -> None:
        """Print the comparison of table and source; exits with 1 when they differ."""
        counted = f"{proof['keys']:,} keys in the source, {proof['found']:,} in the table, {proof['equal']:,} equal"
        more = f"; other rows in the table: {proof['extra']:,}" if proof.get("extra") else ""
        if proof["ok"]:
            click.echo(f"verified   {counted}{more}")
            return
        wrong = f", {proof.get('missing', 0):,} missing, {proof.get('different', 0):,} different{more}"
        click.echo(f"NOT verified   {counted}{wrong}", err=True)
        if proof.get("error"):
            click.echo(f"because    {proof['error']}", err=True)
        if proof.get("examples"):
            click.echo(f"for example the keys {proof['examples']}", err=True)
        if has_key:
            options = " --restart --on-conflict update"
            click.echo(f"next       {self.again(options)}   writes what the source has", err=True)
        else:
            click.echo(f"next       empty the table, then {self.again(' --restart')}", err=True)
        sys.exit(1)


def line_of(at: Checkpoint | Counts) -> str:
    """``300,000 seen = 299,975 inserted + 0 updated + 0 skipped + 25 rejected``."""
    if isinstance(at, Checkpoint):
        at = Counts(at.rows_inserted, at.rows_skipped, at.rows_updated, at.rows_rejected)
    parts = {"inserted": at.inserted, "updated": at.updated, "skipped": at.skipped, "rejected": at.rejected}
    return f"{at.seen:,} seen = " + " + ".join(f"{count:,} {what}" for what, count in parts.items())


def reasons_of(groups: Sequence[RejectGroup]) -> str:
    """``15 × check people_price_positive · 10 × signed_up: invalid input syntax for type date``."""
    rows = Counter[str]()
    for each in groups:  # those that differ in the place only are one
        rows[reason_of(each)] += each.rows
    shown = [f"{count:,} × {reason}" for reason, count in rows.most_common(REASONS)]
    if len(rows) > REASONS:
        shown.append(f"{len(rows) - REASONS} other reasons")
    return " · ".join(shown)


def reason_of(group: RejectGroup) -> str:
    """What was wrong with a row, and in which column, without its values."""
    text = group.reason.splitlines()[0]
    if named := re.search(r'violates (check|foreign key|unique|exclusion) constraint "([^"]+)"', text):
        text = " ".join(named.groups())
    elif re.search('null value in column "', text):
        text = "null"
    # the place in the file, and in the line: it is in each reject
    text = re.sub(r", (line|row) [\d,]+|: line \d+ column \d+ \(char \d+\)", "", text)
    if group.column_name and f"column {group.column_name}" not in text:
        text = f"{group.column_name}: {text}"
    return text if len(text) <= 80 else text[:79] + "…"


def sequence_lines(sequences: Mapping[str, int], *, were_set: bool) -> Iterator[str]:
    """A line for each sequence that was set, or whose next number an imported row has."""
    for quoted, value in sequences.items():
        name = quoted.replace('"', "")
        if were_set:
            yield f"sequence   {name} was set to {value:,}"
        else:
            yield f"sequence   {name} is behind {value:,}: the next insert without a value may fail: --set-sequences"


def percent_of(share: float | None) -> str:
    """``68 %``; empty where it is unknown."""
    return "" if share is None else f"{100 * share:.0f} %"
