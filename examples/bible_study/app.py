"""The example application: a Bible study service that sells access through Stripe.

pgonce migrate
python -m examples.bible_study          creates the tables of schema.sql
pgonce seed run web_kjv_chapters --app examples.bible_study.app
python -m examples.bible_study.seed_all  runs that and the other seeds
pgonce serve --app examples.bible_study.app
"""

from __future__ import annotations

from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

import pgonce
from examples.bible_study import jobs, seeds

app = pgonce.App()


@app.webhook("checkout.session.completed")
def grant_access(event: pgonce.Event, tx: Connection[Any]) -> None:
    """Grant 30 days of access to the customer who has paid."""
    customer = event.object.get("customer")
    tx.execute(
        "insert into access_grants (stripe_event_id, customer) values (%s, %s)",
        [event.id, customer],
    )
    tx.execute(
        "insert into accounts (stripe_customer, access_days) values (%s, 30)"
        " on conflict (stripe_customer) do update set access_days = accounts.access_days + 30",
        [customer],
    )


@app.job("stats_cache", cron="*/15 * * * *", window="5 minutes")
def stats_cache(run: pgonce.Run) -> None:
    """Count the verses of each version for the front page."""
    with run.transaction() as tx:
        counts = tx.execute("select version, count(*) from bible_verses group by version").fetchall()
        tx.execute(
            "insert into stats_cache (name, value) values ('verses', %s)"
            " on conflict (name) do update set value = excluded.value, computed_at = now()",
            [Jsonb(dict(counts))],
        )
    run.processed(len(counts))


seeds.register(app)
jobs.register(app)
