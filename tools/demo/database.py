"""The demo's own database in an embedded server, created anew at every start. DATABASE_URL is not used."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg

from pgonce.core import embedded
from tools.demo.children import DemoFailed

NAME = "pgonce_demo"
DATA_DIR = Path(".pgonce/demo")
"""Beside the development database of ``./.pgonce``, so that neither can harm the other."""


@dataclass(frozen=True, slots=True)
class Database:
    """A running database, empty at the start."""

    url: str
    version: str
    data_dir: Path
    psql: Path


@contextmanager
def fresh() -> Iterator[Database]:
    """Start the embedded server in PGONCE_DATA_DIR, else in ``./.pgonce/demo``, and create the database anew.

    Raises:
        DatabaseUnavailable: the server is not installed or does not start.
        DemoFailed: another demo is using it.
    """
    data_dir = Path(os.environ.get("PGONCE_DATA_DIR") or DATA_DIR)
    with embedded.start(data_dir) as server, (server.data_dir / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoFailed(
                f"another demo is at work in {data_dir}: wait for it, or set PGONCE_DATA_DIR to another folder"
            ) from None
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute(f"drop database if exists {NAME} with (force)".encode())
            conn.execute(f"create database {NAME}".encode())
            version = conn.info.server_version
        url = urlunsplit(urlsplit(server.url)._replace(path=f"/{NAME}"))
        yield Database(url, f"{version // 10_000}.{version % 10_000}", data_dir, server.bin_dir / "psql")


def connect(url: str, *, autocommit: bool = True) -> psycopg.Connection[Any]:
    """A session that observes. Its application_name distinguishes it from those of pgonce."""
    return psycopg.connect(url, autocommit=autocommit, application_name="demo")


def value(conn: psycopg.Connection[Any], query: str, *arguments: object) -> Any:
    """The first column of the query's first row; None if there is no row."""
    row = conn.execute(query.encode(), arguments or None).fetchone()
    return row[0] if row else None
