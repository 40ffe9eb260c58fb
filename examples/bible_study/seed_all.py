"""``python -m examples.bible_study.seed_all``: every import of the application, in order, each from its checkpoint."""

from __future__ import annotations

import os
import sys

import click

from examples.bible_study.app import app
from pgonce.cli import main as pgonce


def main() -> None:
    """Run ``pgonce seed run`` for every seed, even if one fails. The exit code is that of the first failure."""
    codes = [_run(name) for name in app.seeds]
    sys.exit(next((code for code in codes if code), 0))


def _run(name: str) -> int:
    click.echo(name)
    # the command itself, with its progress bar; it raises SystemExit after an error
    try:
        pgonce.main(["seed", "run", name, "--app", "examples.bible_study.app", *sys.argv[1:]], standalone_mode=False)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
        if code > 128:  # Ctrl-C or SIGTERM: it was meant for all of them
            sys.exit(code)
        return code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return os.EX_OK


if __name__ == "__main__":
    main()
