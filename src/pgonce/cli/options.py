"""Options that several commands share, and the objects that are made from them."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pgonce.app import App
from pgonce.cli import configuration
from pgonce.core import database
from pgonce.errors import InvalidArgument

F = TypeVar("F", bound=Callable[..., Any])

OVERLAP = 75
"""The exit code of a run that was skipped: EX_TEMPFAIL of sysexits.h, "try again later"."""


APP = "pgonce.app"
"""The key in click's context that holds the value of --app, for commands that start processes with the same app."""


VARIABLES = ("PGONCE_DATABASE_URL", "DATABASE_URL")


def with_database(function: F) -> F:
    """Add ``--database-url`` and ``--schema``; the function gets ``url`` (given, found or embedded) and ``schema``."""
    function = click.option(
        "--schema", envvar="PGONCE_SCHEMA", default="public", show_default=True, help="The schema of pgonce's tables."
    )(function)
    return click.option(
        "--database-url",
        "url",
        metavar="URL",
        callback=lambda ctx, _, given: None if ctx.resilient_parsing else find_url(given),
        help="The database. [default: PGONCE_DATABASE_URL, DATABASE_URL, or an embedded server]",
    )(function)


def find_url(given: str | None) -> str:
    """The database's URL. If it is the embedded server's, one line on stderr says so.

    Raises:
        InvalidArgument: the option or the variable is given but empty, as with ``--database-url "$X"`` and X not set.
    """
    named = {"--database-url": given} if given is not None else {name: os.environ.get(name) for name in VARIABLES}
    empty = [name for name, value in named.items() if value is not None and not value.strip()]
    known = any(value and value.strip() for value in named.values())
    if not known and (reason := os.environ.get(configuration.MISSING)):
        raise InvalidArgument(reason)
    if empty and not known:
        raise InvalidArgument(f"{empty[0]} is empty: give it the database's URL, or leave it out")
    url = database.find(given)
    if not known:
        folder = os.environ.get("PGONCE_DATA_DIR") or "./.pgonce"
        click.echo(f"embedded PostgreSQL in {folder}: no DATABASE_URL is set", err=True)
    return url


def with_app(function: F) -> F:
    """Add ``--app module:app``; the function gets the App."""
    return click.option(
        "--app",
        envvar="PGONCE_APP",
        show_envvar=True,  # also in the error if it is missing
        required=True,
        metavar="MODULE:APP",
        callback=_load,
        help="Your pgonce.App. Modules in the current folder can be named.",
    )(function)


def _load(ctx: click.Context, _: click.Parameter, given: str) -> App | None:
    ctx.meta[APP] = given
    return None if ctx.resilient_parsing else load(given)


as_json = click.option("--json", "json_", is_flag=True, help="Print JSON.")


def load(reference: str) -> App:
    """Load the App that ``module:attribute`` names. The current folder is searched, too.

    Raises:
        InvalidArgument: the module or attribute does not exist, or it is not an App.
    """
    module_name, _, attribute = reference.partition(":")
    if module_name.endswith(".py"):
        name = ".".join(Path(module_name).with_suffix("").parts)
        named = f"{name}:{attribute}" if attribute else name
        raise InvalidArgument(f"--app {reference} names a file, not a module: pass --app {named}")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise InvalidArgument(f"{reference!r} is not a module: pass --app module:app")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):  # the app imports it
            raise InvalidArgument(f"{module_name} cannot be imported: {_reason(error)}") from error
        raise InvalidArgument(f"there is no module {module_name!r} here: pass --app module:app") from error
    except (ImportError, SyntaxError) as error:
        raise InvalidArgument(f"{module_name} cannot be imported: {_reason(error)}") from error
    app = getattr(module, attribute or "app", None)
    if callable(app) and not isinstance(app, type | App):
        raise InvalidArgument(
            f"{module_name}:{attribute or 'app'} is a function, not a pgonce.App: write app = {attribute or 'app'}() "
            f"in {module_name} and pass --app {module_name}:app"
        )
    if not isinstance(app, App):
        raise InvalidArgument(f"{module_name} has no pgonce.App called {attribute or 'app'!r}: pass --app module:app")
    app.name = app.name or f"{module_name}:{attribute or 'app'}"
    return app


def _reason(error: ImportError | SyntaxError) -> str:
    """The error and its place in the code. The text of a SyntaxError already contains the place."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, ImportError) and frames:
        here = [frame for frame in frames if not frame.filename.startswith("<frozen")][-1]
        return f"{error} ({Path(here.filename).name}, line {here.lineno})"
    return f"{type(error).__name__}: {error}"
