"""Writes docs/commands.md: the help of every command of ``pgonce``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from pgonce.cli import main as pgonce

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
WIDTH = 100

HEAD = """\
<!-- Generated from `pgonce --help` by tools/command_reference.py: edit src/pgonce/cli, then `make generate`. -->
# The commands

Exit codes: 0 done, 1 failed, 2 unreadable command line, 75 skipped because another run is at work or the job is
paused. These options are not repeated below:

| option | of | what it does |
|---|---|---|
| `--database-url URL` | all that use a database | its URL; else PGONCE_DATABASE_URL, DATABASE_URL, an embedded server |
| `--schema TEXT` | the same | the schema of pgonce's tables, `public` by default |
| `--json` | commands that list or show | prints what a program reads |
| `--watch` | some of these | draws it again every 2 s, until Ctrl-C |
| `--help` | all | shows the text that is here |

## Completion

The shell completes commands and options after one line in its start file:

| shell | line |
|---|---|
| bash, `~/.bashrc` | `eval "$(_PGONCE_COMPLETE=bash_source pgonce)"` |
| zsh, `~/.zshrc` | `eval "$(_PGONCE_COMPLETE=zsh_source pgonce)"` |
| fish, `~/.config/fish/completions/pgonce.fish` | `_PGONCE_COMPLETE=fish_source pgonce \\| source` |
"""


SHARED = re.compile(r"^  --(?:database-url|schema|json|watch|help) .*\n(?: {8,}.*\n)*", re.MULTILINE)
"""The lines of a help text about an option that the head of the page describes."""


def commands(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """(name, help) of ``command`` and of all commands below it that are not hidden."""
    context = click.Context(command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            if found is not None and not found.hidden:
                yield from commands(found, each, context)


def page() -> str:
    """The text of docs/commands.md."""
    parts = [HEAD]
    for path, text in commands(pgonce, "pgonce"):
        own = SHARED.sub("", f"{text}\n").replace("Options:\n\n", "").removesuffix("Options:\n").rstrip()
        parts.append(f"\n## {path}\n\n```text\n{own}\n```\n")
    return "".join(parts)


def files() -> Iterator[tuple[Path, str]]:
    """The page and its text, for tools/references.py."""
    yield PAGE, page()
