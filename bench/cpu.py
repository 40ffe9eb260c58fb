"""Rates, and with BENCH_CPU=1 also the processor time per event: of this process, and of the server.

A rate depends on what else the machine does, processor time much less. On a busy machine run the benchmark by
``chrt -r 1`` (as root): otherwise the scheduler decides how long each answer waits, not the program.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass, field

import psutil
import psycopg

from bench.server import start


def _server_seconds() -> float:
    """Of the server and all its processes, also those that have ended."""
    with psycopg.connect(start().url) as conn:
        server = psutil.Process(psutil.Process(conn.info.backend_pid).ppid())
    own = server.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in server.children():
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return float(total)


def _client_seconds() -> float:
    """Of this process, and of its children that have ended: pgbench is one."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@dataclass
class Stopwatch:
    """Begins when it is made."""

    what: str
    _measures_cpu: bool = field(default_factory=lambda: os.environ.get("BENCH_CPU") == "1")

    def __post_init__(self) -> None:
        self._used = (_client_seconds(), _server_seconds()) if self._measures_cpu else (0.0, 0.0)
        self._started = time.perf_counter()

    def rate(self, count: float) -> float:
        """``count`` per second since it was made."""
        seconds = time.perf_counter() - self._started
        if self._measures_cpu:
            client, server = _client_seconds() - self._used[0], _server_seconds() - self._used[1]
            each = ", ".join(
                f"{name} {1e6 * used / count:.0f} us" for name, used in (("client", client), ("server", server))
            )
            print(f"{self.what}: {count / seconds:,.0f}/s, each {each}", flush=True)
        return count / seconds
