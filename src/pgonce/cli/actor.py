"""Who types a command, for the audit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from pgonce.cli.options import Database
from pgonce.console.sessions import identify, write_audit
from pgonce.core.call import Call
from pgonce.core.execute import connection, execute, own_transaction
from pgonce.core.processes import host, person

T = TypeVar("T")


def session(db: Database) -> UUID:
    """The session of whoever types this command: an operator's, for the actions that the console has, too."""
    return db.call(identify("cli", person(), "operator", host()))


def entry(action: str, noun: str, name: str, after: str) -> Call[int]:
    """The call that writes into the audit what this command does. ``after`` says what it has changed."""
    return write_audit(action, noun, name, after=after, actor=person(), source="cli", address=host())


def audited(db: Database, work: Call[T], action: str, noun: str, name: str, describe: Callable[[T], str | None]) -> T:
    """Run ``work`` and write the audit, in one transaction. For what the console does not do.

    ``describe`` says what is different now; None: nothing was done, and nothing is written to the audit.
    """
    with connection(db.pool) as conn, own_transaction(conn):
        result = execute(conn, work, db.schema)
        after = describe(result)
        if after is not None:
            execute(conn, entry(action, noun, name, after), db.schema)
        return result
