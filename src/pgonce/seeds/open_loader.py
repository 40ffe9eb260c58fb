# Generated from open_loader_async.py by tools/unasync.py: edit that one, then `make generate`.
"""Opens the table of a seed."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import Connection

from pgonce.errors import translate
from pgonce.seeds.seed import Seed
from pgonce.seeds.table import check_table
from pgonce.seeds.table_loader import TableLoader


def open_loader(conn: Connection[Any], seed: Seed) -> TableLoader:
    """The loader of the seed's table.

    Raises:
        SchemaError: as of `check_table`.
        DatabaseUnavailable: the connection was lost.
    """
    try:
        return TableLoader(seed, check_table(conn, seed), conn.adapters)
    except psycopg.Error as error:
        raise translate(error) from error
