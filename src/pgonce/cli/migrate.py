"""``pgonce migrate`` and ``pgonce sql``."""

from __future__ import annotations

import sys

import click

from pgonce.cli.options import with_database
from pgonce.core import database, schema_check
from pgonce.core import migrate as installation


@click.command()
@with_database
@click.option(
    "--check", is_flag=True, help="Change nothing; exit 1 if the schema is behind, altered, or open to other roles."
)
def migrate(url: str, schema: str, check: bool) -> None:
    """Install or upgrade the tables and functions. Repeatable; two at once are safe."""
    where = database.check(url)
    if check:
        _check(url, schema, where)
        return
    done = installation.migrate(
        url,
        schema,
        warn=lambda line: click.echo(f"warning: {line}", err=True),
        announce=lambda line: click.echo(line, err=True),
    )
    what = f"applied {', '.join(done)}; " if done else "tables are up to date; "
    click.echo(f"{where}, schema {schema}: {what}functions and grants are rebuilt")


def _check(url: str, schema: str, where: str) -> None:
    found = schema_check.check(url, schema)
    for line in found:
        click.echo(line)
    if found:
        click.echo(f"pgonce: {where}, schema {schema}: {len(found)} found, each with what to do", err=True)
        sys.exit(1)
    click.echo(f"{where}, schema {schema}: current, unaltered, closed to other roles")


@click.command()
@click.option("--schema", default="public", show_default=True, help="Where the tables and functions go.")
def sql(schema: str) -> None:
    """Print what migrate does as one SQL script, for Supabase's or Alembic's migrations."""
    click.echo(installation.script(schema))
