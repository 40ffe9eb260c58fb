r"""Imports compared with other tools: 1,000,000 rows with a body of 150 bytes and a key of four columns.

    python -m bench.imports [--rows 1000000] [--rounds 1] [--only WORD]

With --only, the last line is the peak memory of those of these contenders that are pgonce; more rows do not raise it.

Every contender loads into the same table, truncated before. The ratios are to psql's \copy in the same round. Run it on
a quiet machine; below 200,000 rows the start of psql and the first, small batches weigh too much.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from bench import server, verses
from bench.importer import measured, started
from bench.result import Result
from pgonce.core import database
from pgonce.seeds.seeds import Seeds

LIMIT = "psql \\copy"
FIRST = {
    5000: "first load, 5,000 rows per commit",
    20_000: "first load, 20,000 rows per commit",
    0: "first load, adaptive",
}
FILES = {".csv": "CSV by path", ".parquet": "Parquet by path"}
AGAIN = "again over rows that are all there"
VERIFY = "verify of these rows"
WRITE_ROW = "psycopg write_row, one COPY, no checkpoint"
TYPED = "psycopg write_row, types set, values frozen"
FORMATTER = "our formatter, one COPY, one thread"
SINGLE = "one statement per row"
DLT = "dlt, merge"
WRITING = """
select count(*) from pg_stat_activity where datname = current_database() and application_name like 'pgonce %'
"""
PARTS = {1: "4 partitions, 1 process", 2: "4 partitions, 2 processes"}


def psql_copy(url: str, file: Path) -> float:
    psql = server.start().bin_dir / "psql"
    began = time.perf_counter()
    subprocess.run([psql, "-qX", "-v", "ON_ERROR_STOP=1", url, "-c", f"\\copy verses from '{file}'"], check=True)
    return time.perf_counter() - began


def first_row_after_kill(url: str, rows: int) -> float:
    """Kill an import of ``rows`` in its second half; seconds from the start of the next one to its first new row."""
    with psycopg.connect(url, autocommit=True) as conn:
        running = started("resumable", url, rows)
        while _inserted(conn, "resumable") < rows // 2:
            time.sleep(0.01)
        running.kill()
        running.wait()
        while conn.execute(WRITING).fetchone() != (
            0,
        ):  # rows that it had sent may still be committed: they do not count
            time.sleep(0.001)
        return _first_row(conn, "resumable", "resumable", url, rows)


def first_row_after(url: str, folder: Path, size: int) -> float:
    """Seconds from the start to the first new row of a CSV file of which ``size`` bytes were imported before."""
    file = folder / "sparse.csv"
    with file.open("wb") as lines:  # a hole in a file does not use disk space
        lines.write(",".join(verses.COLUMNS).encode() + b"\n")
        lines.seek(size - 1)
        lines.write(b"\n")  # the import looks at the byte before its checkpoint: it must end a line
        lines.writelines(b"KJV,%d,1,1,x\n" % number for number in range(1000))
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("select update_checkpoint('sparse', %s)", [Jsonb({"offset": size, "row": size // 170})])
        return _first_row(conn, "sparse", "path", url, file, "sparse")


def _first_row(conn: psycopg.Connection[Any], seed: str, contender: str, *arguments: object) -> float:
    before = _inserted(conn, seed)
    began = time.perf_counter()
    running = started(contender, *map(str, arguments))
    while _inserted(conn, seed) <= before:
        time.sleep(0.005)
    seconds = time.perf_counter() - began
    running.kill()
    running.wait()
    return seconds


def _inserted(conn: psycopg.Connection[Any], seed: str) -> int:
    found = conn.execute("select rows_inserted from seed_checkpoints where seed_name = %s", [seed]).fetchone()
    return int(found[0]) if found else 0


def partitions(conn: psycopg.Connection[Any], url: str, rows: int, workers: int) -> float:
    """Import four parts of the table with ``workers`` processes."""
    quarter = rows // 4
    parts = [f"{first}-{first + quarter}" for first in range(0, quarter * 4, quarter)]
    conn.execute("select pgonce_reset_seed('parts')")
    with database.open_pool(url, 2) as pool:
        Seeds(pool).begin_partitions("parts", parts)
    began = time.perf_counter()
    processes = [started("partition", url, *parts[worker::workers]) for worker in range(workers)]
    assert [process.wait() for process in processes] == [0] * workers
    return time.perf_counter() - began


class Rounds:
    """The seconds of every contender, round by round; the table shows the median."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.rates: dict[str, list[float]] = defaultdict(list)
        self.megabytes = 0.0

    def took(self, name: str, seconds: float, rows: int) -> None:
        self.rates[name].append(rows / seconds)

    def result(self, name: str, against: str = LIMIT, least: float | None = None) -> Result:
        # the ratio is computed within each round, because the machine may be faster in another one
        rate = statistics.median(self.rates[name])
        if name == LIMIT:
            return Result(name, rate, "rows/s")
        pairs = zip(self.rates[name], self.rates[against], strict=False)
        ratio = statistics.median(one / other for one, other in pairs)
        if least is None:
            return Result(name, rate, "rows/s", ratio, f"of {against}")
        return Result(name, rate, "rows/s", ratio, f">= {least} x {against}", ratio >= least)


def run(quick: bool, rows: int | None = None, rounds: int | None = None, only: str = "") -> list[Result]:
    """The table of this page."""
    rounded = Rounds(rows or (200_000 if quick else 1_000_000))
    with tempfile.TemporaryDirectory(prefix="pgonce-bench-") as name, server.new_database() as url:
        folder = Path(name)
        folder.chmod(0o755)
        for suffix in (".copy", *FILES):
            verses.write(folder / f"verses{suffix}", rounded.rows)
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(verses.TABLE)
            psql_copy(url, folder / "verses.copy")  # the first contender writes the log into new files, which is slower
            for _ in range(rounds or (1 if quick else 3)):
                one_round(conn, url, folder, rounded, only)
            if only:
                memory = Result("peak memory", rounded.megabytes, "MB", None, "< 200", rounded.megabytes < 200)
                return [*(rounded.result(name) for name in rounded.rates), memory]
            empty(conn)
            resumed = first_row_after_kill(url, rounded.rows)
        behind = first_row_after(url, folder, 2_000_000_000)
    return [
        rounded.result(LIMIT),
        *(rounded.result(name, least=0.8) for name in FIRST.values()),
        *(rounded.result(name, least=0.9) for name in FILES.values()),
        rounded.result(AGAIN, least=0.65),
        rounded.result(VERIFY, FIRST[20_000], 0.33),
        rounded.result(WRITE_ROW),
        rounded.result(TYPED),
        rounded.result(FORMATTER),
        rounded.result(PARTS[1]),
        rounded.result(PARTS[2], PARTS[1], 1.0),
        rounded.result(FIRST[20_000], SINGLE, 100),
        rounded.result(FIRST[20_000], DLT, 10) if rounded.rates[DLT] else Result("dlt: not installed", 0, "rows/s"),
        Result("peak memory", rounded.megabytes, "MB", None, "< 150", rounded.megabytes < 150),
        Result("from the start after kill -9 to a new row", resumed, "s", None, "< 2", resumed < 2),
        Result("the same after 2 GB of CSV", behind, "s", None, "< 2", behind < 2),
    ]


def empty(conn: psycopg.Connection[Any]) -> None:
    conn.execute("truncate verses")
    conn.execute("checkpoint")


def one_round(conn: psycopg.Connection[Any], url: str, folder: Path, rounded: Rounds, only: str) -> None:
    """Every contender once, or those with ``only`` in their names."""
    rows = rounded.rows

    def measure(name: str, action: Callable[[], float], count: int = rows, *, full: bool = False) -> None:
        if only in name or name == LIMIT:
            conn.execute("checkpoint") if full else empty(conn)
            rounded.took(name, action(), count)

    def ours(*arguments: object) -> float:
        seconds, megabytes = measured(str(arguments[0]), url, *arguments[1:])
        rounded.megabytes = max(rounded.megabytes, megabytes)
        return seconds

    measure(LIMIT, lambda: psql_copy(url, folder / "verses.copy"))
    for suffix, name in FILES.items():
        measure(name, lambda: ours("path", folder / f"verses{suffix}"))  # noqa: B023 -- called at once
    for size, name in FIRST.items():
        measure(name, lambda: ours("generator", rows, size))  # noqa: B023
    measure(AGAIN, lambda: ours("generator", rows, 20_000), full=True)
    measure(VERIFY, lambda: ours("verify", rows), full=True)
    measure(WRITE_ROW, lambda: measured("write_row", url, rows)[0])
    measure(TYPED, lambda: measured("typed write_row", url, rows)[0])
    measure(FORMATTER, lambda: measured("formatter", url, rows)[0])
    few, some = min(rows, 5000), min(rows, 100_000)
    measure(SINGLE, lambda: measured("one by one", url, few)[0], few)
    if importlib.util.find_spec("dlt"):
        measure(DLT, lambda: measured("dlt", url, some)[0], some)
    for workers, name in PARTS.items():
        measure(name, lambda: partitions(conn, url, rows, workers))  # noqa: B023


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="", metavar="WORD", help="the contenders with this in their names")
    options = parser.parse_args()
    for each in run(False, options.rows, options.rounds, options.only):
        verdict = {None: "", True: "yes", False: "NO"}[each.ok]
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        print(f"{each.name:<46} {each.value:>12,.2f} {each.unit:<7} {ratio:>7} {each.limit:<30} {verdict}", flush=True)


if __name__ == "__main__":
    main()
