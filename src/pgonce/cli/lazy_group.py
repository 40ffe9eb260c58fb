"""A group that imports a command's module when the command is named: a command pays for its own imports only."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group whose commands are in other modules of ``pgonce.cli``. Its help imports all of them, to list them.

    ``places``: by the name of a command ``module:attribute``, below ``pgonce.cli``.
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
