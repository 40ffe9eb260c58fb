"""The command line: ``pgonce`` and its commands, verb after noun."""

from __future__ import annotations

import sys

import click
import psycopg

from pgonce.cli import demo, job, reconcile, seed, serve, setup, webhook
from pgonce.errors import PgonceError


class _Cli(click.Group):
    """Turns what went wrong into one line and exit code 1; a usage error is 2 (click's own)."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except PgonceError as error:
            click.echo(f"pgonce: {error}", err=True)
        except psycopg.Error as error:
            click.echo(f"pgonce: the database refused: {str(error).splitlines()[0]}", err=True)
        sys.exit(1)


@click.group(cls=_Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="pgonce")
def main() -> None:
    """Stripe webhooks handled exactly once, jobs that never overlap, imports that resume.

    \b
    The database: --database-url, else PGONCE_DATABASE_URL, else DATABASE_URL,
    else an embedded PostgreSQL with its data in ./.pgonce (PGONCE_DATA_DIR).
    Your handlers, jobs and seeds: --app module:app, or PGONCE_APP.

    \b
    First steps:
      pgonce demo                          everything once, for real
      pgonce migrate                       install the tables and functions
      pgonce serve --app shop:app          receive Stripe's webhooks
      pgonce job run NAME --app shop:app   run a job, unless it is running
      pgonce seed run NAME --app shop:app  run or resume an import

    Exit codes: 0 done, 1 failed, 2 usage, 75 skipped because of overlap.
    """  # noqa: D301 -- click's own escape: the paragraph behind it is not wrapped


main.add_command(setup.migrate)
main.add_command(setup.sql)
main.add_command(serve.serve)
main.add_command(serve.worker)
main.add_command(webhook.webhook)
main.add_command(reconcile.reconcile)
main.add_command(job.job)
main.add_command(seed.seed)
main.add_command(demo.demo)
