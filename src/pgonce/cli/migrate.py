"""``pgonce migrate`` and ``pgonce sql``."""

from __future__ import annotations

import click

from pgonce.cli.options import with_database
from pgonce.core import database
from pgonce.core import migrate as installation


@click.command()
@with_database
def migrate(url: str, schema: str) -> None:
    """Install or upgrade the tables and functions. Repeatable; two at once are safe."""
    where = database.check(url)
    done = installation.migrate(url, schema, lambda warning: click.echo(f"warning: {warning}", err=True))
    what = f"applied {', '.join(done)}; " if done else "tables are up to date; "
    click.echo(f"{where}, schema {schema}: {what}functions and grants are rebuilt")


@click.command()
@click.option("--schema", default="public", show_default=True, help="Where the tables and functions go.")
def sql(schema: str) -> None:
    """Print what migrate does as one SQL script, for Supabase's or Alembic's migrations."""
    click.echo(installation.script(schema))
