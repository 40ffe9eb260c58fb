"""The worker: threads and tasks that claim and handle events until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, Self

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from pgonce.core import database, event_loop
from pgonce.core.concurrency_async import asked_to_stop
from pgonce.core.event_loop import EventLoop
from pgonce.core.processes import Registration
from pgonce.core.registration import check_app, check_count, check_flag, check_schema, check_seconds
from pgonce.core.service import Service, join_all
from pgonce.errors import DatabaseUnavailable, InvalidArgument, PgonceError, summary
from pgonce.webhooks import calls_queue
from pgonce.webhooks.calls import Event
from pgonce.webhooks.claimer import Claimer
from pgonce.webhooks.claimer_async import AsyncClaimer
from pgonce.webhooks.consumer import Consumer
from pgonce.webhooks.consumer_async import AsyncConsumer
from pgonce.webhooks.glob import any_of
from pgonce.webhooks.registry import ClaimedTypes, WebhookRegistry
from pgonce.webhooks.upkeep import Upkeep
from pgonce.webhooks.wakeups import Rests, Wakeups

POLL = 1.0
"""Seconds between two claims of an idle process; a receiver in the same process wakes it at once."""

log = logging.getLogger("pgonce")


class Worker(Service):
    """Handles queued events: in threads with synchronous handlers, in an event loop with asynchronous ones.

    Args:
        app: the handlers.
        url: the database.
        schema: where ``pgonce migrate`` put the tables.
        concurrency: how many transactions at once, for each kind of handler.
        adopt: also take over what clients without a worker have left behind.
        max_attempts: after so many an event is a dead letter.
        poll: seconds between two claims when nothing was due.
        loop: where asynchronous handlers run; the default is the one of the process.
        pool: connections that it shares with other services: ``concurrency + 2`` of them are this one's. It stays open.
    """

    def __init__(
        self,
        app: WebhookRegistry,
        url: str,
        *,
        schema: str = "public",
        concurrency: int = 4,
        adopt: bool = False,
        max_attempts: int = calls_queue.MAX_ATTEMPTS,
        poll: float = POLL,
        loop: EventLoop | None = None,
        pool: ConnectionPool[psycopg.Connection[Any]] | None = None,
    ) -> None:
        check_app(app, WebhookRegistry, "Worker")
        database.check_text(url)
        check_schema(schema)
        check_count(concurrency, "concurrency of Worker", 1)
        check_count(max_attempts, "max_attempts of Worker", 1)
        check_flag(adopt, "adopt of Worker")
        check_seconds(poll, "poll of Worker")
        self._app = app
        self._url = url
        self._schema = schema
        self._concurrency = concurrency
        self._adopt = adopt
        self._max_attempts = max_attempts
        self._poll = poll
        self._loop = loop
        self._async_consumers: Future[None] | None = None
        self._stop = threading.Event()
        self._wakeups = Wakeups()
        self._work_async: Callable[[], None] = lambda: None
        self._threads: list[threading.Thread] = []
        self._async_types: str | None = None
        self._types: str | None = None
        self._claimers: list[Claimer | AsyncClaimer] = []
        self._handed: deque[Event] = deque()
        self._handed_async: deque[Event] = deque()
        self._shared_pool = pool

    def start(self) -> Self:
        """Start the threads. Events of the types that have a handler by now are handled.

        Raises:
            DatabaseUnavailable, SchemaError: raised here, not in a thread.
            InvalidArgument: it has been started before; a stopped worker does not start again.
            RuntimeError: the system refused a thread.
        """
        if self._threads:
            raise InvalidArgument("this worker has been started before: make another one")
        # not in __init__: `FastAPI(lifespan=lifespan(Worker(app, url)))` stands above the decorators
        patterns = [handler.pattern for handler in self._app.handlers]
        self._async_types = self._app.types(asynchronous=True)
        self._types = any_of(patterns) if patterns else None
        self._registration = Registration(
            "events",
            self._schema,
            app=getattr(self._app, "name", ""),
            handlers=patterns,
            capacity=self._concurrency,
        )
        self._pool = self._shared_pool or database.open_pool(self._url, self._concurrency + 2)
        self._upkeep = Upkeep(
            self._pool,
            self._registration,
            types=self._types,
            adopt=self._adopt,
            schema=self._schema,
            busy=self._wakeups.busy,
            wake=self.wake,
        )
        try:
            # before the search for ignored events: other workers ignore events of types that no registered worker
            # handles
            self._registration.register(self._pool)
            self._upkeep.look_back()
        except BaseException:
            self._close_pool()  # left to the garbage collector it would complain about its threads
            raise
        if async_types := self._app.claimed_types(asynchronous=True):
            loop = self._loop or event_loop.background()
            # in an empty context, as a thread's is: the first request may have started this, with its tenant
            self._async_consumers = Context().run(loop.submit, self._run_consumers_async(async_types))
            self._async_consumers.add_done_callback(_log_failure)
        targets: list[Callable[[], None]] = [*self._consumers_of_threads(), partial(self._upkeep.run, self._stop)]
        try:
            for number, target in enumerate(targets):
                thread = threading.Thread(target=target, name=f"pgonce worker {number}", daemon=True)
                thread.start()
                self._threads.append(thread)
        except BaseException:  # the system has refused one
            self.stop()
            raise
        self._app.workers.add(self)
        return self

    def _consumers_of_threads(self) -> list[Callable[[], None]]:
        types = self._app.claimed_types(asynchronous=False)
        if types is None:
            return []
        claimer = Claimer(self._pool, types, self._handed, schema=self._schema, max_attempts=self._max_attempts)
        self._claimers.append(claimer)
        return [partial(self._consume, claimer, rests_first=number > 0) for number in range(self._concurrency)]

    def room(self) -> int:
        """How many more events may be handed over: those that begin soon, none while older ones wait in the table."""
        if self._stop.is_set() or any(claimer.backlog for claimer in self._claimers):
            return 0
        if self._async_consumers is not None and self._async_consumers.done():  # their event loop has ended
            return 0
        if self._app.types(own=True):  # such events are claimed one at a time, so none waits here under a lease
            return 0
        waiting = len(self._handed) + len(self._handed_async)
        return sum(room() for claimer in self._claimers for room in claimer.rooms) - waiting

    def hand_over(self, claimed: Sequence[Event]) -> None:
        """Handle these events, which this process has recorded and claimed. If it ends before, another process does."""
        for item in claimed:
            is_async = self._async_types and re.match(self._async_types, item.type)
            (self._handed_async if is_async else self._handed).append(item)
        self.wake()

    def wake(self) -> None:
        """Events were queued in this process: look for them now."""
        self._wakeups.wake()
        self._work_async()

    def stop(self, timeout: float | None = None) -> bool:
        """Finish the batches that are being handled, and stop.

        Args:
            timeout: seconds to wait for them; None is for ever.

        Returns:
            Whether all have ended. The rest is handled by another worker after the end of this process.
        """
        self._stop.set()
        self._wakeups.end()
        self.wake()
        until = None if timeout is None else time.monotonic() + timeout
        ended = join_all(self._threads, timeout)
        if self._async_consumers is not None:
            wait([self._async_consumers], None if until is None else max(until - time.monotonic(), 0))
            ended = ended and self._async_consumers.done()
        if ended:
            self._app.workers.discard(self)
            self._release_handed()
            with suppress(PgonceError, psycopg.Error):
                self._registration.end(self._pool)
            self._close_pool()
        return ended

    def _close_pool(self) -> None:
        if self._shared_pool is None:
            self._pool.close()

    def _release_handed(self) -> None:
        if left := [*self._handed, *self._handed_async]:
            with suppress(PgonceError, psycopg.Error):  # otherwise they are due again when their leases expire
                self._upkeep.call(calls_queue.release_webhooks(left))

    def _consume(self, claimer: Claimer, *, rests_first: bool) -> None:
        consumer = Consumer(self._app, claimer, self._renew)
        event_loop.of_worker.set(self._loop)
        number = threading.get_ident()
        if rests_first:  # if all looked at once, each would get a connection
            self._wakeups.rest(number, self._pause())
        while not self._stop.is_set():
            self._wakeups.begin(number)
            try:
                busy = consumer.run_once()
            except (PgonceError, psycopg.Error) as error:
                log.warning("%s", summary(error))
                self._stop.wait(self._pause())
            except BaseException:  # in a thread it is nobody's wish that the process ends
                log.exception("unexpected error in a worker's consumer; the worker goes on")
                self._stop.wait(self._pause())
            else:
                if consumer.full:  # one can run Python while the other waits for the database
                    self._wakeups.wake(threads=1 if self._upkeep.is_one_of_many else 2)
                elif not busy:
                    self._wakeups.rest(number, self._pause())

    def _renew(self, event: Event) -> bool:
        try:
            return self._upkeep.call(calls_queue.renew_webhook(event))
        except (PgonceError, psycopg.Error) as error:
            log.warning("the lease of event %s is not renewed now: %s", event.id, summary(error))
            return True

    def _pause(self) -> float:
        # each kind of handler has claims of its own
        kinds = 1.5 if self._async_types and self._app.types(asynchronous=False) else 1.0
        return self._poll * kinds * random.uniform(0.75, 1.25)  # noqa: S311 -- not all at the same time

    async def _run_consumers_async(self, types: ClaimedTypes) -> None:
        rests, loop = Rests(), asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(rests.end_all)

        self._work_async = wake
        async with await self._open_async_pool() as pool, rests.polling(self._pause), asyncio.TaskGroup() as group:
            claimer = AsyncClaimer(
                pool, types, self._handed_async, schema=self._schema, max_attempts=self._max_attempts
            )
            self._claimers.append(claimer)
            for number in range(self._concurrency):
                consumer = AsyncConsumer(self._app, claimer, self._renew)
                group.create_task(self._consume_async(consumer, rests, rests_first=number > 0))

    async def _open_async_pool(self) -> AsyncConnectionPool[AsyncConnection[Any]]:
        while True:
            try:
                return await database.open_async_pool(self._url, self._concurrency + 2)
            except DatabaseUnavailable as error:  # since the start has used it
                if self._stop.is_set():
                    raise
                log.warning("%s", summary(error))
                await asyncio.sleep(self._pause())

    async def _consume_async(self, consumer: AsyncConsumer, rests: Rests, *, rests_first: bool) -> None:
        if rests_first:  # if all looked at once, each would get a connection
            await rests.rest(0)
        while not self._stop.is_set():
            known = rests.ended
            busy = 0
            try:
                busy = await consumer.run_once()
            except (PgonceError, psycopg.Error) as error:
                log.warning("%s", summary(error))
            except BaseException as error:
                if asked_to_stop(error):
                    raise
                log.exception("unexpected error in a worker's consumer; the worker goes on")
            if busy and consumer.full and not self._upkeep.is_one_of_many:
                rests.end_all()
            elif not busy and not self._stop.is_set():
                await rests.rest(known)


def _log_failure(consumers: Future[None]) -> None:
    if consumers.cancelled():
        log.warning("the event loop of the asynchronous handlers has ended: their events wait for another process")
    elif (error := consumers.exception()) is not None:
        log.error("the asynchronous handlers of the worker have stopped", exc_info=error)
