"""Writes what is generated from the SQL, the commands and the docstrings: pages of docs/, and the TypeScript types.

    python -m tools.references            write the files that differ
    python -m tools.references --check    write nothing; exit 1 if a file would change

A function, command or public name without a text is an error.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tools import command_reference, diagnoses, python_reference, sql_reference, typescript_types

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (sql_reference, diagnoses, typescript_types, command_reference, python_reference)


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m tools.references [--check]", file=sys.stderr)
        return 2
    try:
        wanted = [each for source in SOURCES for each in source.files()]
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 1
    stale = [(path, text) for path, text in wanted if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path, text in stale:
        name = path.relative_to(ROOT)
        if arguments:
            print(f"{name} is out of date: make generate", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if stale and arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
