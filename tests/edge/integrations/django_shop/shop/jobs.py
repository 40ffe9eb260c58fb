"""The shop's jobs: found because the file is called so."""

from pgonce import Run
from pgonce.integrations.django import app, fenced
from shop.models import Payment


@app.job("daily_payment", cron="0 6 * * *")
def daily_payment(run: Run) -> None:
    """Write one row for each tick."""
    with fenced(run):
        Payment.objects.create(invoice=f"job {run.scheduled_for}")
    run.processed()
