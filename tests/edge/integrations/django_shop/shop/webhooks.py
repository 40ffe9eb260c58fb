"""The shop's handlers: found because the file is called so."""

from django.db import connection

from pgonce import Event
from pgonce.integrations.django import app
from shop.models import Payment


@app.webhook("invoice.paid")
def invoice_paid(event: Event) -> None:
    """Write the payment."""
    Payment.objects.create(invoice=event.object_id)
    if event.object.get("number") == "bad":
        raise ValueError("card 4242")
    if event.object.get("number") == "rolled back":
        with connection.cursor() as cursor:
            cursor.execute("rollback")
