"""The app that `make console` runs: handlers, jobs and an import that mostly work, and sometimes do not."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

from psycopg import Connection

import pgonce

app = pgonce.App(name="shop")
ROWS = 1_204_300
"""Of the price list."""


@app.webhook("invoice.paid")
def sync_invoice(event: pgonce.Event, tx: Connection[Any]) -> None:
    """Write the discounts. Invoices of a new kind have none, and nobody has thought of that."""
    discounts = event.object["discounts"] if event.object.get("amount", 0) % 11 == 0 else []
    tx.execute("insert into shop_effects values (%s, %s)", [event.id, len(discounts)])


@app.webhook("checkout.session.completed")
@app.webhook("payment_intent.succeeded")
@app.webhook("charge.succeeded")
def book(event: pgonce.Event, tx: Connection[Any]) -> None:
    """Book a payment."""
    tx.execute("insert into shop_effects values (%s, 0)", [event.id])


@app.job("stats_cache", cron="*/5 * * * *")
def stats_cache(run: pgonce.Run) -> None:
    """Take some seconds."""
    work(run, 4, 40)


@app.job("ledger_export", cron="*/30 * * * *")
def ledger_export(run: pgonce.Run) -> None:
    """Take some minutes, so that its progress can be seen."""
    work(run, 250, 2500)


@app.job("fx_rates", cron="*/15 * * * *", retries=2, backoff="20 seconds")
def fx_rates(run: pgonce.Run) -> None:
    """Fail every fourth time."""
    if random.random() < 0.25:  # noqa: S311 -- an example
        raise ConnectionError("rates.example: connection refused")
    run.processed(31)


@app.job("morning_digest", cron="0 7 * * *", timezone="America/New_York", key="en-US")
def morning_digest(run: pgonce.Run) -> None:
    """Run once a day, in another zone."""
    work(run, 20, 400)


def work(run: pgonce.Run, seconds: int, rows: int) -> None:
    """Take ``seconds``, and report progress."""
    for done in range(seconds):
        if run.stop_requested:
            return
        run.progress(done * rows // seconds, rows)
        run.processed(rows // seconds)
        time.sleep(1)


@app.seed("catalog_prices", into="shop_prices", key=("sku",), total=ROWS, max_rejects=1000)
def catalog_prices(cursor: Any) -> Iterator[tuple[dict[str, Any], dict[str, int]]]:
    """Read a price list, at about 2,000 rows a second. Every 9,000th price is below zero, which the table refuses."""
    first = (cursor or {"row": 0})["row"] + 1
    for row in range(first, ROWS + 1):
        if row % 100 == 0:
            time.sleep(0.05)
        yield {"sku": f"SKU-{row:07}", "cents": -1 if row % 9000 == 0 else row % 9000}, {"row": row}
