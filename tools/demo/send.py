"""``python -m tools.demo.send URL [EVENT_ID]``: sends a signed checkout event to the server of the demo."""

from __future__ import annotations

import time
from http.client import HTTPConnection, HTTPException
from random import Random
from urllib.parse import urlsplit

import click

from pgonce.webhooks import stripe
from tools.demo import events
from tools.demo.server import SECRET


@click.command()
@click.argument("url")
@click.argument("event_id", required=False, default="")
def main(url: str, event_id: str) -> None:
    """Deliver a checkout event to URL, a new one or EVENT_ID again, and print the answer."""
    event = events.event(events.HANDLED, "cus_hello", int(time.time()), Random(), event_id)  # noqa: S311 -- an example
    address = urlsplit(url)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=20)
    try:
        connection.request("POST", address.path, event.body, {"Stripe-Signature": stripe.sign(event.body, SECRET)})
        response = connection.getresponse()
    except (OSError, HTTPException) as error:
        raise click.ClickException(f"no answer from {url} ({error}): is `make demo KEEP=1` up?") from error
    click.echo(f"{response.status} {response.read().decode()}")


if __name__ == "__main__":
    main()
