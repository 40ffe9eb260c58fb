"""What a failed command prints: one line for an expected error, a traceback with the user's frames for any other."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sys
import traceback
from pathlib import Path

import click
import psycopg

from pgonce.core.failures import LIBRARIES, OURS
from pgonce.errors import PgonceError, first_line

TIMEOUT = 124
"""The exit code of timeout(1)."""

_BETWEEN = (
    OURS,
    *(str(Path(str(each.__file__)).parent) + os.sep for each in (click, asyncio, importlib)),
    contextlib.__file__,
    "<frozen importlib",
)
"""Paths of code that runs between pgonce's frames and the user's. Its frames do not help to find the error."""


class TookTooLong(PgonceError):
    """A run took longer than its time limit."""


def report(error: Exception) -> int:
    """Print ``error`` on standard error and return the exit code for it."""
    from pgonce.cli.output import print_line  # which needs rich

    if isinstance(error, PgonceError):
        print_line(f"pgonce: {error}", err=True)
    elif isinstance(error, psycopg.Error):
        reason = first_line(error)
        print_line(f"pgonce: the database refused: {reason}", err=True)
    elif isinstance(error, OSError) and _is_of_output(error):
        click.echo(f"pgonce: the output cannot be written: {error.strerror}", err=True)
    elif isinstance(error, UnicodeEncodeError) and any(error.object in each for each in sys.argv[1:]):
        click.echo(f"pgonce: the argument {error.object!r} is not UTF-8 text: write it in UTF-8", err=True)
    else:
        click.echo(_traceback(error).rstrip(), err=True)
    return TIMEOUT if isinstance(error, TookTooLong) else 1


def _is_of_output(error: OSError) -> bool:
    """Whether stdout could not be written, for example to a file on a full disk: click prints everything."""
    return Path(traceback.extract_tb(error.__traceback__)[-1].filename).parent == Path(click.__file__).parent


def _traceback(error: Exception) -> str:
    shown = traceback.TracebackException.from_exception(error)
    whole = "".join(shown.format())
    _reduce(shown)
    if all(frame.filename.startswith(LIBRARIES) for frame in shown.stack):
        return whole  # an error in pgonce, maybe in its call of a library: a bug report needs the whole traceback
    return "".join(shown.format())


def _reduce(shown: traceback.TracebackException) -> None:
    frames = list(shown.stack)
    # the frames before pgonce's belong to the program's start
    first = next((number for number, frame in enumerate(frames) if frame.filename.startswith(OURS)), 0)
    shown.stack[:] = [frame for frame in frames[first:] if not frame.filename.startswith(_BETWEEN)]
    for other in (shown.__cause__, shown.__context__, *(getattr(shown, "exceptions", None) or ())):
        if other is not None:
            _reduce(other)
