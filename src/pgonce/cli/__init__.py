"""The command line: ``pgonce`` and its commands, verb after noun."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from pgonce.cli import (
    cleanup,
    configuration,
    console,
    doctor,
    init,
    job,
    job_list,
    job_operate,
    job_show,
    metrics,
    ps,
    reconcile,
    seed,
    seed_load,
    serve,
    webhook,
)
from pgonce.cli import migrate as setup
from pgonce.cli import seed_operate as seed_control
from pgonce.cli.errors import report
from pgonce.cli.exec import exec_
from pgonce.cli.uninstall import uninstall
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
        raise _Usage(error.format_message(), error.ctx) from error


class _Cli(click.Group):
    """Prints an error as one line and exits with 1 (124 for a timeout, 2 for a usage error)."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command. Signs that the terminal's encoding lacks are printed as "?", instead of a traceback."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        try:
            configuration.load()
        except InvalidArgument as error:
            sys.exit(report(error))
        return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _in_one_line():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> object:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # PYTHONIOENCODING=ascii, or a locale that is not UTF-8
                stream.reconfigure(errors="backslashreplace")
        try:
            with _in_one_line():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click ends the process with these itself
        except Exception as error:  # noqa: BLE001 -- the user's code may raise anything
            sys.exit(report(error))


@click.group(cls=_Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="pgonce")
def main() -> None:
    """Stripe webhooks handled exactly once, jobs that never overlap, imports that resume.

    \b
    The database: --database-url, else PGONCE_DATABASE_URL, else DATABASE_URL,
    else an embedded PostgreSQL with its data in ./.pgonce (PGONCE_DATA_DIR).
    Your handlers, jobs and seeds: --app module:app, or PGONCE_APP.

    \b
    First steps:
      pgonce migrate                       install the tables and functions
      pgonce serve --app shop:app          receive Stripe's webhooks
      pgonce job run NAME --app shop:app   run a job, unless it is running
      pgonce seed run NAME --app shop:app  run or resume an import

    Exit codes: 0 done, 1 failed, 2 usage, 75 skipped because of overlap, 124 timed out.
    """  # noqa: D301 -- click's escape: the paragraph after it is not wrapped


main.add_command(init.init)
main.add_command(setup.migrate)
main.add_command(setup.sql)
main.add_command(uninstall)
main.add_command(serve.serve)
main.add_command(serve.worker)
main.add_command(webhook.webhook)
main.add_command(reconcile.reconcile)
main.add_command(cleanup.cleanup)
main.add_command(doctor.doctor)
main.add_command(metrics.metrics)
main.add_command(console.console)
main.add_command(job.job)
for command in (*job_list.COMMANDS, job_show.show, *job_operate.COMMANDS):
    job.job.add_command(command)
main.add_command(ps.ps)
main.add_command(exec_)
main.add_command(seed.seed)
seed.seed.add_command(seed_load.load)
for command in seed_control.COMMANDS:
    seed.seed.add_command(command)
