"""``pgonce serve`` and ``pgonce worker``: what runs all the time."""

from __future__ import annotations

import logging
import os
import signal
import threading

import click

from pgonce.app import App
from pgonce.cli.options import with_app, with_database
from pgonce.errors import InvalidArgument, PgonceError
from pgonce.worker import Worker

concurrency = click.option(
    "--concurrency", default=4, show_default=True, type=click.IntRange(min=1), help="Transactions at once."
)
adopt = click.option("--adopt", is_flag=True, help="Also handle what direct clients have left behind when they died.")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one.")
@click.option("--no-worker", is_flag=True, help="Record only; `pgonce worker` elsewhere handles.")
@click.option("--live-only", is_flag=True, help="Refuse test events: for a live Connect endpoint, which gets both.")
@click.option("--max-body", default=1_000_000, show_default=True, type=click.IntRange(min=1), metavar="BYTES")
@concurrency
@with_app
@with_database
def serve(
    host: str,
    port: int,
    no_worker: bool,
    live_only: bool,
    max_body: int,
    concurrency: int,
    app: App,
    url: str,
    schema: str,
) -> None:
    """Receive Stripe's webhooks at POST /webhooks/stripe, and handle them.

    The endpoint's secret comes from PGONCE_WEBHOOK_SECRET; several, separated by commas, while one is being rolled.
    """
    try:
        import uvicorn

        from pgonce.receiver import Receiver
    except ImportError as error:
        raise PgonceError(f"{error.name} is not installed: pip install 'pgonce[serve]'") from error
    secrets = [secret.strip() for secret in os.environ.get("PGONCE_WEBHOOK_SECRET", "").split(",") if secret.strip()]
    if not secrets:
        raise InvalidArgument("no webhook secret: set PGONCE_WEBHOOK_SECRET to the endpoint's whsec_...")
    receiver = Receiver(
        app,
        secrets=secrets,
        url=url,
        schema=schema,
        max_body=max_body,
        live_only=live_only,
        worker=not no_worker,
        concurrency=concurrency,
    )
    uvicorn.run(receiver, host=host, port=port, log_level="info", access_log=False, server_header=False)


@click.command()
@adopt
@concurrency
@with_app
@with_database
def worker(adopt: bool, concurrency: int, app: App, url: str, schema: str) -> None:
    """Handle the events that receivers have queued. Any number of workers, on any number of machines.

    SIGTERM and Ctrl-C finish the batches in hand, then end.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    with Worker(app, url, schema=schema, concurrency=concurrency, adopt=adopt):
        click.echo(f"worker started: {concurrency} transactions at once", err=True)
        stopping.wait()
        click.echo("stopping when the batches in hand are done", err=True)
