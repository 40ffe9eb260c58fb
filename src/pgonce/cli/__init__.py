"""The command line: ``pgonce`` and its commands, verb after noun."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from pgonce.cli import configuration
from pgonce.cli.errors import report
from pgonce.errors import InvalidArgument


class _Usage(click.UsageError):
    """A usage error in one line, where click prints four. The exit code stays 2."""

    def show(self, file: Any = None) -> None:
        where = self.ctx.command_path if self.ctx else "pgonce"
        click.echo(f"pgonce: {self.format_message().rstrip('.')}: see {where} --help", file=file, err=True)


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # prints the help; click 8.1 lacks the class
            raise
        message = error.format_message()
        of_group = error.ctx and isinstance(error.ctx.command, click.Group)
        if of_group and isinstance(error, click.NoSuchOption) and not error.possibilities:
            message = f"{message.rstrip('.')}: the options of a command follow its name"
        raise _Usage(message, error.ctx) from error


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is named: a command pays for its own imports only.

    Its help imports all of them, to list them. ``places``: by the name of a command ``module:attribute``.
    """

    def __init__(self, *args: Any, places: Mapping[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._places = dict(places)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *self._places})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or None."""
        if cmd_name in self._places:
            module, _, attribute = self._places[cmd_name].partition(":")
            found: click.Command = getattr(import_module(f"pgonce.cli.{module}"), attribute)
            return found
        return super().get_command(ctx, cmd_name)


class _Cli(LazyGroup):
    """Prints an error as one line and exits with 1 (124 for a timeout, 2 for a usage error)."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command. A sign that the terminal's encoding lacks is printed as an escape with its number."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # PYTHONIOENCODING=ascii, or a locale that is not UTF-8
                stream.reconfigure(errors="backslashreplace")
        try:
            configuration.load()
        except InvalidArgument as error:
            sys.exit(report(error))
        return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _in_one_line():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> object:
        try:
            with _in_one_line():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click ends the process with these itself
        except Exception as error:  # noqa: BLE001 -- the user's code may raise anything
            sys.exit(report(error))


PLACES = {
    "cleanup": "cleanup:cleanup",
    "console": "console:console",
    "doctor": "doctor:doctor",
    "exec": "exec:exec_",
    "init": "init:init",
    "metrics": "metrics:metrics",
    "migrate": "migrate:migrate",
    "ps": "ps:ps",
    "reconcile": "reconcile:reconcile",
    "serve": "serve:serve",
    "sql": "migrate:sql",
    "uninstall": "uninstall:uninstall",
    "worker": "serve:worker",
}
JOB = {
    "end": "job_operate:end",
    "expect": "job_operate:expect",
    "ls": "job_list:list_",
    "pause": "job_operate:pause",
    "request": "job_operate:request",
    "resume": "job_operate:resume",
    "run": "job:run",
    "schedule": "job_operate:schedule",
    "show": "job_show:show",
    "stats": "job_list:stats_",
    "stop": "job_operate:stop",
}
SEED = {
    "load": "seed_load:load",
    "ls": "seed_operate:list_",
    "pause": "seed_operate:pause",
    "rejects": "seed_rejects:rejects",
    "reset": "seed_operate:reset",
    "resume": "seed_operate:resume",
    "retry-rejects": "seed_operate:retry_rejects",
    "run": "seed:run",
    "show": "seed_operate:show",
}
WEBHOOK = {
    "erase": "webhook:erase",
    "ls": "webhook:list_",
    "refused": "webhook:refused",
    "replay": "webhook_replay:replay",
    "send": "webhook_send:send",
    "show": "webhook:show",
}


@click.group(
    cls=_Cli, places=PLACES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="pgonce")
def main() -> None:
    """Stripe webhooks handled exactly once, jobs that never overlap, imports that resume.

    \b
    The database: --database-url, else PGONCE_DATABASE_URL, else DATABASE_URL,
    else an embedded PostgreSQL with its data in ./.pgonce (PGONCE_DATA_DIR).
    Your handlers, jobs and seeds: --app module:app, or PGONCE_APP.

    \b
    First steps:
      pgonce init                          write a small application
      pgonce migrate                       install the tables and functions
      pgonce serve --app shop:app          receive Stripe's webhooks
      pgonce job run NAME --app shop:app   run a job, unless it is running
      pgonce seed run NAME --app shop:app  run or resume an import

    Exit codes: 0 done, 1 failed, 2 unreadable command line, 75 skipped because of overlap, 124 timed out.
    """  # noqa: D301 -- click's escape: the paragraph after it is not wrapped


main.add_command(LazyGroup("webhook", places=WEBHOOK, help="Stripe's events: list, show, replay, send."))
main.add_command(LazyGroup("job", places=JOB, help="Background jobs that never overlap."))
main.add_command(LazyGroup("seed", places=SEED, help="Imports that resume where they ended."))
