"""SIGINT and SIGTERM as a wish: the first is remembered, a second one has its usual effect."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def stopping(what: str) -> Iterator[list[int]]:
    """The signals received inside of the block; ``what`` is finished first, as the line that is printed says."""
    received: list[int] = []
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def remember(number: int, _frame: object) -> None:
        received.append(number)
        click.echo(f"stopping after {what}; once more to stop at once", err=True)
        for each, handler in usual.items():
            signal.signal(each, handler)

    for number in usual:
        signal.signal(number, remember)
    try:
        yield received
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
