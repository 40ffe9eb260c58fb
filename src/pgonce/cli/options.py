"""Options that several commands share, and the objects that are made from them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgonce.core import database, environment, execute
from pgonce.core.call import Call
from pgonce.errors import InvalidArgument

if TYPE_CHECKING:
    from pgonce.app import App

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

OVERLAP = 75
"""The exit code of a run that was skipped: EX_TEMPFAIL of sysexits.h, "try again later"."""


APP = "pgonce.app"
"""The key in click's context that holds the value of --app, for commands that start processes with the same app."""


URL_VARIABLES = ("PGONCE_DATABASE_URL", "DATABASE_URL")


def _schema(_: click.Context, param: click.Parameter, given: str) -> str:
    if not given.strip():  # --schema "$SCHEMA" and SCHEMA not set
        raise click.BadParameter('it is empty: leave it out for "public"', param=param)
    return given


with_schema = click.option(
    "--schema",
    envvar="PGONCE_SCHEMA",
    default="public",
    show_default=True,
    callback=_schema,
    help="The schema of pgonce's tables.",
)


@dataclass
class Database:
    """The database of a command, given, found or embedded, and the schema of pgonce's tables in it."""

    url: str
    schema: str

    @cached_property
    def pool(self) -> execute.Pool:
        """At most two connections, the first of which is opened now; they are closed with the command."""
        return database.open_pool(self.url, 2)

    def call(self, wanted: Call[T]) -> T:
        """Run a SQL function in a transaction of its own."""
        return execute.call(self.pool, wanted, self.schema)

    def close(self) -> None:
        """Close the connections, if there are any; the next use opens new ones."""
        if "pool" in self.__dict__:
            self.__dict__.pop("pool").close()


def with_database(function: F) -> F:
    """Add ``--database-url`` and ``--schema``; the function gets ``db``."""

    @wraps(function)
    def run(*arguments: Any, url: str, schema: str, **options: Any) -> Any:
        db = Database(url, schema)
        try:
            return function(*arguments, db=db, **options)
        finally:
            db.close()

    return click.option(  # type: ignore[return-value] # click calls it with the options
        "--database-url",
        "url",
        metavar="URL",
        callback=lambda ctx, _, given: None if ctx.resilient_parsing else find_url(given),
        help="The database. [default: PGONCE_DATABASE_URL, DATABASE_URL, or an embedded server]",
    )(with_schema(run))


def find_url(given: str | None) -> str:
    """The database's URL. If it is the embedded server's, one line on stderr says so.

    Raises:
        InvalidArgument: the option or the variable is given but empty, as with ``--database-url "$X"`` and X not set.
    """
    named = {"--database-url": given} if given is not None else {name: os.environ.get(name) for name in URL_VARIABLES}
    empty = [name for name, value in named.items() if value is not None and not value.strip()]
    known = any(value and value.strip() for value in named.values())
    if not known and (reason := os.environ.get(environment.DATABASE_URL_MISSING)):
        raise InvalidArgument(reason)
    if empty and not known:
        raise InvalidArgument(f"{empty[0]} is empty: give it the database's URL, or leave it out")
    url = database.find(given)
    if not known:
        folder = os.environ.get("PGONCE_DATA_DIR") or "./.pgonce"
        click.echo(f"embedded PostgreSQL in {folder}: no DATABASE_URL is set", err=True)
        for doubt in environment.doubts(os.environ):
            click.echo(f"warning   {doubt}", err=True)
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
    if ctx.resilient_parsing:
        return None
    from pgonce.cli.app_loader import load

    return load(given)


as_json = click.option("--json", "json_", is_flag=True, help="Print JSON.")


class Scope(click.ParamType):  # type: ignore[type-arg] # generic only in newer releases of click
    """A JSON object."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """The object."""
        if isinstance(value, dict):
            return value
        try:
            parsed = json.loads(value)
        except ValueError as error:
            self.fail(f"this is not JSON: {error}", param, ctx)
        if not isinstance(parsed, dict):
            self.fail("it must be an object, such as '{\"batch_number\": 3}'", param, ctx)
        return parsed


with_scope = click.option(
    "--scope", type=Scope(), default={}, metavar="JSON", help="What the run works on, such as '{\"batch_number\": 3}'."
)
