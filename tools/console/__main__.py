"""``python -m tools.console``: an embedded database, a shop at work in it, and the console in front."""

from __future__ import annotations

import signal
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import click

from pgonce.cli.errors import report
from pgonce.errors import PgonceError
from pgonce.webhooks import stripe
from tools.console import history
from tools.demo import events
from tools.demo.children import Children, DemoFailed, until
from tools.demo.database import connect, fresh
from tools.demo.server import HOST, PATH, SECRET, answers

APP = "tools.console.shop"
SEED = "catalog_prices"


@click.command()
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--for", "seconds", type=float, help="End after so many seconds. Default: Ctrl-C.")
def console(port: int, seconds: float | None) -> None:
    """Show the console over a shop at work: events come, some fail, jobs run and are skipped, an import goes on.

    Everything happens in an embedded PostgreSQL (in ./.pgonce/demo, or PGONCE_DATA_DIR), in a database of its own that
    is made anew each time.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        _run(port, seconds)
    except KeyboardInterrupt:
        click.echo("\nstopped: all that it had started is gone", err=True)


def _run(port: int, seconds: float | None) -> None:
    random = Random(7)  # noqa: S311 -- the same day each time
    with fresh() as database:
        environment = {"PGONCE_DATABASE_URL": database.url, "PGONCE_APP": APP, "PGONCE_WEBHOOK_SECRET": SECRET}
        with Children(environment) as children:
            children.run("migrate")
            with connect(database.url) as conn:
                history.write(conn, random)
            channel = _channel()
            alerts = ["--alert", f"http://{HOST}:{channel}/", "--alert", f"http://{HOST}:9/"]  # nobody listens at 9
            server = children.start("serve", "--host", HOST, "--port", str(port), "--console", *alerts)
            until(lambda: server.exit_code is not None or answers(port), "the server answers")
            if server.exit_code is not None:
                raise server.failed()
            children.start("seed", "run", SEED, "--batch-size", "1000")
            children.run("job", "pause", "nightly_dump", "--reason", "the disk is being moved", "--until", "4 hours")
            click.echo(f"the console   http://{HOST}:{port}/console/")
            click.echo("stop it       Ctrl-C here")
            ends = time.monotonic() + seconds if seconds is not None else float("inf")
            while time.monotonic() < ends:
                _deliver(port, random)
                threading.Event().wait(random.uniform(0.2, 1.5))
                if server.exit_code is not None:
                    raise server.failed()


def _channel() -> int:
    """The port of a channel that accepts every alert."""

    class Accepts(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((HOST, 0), Accepts)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def _deliver(port: int, random: Random) -> None:
    customer = f"cus_TQ{random.randrange(60):02}mZk8wVn2Lx7"
    made = events.event(random.choice(history.TYPES), customer, int(time.time()), random)
    connection = HTTPConnection(HOST, port, timeout=20)
    try:
        connection.request("POST", PATH, made.body, {"Stripe-Signature": stripe.sign(made.body, SECRET)})
        connection.getresponse().read()
    except (OSError, HTTPException) as error:
        raise DemoFailed(f"the receiver does not answer: {error}") from error
    finally:
        connection.close()


if __name__ == "__main__":
    try:
        console(prog_name="python -m tools.console")
    except PgonceError as error:
        sys.exit(report(error))
