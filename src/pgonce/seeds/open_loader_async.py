"""Opens the table of a seed."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import AsyncConnection

from pgonce.errors import translate
from pgonce.seeds.seed import Seed
from pgonce.seeds.table_async import check_table
from pgonce.seeds.table_loader_async import TableLoader


async def open_loader(conn: AsyncConnection[Any], seed: Seed) -> TableLoader:
    """The loader of the seed's table.

    Raises:
        SchemaError: as of `check_table`.
        DatabaseUnavailable: the connection was lost.
    """
    try:
        return TableLoader(seed, await check_table(conn, seed), conn.adapters)
    except psycopg.Error as error:
        raise translate(error) from error
