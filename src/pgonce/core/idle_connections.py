"""Whether the other end has sent something on an idle connection: without a round trip, so at every use."""

from __future__ import annotations

import select
from typing import Any

from psycopg import AsyncConnection, Connection


def has_unread_input(conn: Connection[Any] | AsyncConnection[Any]) -> bool:
    """Whether something waits to be read on ``conn``, which is in no transaction.

    A restart, a failover, ``pg_terminate_backend`` and the idle timeout of a proxy leave a message or the end of the
    stream there. A statement that is sent on such a connection fails, and then it is unknown whether it was executed.
    """
    number = conn.fileno()
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([number], [], [], 0)[0])
    poll = select.poll()  # select() refuses file descriptors of 1024 and more
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))
