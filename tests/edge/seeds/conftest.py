"""Imports into a database of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from pgonce.core import database as pools
from pgonce.seeds.seeds import Seeds


@pytest.fixture
def pool(database: str) -> Iterator[ConnectionPool[Any]]:
    with pools.open_pool(database, 4) as opened:
        yield opened


@pytest.fixture
def seeds(pool: ConnectionPool[Any]) -> Seeds:
    return Seeds(pool)


@pytest.fixture
def things(conn: psycopg.Connection[Any]) -> None:
    """The table into which most files are imported."""
    conn.execute("create table things (id int primary key, note text)")
