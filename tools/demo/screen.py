"""What the demo prints: headings, a line for each step, and on a terminal progress bars."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

INDENT = len("   0.0 s  ")


class Screen:
    """Prints what the demo does. Each line begins with the seconds since the start."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def heading(self, text: str) -> None:
        """Print the heading of a part."""
        self.console.print()
        self.console.print(Text(text, "bold"), soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line for one step. On a narrow terminal it is wrapped and indented."""
        if self.console.is_terminal:
            width = max(self.console.width - INDENT, 20)
            text = f"\n{' ' * INDENT}".join(textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False))
        self.console.print(Text.assemble((f"{self.seconds:6.1f} s  ", "dim"), text), soft_wrap=True)

    def plain(self, text: str = "") -> None:
        """Print a line without a time."""
        self.console.print(Text(text), soft_wrap=True)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar up to ``total``, on a terminal only. Call its value with the number that is done."""
        columns = (TextColumn("          {task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)

    def restore(self) -> None:
        """Restore the terminal after a process was killed while it drew a bar: end its line, and show the cursor."""
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h\n")
            sys.stderr.flush()
