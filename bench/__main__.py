"""All benchmarks as one table, printed and written to bench/RESULTS.md: ``make bench``, or python -m bench [NAME]..."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from bench.result import Result

HERE = Path(__file__).parent
MODULES = ("webhooks", "http", "claim", "disk", "jobs", "imports")
INTRODUCTION = """\
# Results of `make bench`

{date}, {cores} cores, {memory} GB of memory, Python {python}{quick}. Client, load generator and PostgreSQL share the \
cores, commits are durable, contenders take turns, and what stands here are medians: read the ratios, not the figures.
"""


def machine() -> dict[str, object]:
    """The machine's size, not its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.now(UTC).date(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory": round(memory),
        "python": platform.python_version(),
    }


def table(name: str, results: list[Result]) -> Iterator[str]:
    """One section of the page."""
    yield from (f"\n## {name}\n", "| | | | ratio | asked | |", "|---|---:|---|---:|---|---|")
    for each in results:
        digits = 0 if each.value >= 100 else 2
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        verdict = {None: "", True: "yes", False: "**no**"}[each.ok]
        yield f"| {each.name} | {each.value:,.{digits}f} | {each.unit} | {ratio} | {each.limit} | {verdict} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("modules", nargs="*", metavar="NAME", help=f"of {', '.join(MODULES)} [default: all]")
    parser.add_argument("--quick", action="store_true", help="less of everything, one round; RESULTS.md stays as it is")
    arguments = parser.parse_args()
    wanted = arguments.modules or [name for name in MODULES if (HERE / f"{name}.py").exists()]
    page = [INTRODUCTION.format(**machine(), quick=", a quick run" if arguments.quick else "")]
    print(page[0])
    for name in wanted:
        started = time.monotonic()
        results: list[Result] = importlib.import_module(f"bench.{name}").run(arguments.quick)
        lines = list(table(name, results))
        print("\n".join(lines), f"\n({time.monotonic() - started:.0f} s)", flush=True)
        page += lines
    if not arguments.quick and not arguments.modules:
        (HERE / "RESULTS.md").write_text("\n".join(page) + "\n", "utf-8")


if __name__ == "__main__":
    main()
