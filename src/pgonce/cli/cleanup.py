"""``pgonce cleanup``: delete what is old."""

from __future__ import annotations

from datetime import timedelta

import click

from pgonce import retention
from pgonce.cli.actor import entry
from pgonce.cli.options import Database, with_database
from pgonce.cli.output import Length, when


@click.command()
@click.option("--webhooks-older-than", "webhooks", default="90 days", show_default=True, metavar="AGE", type=Length())
@click.option("--runs-older-than", "runs", default="180 days", show_default=True, metavar="AGE", type=Length())
@click.option("--audit-older-than", "audit", default="365 days", show_default=True, metavar="AGE", type=Length())
@click.option(
    "--override-31-days",
    is_flag=True,
    help="Allow deleting events younger than 31 days. Stripe can redeliver for 30 days; a deleted event would be "
    "handled again.",
)
@with_database
def cleanup(webhooks: timedelta, runs: timedelta, audit: timedelta, override_31_days: bool, db: Database) -> None:
    """Delete old events, job runs and audit entries.

    Dead letters are listed first. The rows are deleted in batches, so that no other client waits.

    Events that are waiting or held, running runs and the last run of each job stay, however old they are.

    Example: pgonce cleanup --webhooks-older-than '120 days'
    """
    retention.check_webhook_age(webhooks, override_31_days=override_31_days)
    for letter in db.call(retention.expiring_dead_letters(webhooks)):
        click.echo(
            f"dead letter: {letter.stripe_event_id} {letter.event_type}, received {when(letter.received_at)}, "
            f"{letter.attempts} attempts: {letter.reason or 'no reason'}"
        )
    planned = (
        f"deletes events older than {webhooks.days} days, runs older than {runs.days} days, "
        f"and audit entries older than {audit.days} days"
    )
    db.call(entry("cleanup", "schema", db.schema, planned))
    old_runs = sum(retention.batches(retention.purge_job_runs, runs, db.call))
    entries = sum(retention.batches(retention.purge_audit, audit, db.call))
    # the last of the three, because a foreign key may refuse it
    events = sum(retention.batches(retention.purge_webhook_events, webhooks, db.call))
    click.echo(f"deleted {events:,} events, {old_runs:,} job runs and {entries:,} audit entries")
