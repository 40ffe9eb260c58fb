r"""Imports beside their peers: 1,000,000 rows with a body of 150 bytes and a key of four columns.

    python -m bench.imports [--rows 1000000] [--rounds 1]

Every contender loads into the same table, truncated before; the ratios are to psql's \copy in the same round. Run it
on a quiet machine: below 200,000 rows the start-up of psql and the first, small batches weigh too much.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from bench import server
from bench.result import Result
from pgonce import database
from pgonce._sync.seeds import Seeds

COLUMNS = ("version", "book", "chapter", "verse", "body")
KEY = COLUMNS[:4]
TABLE = """
create table if not exists verses (
  version text not null, book integer not null, chapter integer not null, verse integer not null, body text not null,
  primary key (version, book, chapter, verse))
"""
BODY = ("In the beginning was the line, and the line was with COPY. " * 3)[:150]


LIMIT = "psql \\copy"
FIRST = ("first load, 5,000 rows per commit", "first load, 20,000 rows per commit", "first load, adaptive")
AGAIN = "again over rows that are all there"
WRITE_ROW = "psycopg write_row, one COPY, no checkpoint"
SINGLE = "one statement per row"
DLT = "dlt, merge"
PARTS = {1: "4 partitions, 1 process", 2: "4 partitions, 2 processes"}


def row(number: int) -> tuple[str, int, int, int, str]:
    return ("WEB", number // 10_000, number // 100 % 100, number % 100, BODY)


def source(start: int, stop: int) -> Callable[[int | None], Iterator[tuple[Any, int]]]:
    def rows(cursor: int | None) -> Iterator[tuple[Any, int]]:
        for number in range(start if cursor is None else cursor + 1, stop):
            yield row(number), number

    return rows


def in_child(url: str, what: str, *arguments: object) -> tuple[float, float]:
    """(seconds, peak MB) of a process of its own, so that the one's memory is not the other's."""
    command = [sys.executable, "-m", "bench.imports", "--child", what, url, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    seconds, megabytes = done.stdout.split()[-2:]
    return float(seconds), float(megabytes)


def child(what: str, url: str, arguments: list[str]) -> None:
    rows = int(arguments[0])
    began = time.perf_counter()
    if what == "pgonce":
        size = int(arguments[1]) or None
        with database.open_pool(url, 3) as pool:
            began = time.perf_counter()
            result = Seeds(pool).run(
                f"bench {time.time_ns()}", source(0, rows), into="verses", key=KEY, columns=COLUMNS, batch_size=size
            )
            assert result.outcome == "complete"
    elif what == "one by one":
        with psycopg.connect(url, autocommit=True) as conn:
            began = time.perf_counter()
            for number in range(rows):
                conn.execute(
                    "insert into verses values (%s, %s, %s, %s, %s) on conflict do nothing", row(number), prepare=True
                )
    elif what == "write_row":
        with psycopg.connect(url) as conn, conn.cursor() as cursor, cursor.copy("copy verses from stdin") as copy:
            began = time.perf_counter()
            for number in range(rows):
                copy.write_row(row(number))
    elif what == "dlt":
        import dlt  # type: ignore[import-not-found,unused-ignore]

        pipeline = dlt.pipeline("bench", destination=dlt.destinations.postgres(url), dataset_name="dlt_bench")
        data = ({"n": number, **dict(zip(COLUMNS, row(number), strict=True))} for number in range(rows))
        pipeline.run(data, table_name="verses", primary_key=KEY, write_disposition="merge")
    print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def psql_copy(url: str, file: Path) -> float:
    command = [
        str(server.start().bin_dir / "psql"),
        "-qX",
        "-v",
        "ON_ERROR_STOP=1",
        url,
        "-c",
        f"\\copy verses from '{file}'",
    ]
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def first_row_after_kill(url: str, rows: int) -> float:
    """Kill an import of ``rows`` in its second half; seconds from the start of the next one to its first new row."""
    command = [sys.executable, "-m", "bench.imports", "--child", "resumable", url, str(rows)]
    here = Path(__file__).parents[1]
    with psycopg.connect(url, autocommit=True) as conn:
        running = subprocess.Popen(command, cwd=here)
        while _inserted(conn) < rows // 2:
            time.sleep(0.01)
        running.kill()
        running.wait()
        before = _inserted(conn)
        began = time.perf_counter()
        running = subprocess.Popen(command, cwd=here)
        while _inserted(conn) <= before:
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        running.kill()
        running.wait()
    return seconds


def _inserted(conn: psycopg.Connection[Any]) -> int:
    found = conn.execute("select rows_inserted from seed_checkpoints where seed_name = 'resumable'").fetchone()
    return int(found[0]) if found else 0


def partitions(url: str, rows: int, workers: int) -> float:
    """Four parts of the table by ``workers`` processes."""
    quarter = rows // 4
    parts = [(start, start + quarter) for start in range(0, quarter * 4, quarter)]
    command = [sys.executable, "-m", "bench.imports", "--child", "partition", url]
    with database.open_pool(url, 2) as pool:
        Seeds(pool).begin_partitions("parts", [f"{start}-{stop}" for start, stop in parts])
    began = time.perf_counter()
    lanes = [
        subprocess.Popen([*command, *(f"{a}-{b}" for a, b in parts[lane::workers])], cwd=Path(__file__).parents[1])
        for lane in range(workers)
    ]
    assert [lane.wait() for lane in lanes] == [0] * workers
    return time.perf_counter() - began


def importing(what: str, url: str, arguments: list[str]) -> None:
    with database.open_pool(url, 3) as pool:
        seeds = Seeds(pool)
        if what == "resumable":
            seeds.run(
                "resumable", source(0, int(arguments[0])), into="verses", key=KEY, columns=COLUMNS, batch_size=5000
            )
            return
        for part in arguments:
            start, stop = map(int, part.split("-"))
            seeds.run(
                "parts", source(start, stop), into="verses", key=KEY, columns=COLUMNS, partition=part,
                window=timedelta(seconds=30),
            )  # fmt: skip


class Rounds:
    """The seconds of every contender, round by round; what is shown is the median."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.rates: dict[str, list[float]] = defaultdict(list)
        self.megabytes = 0.0

    def took(self, name: str, seconds: float, rows: int | None = None) -> None:
        self.rates[name].append((rows or self.rows) / seconds)

    def imported(self, name: str, measured: tuple[float, float]) -> None:
        self.took(name, measured[0])
        self.megabytes = max(self.megabytes, measured[1])

    def result(self, name: str, against: str = LIMIT, least: float | None = None) -> Result:
        # the ratio is taken within each round: the machine may be quicker in another one
        rate = statistics.median(self.rates[name])
        if name == LIMIT:
            return Result(name, rate, "rows/s")
        pairs = zip(self.rates[name], self.rates[against], strict=False)
        ratio = statistics.median(one / other for one, other in pairs)
        if least is None:
            return Result(name, rate, "rows/s", ratio, f"of {against}")
        return Result(name, rate, "rows/s", ratio, f">= {least} x {against}", ratio >= least)


def run(quick: bool, rows: int | None = None, rounds: int | None = None) -> list[Result]:
    """The table of this page."""
    rounded = Rounds(rows or (200_000 if quick else 1_000_000))
    results = list[Result]()
    with tempfile.TemporaryDirectory(prefix="pgonce-bench-") as folder, server.new_database() as url:
        Path(folder).chmod(0o755)
        file = Path(folder) / "verses.copy"
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines("\t".join(map(str, row(number))) + "\n" for number in range(rounded.rows))
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(TABLE)
            for _ in range(rounds or (1 if quick else 3)):
                one_round(conn, url, file, rounded)
            empty(conn)
            resumed = first_row_after_kill(url, rounded.rows)
    results += [rounded.result(LIMIT), *(rounded.result(name, least=0.8) for name in FIRST)]
    results += [rounded.result(AGAIN, least=0.65), rounded.result(WRITE_ROW), rounded.result(PARTS[1])]
    results.append(rounded.result(PARTS[2], PARTS[1], 1.0))
    results.append(rounded.result(FIRST[1], SINGLE, 100))
    results.append(
        rounded.result(FIRST[1], DLT, 10) if rounded.rates[DLT] else Result("dlt: not installed", 0, "rows/s")
    )
    results.append(Result("peak memory", rounded.megabytes, "MB", None, "< 150", rounded.megabytes < 150))
    results.append(Result("from the start behind kill -9 to a new row", resumed, "s", None, "< 2", resumed < 2))
    return results


def empty(conn: psycopg.Connection[Any]) -> None:
    conn.execute("truncate verses")
    conn.execute("checkpoint")


def one_round(conn: psycopg.Connection[Any], url: str, file: Path, rounded: Rounds) -> None:
    rows = rounded.rows
    empty(conn)
    rounded.took(LIMIT, psql_copy(url, file))
    for name, size in zip(FIRST, (5000, 20_000, 0), strict=True):
        empty(conn)
        rounded.imported(name, in_child(url, "pgonce", rows, size))
    conn.execute("checkpoint")
    rounded.imported(AGAIN, in_child(url, "pgonce", rows, 20_000))
    empty(conn)
    rounded.took(WRITE_ROW, in_child(url, "write_row", rows)[0])
    empty(conn)
    rounded.took(SINGLE, in_child(url, "one by one", min(rows, 5000))[0], min(rows, 5000))
    if importlib.util.find_spec("dlt"):
        rounded.took(DLT, in_child(url, "dlt", min(rows, 100_000))[0], min(rows, 100_000))
    for workers, name in PARTS.items():
        empty(conn)
        conn.execute("select reset_seed('parts')")
        rounded.took(name, partitions(url, rows, workers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, url, *arguments = options.child
        (importing if what in {"resumable", "partition"} else child)(what, url, arguments)
        return
    for each in run(False, options.rows, options.rounds):
        verdict = {None: "", True: "yes", False: "NO"}[each.ok]
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        print(f"{each.name:<46} {each.value:>12,.2f} {each.unit:<7} {ratio:>7} {each.limit:<30} {verdict}", flush=True)


if __name__ == "__main__":
    main()
