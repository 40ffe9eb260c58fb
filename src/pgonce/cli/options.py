"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pgonce import database
from pgonce.app import App, load

F = TypeVar("F", bound=Callable[..., Any])

OVERLAP = 75
"""The exit code of a run that was skipped: EX_TEMPFAIL of sysexits.h, "try again later"."""


def with_database(function: F) -> F:
    """``--database-url`` and ``--schema``; the function gets ``url`` (found, or embedded) and ``schema``."""
    function = click.option(
        "--schema", envvar="PGONCE_SCHEMA", default="public", show_default=True, help="Where pgonce's tables are."
    )(function)
    return click.option(
        "--database-url",
        "url",
        metavar="URL",
        callback=lambda ctx, _, given: None if ctx.resilient_parsing else database.find(given),
        help="The database. [default: PGONCE_DATABASE_URL, DATABASE_URL, or an embedded server]",
    )(function)


def with_app(function: F) -> F:
    """``--app module:app``; the function gets the App."""
    return click.option(
        "--app",
        envvar="PGONCE_APP",
        required=True,
        metavar="MODULE:APP",
        callback=_load,
        help="Your pgonce.App; modules of the current folder are found. [env: PGONCE_APP]",
    )(function)


def _load(ctx: click.Context, _: click.Parameter, given: str) -> App | None:
    return None if ctx.resilient_parsing else load(given)


as_json = click.option("--json", "json_", is_flag=True, help="Print JSON.")
