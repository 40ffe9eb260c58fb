"""``pgonce metrics``: Prometheus' figures, printed once or served."""

from __future__ import annotations

import threading

import click

from pgonce.cli.options import Database, with_database
from pgonce.cli.signals import handled
from pgonce.errors import PgonceError


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="Serve them at /metrics on this port; 0 picks a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@with_database
def metrics(port: int | None, host: str, db: Database) -> None:
    """Print the metrics for Prometheus, or serve them with --port.

    One such process is enough for an installation: the figures come from the database, at most once a second. They name
    jobs and event types, so let only Prometheus reach the port.

    Example: pgonce metrics > /var/lib/node_exporter/pgonce.prom
    """
    try:
        from prometheus_client import generate_latest, start_http_server

        from pgonce.metrics import registry
    except ImportError as error:
        raise PgonceError(f"{error.name} is not installed: pip install 'pgonce[metrics]'") from error
    found = registry(db.pool, db.schema)
    if port is None:
        click.echo(generate_latest(found).decode(), nl=False)
        return
    stopping = threading.Event()
    click.get_current_context().with_resource(handled(lambda _: stopping.set()))
    server, thread = start_http_server(port, host, found)
    click.echo(f"metrics at http://{host}:{server.server_port}/metrics", err=True)
    stopping.wait()
    server.shutdown()
    server.server_close()
    thread.join()
