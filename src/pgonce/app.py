"""The registry: which function handles which event, job or seed. It names no database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar

from pgonce.core.callables import awaited, finished, is_async
from pgonce.core.interval import interval
from pgonce.errors import InvalidArgument, NotFound
from pgonce.jobs import calls as jobs_protocol
from pgonce.jobs.cron import CatchUp, Cron, Plan, read_plan
from pgonce.seeds.seed import Seed
from pgonce.webhooks.calls import Event
from pgonce.webhooks.glob import any_of

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Handler:
    """A function for the events whose type matches ``pattern``."""

    pattern: str
    function: Callable[..., Any]
    order: Literal["any", "ordered", "coalesce"] = "any"
    key: Callable[[Event], str | None] | None = None
    timeout: float | None = None
    kind: Literal["shared", "own", "batch"] = "shared"
    """On pgonce's transaction, on one of its own, or with a list of events on pgonce's transaction."""

    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function."""
        return is_async(self.function)

    def matches(self, event_type: str) -> bool:
        """Whether it is for events of this type."""
        return fnmatchcase(event_type, self.pattern)


@dataclass(frozen=True, slots=True)
class Job:
    """A function that runs as job ``name``."""

    name: str
    function: Callable[..., Any]
    key: str
    window: timedelta
    plan: Plan | None = None
    retries: int = 0
    backoff: timedelta = timedelta(minutes=1)
    timeout: timedelta | None = None

    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function."""
        return is_async(self.function)


@dataclass(slots=True)
class App:
    """Collects handlers, jobs and seeds; the command line and the server are pointed at it (``--app module:app``)."""

    handlers: list[Handler] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    seeds: dict[str, Seed] = field(default_factory=dict)
    _matching: dict[tuple[str, int], list[Handler]] = field(default_factory=dict, repr=False, compare=False)

    def webhook(
        self,
        pattern: str,
        *,
        ordered: bool = False,
        coalesce: bool = False,
        key: Callable[[Event], str | None] | None = None,
        timeout: timedelta | str | None = None,
        transaction: Literal["shared", "own"] = "shared",
    ) -> Callable[[F], F]:
        """Register ``function(event, tx)`` for the event types that match ``pattern``.

        Args:
            pattern: an exact type (``checkout.session.completed``) or a glob (``customer.subscription.*``).
            ordered: a worker handles events of one object one at a time, in the order they were received; one that
                fails holds back its successors for up to an hour.
            coalesce: of several waiting events of one object the function is called for one, to fetch the present
                state; the others are ignored. Also one at a time.
            key: what "one object" is; the default is ``data.object.id``.
            timeout: after this long the attempt has failed. A synchronous function cannot be interrupted: its
                connection is closed.
            transaction: ``own`` calls ``function(event)`` without a transaction: it opens one of its own (SQLAlchemy,
                Django, asyncpg) and calls ``event.complete(session)`` in it.
        """
        if not pattern:
            raise InvalidArgument("the event type must not be empty")
        if transaction not in {"shared", "own"}:
            raise InvalidArgument('transaction is "shared" or "own"')
        order: Literal["any", "ordered", "coalesce"] = "coalesce" if coalesce else "ordered" if ordered else "any"
        limit = None if timeout is None else interval(timeout, f"the timeout for {pattern}").total_seconds()

        def register(function: F) -> F:
            self.handlers.append(Handler(pattern, function, order, key, limit, transaction))
            return function

        return register

    def webhook_batch(self, pattern: str, *, timeout: timedelta | str | None = None) -> Callable[[F], F]:
        """Register ``function(events, tx)``: a list of events, whose effects it writes set-wise in one transaction.

        When it fails, its events are handled one by one, so that a bad one does not stop the others.
        """
        limit = None if timeout is None else interval(timeout, f"the timeout for {pattern}").total_seconds()

        def register(function: F) -> F:
            self.handlers.append(Handler(pattern, function, timeout=limit, kind="batch"))
            return function

        return register

    def job(
        self,
        name: str,
        *,
        key: str = "",
        window: timedelta | str = jobs_protocol.WINDOW,
        cron: str | None = None,
        timezone: str = "UTC",
        catch_up: CatchUp = "none",
        catch_up_window: timedelta | str = "1 day",
        jitter: timedelta | str | None = None,
        grace: timedelta | str = "5 minutes",
        retries: int = 0,
        backoff: timedelta | str = "1 minute",
        timeout: timedelta | str | None = None,
    ) -> Callable[[F], F]:
        """Register ``function(run)`` as job ``name``.

        Args:
            name: the job's name.
            key: runs with different keys may run side by side.
            window: without a heartbeat for this long a run counts as dead.
            cron: when a worker runs it: five fields, "0 6 * * *". None: only when it is called.
            timezone: where those hours are, "America/New_York".
            catch_up: of the ticks that passed while no worker ran: none (but one younger than ``grace`` is run), the
                last, or all.
            catch_up_window: ticks older than this are given up; more than a century is for ever.
            jitter: each tick is delayed by up to this, though not to the next one, so that not everything begins at the
                full hour.
            grace: a tick that has not started this long after its jitter was missed.
            retries: how often a failure is retried, each time by a new run.
            backoff: the time before the first retry; it doubles with each, up to a day.
            timeout: after this long the run has failed. An asynchronous job is cancelled; a synchronous one sees
                ``run.stop_requested`` and its transactions are refused.

        Raises:
            InvalidArgument: an argument cannot be read.
        """
        of = f"of job {name}"
        if retries < 0:
            raise InvalidArgument(f"the number of retries {of} must not be negative")
        plan = None
        if cron is not None:
            plan = read_plan(of, Cron(cron, timezone), catch_up, catch_up_window, jitter, grace)
        length, pause = interval(window, f"the window {of}"), interval(backoff, f"the backoff {of}")
        limit = None if timeout is None else interval(timeout, f"the timeout {of}")

        def register(function: F) -> F:
            if name in self.jobs or not name:
                raise InvalidArgument(f"there is a job {name!r} already" if name else "the job name must not be empty")
            self.jobs[name] = Job(name, function, key, length, plan, retries, pause, limit)
            return function

        return register

    def seed(
        self,
        name: str,
        *,
        into: str,
        key: Sequence[str],
        columns: Sequence[str] | None = None,
        batch_size: int | None = None,
        total: int | None = None,
        on_conflict: Literal["skip", "update", "fail"] = "skip",
        max_rejects: int = 0,
        fingerprint: Callable[[Any], Mapping[str, Any] | None] | None = None,
        partitions: Sequence[Any] | Callable[[], Sequence[Any]] | None = None,
    ) -> Callable[[F], F]:
        """Register ``function(cursor)``, which yields ``(row, cursor)``, as seed ``name``.

        Args:
            name: the seed's name.
            into: the table, with or without its schema.
            key: the columns of a unique index that tell which rows are there already.
            columns: their names, where rows are sequences and not mappings.
            batch_size: rows per transaction, at least. None: as many as take about a second.
            total: how many rows there are in all, where that is known: for the progress bar.
            on_conflict: what becomes of rows that are there already: ``skip``, ``update`` or ``fail``.
            max_rejects: so many rows that the table refuses are kept in seed_rejects and left out.
            fingerprint: called with a cursor; what the source looks like up to there, as a JSON object. A resume whose
                fingerprint at the checkpoint is another one stops with a choice.
            partitions: the parts of the import, each a JSON value, or a function that lists them: then the function is
                called as ``function(cursor, partition=part)``, and each part has a checkpoint of its own.
        """
        if batch_size is not None and batch_size < 1:
            raise InvalidArgument("the batch size must be at least 1")

        def register(function: F) -> F:
            if name in self.seeds or not name:
                raise InvalidArgument(
                    f"there is a seed {name!r} already" if name else "the seed name must not be empty"
                )
            self.seeds[name] = Seed(
                name, function, into, tuple(key), columns, batch_size, total, on_conflict, max_rejects, fingerprint,
                partitions,
            )  # fmt: skip
            return function

        return register

    def matching(self, event_type: str) -> list[Handler]:
        """The handlers of this type, in order of registration; they share one transaction.

        Raises:
            InvalidArgument: they cannot: some are coroutines and some are not, or one wants it all for itself.
        """
        asked = event_type, len(self.handlers)  # for each event three times, and Stripe has some 250 types
        if (found := self._matching.get(asked)) is not None:
            return found
        found = [handler for handler in self.handlers if handler.matches(event_type)]
        if len({handler.is_async for handler in found}) > 1:
            raise InvalidArgument(f"{event_type} has sync and async handlers: make them all one kind")
        if len(found) > 1 and any(handler.kind != "shared" for handler in found):
            raise InvalidArgument(f"{event_type} has several handlers, so none may be a batch or own its transaction")
        self._matching[asked] = found
        return found

    def order_key(self, event: Event) -> str | None:
        """What the event waits in line for; None when its handlers want no order."""
        for handler in self.matching(event.type):
            if handler.order != "any":
                key = handler.key(event) if handler.key else event.object_id
                return key if key is None else str(key)[:255]
        return None

    def types(self, *, asynchronous: bool) -> str | None:
        """A regular expression, as PostgreSQL understands it, for the types that have handlers of this kind."""
        patterns = [handler.pattern for handler in self.handlers if handler.is_async == asynchronous]
        return any_of(patterns) if patterns else None

    def handle(self, event: Event, tx: Any) -> None:
        """Run every synchronous handler of the event on one transaction; for a delivery handled where it arrives."""
        for handler in self._shared(event):
            finished(handler.function(event, tx))

    async def handle_async(self, event: Event, tx: Any) -> None:
        """``handle`` for asynchronous handlers."""
        for handler in self._shared(event):
            await awaited(handler.function(event, tx))

    def _shared(self, event: Event) -> list[Handler]:
        found = self.matching(event.type)
        if not found:
            event.ignore(f"no handler for {event.type}")
        if found[0].kind != "shared":
            raise InvalidArgument(f"the handler of {event.type} is a batch or owns its transaction: it needs a worker")
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
