# Generated from repeated_call_async.py by tools/unasync.py: edit that one, then `make generate`.
"""Writing the start or the end of a run while the database is unavailable for a moment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import psycopg
from psycopg import Connection

from pgonce.core.call import Call
from pgonce.core.call_batcher import CallBatcher
from pgonce.core.concurrency import sleep
from pgonce.core.execute import Pool, call, execute
from pgonce.errors import PgonceError, is_transient, translate
from pgonce.jobs.pool_address import address

T = TypeVar("T")

PAUSES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between attempts to write the end: a restart or a failover is over by then."""


def call_repeatedly(
    pool: Pool,
    schema: str,
    wanted: Call[T],
    call_batcher: CallBatcher,
    pauses: Iterable[float] = PAUSES,
    *,
    on_own_connection: bool = False,
) -> T:
    """What the database answers to ``wanted``, a start or an end of a run; repeated while the database is unavailable.

    Repeating is safe: a repeated call has the answer of the first. The first time it is sent on a connection of the
    pool, then on one of its own: after a restart the pool's are all dead, and a job that hangs may hold them.

    ``pauses``: seconds between the attempts. ``on_own_connection``: the first attempt has a connection of its own, too.

    Raises:
        PgonceError: the last attempt failed, or the database refused the call.
        psycopg.Error: anything else.
    """
    left = iter(pauses)
    while True:
        try:
            if on_own_connection:
                return _execute_on_own(pool, schema, wanted)
            if wanted.many:
                return call_batcher.value(wanted)
            return call(pool, wanted, schema)
        except (PgonceError, psycopg.Error) as error:
            pause = next(left, None)
            if pause is None or not is_transient(error):
                raise
        on_own_connection = True
        sleep(pause)


def _execute_on_own(pool: Pool, schema: str, wanted: Call[T]) -> T:
    conninfo, options = address(pool)
    try:
        conn = Connection.connect(conninfo, **options)
    except psycopg.Error as error:
        raise translate(error) from error
    try:
        return execute(conn, wanted, schema)
    finally:
        conn.close()
