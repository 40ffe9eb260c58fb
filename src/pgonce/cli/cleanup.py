"""``pgonce cleanup``: delete what is old."""

from __future__ import annotations

from datetime import timedelta

import click
from psycopg import Connection
from psycopg_pool import ConnectionPool

from pgonce import retention
from pgonce.cli.options import with_database
from pgonce.cli.output import Length, when
from pgonce.core import database
from pgonce.core.execute import call
from pgonce.errors import InvalidArgument


@click.command()
@click.option("--webhooks-older-than", "webhooks", default="90 days", show_default=True, metavar="AGE", type=Length())
@click.option("--runs-older-than", "runs", default="180 days", show_default=True, metavar="AGE", type=Length())
@click.option("--override-31-days", is_flag=True, help="Permit to forget events that Stripe may still send again.")
@with_database
def cleanup(webhooks: timedelta, runs: timedelta, override_31_days: bool, url: str, schema: str) -> None:
    """Delete old events and job runs, in batches that make nobody wait. Dead letters are listed before they go.

    What is waiting, held, running or the last run of its job stays, however old it is.
    """
    if webhooks < retention.LEAST and not override_31_days:
        raise InvalidArgument(
            f"events must be kept for {retention.LEAST.days} days, because Stripe can send them again for 30, and what "
            "is forgotten is handled twice: pass --override-31-days if you know better"
        )
    with database.open_pool(url, 1) as pool:
        for letter in call(pool, retention.expiring_dead_letters(webhooks), schema):
            click.echo(
                f"dead letter: {letter.stripe_event_id} {letter.event_type}, received {when(letter.received_at)}, "
                f"{letter.attempts} attempts: {letter.reason or 'no reason'}"
            )
        events = _purge(pool, schema, retention.purge_webhook_events, webhooks)
        old_runs = _purge(pool, schema, retention.purge_job_runs, runs)
    click.echo(f"deleted {events:,} events and {old_runs:,} job runs")


def _purge(pool: ConnectionPool[Connection], schema: str, purge: retention.Purge, age: timedelta) -> int:
    total = 0
    # until a batch is empty, not until one is short: of the oldest ones some may be locked at this moment
    while deleted := call(pool, purge(age, retention.BATCH), schema):
        total += deleted
    return total
