"""``pgonce serve`` and ``pgonce worker``: what runs all the time."""

from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import socket
import sys
import threading
from contextlib import ExitStack, suppress

import click

from pgonce.alerts.alerts import Alerts
from pgonce.app import App
from pgonce.cli.options import with_app, with_database
from pgonce.core import database
from pgonce.core.execute import call
from pgonce.errors import InvalidArgument, PgonceError
from pgonce.jobs.scheduler import Scheduler
from pgonce.webhooks import calls_list
from pgonce.webhooks.worker import Worker

concurrency = click.option(
    "--concurrency", default=4, show_default=True, type=click.IntRange(min=1), help="Transactions at once."
)
adopt = click.option("--adopt", is_flag=True, help="Also handle what direct clients have left behind when they died.")


def settle() -> None:
    """What is loaded by now stays: spare the garbage collector looking at it, again and again.

    An event is a tree of a hundred dicts and lists, and goes when its last reference goes; looking for cycles at every
    700 new ones finds none. Leave this out, and ``python -m bench webhooks`` prints fewer events per second. Here and
    not in the library: the process is ours.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


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

        from pgonce.webhooks.asgi import Receiver
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
    with database.open_pool(url, 1) as pool:
        call(pool, calls_list.missing_webhooks([]), schema)  # what /readyz will ask: it needs the tables and the right
    listening = _listen(host, port)
    settle()
    config = uvicorn.Config(receiver, host=host, port=port, log_level="info", access_log=False, server_header=False)
    server = uvicorn.Server(config)
    address = f"[{host}]" if ":" in host else host
    # uvicorn says so itself only of a socket of its own; and as it does, in front of its start with several workers
    logging.getLogger("uvicorn.error").info(
        "Uvicorn running on http://%s:%d (Press CTRL+C to quit)", address, listening.getsockname()[1]
    )
    with suppress(KeyboardInterrupt):  # behind a graceful end, uvicorn raises the signal again
        server.run(sockets=[listening])
    if not server.started:
        sys.exit(1)


def _listen(host: str, port: int) -> socket.socket:
    """The socket, before there is a worker or a line of log: a port is taken more often than not by an earlier self.

    Raises:
        PgonceError: the port is in use, or the address is not this machine's.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)  # uvicorn's backlog; not only bound: two may be bound at once, and then one fails later
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise PgonceError(f"port {port} is in use: choose another with --port") from error
        reason = error.strerror or error
        raise PgonceError(f"cannot listen on {host}, port {port} ({reason}): see --host and --port") from error
    return listening


@click.command()
@adopt
@concurrency
@click.option("--jobs", default=16, show_default=True, type=click.IntRange(min=1), help="Runs of jobs at once.")
@click.option("--no-schedule", is_flag=True, help="Handle events only; start no jobs.")
@click.option(
    "--alert",
    "alerts",
    multiple=True,
    envvar="PGONCE_ALERTS",
    metavar="URL",
    help="Where to tell what went wrong: https://... for JSON, or any of apprise's. Repeatable. [env: PGONCE_ALERTS]",
)
@click.option("--ping", metavar="URL", help="Requested about every 15 s, for a dead man's switch outside.")
@with_app
@with_database
def worker(
    adopt: bool,
    concurrency: int,
    jobs: int,
    no_schedule: bool,
    alerts: tuple[str, ...],
    ping: str | None,
    app: App,
    url: str,
    schema: str,
) -> None:
    """Handle queued events, and run the jobs at their times. Any number of workers, on any number of machines.

    SIGTERM and Ctrl-C finish the batches and runs in hand, then end; a second one ends at once.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stopping = threading.Event()
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(*_: object) -> None:
        stopping.set()
        for number, handler in usual.items():
            signal.signal(number, handler)

    for number in usual:
        signal.signal(number, stop)
    settle()
    with ExitStack() as running:
        started = []
        if app.handlers or adopt or no_schedule:
            running.enter_context(Worker(app, url, schema=schema, concurrency=concurrency, adopt=adopt))
            started.append(f"{concurrency} transactions at once")
        if not no_schedule:
            running.enter_context(Scheduler(app, url, schema=schema, concurrency=jobs))
            started.append(f"{sum(job.plan is not None for job in app.jobs.values())} jobs scheduled")
        if alerts or ping:
            running.enter_context(Alerts(url, alerts, schema=schema, ping=ping))
            started.append(f"{len(alerts)} alert channels")
        click.echo(f"worker started: {', '.join(started)}", err=True)
        stopping.wait()
        click.echo("stopping when the batches and runs in hand are done", err=True)
