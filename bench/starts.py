"""CPU time of a start: ``python -m bench.starts`` prints the median of eight warm ones, also as a ratio to psycopg's.

The programs take turns, so that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

ROUNDS = 8
DRIVER = "import psycopg, psycopg_pool"
PROGRAMS = {
    "python": ["-c", "pass"],
    "click": ["-c", "import click"],
    "psycopg and its pool": ["-c", DRIVER],
    "import pgonce": ["-c", "import pgonce"],
    "from pgonce import App": ["-c", "from pgonce import App"],
    "from pgonce import *": ["-c", "from pgonce import *"],
    **{
        f"pgonce {command}": ["-m", "pgonce", *command.split()]
        for command in ("--help", "ps --help", "exec --help", "job ls --help", "seed load --help", "serve --help")
    },
}


def cpu(arguments: list[str]) -> float:
    """Milliseconds of CPU time, of user and kernel."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    taken: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for number in range(ROUNDS + 1):
        for name, arguments in PROGRAMS.items():
            found = cpu(arguments)
            if number:  # the first start may compile and read from the disk
                taken[name].append(found)
    driver = statistics.median(taken["psycopg and its pool"])
    for name, each in taken.items():
        print(f"{name:24}{statistics.median(each):6.0f} ms{statistics.median(each) / driver:8.2f}")


if __name__ == "__main__":
    main()
