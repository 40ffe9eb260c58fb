"""The loop of a worker: claim a batch of events, and have it handled."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg

from pgonce.core.concurrency_async import asked_to_stop
from pgonce.errors import PgonceError
from pgonce.webhooks import calls, calls_queue
from pgonce.webhooks.calls import Event
from pgonce.webhooks.calls_queue import claim_of
from pgonce.webhooks.claimed import Work
from pgonce.webhooks.claimer_async import AsyncClaimer
from pgonce.webhooks.executor_async import CHAIN, AsyncExecutor
from pgonce.webhooks.registry import Handler, WebhookRegistry
from pgonce.webhooks.responses import is_database_fault

T = TypeVar("T")

MOST = 100
"""Events in a batch, at most. At 100 an fsync costs each of them a hundredth; more gains nothing."""
AHEAD = 4
"""Full batches that may wait for a consumer that handles one in less than `CHAIN` seconds."""


class AsyncConsumer:
    """Claims and handles events, batch after batch.

    Args:
        app: the handlers. Those of the claimed types must be of this kind, synchronous or asynchronous.
        claimer: where this consumer and others get their events. Its pool needs one connection for each consumer, and
            one more for timeouts and releases.
        renew: keeps the claim of an event whose handler has a transaction of its own; returns False when the claim has
            ended. Called in a thread: an async handler may block its event loop.
    """

    def __init__(self, app: WebhookRegistry, claimer: AsyncClaimer, renew: Callable[[Event], bool]) -> None:
        self._app, self._claimer = app, claimer
        self._executor = AsyncExecutor(app, claimer, renew)
        claimer.rooms.append(self.room)
        self.size = 10
        """Events in the next batch, at most."""
        self.full = False
        """Whether the last batch was this large: then more events are probably due than this consumer can handle."""
        self._batches_first = self._own_first = False
        self._until = math.inf

    def room(self) -> int:
        """How many events this consumer would begin within about a second; none while its batch takes long."""
        if time.monotonic() > self._until:
            return 0
        return self.size * (AHEAD if self.size == MOST else 1)

    async def run_once(self) -> int:
        """Claim and handle one batch.

        Returns:
            The number of events in it; 0 when nothing was due.

        Raises:
            DatabaseUnavailable, SchemaError: nothing was claimed, or what was claimed is claimed again later.
        """
        self._own_first = not self._own_first
        events = await self._claimer.claim_own() if self._own_first else []
        events = events or await self._claimer.claim(self.size)
        if not events and not self._own_first:
            events = await self._claimer.claim_own()
        self.full = len(events) == self.size
        started = time.monotonic()
        if events:
            self._until = started + CHAIN * 0.9  # before the executor asks for what is overdue
            try:
                await self._handle(events)
            finally:
                self._until = math.inf
        self._adapt(len(events), time.monotonic() - started)
        return len(events)

    async def _handle(self, events: Sequence[Event]) -> None:
        each: deque[Work] = deque()
        batches: dict[Handler, list[Event]] = {}
        own: list[Work] = []
        unhandled: list[Event] = []
        for event in events:
            if handlers := await self._handlers_of(event):
                if handlers[0].kind == "batch":
                    batches.setdefault(handlers[0], []).append(event)
                else:
                    (own if handlers[0].kind == "own" else each).append((event, handlers))
            elif handlers is not None:
                unhandled.append(event)
        if unhandled:  # handed over by the receiver; another app may have a handler
            await self._claimer.call(calls_queue.release_webhooks(unhandled))
        self._batches_first = not self._batches_first
        waiting = deque(batches.items())
        try:
            await self._executor.handle(each, waiting, batches_first=self._batches_first)
        except BaseException:  # still ours, and not begun
            self._claimer.put_back([*(event for event, _ in each), *(event for _, group in waiting for event in group)])
            raise
        for event, handlers in own:
            await self._executor.handle_in_own_transaction(event, handlers[0])

    async def _handlers_of(self, event: Event) -> list[Handler] | None:
        """The event's handlers. Empty: this app has none. None: the event was ended or released by this call."""
        try:
            handlers = self._app.matching(event.type)
            key = self._app.order_key(event) if event.order_key is None else None  # "" is a key
        except BaseException as error:  # a wrong registration, or the user's key function
            if asked_to_stop(error):
                raise
            await self._executor.record(event, error)
            return None
        try:
            if handlers and await self._is_twin(event):
                return None
            if key is not None:  # recorded by a client that did not know that events of this type have an order
                await self._claimer.call(calls_queue.order_webhook(event, key))
                return None
        except (PgonceError, psycopg.Error) as error:  # a trigger refuses it: the others of the batch go on
            if is_database_fault(error):
                raise
            await self._executor.record(event, error)
            return None
        return handlers

    async def _is_twin(self, event: Event) -> bool:
        """Ignore an event whose twin, thin or snapshot, is handled by this app instead, or let it wait for that."""
        if not self._app.matching(calls_queue.twin_type(event.type)):
            return False
        twin, must_wait = await self._claimer.call(calls_queue.twin_of_webhook(event))
        ignored = calls.ignore_webhook(claim_of(event), f"twin of {twin}")
        end = calls_queue.postpone_webhook(claim_of(event), calls_queue.TWIN_EVERY) if must_wait else ignored
        return twin is not None and await self._claimer.call(end)

    def _adapt(self, done: int, seconds: float) -> None:
        """Double the size after a full batch, if twice as many events would be done within `CHAIN` seconds, too.

        What is not done by then is released. Claiming and releasing an event costs about as much as handling it, and if
        each full batch doubled the size, every other batch of a busy machine would be too long.
        """
        if seconds > CHAIN:
            self.size = max(1, self.size // 2)
        elif done == self.size and seconds <= CHAIN / 2:
            self.size = min(MOST, self.size * 2)
