"""A command that pgonce names is one that there is, with these options, and may be pasted into a shell."""

from __future__ import annotations

import shlex

import click
import pytest
from click.testing import CliRunner

from pgonce.cli import main
from pgonce.cli.options import with_schema
from pgonce.cli.output import suggested
from tools.diagnoses import causes

COMMANDS = sorted({each.command for noun in ("jobs", "seeds") for each in causes(noun) if each.command})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_proposed_command_and_its_options_exist(command: str) -> None:
    words = shlex.split(command.replace("RUN", "5f0c9a1e").replace("NAME", "letters"))
    # --help is answered after the options are read, and before anything is done
    answer = CliRunner().invoke(main, [*words[1:], "--help"])
    assert answer.exit_code == 0, answer.output
    assert f"Usage: main {' '.join(words[1:2])}" in answer.output


@pytest.mark.parametrize(
    ("given", "name", "says"),
    [
        ([], "it's", """pgonce seed run 'it'"'"'s' --restart"""),
        ([], "-x y", "pgonce seed run --restart -- '-x y'"),
        (["--schema", "the app"], "-x", "pgonce seed run --restart --schema 'the app' -- -x"),
        (["--schema", "the app"], "x", "pgonce seed run x --restart --schema 'the app'"),
    ],
)
def test_a_name_is_one_argument_and_the_schema_that_was_given_is_named(given: list[str], name: str, says: str) -> None:
    @click.command()
    @with_schema
    def command(schema: str) -> None:
        click.echo(suggested("seed run", name, " --restart"))

    assert CliRunner().invoke(command, given).output == f"{says}\n"
