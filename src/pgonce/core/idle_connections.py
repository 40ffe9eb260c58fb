"""Checks, without a round trip, whether the server has sent something on an idle connection."""

from __future__ import annotations

import select
from typing import Any

from psycopg import AsyncConnection, Connection


def has_unread_input(conn: Connection[Any] | AsyncConnection[Any]) -> bool:
    """Whether there is unread input on ``conn``, which must not be in a transaction.

    After a restart, a failover, ``pg_terminate_backend`` or the idle timeout of a proxy, a message or the end of the
    stream is there. A statement that is sent on such a connection fails, and it is unknown whether it was executed.
    """
    number = conn.fileno()
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([number], [], [], 0)[0])
    poll = select.poll()  # select() refuses file descriptors of 1024 and more
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))
