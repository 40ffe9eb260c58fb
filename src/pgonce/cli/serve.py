"""``pgonce serve`` and ``pgonce worker``: the processes of a deployment."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgonce.alerts.alerts import Alerts
from pgonce.app import App
from pgonce.cli.options import Database, with_app, with_database
from pgonce.cli.signals import first_handled, handled
from pgonce.cli.startup import announce, describe_alerts, describe_database, describe_handlers, describe_jobs
from pgonce.console.app import Beside, Console
from pgonce.core import database, event_loop, logs
from pgonce.core.execute import Pool, call
from pgonce.core.service import Service, stop_all
from pgonce.errors import InvalidArgument, PgonceError
from pgonce.jobs.scheduler import Scheduler
from pgonce.webhooks import stripe
from pgonce.webhooks.calls_receive import check_inbox
from pgonce.webhooks.responses import MAX_BODY
from pgonce.webhooks.worker import Worker

if TYPE_CHECKING:
    from socket import socket

    from pgonce.webhooks import http_server
    from pgonce.webhooks.asgi import Receiver

CONSOLE = "/console"

F = TypeVar("F", bound=Callable[..., Any])

SERVICE_CONNECTIONS = 4
"""For the statements of the scheduler and the alerts themselves: two each, as their docstrings say."""

PATIENCE = 0.2
"""Seconds that a service waits for a connection of another one, so that an idle process needs one for all."""


@dataclass(frozen=True, slots=True)
class Services:
    """The options of both commands, and the services that they ask for."""

    shutdown_timeout: float
    jobs: int
    no_schedule: bool
    no_alerts: bool
    alerts: Sequence[str]
    ping: str | None
    concurrency: int

    @property
    def channels(self) -> Sequence[str] | None:
        """Where alerts are sent; None: this process does not look for any."""
        return None if self.no_alerts else self.alerts

    def make(self, app: App, db: Database, pool: Pool) -> list[Service]:
        """Those for jobs and alerts."""
        made: list[Service] = []
        if not self.no_schedule:
            made.append(Scheduler(app, db.url, schema=db.schema, concurrency=self.jobs, pool=pool))
        if not self.no_alerts and (self.alerts or self.ping):
            made.append(Alerts(db.url, self.alerts, schema=db.schema, ping=self.ping, pool=pool))
        return made


_OPTIONS = (
    click.option(
        "--shutdown-timeout", default=25.0, show_default=True, type=click.FloatRange(min=0), metavar="SECONDS",
        help="How long SIGTERM waits for the events and runs that have begun. Kubernetes kills a process after 30 s.",
    ),
    click.option("--jobs", default=16, show_default=True, type=click.IntRange(min=1), help="Runs of jobs at once."),
    click.option("--no-schedule", is_flag=True, help="Start no jobs."),
    click.option("--no-alerts", is_flag=True, help="Do not look for alerts, and do not send any."),
    click.option(
        "--alert", "alerts", multiple=True, envvar="PGONCE_ALERTS", metavar="URL",
        help="Where alerts are sent: https://... for JSON, or any of apprise's URLs. Repeatable. [env: PGONCE_ALERTS]",
    ),
    click.option("--ping", metavar="URL", help="Requested every 15 s; a monitor may alert when the requests stop."),
    click.option(
        "--concurrency", default=4, show_default=True, type=click.IntRange(min=1), help="Transactions at once.",
    ),
)  # fmt: skip


def with_services(function: F) -> F:
    """Add the options of both commands; the function gets ``services``."""

    @wraps(function)
    def run(**options: Any) -> Any:
        chosen = {each.name: options.pop(each.name) for each in fields(Services)}
        return function(services=Services(**chosen), **options)

    command: Any = run
    for option in reversed(_OPTIONS):
        command = option(command)
    return command  # type: ignore[no-any-return] # click calls it with the options


def freeze_garbage() -> None:
    """Exclude all loaded modules from garbage collection, and collect less often.

    An event is a tree of a hundred dicts and lists, and is freed with its last reference; a search for cycles after
    every 700 new ones finds none. Without this, ``python -m bench webhooks`` prints fewer events per second. It is done
    here and not in the library, because this process is pgonce's own.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one.")
@click.option("--path", default="/webhooks/stripe", show_default=True, help="Where deliveries are received.")
@click.option("--console", "with_console", is_flag=True, help="Serve the operator's console at /console, too.")
@click.option("--no-worker", is_flag=True, help="Record only and start no jobs; `pgonce worker` elsewhere does both.")
@click.option("--live-only", is_flag=True, help="Refuse test events: for a live Connect endpoint, which gets both.")
@click.option("--max-body", default=MAX_BODY, show_default=True, type=click.IntRange(min=1), metavar="BYTES")
@click.option(
    "--max-connections",
    default=1000,
    show_default=True,
    type=click.IntRange(min=1),
    help="If there are more, the one that has been idle longest is closed.",
)
@with_services
@with_app
@with_database
def serve(
    host: str, port: int, path: str, with_console: bool, no_worker: bool, live_only: bool, max_body: int,
    max_connections: int, services: Services, app: App, db: Database,
) -> None:  # fmt: skip
    """Receive Stripe's webhooks and handle them; run the jobs.

    Deliveries are received at POST /webhooks/stripe. It also sends alerts.

    The endpoint's secret comes from PGONCE_WEBHOOK_SECRET; several, separated by commas, while one is being rolled.

    SIGTERM, SIGHUP and Ctrl-C finish the answers, events and runs that have begun, for up to --shutdown-timeout.
    Answers have 5 s of it. Runs are asked to end, as by `pgonce worker`. The exit code is then 0.

    Example: pgonce serve --app shop:app --console --alert https://x.test/hook
    """
    try:
        from pgonce.webhooks import http_server
        from pgonce.webhooks.asgi import Receiver
    except ImportError as error:
        raise PgonceError(f"{error.name} is not installed: pip install 'pgonce[serve]'") from error
    logs.configure()
    secrets = _secrets()
    if with_console and f"{path}/".startswith(f"{CONSOLE}/"):
        raise click.UsageError(f"the path {path} is the console's: choose another one with --path")
    console = _console(app, db, host) if with_console else None
    receiver = Receiver(
        app, secrets=secrets, url=db.url, schema=db.schema, path=path, max_body=max_body, live_only=live_only,
        worker=not no_worker, concurrency=services.concurrency,
    )  # fmt: skip
    receiver.event_loop = event_loop.background()  # not the server's: a handler that blocks it delays no answer
    pool = click.get_current_context().with_resource(database.open_pool(db.url, SERVICE_CONNECTIONS, patience=PATIENCE))
    call(pool, check_inbox(), db.schema)  # needs the table and the right to write to it
    why_no_jobs = "--no-worker" if no_worker else "--no-schedule" if services.no_schedule else None
    made = replace(services, no_schedule=why_no_jobs is not None).make(app, db, pool)
    listening = http_server.listen(host, port)
    address = http_server.address_of(listening, host)
    announce(describe_database(db.url, db.schema))
    events = "test events refused" if live_only else "live and test"
    number = "1 secret" if len(secrets) == 1 else f"{len(secrets)} secrets"
    announce(f"receives  {address}{path}   {number}, up to {max_body:,} bytes, {events}")
    if console is not None:
        announce(f"console   {address}{CONSOLE}/   {console.access}")
    announce(describe_handlers(app, None if no_worker else services.concurrency))
    announce(describe_jobs(app, why_no_jobs))
    announce(describe_alerts(services.channels))
    freeze_garbage()
    _run(receiver, console, made, listening, address, max_connections, services.shutdown_timeout)


def _run(
    receiver: Receiver, console: Console | None, services: Sequence[Service], listening: socket, address: str,
    max_connections: int, shutdown_timeout: float,
) -> None:  # fmt: skip
    """Serve until a signal asks to end; then stop the services within ``shutdown_timeout`` seconds."""
    from pgonce.webhooks import http_server  # by now known to be installed

    started: list[Service] = []
    served = receiver if console is None else Beside(receiver, console, CONSOLE)
    with ExitStack() as running:

        def stop_services() -> None:
            _stop([*started, *receiver.services], shutdown_timeout)
            receiver.shutdown_timeout = 0.0  # the time is over for its worker, too

        stop = _once(stop_services)
        running.callback(stop)
        server = http_server.Server(served, max_connections=max_connections, stop=stop)
        # While it runs, uvicorn handles SIGINT and SIGTERM itself. Then it raises them again, and this process, which
        # has ended as it was asked to, must not die of them.
        running.enter_context(handled(partial(_ask_to_end, server)))
        for service in services:
            started.append(service.start())
        # uvicorn says so itself only of a socket of its own, and then before its start
        logging.getLogger("uvicorn.error").info("Uvicorn running on %s (Press CTRL+C to quit)", address)
        server.run(sockets=[listening])
    if not server.started:
        sys.exit(1)


def _ask_to_end(server: http_server.Server, number: int) -> None:
    if server.should_exit and not server.started:
        raise KeyboardInterrupt  # the second signal, while the services are starting
    server.handle_exit(number, None)


def _console(app: App, db: Database, host: str) -> Console:
    console = Console(
        app, url=db.url, schema=db.schema, prefix=CONSOLE,
        proxies=os.environ.get("PGONCE_CONSOLE_PROXIES", "").split(),
        user_header=os.environ.get("PGONCE_CONSOLE_USER_HEADER"),
        operators=os.environ.get("PGONCE_CONSOLE_OPERATORS", "").split(),
    )  # fmt: skip
    console.check_host(host)
    console.check_installed()
    return console


def _secrets() -> tuple[str, ...]:
    given = [secret for secret in os.environ.get("PGONCE_WEBHOOK_SECRET", "").split(",") if secret.strip()]
    if not given:
        raise InvalidArgument("no webhook secret: set PGONCE_WEBHOOK_SECRET to the endpoint's whsec_...")
    return stripe.signing_secrets(given)


def _stop(services: Sequence[Service], seconds: float) -> None:
    """Stop the services within ``seconds`` for all of them."""
    try:
        stop_all(services, seconds)
    except PgonceError as error:
        logging.getLogger("pgonce").error("%s", error)  # noqa: TRY400 -- one line


def _once(action: Callable[[], None]) -> Callable[[], None]:
    lock, done = threading.Lock(), False

    def act() -> None:
        nonlocal done
        with lock:
            if not done:
                done = True
                action()

    return act


@click.command()
@click.option(
    "--adopt", is_flag=True, help="Also take over events whose lease expired in clients that do not use a worker."
)
@with_services
@with_app
@with_database
def worker(adopt: bool, services: Services, app: App, db: Database) -> None:
    """Handle queued events, and run the jobs at their times. Any number of workers may run, on any number of machines.

    SIGTERM, SIGHUP and Ctrl-C ask the runs of jobs to end (run.stop_requested; an asynchronous job is cancelled) and
    finish the events that have begun. Runs that have not ended after --shutdown-timeout are closed as failed and start
    anew on another worker. The exit code is then 0. Another signal, half a second later or more, ends the process at
    once.

    Example: pgonce worker --app shop:app --concurrency 8
    """
    logs.configure()
    stopping = threading.Event()
    click.get_current_context().with_resource(first_handled(lambda _: stopping.set()))
    freeze_garbage()
    connections = services.concurrency + 2 + SERVICE_CONNECTIONS
    pool = click.get_current_context().with_resource(database.open_pool(db.url, connections, patience=PATIENCE))
    made = services.make(app, db, pool)
    if app.handlers or adopt or services.no_schedule:
        at_once = services.concurrency
        made.insert(0, Worker(app, db.url, schema=db.schema, concurrency=at_once, adopt=adopt, pool=pool))
    running: list[Service] = []
    try:
        for service in made:
            running.append(service.start())
        announce(describe_database(db.url, db.schema))
        announce(describe_handlers(app, services.concurrency))
        announce(describe_jobs(app, "--no-schedule" if services.no_schedule else None))
        announce(describe_alerts(services.channels))
        announce("worker started")
        while not stopping.wait(1.0):  # without a limit, a signal right before the wait would be noticed after it
            pass
        announce(f"stopping: the events and runs that have begun have {services.shutdown_timeout:g} s to end")
    finally:
        stop_all(running, services.shutdown_timeout)
