"""``pgonce uninstall``."""

from __future__ import annotations

import sys

import click

from pgonce.cli.options import Database, with_database
from pgonce.core import database
from pgonce.core import uninstall as removal
from pgonce.core.migrate import needs_rights
from pgonce.errors import InvalidArgument


@click.command()
@with_database
@click.option("--with-data", is_flag=True, help="Also drop webhook_events, cron_job_runs and seed_checkpoints.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def uninstall(with_data: bool, yes: bool, db: Database) -> None:
    """Print what migrate has made, ask, and drop it.

    webhook_events, cron_job_runs and seed_checkpoints are kept with all their columns, unless --with-data. A later
    `pgonce migrate` adopts them again.
    """
    where = f"{database.check(db.url)}, schema {db.schema}"
    with database.connect(db.url) as conn:
        planned = removal.statements(conn, db.schema, with_data)
        if not planned:
            click.echo(f"{where}: there is nothing of pgonce to drop")
            return
        for statement in planned:
            click.echo(f"{statement};")
        if not yes:
            _ask(f"Run these {len(planned)} statements on {where}?")
        with needs_rights(conn, db.schema):
            removal.run(conn, db.schema, planned)
    click.echo(f"{where}: pgonce is uninstalled")


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidArgument("nothing was dropped: pass --yes to run these statements without a question")
    click.confirm(question, abort=True)
