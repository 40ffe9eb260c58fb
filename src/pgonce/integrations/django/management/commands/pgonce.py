"""``manage.py pgonce …``: the command ``pgonce`` with the project's app, database and schema."""

from __future__ import annotations

import os
import sys
from argparse import REMAINDER, ArgumentParser
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from pgonce.errors import PgonceError
from pgonce.integrations.django import database_url
from pgonce.integrations.django.conf import setting


class Command(BaseCommand):
    """The command."""

    help = "pgonce's commands, with this project's handlers, jobs and database: manage.py pgonce --help"
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take whatever ``pgonce`` takes."""
        parser.add_argument("arguments", nargs=REMAINDER)

    def run_from_argv(self, argv: list[str]) -> None:
        """Pass everything on, options as well."""
        try:
            self._run(argv[2:], f"{Path(argv[0]).name} {argv[1]}", standalone=True)
        except PgonceError as error:  # of the settings: the command has not begun, and cannot report it
            print(f"pgonce: {error}", file=sys.stderr)  # noqa: T201 -- as the command prints its errors
            sys.exit(1)

    def handle(self, *arguments: Any, **options: Any) -> None:
        """For ``call_command("pgonce", "migrate", "--check")``."""
        given = [*arguments, *options.get("arguments", ())]
        try:
            self._run([str(each) for each in given], "pgonce", standalone=False)
        except SystemExit as ended:
            if ended.code:
                raise CommandError(f"pgonce ended with {ended.code}") from None

    @staticmethod
    def _run(arguments: list[str], name: str, *, standalone: bool) -> None:
        # in the environment: every user of the machine can read a command line, and the password in it
        os.environ.setdefault("PGONCE_APP", "pgonce.integrations.django:app")
        os.environ["PGONCE_DATABASE_URL"] = database_url()
        os.environ["PGONCE_SCHEMA"] = setting("SCHEMA")
        secrets = setting("SECRETS")
        if secrets and not callable(secrets):  # `webhook send` signs with it, `doctor` examines it
            given = secrets if isinstance(secrets, str) else ",".join(filter(None, secrets))
            os.environ.setdefault("PGONCE_WEBHOOK_SECRET", given)
        [command] = entry_points(group="console_scripts", name="pgonce")
        command.load()(arguments, prog_name=name, standalone_mode=standalone)
