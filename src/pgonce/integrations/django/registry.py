"""The registry of a Django project: handlers in Django's own transactions; connections are closed after use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlencode
from weakref import WeakKeyDictionary

from django.db import close_old_connections, connections, transaction
from psycopg import pq, sql

from pgonce.app import App
from pgonce.core.callables import ensure_result, is_async
from pgonce.core.registration import check_choice, check_function, check_name
from pgonce.errors import InvalidArgument, LeaseLost, TransactionBroken
from pgonce.integrations.django.conf import setting
from pgonce.jobs.run import Run
from pgonce.webhooks.calls import Event

F = TypeVar("F", bound=Callable[..., Any])

_ENDED = "its atomic() block was ended: leave COMMIT and ROLLBACK to Django"
_LIBPQ = {each.keyword.decode() for each in pq.Conninfo.get_defaults()}
"""The options of DATABASES that can stand in a URL. Others are Django's or psycopg's, such as prepare_threshold."""


class DjangoApp(App):
    """An ``App`` whose functions use Django's ORM.

    A handler is called with the event, inside ``transaction.atomic()``, and the event is marked in the same
    transaction: what it writes through the ORM happens exactly once. Before and after each handler and job,
    connections that are broken or older than CONN_MAX_AGE are closed, as Django does it around a request.
    """

    def webhook(
        self,
        pattern: str,
        *,
        transaction: Literal["atomic", "shared", "own"] = "atomic",
        using: str | None = None,
        **options: Any,
    ) -> Callable[[F], F]:
        """Register a handler; the options are those of ``App.webhook``.

        Args:
            pattern: an event type or a glob.
            transaction: ``atomic`` calls ``function(event)`` inside Django's ``atomic()``. ``shared`` and ``own`` are
                those of ``App.webhook``.
            using: the database of ``atomic``; the default is DATABASE of the settings.
            options: see ``App.webhook``.

        Raises:
            InvalidArgument: as ``App.webhook``; an asynchronous function with ``atomic``, which Django does not have.
        """
        check_name(pattern, "@app.webhook", "an event type", "invoice.paid")
        check_choice(transaction, f"transaction of {pattern}", ("atomic", "shared", "own"))
        if using is not None and transaction != "atomic":
            raise InvalidArgument(f'using of {pattern} does nothing with transaction="{transaction}": leave it out')
        if using is not None:
            _check_alias(using)
        register = super().webhook(pattern, transaction="own" if transaction == "atomic" else transaction, **options)

        def decorate(function: F) -> F:
            if transaction != "atomic":
                register(_closing_connections(function))
                return function
            check_function(function, f"the handler of {pattern}", ("event",))
            if is_async(function):
                raise InvalidArgument(
                    f"the handler of {pattern} is `async def`, and Django's atomic() is not: make it plain, "
                    'or pass transaction="own"'
                )
            register(_closing_connections(_in_atomic(function, using)))
            return function

        return decorate

    def job(self, name: str, **options: Any) -> Callable[[F], F]:
        """Register a job, as ``App.job``. To write through the ORM use ``with fenced(run):``."""
        register = super().job(name, **options)

        def decorate(function: F) -> F:
            check_function(function, f"the function of job {name}", ("run",))
            register(_closing_connections(function))
            return function

        return decorate


def _in_atomic(function: Callable[[Event], Any], using: str | None) -> Callable[[Event], None]:
    @wraps(function)
    def handle(event: Event) -> None:
        with _atomic(using) as (alias, status):
            ensure_result(function(event))
            if status() == "aborted":  # otherwise the mark would be committed without the effect
                raise TransactionBroken(f"the handler of {event.type}: {_ENDED}")
            event.complete(connections[alias])

    return handle


@contextmanager
def _atomic(using: str | None) -> Iterator[tuple[str, Callable[[], str]]]:
    """``transaction.atomic()`` on a database.

    Yields the database's alias, and a function that returns what became of the transaction: "in progress", "committed"
    or "aborted". Django does not see a COMMIT or ROLLBACK that was sent as SQL, and goes on in another transaction.
    """
    alias = using or setting("DATABASE")
    with transaction.atomic(using=alias, durable=True):

        def value(statement: str, *arguments: str) -> str:
            with connections[alias].cursor() as cursor:
                cursor.execute(statement, arguments)
                return str(cursor.fetchone()[0])

        number = value("select cast(pg_catalog.pg_current_xact_id() as pg_catalog.text)")
        yield alias, lambda: value("select pg_catalog.pg_xact_status(cast(%s as pg_catalog.xid8))", number)


def _closing_connections(function: F) -> F:
    if is_async(function):  # its connections belong to the threads of sync_to_async
        return function

    @wraps(function)
    def call(*arguments: Any) -> Any:
        close_old_connections()
        try:
            return function(*arguments)
        finally:
            close_old_connections()

    return call  # type: ignore[return-value]


@contextmanager
def fenced(run: Run, using: str | None = None) -> Iterator[None]:
    """``transaction.atomic()`` for a job: it commits only while the run is still ours.

    Args:
        run: what the job was called with.
        using: the database; the default is DATABASE of the settings.

    Raises:
        LeaseLost: the run has ended or was taken over. Nothing was written.
        TransactionBroken: the body said COMMIT or ROLLBACK itself; a COMMIT of its own was not fenced.
    """
    alias = using or setting("DATABASE")
    if alias not in (prepared := _prepared.setdefault(run, set())):
        _keep_heartbeats_apart(run, alias)
        prepared.add(alias)
    with _atomic(alias) as (_, status):
        yield
        if status() != "in progress":
            raise TransactionBroken(f"job {run.name}: {_ENDED}")
        if not _is_true(alias, "pgonce_fence_job_run", run):
            raise LeaseLost(f"job {run.name}: run {run.id} has ended or was taken over: nothing was written")


_prepared: WeakKeyDictionary[Run, set[str]] = WeakKeyDictionary()
"""The databases, by alias, on which the heartbeats of a run do not collide with its fence."""


def _keep_heartbeats_apart(run: Run, alias: str) -> None:
    """Before a transaction that keeps one snapshot: see jobs_fence.sql."""
    with transaction.atomic(using=alias, durable=True), connections[alias].cursor() as cursor:
        cursor.execute("show transaction_isolation")
        if cursor.fetchone()[0] not in {"read committed", "read uncommitted"}:
            cursor.execute("set transaction isolation level read committed")
            _is_true(alias, "pgonce_keep_heartbeats_apart", run)


def _is_true(alias: str, function: str, run: Run) -> bool:
    """Whether a SQL function of the run's id returns true."""
    schema = run.schema.replace("%", "%%")  # % begins a placeholder
    call = sql.SQL("select 1 where {}(%s)").format(sql.Identifier(schema, function))
    with connections[alias].cursor() as cursor:
        cursor.execute(call.as_string(), [str(run.id)])
        return cursor.fetchone() is not None


def _check_alias(alias: str) -> None:
    if alias not in connections:
        raise InvalidArgument(f"DATABASES has no {alias!r}: use one of {', '.join(connections)}")


def database_url(using: str | None = None) -> str:
    """The URL of a database of DATABASES, in a test run that of the test database.

    Args:
        using: its alias; the default is DATABASE of the settings.

    Raises:
        InvalidArgument: it is not PostgreSQL, or there is no such alias.
    """
    alias = using or setting("DATABASE")
    _check_alias(alias)
    connection = connections[alias]
    if connection.vendor != "postgresql":
        raise InvalidArgument(
            f"database {alias!r} of DATABASES is {connection.vendor}, not PostgreSQL: "
            'change its ENGINE, or name another one: PGONCE = {"DATABASE": "..."}'
        )
    given = connection.settings_dict
    options = {name: str(value) for name, value in given["OPTIONS"].items() if name in _LIBPQ and value is not None}
    for name, key in (("host", "HOST"), ("port", "PORT"), ("user", "USER"), ("password", "PASSWORD")):
        if given[key]:
            options[name] = str(given[key])
    if role := given["OPTIONS"].get("assume_role"):  # Django sends SET ROLE; this is the same, and RESET ROLE keeps it
        named = re.sub(r"([\\\s])", r"\\\1", str(role))
        options["options"] = f"{options.get('options', '')} -c role={named}".strip()
    name = given["NAME"] or ""
    return f"postgresql:///{quote(str(name), safe='')}?{urlencode(options, quote_via=quote, safe='')}"


app = DjangoApp()
