"""The registry: which function handles which event, job or seed. It names no database."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from pgonce.errors import InvalidArgument, NotFound
from pgonce.protocol import jobs as jobs_protocol
from pgonce.protocol.interval import interval
from pgonce.protocol.webhooks import Event

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Handler:
    """A function for the events whose type matches ``pattern``."""

    pattern: str
    function: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Job:
    """A function that runs as job ``name``."""

    name: str
    function: Callable[..., Any]
    key: str
    window: timedelta


@dataclass(frozen=True, slots=True)
class Seed:
    """A generator of rows for the table ``into``."""

    name: str
    function: Callable[..., Any]
    into: str
    key: Sequence[str]
    columns: Sequence[str] | None
    batch_size: int
    total: int | None


@dataclass(slots=True)
class App:
    """Collects handlers, jobs and seeds; the command line and the server are pointed at it (``--app module:app``)."""

    handlers: list[Handler] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    seeds: dict[str, Seed] = field(default_factory=dict)

    def webhook(self, pattern: str) -> Callable[[F], F]:
        """Register ``function(event, tx)`` for the event types that match ``pattern``.

        Args:
            pattern: an exact type (``checkout.session.completed``) or a glob (``customer.subscription.*``).
        """
        if not pattern:
            raise InvalidArgument("the event type must not be empty")

        def register(function: F) -> F:
            self.handlers.append(Handler(pattern, function))
            return function

        return register

    def job(self, name: str, *, key: str = "", window: timedelta | str = jobs_protocol.WINDOW) -> Callable[[F], F]:
        """Register ``function(run)`` as job ``name``.

        Args:
            name: the job's name.
            key: runs with different keys may run side by side.
            window: without a heartbeat for this long a run counts as dead.
        """
        length = interval(window, f"the window of job {name}")

        def register(function: F) -> F:
            if name in self.jobs or not name:
                raise InvalidArgument(f"there is a job {name!r} already" if name else "the job name must not be empty")
            self.jobs[name] = Job(name, function, key, length)
            return function

        return register

    def seed(
        self,
        name: str,
        *,
        into: str,
        key: Sequence[str],
        columns: Sequence[str] | None = None,
        batch_size: int = 5000,
        total: int | None = None,
    ) -> Callable[[F], F]:
        """Register ``function(cursor)``, which yields ``(row, cursor)``, as seed ``name``.

        Args:
            name: the seed's name.
            into: the table, with or without its schema.
            key: the columns of a unique index that tell which rows are there already.
            columns: their names, where rows are sequences and not mappings.
            batch_size: rows per transaction, at least.
            total: how many rows there are in all, where that is known: for the progress bar.
        """
        if batch_size < 1:
            raise InvalidArgument("the batch size must be at least 1")

        def register(function: F) -> F:
            if name in self.seeds or not name:
                raise InvalidArgument(
                    f"there is a seed {name!r} already" if name else "the seed name must not be empty"
                )
            self.seeds[name] = Seed(name, function, into, tuple(key), columns, batch_size, total)
            return function

        return register

    def handle(self, event: Event, tx: Any) -> None:
        """Run every synchronous handler of the event's type, in order of registration, on one transaction."""
        for handler in self._matching(event, asynchronous=False):
            handler.function(event, tx)

    async def handle_async(self, event: Event, tx: Any) -> None:
        """Run every asynchronous handler of the event's type, in order of registration, on one transaction."""
        for handler in self._matching(event, asynchronous=True):
            await handler.function(event, tx)

    def is_async(self, event_type: str) -> bool:
        """Whether this type's handlers are coroutines.

        Raises:
            InvalidArgument: some are and some are not: they could not share one transaction.
        """
        kinds = {inspect.iscoroutinefunction(h.function) for h in self.handlers if fnmatchcase(event_type, h.pattern)}
        if len(kinds) > 1:
            raise InvalidArgument(
                f"{event_type} has sync and async handlers: make them all one kind, they share a transaction"
            )
        return kinds == {True}

    def _matching(self, event: Event, *, asynchronous: bool) -> list[Handler]:
        found = [h for h in self.handlers if fnmatchcase(event.type, h.pattern)]
        if not found:
            event.ignore(f"no handler for {event.type}")
        assert self.is_async(event.type) == asynchronous  # noqa: S101 -- the caller has asked
        return found

    def get_job(self, name: str) -> Job:
        """The job of this name; NotFound names those there are."""
        return _named(self.jobs, name, "job")

    def get_seed(self, name: str) -> Seed:
        """The seed of this name; NotFound names those there are."""
        return _named(self.seeds, name, "seed")


V = TypeVar("V")


def _named(found: dict[str, V], name: str, kind: str) -> V:
    if name not in found:
        raise NotFound(f"there is no {kind} {name!r} in this app; it has: {', '.join(sorted(found)) or 'none'}")
    return found[name]


def load(reference: str) -> App:
    """The App that ``module:attribute`` names, looked for in the current folder too.

    Raises:
        InvalidArgument: there is no such module or attribute, or it is not an App.
    """
    module_name, _, attribute = reference.partition(":")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise  # a module that the user's own code imports
        raise InvalidArgument(f"there is no module {module_name!r} here: pass --app module:app") from error
    app = getattr(module, attribute or "app", None)
    if not isinstance(app, App):
        raise InvalidArgument(f"{module_name} has no pgonce.App called {attribute or 'app'!r}: pass --app module:app")
    return app
