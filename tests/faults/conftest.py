"""A database with the tables of ``shop.py``, a network to it that can be cut, and processes to kill."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.faults.child import Start, children
from tests.faults.proxy import Proxy, proxy
from tests.faults.webhooks import shop


@pytest.fixture
def db(conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """A session that looks on, and plays the successor."""
    conn.execute(shop.TABLES.encode())
    conn.execute("set statement_timeout = '30 s'")  # code that is wrong fails here, and does not hang
    return conn


@pytest.fixture
def network(database: str) -> Iterator[Proxy]:
    """A network to ``database`` that can be held up and cut."""
    with proxy(database) as opened:
        yield opened


@pytest.fixture
def start(database: str, db: psycopg.Connection[Any]) -> Iterator[Start]:
    """Starts processes on ``database``."""
    with children(database) as starting:
        yield starting
