"""The exceptions of pgonce, and the SQLSTATE that each stands for.

Every message is one line that says what happened and what to do. The SQL functions raise 22023 for an argument that
they refuse, PT404 for a name that does not exist, PT403 for a reader of the console who acts, PT409 for a lost lease,
and PT503 for an event that a trigger of the application's does not store (over PostgREST PTnnn is HTTP status nnn).
"""

from __future__ import annotations

import re
import shlex

import psycopg


class PgonceError(Exception):
    """The base class of every exception that pgonce raises on purpose."""


class DatabaseUnavailable(PgonceError):
    """The database cannot be reached: not running, wrong address, wrong password, or the connection was lost."""


class SchemaError(PgonceError):
    """The database has no pgonce tables or functions, those of another version, or this role may not use them.

    Or a trigger of the application's keeps the table of events from storing what is written (PT503).
    """


class InvalidArgument(PgonceError, ValueError):
    """An argument that cannot be used: an empty name, a negative count, a window of zero (SQLSTATE class 22)."""


class InvalidPayload(InvalidArgument):
    """A webhook body that is not a Stripe event: not JSON, not an object, without an id or a type."""


class PayloadTooLarge(InvalidPayload):
    """A webhook body that is larger than the limit."""


class SignatureError(PgonceError):
    """A Stripe-Signature header that does not match the body and one of the secrets, or is too old.

    Args:
        message: what is wrong.
        reason: the same in one word, by which refusals are counted: header, signature or time.
    """

    def __init__(self, message: str, reason: str = "header") -> None:
        super().__init__(message)
        self.reason = reason


class NotFound(PgonceError, LookupError):
    """A run, event, job or seed that does not exist (SQLSTATE PT404)."""


class Forbidden(PgonceError):
    """The role of this session of the console does not allow it, or the session has ended (SQLSTATE PT403)."""


class LeaseLost(PgonceError):
    """Another client took over the event, run or import: what this transaction wrote is rolled back (PT409)."""


class RunStopped(PgonceError):
    """The run was stopped on request (``pgonce job stop``), or because its process was told to end."""


class EventBusy(PgonceError):
    """Another client is handling this event: answer with an error, so that Stripe delivers it again."""


class TransactionBroken(PgonceError):
    """A handler ended the transaction that pgonce opened for it, by a COMMIT or ROLLBACK of its own."""


class RowRejected(PgonceError):
    """The table refused a row, and no more rows may be refused. The message has the row's number and its cursor."""


class SourceChanged(PgonceError):
    """The source has changed since the checkpoint: restart the import, or accept the change."""


class SourceUnfinished(PgonceError):
    """A source ended before its end, with half a line for example. A source raises it after its last whole row."""


class TableChanged(SourceChanged):
    """The table is not the one that the checkpoint was made with, or it has lost the rows of the last batch."""


READ_ONLY = "the database accepts no writes: a standby, a demoted primary, or default_transaction_read_only is on"


def first_line(error: BaseException) -> str:
    """The first line of the error's text, or the name of its class if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def class_and_line(error: BaseException) -> str:
    """The name of the error's class and the first line of its text."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def translate(error: psycopg.Error) -> Exception:
    """The exception of pgonce that a database error stands for, or the error itself if there is none."""
    state = error.sqlstate or ""
    reason = first_line(error)
    if state in _RAISED:
        return _RAISED[state](reason)
    if state in {"42883", "42P01", "42703", "3F000"}:
        return SchemaError(_not_migrated(state, reason, error.diag.context))
    if error.diag.source_function == "check_enable_rls":  # its text is in the server's language
        return SchemaError(f"{reason}: row_security is off for this session, `pgonce doctor` says where")
    if error.diag.source_function == "ExecWithCheckOptions":
        return SchemaError(f"{reason}: `pgonce doctor` says what to do")
    if state == "42501":
        return SchemaError(f"{reason}: this role needs what `pgonce migrate` grants to service_role")
    if state == "25006":
        return DatabaseUnavailable(f"{READ_ONLY}: {reason}")
    if state[:2] in {"08", "57"} or (not state and isinstance(error, psycopg.OperationalError)):
        return DatabaseUnavailable(f"the database cannot be reached: {reason}")
    if state.startswith("22"):
        return InvalidArgument(reason)
    return error


def database_error(error: BaseException) -> psycopg.Error | None:
    """The database's error that this is, or that it was translated from; None if it is another one."""
    found = error if isinstance(error, psycopg.Error) else error.__cause__
    return found if isinstance(found, psycopg.Error) else None


def summary(error: BaseException) -> str:
    """The error as a line for the log, without values.

    The database quotes a value that it cannot convert, and a RAISE in a function of the application's may quote
    anything. Of such an error the line names the kind and the place.
    """
    found = database_error(error)
    if found is not None:
        state = found.sqlstate or ""
        is_raised = found.diag.source_function == "exec_stmt_raise" and not state.startswith("PT")
        if state != "22023" and (state.startswith(("22", "P0")) or is_raised):
            place = next((line for line in (found.diag.context or "").splitlines() if line.startswith("PL/pgSQL")), "")
            return f"{type(found).__name__} ({state}){f' in {place}' if place else ''}"
    return first_line(error)


def _not_migrated(state: str, reason: str, context: str | None) -> str:
    """Which schema lacks pgonce. The server's message has all of the call's arguments, or only the schema's name."""
    # With a context the error is from inside a function, so something else is missing: the server's message names it.
    named = None if context else _CALLED.search(reason) if state == "42883" else _SCHEMA.search(reason)
    if named is None or state not in {"42883", "3F000"}:
        return f"{reason}: run `pgonce migrate` on this database"
    schema = named[1].strip('"')
    migrate = f"pgonce migrate{schema_option(schema)}"
    return f"schema {schema} lacks pgonce's functions, or has those of another version: run `{migrate}`"


def schema_option(schema: str) -> str:
    """What names the schema in a command of pgonce's; nothing for the one that it uses by itself."""
    return "" if schema == "public" else f" --schema {shlex.quote(schema)}"


_RAISED = {"PT403": Forbidden, "PT404": NotFound, "PT409": LeaseLost, "PT503": SchemaError}
_CALLED = re.compile(r"""("[^"]+"|[^\s"(]+)\.\w+\(""")
_SCHEMA = re.compile(r'"(.+)"')


def is_transient(error: BaseException) -> bool:
    """Whether a retry may succeed: the database is restarting or failing over, or it ended a deadlock."""
    if isinstance(error, DatabaseUnavailable):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate or ""
    if not state:
        return isinstance(error, psycopg.OperationalError)
    # Deadlock, serialization failure, lock timeout, connection, shutdown, too many connections, a primary that became
    # a standby, a transaction that the server ended because its client was suspended (idle, or as a whole).
    return state in {"40001", "40P01", "55P03", "53300", "25006", "25P03", "25P04"} or state.startswith(("08", "57P0"))
