"""One contender's import in a process of its own, so that its memory can be measured.

    python -m bench.importer CONTENDER URL [ARGUMENT]...

The last line that it prints: its seconds, from the open connection to the last commit, and its peak memory in MB.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psycopg
from psycopg import postgres

from bench.verses import COLUMNS, KEY, row, source
from pgonce.core import database
from pgonce.seeds.batch import PART_BYTES
from pgonce.seeds.columns import Column
from pgonce.seeds.copy_text import RowFormatter
from pgonce.seeds.readers import read
from pgonce.seeds.seeds import Seeds

HERE = Path(__file__).parents[1]


def started(contender: str, url: str, *arguments: object) -> subprocess.Popen[str]:
    """Start such a process."""
    command = [sys.executable, "-m", "bench.importer", contender, url, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE)


def measured(contender: str, url: str, *arguments: object) -> tuple[float, float]:
    """(seconds, peak MB) of such a process."""
    process = started(contender, url, *arguments)
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the contender {contender!r} ended with {process.returncode}")
    seconds, megabytes = said.split()[-2:]
    return float(seconds), float(megabytes)


def generator(url: str, rows: str, size: str) -> float:
    """``Seeds.run`` of tuples; a ``size`` of 0 is an adaptive one."""
    with database.open_pool(url, 3) as pool:
        began = time.perf_counter()
        result = Seeds(pool).run(
            f"bench {time.time_ns()}", source(0, int(rows)),
            into="verses", key=KEY, columns=COLUMNS, batch_size=int(size) or None,
        )  # fmt: skip
        assert result.outcome == "complete"
        return time.perf_counter() - began


def verify(url: str, rows: str) -> float:
    """``Seeds.verify`` of the rows that `generator` has loaded."""
    with database.open_pool(url, 3) as pool:
        began = time.perf_counter()
        found = Seeds(pool).verify("bench", source(0, int(rows)), into="verses", key=KEY, columns=COLUMNS)
        assert found["ok"], found
        return time.perf_counter() - began


def path(url: str, file: str, name: str = "") -> float:
    """``Seeds.run`` of a file, as ``pgonce seed load`` does it."""
    if file.endswith(
        ".parquet"
    ):  # imported before the clock starts, like psycopg and dlt: it takes a tenth of a second
        import pyarrow.compute
        import pyarrow.parquet  # noqa: F401
    with database.open_pool(url, 3) as pool:
        began = time.perf_counter()
        result = Seeds(pool).run(name or f"bench {time.time_ns()}", read(file), into="verses", key=KEY)
        assert result.outcome == "complete"
        return time.perf_counter() - began


def resumable(url: str, rows: str) -> float:
    """The import that the benchmark kills."""
    with database.open_pool(url, 3) as pool:
        began = time.perf_counter()
        Seeds(pool).run("resumable", source(0, int(rows)), into="verses", key=KEY, columns=COLUMNS, batch_size=5000)
        return time.perf_counter() - began


def partition(url: str, *parts: str) -> float:
    """One of the processes that import a seed's parts; each part is ``FIRST-STOP``."""
    with database.open_pool(url, 3) as pool:
        began = time.perf_counter()
        for part in parts:
            first, stop = map(int, part.split("-"))
            Seeds(pool).run(
                "parts", source(first, stop), into="verses", key=KEY, columns=COLUMNS, partition=part,
                window=timedelta(seconds=30),
            )  # fmt: skip
        return time.perf_counter() - began


def one_by_one(url: str, rows: str) -> float:
    """A commit per row."""
    with psycopg.connect(url, autocommit=True) as conn:
        began = time.perf_counter()
        for number in range(int(rows)):
            conn.execute(
                "insert into verses values (%s, %s, %s, %s, %s) on conflict do nothing", row(number), prepare=True
            )
        return time.perf_counter() - began


def write_row(url: str, rows: str) -> float:
    """psycopg alone, to the end of the COPY and the COMMIT."""
    with psycopg.connect(url) as conn:
        began = time.perf_counter()
        with conn.cursor() as cursor, cursor.copy("copy verses from stdin") as copy:
            for number in range(int(rows)):
                copy.write_row(row(number))
        conn.commit()
        return time.perf_counter() - began


def typed_write_row(url: str, rows: str) -> float:
    """The column's type decides, by psycopg: types set, its own adapters, values frozen when taken."""
    unchanging = {str, int, float, type(None)}
    with psycopg.connect(url) as conn:
        began = time.perf_counter()
        cursor = conn.cursor()
        postgres.register_default_adapters(cursor.adapters)
        with cursor, cursor.copy("copy verses from stdin") as copy:
            copy.set_types(["text", "int4", "int4", "int4", "text"])
            for number in range(int(rows)):
                values = row(number)
                if not unchanging.issuperset(map(type, values)):
                    raise AssertionError("here a value would be written by its column's dumper at once")
                copy.write_row(values)
        conn.commit()
        return time.perf_counter() - began


def formatter(url: str, rows: str) -> float:
    """The same COPY by our formatter, in the same thread."""
    with psycopg.connect(url) as conn:
        began = time.perf_counter()
        columns = [Column(name, "text", "text" if name in {"version", "body"} else "integer") for name in COLUMNS]
        made = RowFormatter(columns)
        with conn.cursor() as cursor, cursor.copy("copy verses from stdin") as copy:
            data = bytearray()
            for number in range(int(rows)):
                made.write(row(number), data)
                if len(data) >= PART_BYTES:
                    copy.write(bytes(data))
                    data.clear()
            copy.write(bytes(data))
        conn.commit()
        return time.perf_counter() - began


def dlt(url: str, rows: str) -> float:
    """dlt, which writes each row once by staging and merging."""
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    from dlt import destinations, pipeline

    # dlt requires a host and a password; libpq uses the host in the query, which is the socket's folder.
    address = url.replace("postgres@/", "postgres:none@localhost/", 1)
    with tempfile.TemporaryDirectory(prefix="pgonce-dlt-") as folder:
        began = time.perf_counter()
        data = ({"n": number, **dict(zip(COLUMNS, row(number), strict=True))} for number in range(int(rows)))
        pipeline(
            "bench", pipelines_dir=folder, destination=destinations.postgres(address), dataset_name="dlt_bench"
        ).run(data, table_name="verses", primary_key=KEY, write_disposition="merge")
        return time.perf_counter() - began


CONTENDERS: dict[str, Callable[..., float]] = {
    "generator": generator, "verify": verify, "path": path, "resumable": resumable, "partition": partition,
    "one by one": one_by_one, "write_row": write_row,
    "typed write_row": typed_write_row, "formatter": formatter, "dlt": dlt,
}  # fmt: skip


def main() -> None:
    contender, url, *arguments = sys.argv[1:]
    print(CONTENDERS[contender](url, *arguments), _peak())


def _peak() -> float:
    """In megabytes. On Linux ru_maxrss starts with the memory of the parent process."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    [peak] = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(peak) / 1024


if __name__ == "__main__":
    main()
