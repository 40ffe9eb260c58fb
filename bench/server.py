"""The PostgreSQL of the benchmarks: embedded, with durable commits and a database for every contender."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg

from pgonce.core import embedded
from pgonce.core import migrate as schema


@cache
def start() -> embedded.Server:
    """The server of this run; at the end of the run it stops, and its folder is removed."""
    server = embedded.start(Path(tempfile.mkdtemp(prefix="pgonce-bench-")))

    def stop() -> None:
        server.close()
        shutil.rmtree(server.data_dir, ignore_errors=True)

    atexit.register(stop)
    with psycopg.connect(server.url, autocommit=True) as conn:
        # a checkpoint in the middle of a round would slow down the library that is measured at that moment
        conn.execute("alter system set max_wal_size = '4GB'")
        conn.execute("alter system set checkpoint_timeout = '1h'")
        conn.execute("select pg_reload_conf()")
        settings = conn.execute(
            "select string_agg(name || '=' || setting, ' ') from pg_settings"
            " where name in ('fsync', 'synchronous_commit', 'full_page_writes')"
        ).fetchone()
        assert settings == ("fsync=on full_page_writes=on synchronous_commit=on",)
    return server


@contextmanager
def new_database(*, migrated: bool = True) -> Iterator[str]:
    """The URL of a new database, by default with pgonce installed."""
    name = f"bench_{uuid4().hex[:12]}"
    with psycopg.connect(start().url, autocommit=True) as conn:
        conn.execute(f"create database {name}".encode())
        url = urlunsplit(urlsplit(start().url)._replace(path=f"/{name}"))
        try:
            if migrated:
                schema.migrate(url)
            yield url
        finally:
            conn.execute(f"drop database {name} with (force)".encode())
            conn.execute("checkpoint")  # so that its dirty pages are written now instead of in the next round


def pgbench(url: str, script: str, *, clients: int, seconds: float, mode: str = "prepared", **variables: str) -> float:
    """Transactions per second of a pgbench script; its variables are sent as parameters, as a driver does.

    ``mode="simple"`` is pgbench's default: nothing is prepared, and the variables are written into the statements.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        defines = [word for name, value in variables.items() for word in ("-D", f"{name}={value}")]
        done = subprocess.run(
            [
                start().bin_dir / "pgbench", "-n", "-M", mode, "-c", str(clients), "-j", str(min(clients, 2)),
                "-T", str(max(1, round(seconds))), "-f", file.name, *defines, url,
            ],
            capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"},
        )  # fmt: skip
    for line in done.stdout.splitlines():
        if line.startswith("tps = "):
            return float(line.split()[2])
    raise RuntimeError(f"pgbench: {done.stderr.strip()}")
