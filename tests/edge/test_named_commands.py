"""Every command and option that a message, a function's comment or a page names exists."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pgonce.cli import main

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "pgonce"
COMMAND = re.compile(r"`+pgonce ([a-z][^`]*)`+")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
# options of other programs that our own texts name
OTHERS = {"--single-transaction", "--file"}  # psql's, pg_dump's
OTHERS |= {"--system", "--shell", "--home-dir", "--no-create-home"}  # useradd's
OTHERS |= {"--only", "--autogenerate"}  # bench's, Alembic's
OTHERS |= {"--no-verify-jwt"}  # Supabase's


def texts_of(path: Path) -> Iterator[str]:
    """The strings of a Python file, with " X" for what an f-string fills in, or all of any other file."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        yield text
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else " X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def wrong(command: str) -> str | None:
    """Which part of ``pgonce command`` does not exist; None if all of it exists."""
    found: click.Command = main
    words = shlex.split(command.replace("…", "X").replace("%s", " X").replace("'", " "))
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        inner = found.get_command(click.Context(found), name)
        if inner is None:
            return f"there is no command {name}"
        found = inner
    known = {option for each in found.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
    given = words[: words.index("--")] if "--" in words else words
    return next((f"there is no option {word}" for word in given if word.startswith("--") and word not in known), None)


def commands() -> Iterator[tuple[str, str]]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for path in [*sorted(PACKAGE.rglob("*.py")), *sorted(PACKAGE.rglob("*.sql")), *pages]:
        for text in texts_of(path):
            for command in COMMAND.findall(text):
                yield str(path.relative_to(ROOT)), " ".join(command.split())


# One test: a parameter for each command would have every process of the suite parse all files.
def test_a_command_that_is_named_exists_with_its_options() -> None:
    named = set(commands())
    assert len(named) > 200
    assert {(path, command, wrong(command)) for path, command in named if wrong(command)} == set()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("webhook ls --dead", "there is no option --dead"),
        ("webhook list", "there is no command list"),
        ("frobnicate", "there is no command frobnicate"),
        ("exec NAME -- pg_dump --anything", None),
        ("job show ID", None),
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str, says: str | None) -> None:
    assert wrong(command) == says


def options(command: click.Command) -> Iterator[str]:
    for each in command.params:
        yield from (*each.opts, *each.secondary_opts)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner
            yield from options(inner)


def test_an_option_that_a_message_names_exists() -> None:
    known = {*options(main), *OTHERS, "--help"}
    named = {
        (str(path.relative_to(ROOT)), option)
        for path in PACKAGE.rglob("*.py")
        for text in texts_of(path)
        if " " in text.strip()  # a word alone is an argument of a process that we start
        for option in OPTION.findall(text)
    }
    assert len(named) > 10
    assert {each for each in named if each[1] not in known} == set()


def leaves(group: click.Group = main, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that is not a group, with its name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found
        if isinstance(found, click.Group):
            yield from leaves(found, *path, name)
        else:
            yield " ".join((*path, name)), found


def test_the_help_of_each_command_that_must_be_told_something_has_an_example_that_can_be_read() -> None:
    for name, command in leaves():
        examples = re.findall(r"(Example: |\n *)pgonce (.*)", command.help or "")
        told = [each for each in command.params if each.required or isinstance(each, click.Argument)]
        assert examples or not told, f"pgonce {name} --help has no example"
        for before, example in examples:
            assert example.startswith(name)
            assert name == "exec" or wrong(example) is None  # what follows COMMAND is not ours
            # a paragraph is broken at 80 columns, and a command that is broken cannot be copied
            assert not before.strip() or len(f"  {before}pgonce {example}") <= 78, example
