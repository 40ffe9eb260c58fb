"""Restores a pooled connection after a user's handler has used it."""

# ruff: noqa: SLF001 -- psycopg has no public way to forget prepared statements
from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Self

UNLOCK = "pg_catalog.pg_advisory_unlock_all()"
RESET_SETTINGS = (
    "begin; reset session authorization; reset role; reset all;"
    " set client_encoding to 'UTF8';"  # a pooler's server may have another default
    " set local synchronous_commit to off;"  # dropping temporary tables writes to the catalog
    " discard temp; discard sequences; close all; deallocate all; unlisten *; commit"
)
"""All of RESET but the session locks. None of these statements is planned, as a SELECT is."""
RESET = f"{RESET_SETTINGS}; select {UNLOCK}"
"""What DISCARD ALL does, in a transaction of its own: DISCARD ALL is refused in a message with other statements.

It is sent with the COMMIT, so that it reaches the same server through a transaction pooler. In the transaction of the
next event it would be rolled back together with that event; but session locks do not come back by a rollback.
"""
_ATTRIBUTES = ("prepare_threshold", "prepared_max")


class ClientState:
    """The client-side state of a psycopg connection that an object lent to a handler shares with it."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self._attributes = {name: getattr(conn, name) for name in _ATTRIBUTES}
        self._handlers = list(conn._notice_handlers), list(conn._notify_handlers)

    def restore(self) -> None:
        """Restore the state. Call it after RESET."""
        conn = self._conn
        conn._prepared = type(conn._prepared)()
        for name, found in self._attributes.items():
            setattr(conn, name, found)
        conn._notice_handlers[:], conn._notify_handlers[:] = self._handlers


class HandlerSession(ClientState):
    """A connection that handlers get.

    Inside the ``with`` block ``conn.commit()`` and ``conn.rollback()`` raise, as inside ``conn.transaction()``.

    Args:
        conn: the connection.
        unlimited: of `answered_within`, for the block in which a handler has the connection.
    """

    def __init__(self, conn: Any, unlimited: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(conn)
        self.unlimited = unlimited
        self.is_new = True
        """Whether no handler has had the connection since the last reset. Set it to False before a handler gets it."""

    def __enter__(self) -> Self:
        self._depth = self._conn._num_transactions
        self._conn._num_transactions += 1
        return self

    def restore(self) -> None:
        """Restore the state at the start of the block. Call it after RESET."""
        super().restore()
        self._conn._num_transactions = self._depth + 1
        self.is_new = True

    def __exit__(self, *_: object) -> None:
        # Nothing else is restored: without RESET the server still has its prepared statements, so psycopg must know
        # them.
        self._conn._num_transactions = self._depth
