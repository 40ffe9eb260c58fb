"""``python -m tools.demo``: demonstrates the three guarantees while processes are killed."""

from __future__ import annotations

import secrets
import signal
import sys
from pathlib import Path
from random import Random

import click

from pgonce.cli.errors import report as report_error
from pgonce.errors import PgonceError
from tools.demo import deliveries as webhooks
from tools.demo import imports, job, needs, report
from tools.demo.children import Children
from tools.demo.database import Database, fresh
from tools.demo.screen import Screen
from tools.demo.server import SECRET, Server


@click.command()
@click.option("--keep", is_flag=True, help="Keep the server running at the end, until Ctrl-C.")
@click.option("--seed", type=int, help="Repeat the random choices of an earlier demo.")
@click.option("--deliveries", default=2000, show_default=True, type=click.IntRange(min=30), help="To the receiver.")
@click.option("--starts", default=20, show_default=True, type=click.IntRange(2, 100), help="Of the job, at once.")
def demo(keep: bool, seed: int | None, deliveries: int, starts: int) -> None:
    """Demonstrate the three guarantees while processes are killed, and print a report.

    It uses an embedded PostgreSQL (in ./.pgonce/demo, or PGONCE_DATA_DIR), and there a database of its own, which is
    created anew each time. It touches no other database. It exits with 1 if a guarantee was not kept.
    """
    needs.check()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        kept = _run(keep, secrets.randbelow(1_000_000) if seed is None else seed, deliveries, starts)
    except KeyboardInterrupt:
        click.echo("\nstopped: all that the demo had started is gone", err=True)
        sys.exit(130)
    sys.exit(0 if kept else 1)


def _run(keep: bool, seed: int, deliveries: int, starts: int) -> bool:
    random = Random(seed)  # noqa: S311 -- it must be repeatable
    screen = Screen()
    screen.plain(f"make demo, --seed {seed}: three promises, real processes, kill -9\n")
    with fresh() as database:
        screen.say(f"PostgreSQL {database.version}, embedded, in {database.data_dir}; a new database in it")
        environment = {
            "PGONCE_DATABASE_URL": database.url,
            "PGONCE_APP": needs.APP,
            "PGONCE_WEBHOOK_SECRET": SECRET,
        }
        with Children(environment) as children:
            children.run("migrate")
            children.run_module(needs.APP.rpartition(".")[0])
            screen.say(f"ran `pgonce migrate`, and made the tables of {needs.APP.rpartition('.')[0]}")
            server = Server(children)
            acts = (
                webhooks.run(server, database.url, deliveries, random, screen),
                job.run(children, database.url, starts, screen),
                imports.run(children, database.url, random, screen),
            )
            kept = report.show(acts, screen.console)
            screen.plain(f"\n{'Every promise was kept' if kept else 'A promise BROKE'}, in {screen.seconds:.0f} s.")
            if keep:
                _keep(server, database, screen)
    return kept


def _keep(server: Server, database: Database, screen: Screen) -> None:
    screen.plain("\nThe server is up.")
    screen.plain(f"  receives at     {server.url}")
    screen.plain(f"  send an event   {_short(sys.executable)} -m tools.demo.send {server.url}")
    screen.plain(f"  the database    export PGONCE_DATABASE_URL='{database.url}'")
    screen.plain(f'  look inside     {_short(database.psql)} "$PGONCE_DATABASE_URL"')
    screen.plain("  stop it         Ctrl-C here")
    try:
        server.child.wait(None)
    except KeyboardInterrupt:
        screen.plain("\nstopped")
    else:
        raise server.child.failed()


def _short(path: str | Path) -> str:
    here = Path.cwd()
    return str(Path(path).relative_to(here) if Path(path).is_relative_to(here) else path)


if __name__ == "__main__":
    try:
        demo(prog_name="python -m tools.demo")
    except PgonceError as error:
        sys.exit(report_error(error))
