"""``pgonce console``: serves the console alone; ``pgonce console hash`` makes a user's line."""

from __future__ import annotations

import sys

import click

from pgonce.cli.app_loader import load
from pgonce.cli.options import find_url, with_schema
from pgonce.cli.signals import handled
from pgonce.cli.startup import announce, describe_database
from pgonce.console.app import Console
from pgonce.console.auth import hash_password
from pgonce.core import logs
from pgonce.errors import InvalidArgument, PgonceError


@click.group(invoke_without_command=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8001, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one.")
@click.option("--prefix", default="", metavar="PATH", help="The path that comes before all pages, such as /console.")
@click.option(
    "--app",
    envvar="PGONCE_APP",
    metavar="MODULE:APP",
    help="Your pgonce.App: its name, its starts to come, its imports to retry.",
)
@click.option(
    "--proxy", "proxies", multiple=True, envvar="PGONCE_CONSOLE_PROXIES", metavar="ADDRESS",
    help="A proxy whose X-Forwarded headers count. Repeatable. [env: PGONCE_CONSOLE_PROXIES, separated by spaces]",
)  # fmt: skip
@click.option(
    "--user-header", envvar="PGONCE_CONSOLE_USER_HEADER", metavar="NAME",
    help="The header in which the proxy names the user. [env: PGONCE_CONSOLE_USER_HEADER]",
)  # fmt: skip
@click.option(
    "--operator", "operators", multiple=True, envvar="PGONCE_CONSOLE_OPERATORS", metavar="NAME",
    help="A user of the proxy that may act; the others only read. Repeatable. "
    "[env: PGONCE_CONSOLE_OPERATORS, separated by spaces]",
)  # fmt: skip
@click.option("--database-url", "url", metavar="URL", help="The database. [default: as for every command]")
@with_schema
@click.pass_context
def console(
    ctx: click.Context,
    host: str,
    port: int,
    prefix: str,
    app: str | None,
    proxies: tuple[str, ...],
    user_header: str | None,
    operators: tuple[str, ...],
    url: str | None,
    schema: str,
) -> None:
    """Serve the operator's console.

    It shows in a browser whether anything is lost, late, stuck or slow, and what is to be done.

    Users with passwords come from PGONCE_CONSOLE_USERS="ops:operator:HASH,support:reader:HASH"; `pgonce console hash`
    makes a hash. Without users, and without a proxy that names them, it listens on this machine only.

    Example: pgonce console --app shop:app --port 8001
    """
    if ctx.invoked_subcommand is not None:
        return
    url = find_url(url)  # not as a callback of the option: `hash` needs no database
    logs.configure()
    served = Console(
        load(app) if app else None, url=url, schema=schema, proxies=proxies, user_header=user_header,
        operators=operators, prefix=prefix,
    )  # fmt: skip
    try:
        from pgonce.webhooks.http_server import Server, address_of, listen
    except ImportError as error:
        raise PgonceError(f"{error.name} is not installed: pip install 'pgonce[console]'") from error
    served.check_host(host)
    served.check_installed()
    listening = listen(host, port)
    server = Server(served, log_level="warning")
    with handled(lambda number: server.handle_exit(number, None)):  # uvicorn raises a signal again after its end
        announce(describe_database(url, schema))
        announce(f"console   {address_of(listening, host)}{prefix}/   {served.access}")
        server.run(sockets=[listening])


@console.command("hash")
def hash_() -> None:
    """Read a password from standard input and print its hash.

    The hash is for PGONCE_CONSOLE_USERS.

    Example: pgonce console hash < password.txt
    """
    if sys.stdin.isatty():
        given = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        given = sys.stdin.read().rstrip("\r\n")
    if "\n" in given:
        raise InvalidArgument("the password has several lines: write one line to standard input")
    click.echo(hash_password(given))
