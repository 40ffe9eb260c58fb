"""``pgonce reconcile``: recover what was never delivered."""

from __future__ import annotations

import os
import sys
from datetime import datetime

import click

from pgonce import stripe_sync as reconciliation
from pgonce.app import App
from pgonce.cli.options import OVERLAP, Database, as_json, with_app, with_database
from pgonce.cli.output import Moment, print_json
from pgonce.core import database
from pgonce.errors import InvalidArgument
from pgonce.jobs.guard import Jobs


@click.command()
@click.option("--since", type=Moment(), help="Compare since then, instead of since the last time; 30 days at most.")
@click.option("--api-base", metavar="URL", help="Another address of Stripe's API, for a stand-in.")
@as_json
@with_app
@with_database
def reconcile(since: datetime | None, api_base: str | None, json_: bool, app: App, db: Database) -> None:
    """Queue the events that Stripe has and the inbox lacks.

    They are found by Stripe's Events API. The command is a run of the job stripe_sync.

    The events of the platform and of every connected account in the inbox are compared. Not compared
    are accounts that it has never seen or that have disconnected, thin events, which Stripe does not list, and types
    without a handler.

    The key comes from STRIPE_API_KEY; a restricted one that may read events is enough.

    Example: pgonce reconcile --app shop:app --since '7 days'
    """
    key = os.environ.get("STRIPE_API_KEY", "")
    if not key:
        raise InvalidArgument("no Stripe key: set STRIPE_API_KEY to one that may read events")
    get = reconciliation.client(key, api_base)
    start = int(since.timestamp()) if since else None
    with database.open_pool(db.url) as pool, Jobs(pool, schema=db.schema).run(reconciliation.NAME) as run:
        if run is None:
            click.echo(f"{reconciliation.NAME}: skipped, another run is in progress", err=True)
            sys.exit(OVERLAP)
        found = reconciliation.reconcile(app, pool, get, schema=db.schema, since=start, run=run)
    if json_:
        print_json(found)
    else:
        of = f" (the platform and {len(found.accounts):,} connected accounts)" if found.accounts else ""
        click.echo(f"{found.seen:,} seen, {found.recovered:,} recovered, {found.missing:,} missing{of}")
        for account, reason in found.not_compared.items():
            click.echo(f"not compared: {account}: {reason}", err=True)
    sys.exit(1 if found.missing or found.not_compared else 0)
