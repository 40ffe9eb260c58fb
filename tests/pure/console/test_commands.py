"""Every command that a diagnosis of a run or import names is one that there is, with these options."""

from __future__ import annotations

import shlex

import pytest
from click.testing import CliRunner

from pgonce.cli import main
from tools.diagnoses import causes

COMMANDS = sorted({each.command for noun in ("jobs", "seeds") for each in causes(noun) if each.command})


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_understood(command: str) -> None:
    words = shlex.split(command.replace("RUN", "5f0c9a1e").replace("NAME", "letters"))
    # --help is answered after the options are read, and before anything is done
    answer = CliRunner().invoke(main, [*words[1:], "--help"])
    assert answer.exit_code == 0, answer.output
    assert f"Usage: main {' '.join(words[1:2])}" in answer.output
