"""Running what waits, in the test's own thread: queued events, one job, or all ticks between two times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pgonce.core import database, event_loop, failures
from pgonce.core.callables import ensure_awaitable, ensure_result
from pgonce.core.execute import call
from pgonce.core.interval import interval
from pgonce.core.registration import check_app
from pgonce.errors import InvalidArgument
from pgonce.jobs.guard import Guard
from pgonce.jobs.guard_async import AsyncGuard
from pgonce.jobs.registry import Job, JobRegistry
from pgonce.jobs.run import Run
from pgonce.jobs.run_async import AsyncRun
from pgonce.webhooks.calls import Event
from pgonce.webhooks.calls_queue import renew_webhook
from pgonce.webhooks.claimer import Claimer
from pgonce.webhooks.claimer_async import AsyncClaimer
from pgonce.webhooks.consumer import Consumer
from pgonce.webhooks.consumer_async import AsyncConsumer
from pgonce.webhooks.registry import ClaimedTypes, WebhookRegistry

MOST_TICKS = 10_000
"""Ticks that one ``Clock.advance`` runs, at most."""


class _Counted(Consumer):
    def __init__(self, *arguments: Any, seen: set[str]) -> None:
        super().__init__(*arguments)
        self._seen = seen

    def _handle(self, events: Sequence[Event]) -> None:
        self._seen.update(event.id for event in events)
        super()._handle(events)


class _AsyncCounted(AsyncConsumer):
    def __init__(self, *arguments: Any, seen: set[str]) -> None:
        super().__init__(*arguments)
        self._seen = seen

    async def _handle(self, events: Sequence[Event]) -> None:
        self._seen.update(event.id for event in events)
        await super()._handle(events)


def drain(app: WebhookRegistry, *, url: str | None = None, schema: str = "public", raises: bool = True) -> int:
    """Handle every queued event that is due now, as a worker would, and return when none is left.

    Args:
        app: the handlers. Events of other types stay queued.
        url: the database; the default is what ``database.find`` finds, so that of the fixture ``pgonce_db``.
        schema: where the tables are.
        raises: raise what a handler raised, after everything is handled; of several errors the first one.

    Returns:
        How many events were handled, failed ones among them. One that has failed is due again later: call
        ``pgonce webhook replay``, or deliver it again.
    """
    check_app(app, WebhookRegistry, "drain")
    seen: set[str] = set()
    found = database.find(url)

    with _errors() as errors, database.open_pool(found, 3) as pool:

        def renew(event: Event) -> bool:
            return call(pool, renew_webhook(event), schema)

        # each time by a new claimer, because that one looks at all that is due
        def work(types: ClaimedTypes) -> int:
            return _Counted(app, Claimer(pool, types, schema=schema), renew, seen=seen).run_once()

        async def drain_async(types: ClaimedTypes) -> bool:
            worked = False
            async with await database.open_async_pool(found, 2) as async_pool:
                while await _AsyncCounted(
                    app, AsyncClaimer(async_pool, types, schema=schema), renew, seen=seen
                ).run_once():
                    worked = True
            return worked

        types, async_types = app.claimed_types(asynchronous=False), app.claimed_types(asynchronous=True)
        worked = True
        while worked:  # a handler of one kind may queue an event for the other
            worked = False
            while types and work(types):
                worked = True
            if async_types and event_loop.background().run(drain_async(async_types)):
                worked = True
    if errors and raises:
        raise errors[0]
    return len(seen)


@contextmanager
def _errors() -> Iterator[list[BaseException]]:
    """What handlers raise during the block."""
    errors: list[BaseException] = []

    def collect(error: BaseException, _what: str) -> None:
        errors.append(error)

    with failures.hooked(collect):
        yield errors


def run(
    app: JobRegistry,
    name: str,
    *,
    at: datetime | str | None = None,
    scope: Mapping[str, Any] | None = None,
    key: str | None = None,
    url: str | None = None,
    schema: str = "public",
) -> Run | AsyncRun | None:
    """Run a job now, from its start to its recorded end.

    Args:
        app: where it is registered.
        name: of the job.
        at: the tick that it runs for, as a datetime or as text in ISO 8601 (UTC without a zone); ``run.scheduled_for``.
        scope: what it works on.
        key: in place of the job's own.
        url: the database; as of ``drain``.
        schema: where the tables are.

    Returns:
        The run, with ``rows_processed`` and the like; None if it was not started: another run is at work, or this tick
        has fired before.

    Raises:
        Exception: what the job raised; the run is recorded as failed.
    """
    check_app(app, JobRegistry, "run")
    job, found = app.get_job(name), database.find(url)
    options: dict[str, Any] = {"scope": scope, "key": key, "scheduled_for": None if at is None else _moment(at)}
    if job.is_async:
        return event_loop.background().run(_run_async(job, found, schema, options))
    with database.open_pool(found, 4) as pool, Guard(pool, schema).begin(job, **options) as begun:
        if begun is not None:
            ensure_result(job.function(begun))
        return begun


async def _run_async(job: Job, url: str, schema: str, options: dict[str, Any]) -> AsyncRun | None:
    async with (
        await database.open_async_pool(url, 4) as pool,
        AsyncGuard(pool, schema).begin(job, **options) as begun,
    ):
        if begun is not None:
            await ensure_awaitable(job.function(begun))
        return begun


def _moment(given: datetime | str) -> datetime:
    try:
        moment = datetime.fromisoformat(given) if isinstance(given, str) else given
    except ValueError:
        raise InvalidArgument(f'cannot read "{given}" as a time: write 2026-11-29T06:00') from None
    if not isinstance(moment, datetime):
        raise InvalidArgument(f"a time must be a datetime or text, not {given!r}: write 2026-11-29T06:00")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Clock:
    """The time of day of a test: moving it runs the jobs whose ticks it passes, in their order, in this thread.

    Args:
        app: the jobs; those without a schedule do not run.
        now: a datetime, or text in ISO 8601; UTC without a zone.
        url: the database; as of ``drain``.
        schema: where the tables are.

    The database's own time does not change: rows have the real time, and ``run.scheduled_for`` the tick.
    """

    def __init__(
        self, app: JobRegistry, now: datetime | str, *, url: str | None = None, schema: str = "public"
    ) -> None:
        check_app(app, JobRegistry, "Clock")
        self._app, self._url, self._schema = app, url, schema
        self.now = _moment(now)

    def ticks(self, length: timedelta | str) -> list[tuple[datetime, str]]:
        """The ticks from now on for that long, without running them: (time in UTC, name of the job), in their order.

        Raises:
            InvalidArgument: there are more than ``MOST_TICKS``.
        """
        until = self.now + interval(length, "the time to advance")
        found = [
            (tick, job.name)
            for job in self._app.jobs.values()
            if job.plan
            for tick in _bounded(job.plan.schedule.ticks(self.now), until)
        ]
        if len(found) > MOST_TICKS:
            raise InvalidArgument(f"there are over {MOST_TICKS:,} ticks until then: advance in shorter steps")
        return sorted(found)

    def advance(self, length: timedelta | str) -> list[Run | AsyncRun]:
        """Move on by ``length``, and run each job at each of its ticks on the way.

        Returns:
            The runs, in their order.

        Raises:
            Exception: what a job raised. The clock then stands at that tick.
        """
        until, runs = self.now + interval(length, "the time to advance"), []
        for tick, name in self.ticks(length):
            self.now = tick
            done = run(self._app, name, at=tick, url=self._url, schema=self._schema)
            if done is not None:
                runs.append(done)
        self.now = until
        return runs


def _bounded(ticks: Iterator[datetime], until: datetime) -> Iterator[datetime]:
    for number, tick in enumerate(ticks):
        if tick > until or number > MOST_TICKS:
            return
        yield tick
