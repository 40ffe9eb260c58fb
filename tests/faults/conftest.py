"""A database with the tables of ``shop.py``, a network connection to it that can be cut, and processes to kill."""

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
    """A session that observes, and acts as the next client."""
    conn.execute(shop.TABLES.encode())
    conn.execute("set statement_timeout = '30 s'")  # wrong code fails here instead of waiting for ever
    return conn


@pytest.fixture
def network(database: str) -> Iterator[Proxy]:
    """A connection to ``database`` that can be delayed and cut."""
    with proxy(database) as opened:
        yield opened


@pytest.fixture
def start(database: str, db: psycopg.Connection[Any]) -> Iterator[Start]:
    """Starts processes on ``database``."""
    with children(database) as starting:
        yield starting
