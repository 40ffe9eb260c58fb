"""The connection parameters of a pool, for connections outside of the pool."""

from __future__ import annotations

from typing import Any

from psycopg_pool import AsyncConnectionPool, ConnectionPool

from pgonce.errors import InvalidArgument

_OF_CURSORS = ("cursor_factory", "row_factory", "context")


def address(pool: ConnectionPool[Any] | AsyncConnectionPool[Any]) -> tuple[str, dict[str, Any]]:
    """The conninfo and the keyword arguments of ``connect``.

    Raises:
        InvalidArgument: the pool computes them anew for each connection.
    """
    if callable(pool.conninfo) or callable(pool.kwargs):
        raise InvalidArgument("the pool's conninfo and kwargs are functions: pgonce needs them as values")
    # for a network that drops packets: without this, TCP would retransmit a heartbeat for a quarter of an hour
    limits = {"connect_timeout": 5, "tcp_user_timeout": 10_000}
    return pool.conninfo, {**limits, **(pool.kwargs or {}), "autocommit": True}


def place_of(pool: ConnectionPool[Any] | AsyncConnectionPool[Any], schema: str) -> str:
    """What tells the runs of a pool and a schema from those of another database.

    Raises:
        InvalidArgument: as ``address``.
    """
    conninfo, _ = address(pool)
    return f"{conninfo} {schema}"


def heartbeat_address(pool: ConnectionPool[Any] | AsyncConnectionPool[Any]) -> tuple[str, dict[str, Any]]:
    """What the heartbeats' connection, which is synchronous, connects with: without the pool's settings for cursors."""
    conninfo, options = address(pool)
    kept = {name: value for name, value in options.items() if name not in _OF_CURSORS}
    return conninfo, {**kept, "prepare_threshold": None}
