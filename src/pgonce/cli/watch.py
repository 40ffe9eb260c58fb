"""``--watch``: print a list again and again, where one waits for something."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import click

from pgonce.errors import PgonceError

F = TypeVar("F", bound=Callable[..., Any])

EVERY = 2.0
"""Seconds between two updates of the screen."""


def watchable(function: F) -> F:
    """Add ``--watch`` to a command that prints a list or a report. Ctrl-C ends it, with exit code 0."""

    @functools.wraps(function)
    def call(*arguments: Any, watch: bool, **options: Any) -> None:
        if not watch:
            function(*arguments, **options)
            return
        if options.get("json_"):
            raise click.UsageError("--watch draws for people: leave out --json")
        with suppress(KeyboardInterrupt):
            while True:
                click.clear()
                try:
                    function(*arguments, **options)
                except SystemExit:  # doctor has found a failure
                    pass
                except PgonceError as error:  # the database may be back at the next drawing
                    click.echo(f"pgonce: {error}", err=True)
                time.sleep(EVERY)

    option = click.option("--watch", is_flag=True, help="Draw it again every 2 s, until Ctrl-C.")
    return option(call)  # type: ignore[return-value]
