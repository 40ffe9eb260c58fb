"""Checks on what a user registers or passes in, so that a mistake is an error there and not at the first event."""

from __future__ import annotations

import difflib
import inspect
import logging
import threading
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

import psycopg

from pgonce.core.callables import is_async
from pgonce.errors import InvalidArgument, NotFound

V = TypeVar("V")

log = logging.getLogger("pgonce")


def check_name(given: Any, decorator: str, what: str, example: str) -> None:
    """Refuse anything but text as the first argument of a decorator.

    ``what`` is such as "the job's name", ``decorator`` such as "@app.job", and ``example`` a valid argument.

    Raises:
        InvalidArgument: the decorator was written without parentheses, or ``given`` is not text, is empty, begins or
            ends with a space, or holds a control character.
    """
    write = f'write {decorator}("{example}")'
    if callable(given):
        raise InvalidArgument(f"{decorator} needs {what}: {write} above {called(given)}")
    if isinstance(given, list | tuple | set | frozenset):
        raise InvalidArgument(f"{what} must be one text, not a {type(given).__name__}: {write} once for each")
    if not isinstance(given, str):
        raise InvalidArgument(f"{what} must be text, not {given!r}: {write}")
    if not given:
        raise InvalidArgument(f"{what} must not be empty: {write}")
    if given != given.strip():
        raise InvalidArgument(f"{what} {given!r} begins or ends with a space: {write}")
    if not given.isprintable():
        raise InvalidArgument(f"{what} {given!r} holds a line break or another control character: {write}")


def check_function(
    function: Any,
    purpose: str,
    arguments: Sequence[str],
    *,
    keywords: Iterable[str] = (),
    generator: bool = False,
    plain: str = "",
) -> None:
    """Refuse a function that could not be called, or would do nothing when it is called.

    Args:
        function: what was registered.
        purpose: what it is for, such as "the handler of invoice.paid".
        arguments: the names of the arguments that it will be called with, by position.
        keywords: the names of those by keyword.
        generator: whether it may be a generator function.
        plain: what to do with a coroutine function, where nobody would await it; empty: it may be one.

    Raises:
        InvalidArgument: it is not a function, is a class, or cannot take the arguments; its first two have each other's
            names; or it is a generator function, or a coroutine function, whose body would never run.
    """
    name = f"{purpose}, {called(function)},"
    if not callable(function):
        raise InvalidArgument(f"{purpose} is {function!r}, which is not a function")
    if inspect.isclass(function):
        raise InvalidArgument(f"{name} is a class: register a function or the method of an object")
    if not generator and (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
        raise InvalidArgument(f"{name} is a generator, whose body would never run: remove the `yield`")
    if plain and is_async(function):
        raise InvalidArgument(f"{name} is `async def`, and is called as a plain function: {plain}")
    try:
        # Not the signature of the wrapped function: a decorator may add or remove arguments.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # a function in C says nothing about its arguments
        return
    call = ", ".join([*arguments, *(f"{keyword}=..." for keyword in keywords)])
    try:
        signature.bind(*arguments, **dict.fromkeys(keywords, ""))
    except TypeError:
        taken = str(signature.replace(return_annotation=signature.empty))[1:-1]
        method = next(iter(signature.parameters), "") in {"self", "cls"}
        cure = "register the method of an object" if method else f"write def {_bare(function)}({call})"
        raise InvalidArgument(f"{name} takes ({taken}), but is called with ({call}): {cure}") from None
    if list(signature.parameters)[:2] == list(arguments)[:2][::-1] != list(arguments)[:2]:
        raise InvalidArgument(f"{name} has its arguments in the wrong order: write def {_bare(function)}({call})")


MOST = 2**31 - 1
"""The greatest integer of PostgreSQL."""


def check_count(given: Any, name: str, least: int = 0, most: int = MOST) -> None:
    """Refuse anything but a whole number from ``least`` to ``most``.

    Raises:
        InvalidArgument: the message calls it ``name``.
    """
    if not isinstance(given, int) or isinstance(given, bool) or given < least:
        raise InvalidArgument(f"{name} must be a whole number of at least {least}, not {given!r}")
    if given > most:
        raise InvalidArgument(f"{name} must be at most {most:,}, not {given:,}")


def check_seconds(given: Any, name: str) -> None:
    """Refuse anything but a number of seconds that is more than zero and that a thread can wait.

    Raises:
        InvalidArgument: the message calls it ``name``.
    """
    if not isinstance(given, int | float) or isinstance(given, bool) or not 0 < given <= threading.TIMEOUT_MAX:
        raise InvalidArgument(f"{name} must be a number of seconds of more than 0, not {given!r}")


def check_choice(given: Any, name: str, choices: Sequence[str]) -> None:
    """Refuse anything but one of ``choices``.

    Raises:
        InvalidArgument: the message calls it ``name``, and lists the choices.
    """
    if not isinstance(given, str) or given not in choices:
        *first, last = (f'"{choice}"' for choice in choices)
        raise InvalidArgument(f"{name} is {', '.join(first)} or {last}, not {given!r}")


def check_options(given: Iterable[str], known: Iterable[str], of: str) -> None:
    """Refuse the name of an option that does not exist. ``of`` says whose option, such as "seed psalms".

    Raises:
        InvalidArgument: the message names the option that was probably meant.
    """
    names = sorted(known)
    if unknown := sorted(set(given) - set(names)):
        alike = difflib.get_close_matches(unknown[0], names, 1, 0.75)
        meant = f"did you mean {alike[0]}?" if alike else f"use {', '.join(names)}"
        raise InvalidArgument(f"{of} has no option {unknown[0]}: {meant}")


def check_schema(schema: Any) -> None:
    """Refuse anything but a schema's name.

    Raises:
        InvalidArgument: it is something else, such as the None of a variable that is not set.
    """
    if not isinstance(schema, str) or not schema:
        raise InvalidArgument(f'schema must be the name of a schema, not {schema!r}: leave it out for "public"')


def check_flag(given: Any, name: str, hint: str = "") -> None:
    """Refuse anything but True and False: any text would count as True.

    ``hint`` says what to write instead of text.

    Raises:
        InvalidArgument: it is something else.
    """
    if not isinstance(given, bool):
        raise InvalidArgument(f"{name} must be True or False, not {given!r}{hint if isinstance(given, str) else ''}")


def check_text(given: Any, name: str, example: str) -> None:
    """Refuse anything but text, and text that PostgreSQL cannot hold.

    Raises:
        InvalidArgument: the message calls it ``name``.
    """
    if not isinstance(given, str):
        raise InvalidArgument(f"{name} must be text, not {given!r}: write {example}")
    if "\0" in given:
        raise InvalidArgument(f"{name} must not hold the character NUL: write {example}")


def warn_if_late(services: Collection[object], what: str, service: str) -> None:
    """Warn of what is registered after a service has read the registry, because that service does not notice it.

    ``what`` is such as "the handler of invoice.paid, sync_invoice,", and ``service`` "worker" or "scheduler".
    """
    if services:
        log.warning(
            "%s is registered too late: a %s has started, and ignores it: register before the start", what, service
        )


def check_app(app: Any, wanted: type, user: str) -> None:
    """Refuse anything but an App, such as the framework's.

    ``wanted`` is the registry that is needed, and ``user`` what got it, such as "Endpoint".

    Raises:
        InvalidArgument: it is something else.
    """
    if not isinstance(app, wanted):
        kind = "the class" if isinstance(app, type) else _a(type(app).__name__)
        raise InvalidArgument(f"{user} needs your pgonce.App, not {kind}: app = pgonce.App(), {user}(app, ...)")


def check_columns(given: Any, name: str, *, empty: bool = False) -> None:
    """Refuse anything but a sequence of column names.

    Raises:
        InvalidArgument: it is one text, of which each letter would be a column; it is not a sequence, holds something
            else than text, an empty name or a name twice, or is empty.
    """
    if isinstance(given, str):
        columns = ", ".join(f'"{part.strip()}"' for part in given.split(","))
        raise InvalidArgument(f'{name}="{given}" is one text: write {name}=[{columns}]')
    if not isinstance(given, Sequence) or not all(isinstance(column, str) for column in given):
        raise InvalidArgument(f'{name} must be a list of column names, not {given!r}: write {name}=["id"]')
    if not given and not empty:
        raise InvalidArgument(f'{name} must name at least one column: write {name}=["id"]')
    if "" in given:
        raise InvalidArgument(f'{name} has an empty name: write {name}=["id"]')
    if twice := next((column for at, column in enumerate(given) if column in given[:at]), None):
        raise InvalidArgument(f"{name} names {twice} twice: name each column once")


def check_pool(pool: Any, wanted: type, user: str) -> None:
    """Refuse anything but a pool of the kind that is wanted.

    ``wanted`` is psycopg_pool's class, and ``user`` the class that got the pool, such as "AsyncJobs".

    Raises:
        InvalidArgument: it is a URL, a single connection, or a pool of the other kind. A URL is not quoted: it may hold
            a password.
    """
    asynchronous = wanted.__name__.startswith("Async")
    cure = "await database.open_async_pool(url)" if asynchronous else "database.open_pool(url)"
    kind = type(pool).__name__
    if isinstance(pool, str | bytes):
        raise InvalidArgument(f"{user} needs a pool, not a URL: {user}({cure})")
    if isinstance(pool, psycopg.Connection | psycopg.AsyncConnection):
        raise InvalidArgument(f"{user} needs a pool, not a single connection: {user}({cure})")
    if isinstance(pool, wanted):
        return
    other = user.removeprefix("Async") if asynchronous else f"Async{user}"
    if wanted.__name__.removeprefix("Async") in {each.__name__.removeprefix("Async") for each in type(pool).__mro__}:
        raise InvalidArgument(f"{user} needs {_a(wanted.__name__)}, not {_a(kind)}: use {other}, or {user}({cure})")
    if not callable(getattr(pool, "connection", None)):  # somebody's own pool may have it
        raise InvalidArgument(f"{user} needs {_a(wanted.__name__)}, not {_a(kind)}: {user}({cure})")


def get_named(found: dict[str, V], name: str, kind: str) -> V:
    """The ``kind`` (such as "job") called ``name``.

    Raises:
        NotFound: there is none; the message lists the names that exist.
    """
    if name not in found:
        instead = (
            f"; it has: {', '.join(sorted(found))}"
            if found
            else ", nor any other: import the modules that register them, below the line `app = pgonce.App()`"
        )
        raise NotFound(f"there is no {kind} {name!r} in this app{instead}")
    return found[name]


def called(function: Any) -> str:
    """The function's name in the user's code, such as ``sync_invoice``."""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name).rpartition("<locals>.")[2]


def _bare(function: Any) -> str:
    name = called(function).rpartition(".")[2]
    return name if name.isidentifier() else "function"


def _a(kind: str) -> str:
    return f"an {kind}" if kind[:1] in "AEIOUaeiou" else f"a {kind}"
