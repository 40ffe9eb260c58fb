"""``pgonce serve``: the webhook receiver."""

from __future__ import annotations

import os

import click

from pgonce.app import App
from pgonce.cli.options import with_app, with_database
from pgonce.errors import InvalidArgument, PgonceError


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one.")
@with_app
@with_database
def serve(host: str, port: int, app: App, url: str, schema: str) -> None:
    """Receive Stripe's webhooks at POST /webhooks/stripe.

    The endpoint's secret comes from PGONCE_WEBHOOK_SECRET; several, separated by commas, while one is being rolled.
    """
    try:
        import uvicorn

        from pgonce.receiver import receiver
    except ImportError as error:
        raise PgonceError(f"{error.name} is not installed: pip install 'pgonce[serve]'") from error
    secrets = [secret.strip() for secret in os.environ.get("PGONCE_WEBHOOK_SECRET", "").split(",") if secret.strip()]
    if not secrets:
        raise InvalidArgument("no webhook secret: set PGONCE_WEBHOOK_SECRET to the endpoint's whsec_...")
    asgi = receiver(app, url=url, secrets=secrets, schema=schema)
    uvicorn.run(asgi, host=host, port=port, log_level="info", access_log=False, server_header=False)
