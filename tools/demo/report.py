"""The report: figures and a verdict for each guarantee, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text


class Act(Protocol):
    """The counted outcome of one part of the demo."""

    @property
    def cells(self) -> tuple[tuple[str, str], ...]:
        """The guarantee and the three figures, each with the text below it."""

    @property
    def seconds(self) -> float:
        """How long the part took."""

    def broken(self) -> list[str]:
        """How the figures contradict the guarantee; empty if it was kept."""


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Counted after the deliveries, in the tables."""

    deliveries: int
    events: int
    """Distinct ones."""
    checkouts: int
    """Distinct ones of the type that has a handler: as many effects there must be."""
    recorded: int
    """Rows of webhook_events."""
    settled: int
    """Those of them that are succeeded or ignored."""
    effects: int
    """Rows of access_grants, which has no unique constraint that could hide a double."""
    doubled: int
    """Events with more than one effect."""
    lost: int
    """Checkouts without any."""
    unanswered: int
    """Deliveries that never got a 2xx."""
    seconds: float

    @property
    def cells(self) -> tuple[tuple[str, str], ...]:
        """Deliveries, distinct events, effects in the business table."""
        return (
            ("Webhooks", "exactly once"),
            (f"{self.deliveries:,}", "deliveries"),
            (f"{self.events:,}", "distinct events"),
            (f"{self.effects:,}", f"effects, {self.checkouts:,} due"),
        )

    def broken(self) -> list[str]:
        """Differences between what was sent and what the tables have."""
        return _said(
            (self.doubled, "{:,} events have more than one effect"),
            (self.lost, "{:,} events with a handler have no effect"),
            (abs(self.effects - self.checkouts), "the number of effects is off by {:,}"),
            (abs(self.recorded - self.events), "the number of recorded events is off by {:,}"),
            (self.recorded - self.settled, "{:,} recorded events are neither succeeded nor ignored"),
            (self.unanswered, "{:,} deliveries never got a 2xx"),
        )


@dataclass(frozen=True, slots=True)
class Jobs:
    """Counted in cron_job_runs."""

    starts: int
    runs: int
    succeeded: int
    skipped: int
    overlaps: int
    """Pairs of runs that were at work at the same time."""
    seconds: float

    @property
    def cells(self) -> tuple[tuple[str, str], ...]:
        """Runs, skips, overlaps."""
        return (
            ("Jobs", "no overlap"),
            (f"{self.runs:,}", f"{'run' if self.runs == 1 else 'runs'} of {self.starts:,}"),
            (f"{self.skipped:,}", "skipped"),
            (f"{self.overlaps:,}", "overlaps"),
        )

    def broken(self) -> list[str]:
        """Overlaps, and starts that left no row or did not succeed."""
        return _said(
            (self.overlaps, "{:,} pairs of runs overlapped"),
            (abs(self.starts - self.runs - self.skipped), "{:,} starts are neither a run nor a skip"),
            (self.runs - self.succeeded, "{:,} runs did not succeed"),
            (self.runs == 0, "the job did not run at all"),
        )


@dataclass(frozen=True, slots=True)
class Imports:
    """Counted in the table and compared with the source, verse by verse."""

    expected: int
    inserted: int
    """Rows of the table."""
    doubled: int
    """Rows that the source does not have, or not so often."""
    missing: int
    counted_inserted: int
    """What the seed's own counters say, over all resumes."""
    counted_skipped: int
    """Rows that were sent a second time."""
    overlaps: int
    """Pairs of runners that were at work at the same time."""
    seconds: float

    @property
    def cells(self) -> tuple[tuple[str, str], ...]:
        """Verses expected, inserted, doubled."""
        return (
            ("Imports", "resumed"),
            (f"{self.expected:,}", "verses expected"),
            (f"{self.inserted:,}", "inserted"),
            (f"{self.doubled:,}", "doubled"),
        )

    def broken(self) -> list[str]:
        """Differences from the source, and counters that do not add up."""
        return _said(
            (self.doubled, "{:,} verses are doubled or not from the source"),
            (self.missing, "{:,} verses are missing"),
            (abs(self.counted_inserted - self.expected), "the counter rows_inserted is off by {:,}"),
            (self.counted_skipped, "{:,} verses were sent twice"),
            (self.overlaps, "{:,} pairs of runs overlapped"),
        )


def _said(*findings: tuple[int, str]) -> list[str]:
    return [text.format(number) for number, text in findings if number]


def show(acts: Sequence[Act], console: Console) -> bool:
    """Print the table, and below it what is wrong. Returns whether every guarantee was kept."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
    for _ in range(4):
        table.add_column()
    table.add_column("time", justify="right")
    table.add_column("verdict")
    for act in acts:
        verdict = Text("BROKEN", "bold red") if act.broken() else Text("kept", "bold green")
        cells = [Text.assemble((above, "bold"), "\n", (below, "dim")) for above, below in act.cells]
        table.add_row(*cells, f"{act.seconds:.0f} s", verdict)
    console.print()
    console.print(table)
    for act in acts:
        for reason in act.broken():
            console.print(Text(f"BROKEN: {reason}", "red"), soft_wrap=True)
    return not any(act.broken() for act in acts)
